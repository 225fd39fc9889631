"""P4: log sums of exponentials of similarities, differentiable, without a B x M matrix."""

from typing import Any

import torch
from torch import Tensor

from xrisk_ext.ops.second_derivative import guard_second_derivative
from xrisk_ext.ops.surrogates import as_scalar, check_devices, check_tensor


class _ContrastiveLogSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, temperature: Tensor, exclude: Tensor | None
    ) -> Tensor:
        log_means, exponents, peaks, masses = torch.ops.xrisk_ext.contrastive_log_sums_rows(
            queries, keys, temperature, exclude
        )
        ctx.save_for_backward(queries, keys, temperature, exclude, exponents, peaks, masses)
        return log_means  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, temperature, exclude, exponents, peaks, masses = ctx.saved_tensors
        by_query = by_key = by_temperature = None
        with torch.no_grad():
            wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
            if any(wanted):
                dq, dk = torch.ops.xrisk_ext.contrastive_log_sums_gradients(
                    queries, keys, temperature, exclude, upstream, peaks, masses, *wanted
                )
                by_query = dq.to(queries.dtype) if wanted[0] else None
                by_key = dk.to(keys.dtype) if wanted[1] else None
            if ctx.needs_input_grad[2]:
                slopes = -(upstream * exponents) / temperature
                by_temperature = slopes.sum_to_size(temperature.shape).to(temperature.dtype)
        return *guard_second_derivative(by_query, by_key, by_temperature), None


def contrastive_log_sums(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    exclude: Tensor | None = None,
) -> Tensor:
    r"""Log of the mean over the keys of ``exp(<q_i, k_j> / temperature_i)``.

    .. math:: \log \frac{1}{n_i} \sum_{j \notin exclude_i}
        \exp\big(\langle q_i, k_j \rangle / \tau_i\big)

    Similarities are multiplied tile by tile and never stored: memory is linear in the inputs.
    Differentiable in queries, keys and temperature, once. Similarities and sums are in float32
    (float64 for float64), whatever the inputs' dtype and inside autocast; sums are relative to the
    largest similarity of a row and cannot overflow at any temperature.

    Args:
        queries: ``[B, D]``, float32, float64, float16 or bfloat16. Not normalised here.
        keys: ``[M, D]``.
        temperature: >= 1e-30, a float, a one-element tensor, or one per query ``[B]``.
        exclude: int64 or int32, ``[B]`` or ``[B, E]``: keys that row i leaves out, -1 for none. A
            key named twice is left out once.

    Returns:
        ``[B]``, float64 if an input is float64, else float32; ``-inf``, with zero gradients, where
        no key remains.

    Raises:
        IndexError: an excluded key outside [-1, M).
        ValueError: a shape, device or temperature that is not as above.
        TypeError: an argument that is not a tensor, or of a dtype that is not as above.

    Source: the inner function of Yuan et al., SogCLR (ICML 2022); streaming: Milakov &
    Gimelshein, "Online normalizer calculation for softmax" (2018).
    """
    check_tensor(queries, "queries")
    check_tensor(keys, "keys")
    if exclude is not None:
        check_tensor(exclude, "exclude")
    if not isinstance(temperature, Tensor):
        temperature = as_scalar(temperature, "temperature", queries)
    check_devices(queries, "queries", keys=keys, temperature=temperature, exclude=exclude)
    return _ContrastiveLogSums.apply(  # type: ignore[no-any-return]
        queries, keys, temperature, exclude
    )


def _accumulation(queries: Tensor, keys: Tensor) -> torch.dtype:
    twice = torch.float64 in (queries.dtype, keys.dtype)
    return torch.float64 if twice else torch.float32


@torch.library.register_fake("xrisk_ext::contrastive_log_sums_rows")
def _(
    queries: Tensor, keys: Tensor, temperature: Tensor, exclude: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = queries.new_empty(queries.shape[:1], dtype=_accumulation(queries, keys))
    return rows, torch.empty_like(rows), torch.empty_like(rows), torch.empty_like(rows)


@torch.library.register_fake("xrisk_ext::contrastive_log_sums_gradients")
def _(
    queries: Tensor,
    keys: Tensor,
    temperature: Tensor,
    exclude: Tensor | None,
    query_weights: Tensor,
    peaks: Tensor,
    masses: Tensor,
    for_queries: bool,
    for_keys: bool,
) -> tuple[Tensor, Tensor]:
    dtype = _accumulation(queries, keys)
    return (
        queries.new_empty(queries.shape if for_queries else [0], dtype=dtype),
        keys.new_empty(keys.shape if for_keys else [0], dtype=dtype),
    )
