"""The fused steps of queries against keys, and of logits that are there, on the CPU.

Value and gradients in one call; csrc/torch/attach_gradient.h attaches the gradients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

import xrisk_ext._C as _C


def query_step(
    queries: Tensor,
    keys: Tensor,
    temperature: Tensor,
    *,
    positives: Tensor | None = None,
    targets: Tensor | None = None,
    index: Tensor | None = None,
    state: Tensor | None = None,
    schedules: Sequence[Tensor] = (),
    normalize: bool = False,
    update_state: bool = True,
) -> Tensor:
    """The mean over queries ``[B, D]`` of what they see of keys ``[M, D]``; gradients are attached.

    With positives ``[B, D]``, constants: InfoNCE, log(1 + sum_j exp((<q, k_j> - <q, p>) / tau)).
    With targets ``[B]``, the numbers of keys: the compositional entropic risk, whose partition
    function is averaged in state ``[N]`` (None: not at all) by the ids index ``[B]``; schedules are
    gamma (SOX), or alpha and kappa (SCENT). ``normalize``: queries and positives are divided by
    their norms. Similarities are multiplied once; 16 MiB of them are kept for the gradients, others
    multiplied again.
    """
    grad = torch.is_grad_enabled()
    value, _, _, _ = torch.ops.xrisk_ext.query_step_(
        queries, keys, positives, targets, index, state, list(schedules), temperature, normalize,
        update_state, grad and queries.requires_grad, grad and keys.requires_grad,
    )  # fmt: skip
    return value  # type: ignore[no-any-return]


@torch.library.register_fake("xrisk_ext::query_step_")
def _(
    queries: Tensor,
    keys: Tensor,
    positives: Tensor | None,
    targets: Tensor | None,
    index: Tensor | None,
    state: Tensor | None,
    schedules: Sequence[Tensor],
    temperature: Tensor,
    normalize: bool,
    update_state: bool,
    for_queries: bool,
    for_keys: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = torch.float64 if torch.float64 in (queries.dtype, keys.dtype) else torch.float32
    value = queries.new_empty([], dtype=dtype)
    return (
        value,
        queries.new_empty(queries.shape if for_queries else [0], dtype=dtype),
        keys.new_empty(keys.shape if for_keys else [0], dtype=dtype),
        torch.empty_like(value),
    )


def entropic_step(
    logits: Tensor,
    index: Tensor | None,
    state: Tensor | None,
    schedules: Sequence[Tensor],
    update_state: bool = True,
) -> Tensor:
    """The mean over rows of exp(log g - nu), g = sum_k exp(s_k) / (K - 1), gradient attached.

    Of logits ``[B, K]`` less that of the true class; nu is the logarithm of the average of g, from
    state ``[N]`` (None: log g) by the ids index ``[B]``. schedules: gamma (SOX), or alpha and kappa
    (SCENT). One exponential a logit.
    """
    if type(logits) is Tensor and not torch.compiler.is_compiling():
        value: Tensor = _C.entropic_step(logits, index, state, list(schedules), update_state)
        return value
    value, _ = torch.ops.xrisk_ext.entropic_step_(
        logits.requires_grad and torch.is_grad_enabled(),
        logits, index, state, list(schedules), update_state,
    )  # fmt: skip
    return value


@torch.library.register_fake("xrisk_ext::entropic_step_")
def _(
    needs_gradient: bool,
    logits: Tensor,
    index: Tensor | None,
    state: Tensor | None,
    schedules: Sequence[Tensor],
    update_state: bool,
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    value = logits.new_empty([], dtype=dtype)
    return value, logits.new_empty(logits.shape if needs_gradient else [0], dtype=dtype)


def enqueue_(queue: Tensor, pointer: Tensor, rows: Tensor, *, normalize: bool) -> None:
    """Rows ``[M, D]`` take the place of the oldest of the queue ``[N, D]``, those from pointer on.

    Where one is not finite the old row stays. ``normalize``: they enter divided by their norms.
    """
    torch.ops.xrisk_ext.enqueue_(queue, pointer, rows.detach(), normalize)


@torch.library.register_fake("xrisk_ext::enqueue_")
def _(state: Tensor, state_pointer: Tensor, rows: Tensor, normalize: bool) -> None:
    return None
