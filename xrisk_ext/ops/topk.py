"""P3: the top-K threshold of rows of scores, exact by selection or smoothed."""

from typing import Any, Literal

import torch
from torch import Tensor

from xrisk_ext.ops.second_derivative import guard_second_derivative
from xrisk_ext.ops.surrogates import check_devices, check_tensor


class _TopKThreshold(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        k: int,
        offsets: Tensor | None,
        smooth: bool,
        epsilon: float,
        tau1: float,
        tau2: float,
    ) -> Tensor:
        threshold, roots = torch.ops.xrisk_ext.topk_threshold(
            scores, k, offsets, smooth, epsilon, tau1, tau2
        )
        ctx.save_for_backward(scores, roots, offsets)
        ctx.options = (k, smooth, epsilon, tau1, tau2)
        return threshold  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        scores, roots, offsets = ctx.saved_tensors
        k, *options = ctx.options
        with torch.no_grad():
            gradient = torch.ops.xrisk_ext.topk_threshold_gradient(
                scores, roots, upstream, k, offsets, *options
            )
        return *guard_second_derivative(gradient), None, None, None, None, None, None


def topk_threshold(
    scores: Tensor,
    k: int,
    *,
    method: Literal["exact", "smooth"] = "exact",
    epsilon: float = 0.5,
    tau1: float = 0.01,
    tau2: float = 1e-4,
    offsets: Tensor | None = None,
) -> Tensor:
    """The threshold above which ``k`` scores of a row stand: its ``(k+1)``-th largest score.

    ``"exact"`` selects, in about one read of the row, and does not sort. ``"smooth"`` solves

        ``min_t  (k + epsilon)/n t + tau2/2 t^2 + mean_j tau1 log(1 + exp((scores_j - t) / tau1))``

    to the precision of the dtype: a strongly convex problem whose solution tends to the exact
    threshold as ``tau1`` and ``tau2`` go to 0, and whose gradient reaches every score near it.

    * A row of at most ``k`` scores has the threshold -inf and a zero gradient.
    * Ties count one by one; -0 equals 0; scores may be infinite. NaN stand above +inf, as in
      :func:`torch.topk`: the exact threshold is NaN where more than ``k`` scores are, and in the
      smoothed problem a NaN counts as +inf.
    * Differentiable in ``scores``, once. Exact: the upstream gradient goes to the first score that
      equals the threshold. Smooth: by the implicit function theorem, ``t_j / (n H)`` with
      ``t_j = sigma (1 - sigma) / tau1`` at ``(scores_j - t) / tau1`` and ``H = tau2 + mean_j t_j``.

    Args:
        scores: ``[..., M]``, float32, float64, float16 or bfloat16; with ``offsets`` flat, ``[N]``.
        k: how many scores stand above the threshold, >= 0.
        method: ``"exact"`` or ``"smooth"``.
        epsilon: in ``[0, 1]``, smooth only: 0.5 puts the threshold at the (k+1)-th score itself,
            the ends between it and its neighbours.
        tau1: > 0, smooth only: the width of the sigmoid, in units of the scores.
        tau2: >= 0, smooth only: the weight of the quadratic term.
        offsets: ``[R + 1]``, int64 or int32: row r is ``scores[offsets[r]:offsets[r + 1]]``. From 0
            to N, ascending; on CUDA their values are not looked at unless ``XRISK_DEBUG=1``.

    Returns:
        ``[...]``, or ``[R]`` with ``offsets``; float64 for float64, else float32.

    Raises:
        ValueError: a shape, device, method or number that is not as above.
        TypeError: an argument of another type.

    Source: Qiu et al., K-SONG (ICML 2022).
    """
    check_tensor(scores, "scores")
    if offsets is not None:
        check_tensor(offsets, "offsets")
    check_devices(scores, "scores", offsets=offsets)
    if isinstance(k, bool) or not isinstance(k, (int, torch.SymInt)):
        raise TypeError(f"expected k to be an int, got {type(k).__name__}")
    if method not in ("exact", "smooth"):
        raise ValueError(f"expected method to be 'exact' or 'smooth', got {method!r}")
    for name, value in (("epsilon", epsilon), ("tau1", tau1), ("tau2", tau2)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"expected {name} to be a float, got {type(value).__name__}")
    return _TopKThreshold.apply(  # type: ignore[no-any-return]
        scores, k, offsets, method == "smooth", float(epsilon), float(tau1), float(tau2)
    )


def _computed_in(scores: Tensor) -> torch.dtype:
    return torch.float64 if scores.dtype == torch.float64 else torch.float32


@torch.library.register_fake("xrisk_ext::topk_threshold")
def _(
    scores: Tensor,
    k: int,
    offsets: Tensor | None,
    smooth: bool,
    epsilon: float,
    tau1: float,
    tau2: float,
) -> tuple[Tensor, Tensor]:
    shape = list(scores.shape[:-1]) if offsets is None else [offsets.shape[0] - 1]
    threshold = scores.new_empty(shape, dtype=_computed_in(scores))
    return threshold, scores.new_empty(shape, dtype=torch.float64)


@torch.library.register_fake("xrisk_ext::topk_threshold_gradient")
def _(
    scores: Tensor,
    roots: Tensor,
    upstream: Tensor,
    k: int,
    offsets: Tensor | None,
    smooth: bool,
    epsilon: float,
    tau1: float,
    tau2: float,
) -> Tensor:
    return scores.new_empty(scores.shape)
