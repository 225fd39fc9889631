"""P1: pairwise surrogate sums and log sums, differentiable, without a P x M matrix."""

from typing import Any

import torch
from torch import Tensor

import xrisk_ext._C as _C
from xrisk_ext.ops.second_derivative import guard_second_derivative
from xrisk_ext.ops.surrogates import (
    SMOOTH_SURROGATES,
    Algorithm,
    Surrogate,
    algorithm_number,
    as_margin,
    as_scalar,
    check_devices,
    check_tensor,
    surrogate_number,
)

# Where pairwise_sums_rows has room for an order (cpu/smooth.h).
_SMOOTH = tuple(surrogate_number(name) for name in SMOOTH_SURROGATES)
_DIRECT = algorithm_number("direct")
_ORDERED_FROM = 2048


class _PairwiseSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        items: Tensor,
        item_weights: Tensor | None,
        scale: Tensor,
        margin: float,
        surrogate: int,
        algorithm: int,
    ) -> Tensor:
        sums, slopes, order = torch.ops.xrisk_ext.pairwise_sums_rows(
            anchors, items, item_weights, scale, margin, surrogate, algorithm
        )
        ctx.save_for_backward(anchors, items, item_weights, scale, slopes, order)
        ctx.options = (margin, surrogate, algorithm)
        return sums  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        anchors, items, item_weights, scale, slopes, order = ctx.saved_tensors
        grad_anchors = grad_items = None
        with torch.no_grad():
            if ctx.needs_input_grad[0]:
                grad_anchors = -(upstream * slopes)
                if grad_anchors.dim() == 2:
                    grad_anchors = grad_anchors.sum(0)
                grad_anchors = grad_anchors.to(anchors.dtype)
            if ctx.needs_input_grad[1]:
                grad_items = torch.ops.xrisk_ext.pairwise_sums_columns(
                    anchors, items, item_weights, upstream, order, scale, *ctx.options
                ).to(items.dtype)
        return *guard_second_derivative(grad_anchors, grad_items), None, None, None, None, None


class _PairwiseLogSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        items: Tensor,
        item_weights: Tensor | None,
        scale: Tensor,
        temperature: Tensor,
        margin: float,
        surrogate: int,
        algorithm: int,
    ) -> Tensor:
        log_sums, slopes, masses = torch.ops.xrisk_ext.pairwise_log_sums_rows(
            anchors, items, item_weights, scale, temperature, margin, surrogate, algorithm
        )
        ctx.save_for_backward(anchors, items, item_weights, scale, temperature, slopes, masses)
        ctx.options = (margin, surrogate, algorithm)
        return log_sums  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        anchors, items, item_weights, scale, temperature, slopes, masses = ctx.saved_tensors
        grad_anchors = grad_items = None
        with torch.no_grad():
            if ctx.needs_input_grad[0]:
                grad_anchors = (-(upstream * slopes)).to(anchors.dtype)
            if ctx.needs_input_grad[1]:
                grad_items = torch.ops.xrisk_ext.pairwise_log_sums_columns(
                    anchors, items, item_weights, upstream, masses, scale, temperature, *ctx.options
                ).to(items.dtype)
        guarded = guard_second_derivative(grad_anchors, grad_items)
        return *guarded, None, None, None, None, None, None, None


def _check_weights(item_weights: Tensor | None) -> None:
    if item_weights is None:
        return
    check_tensor(item_weights, "item_weights")
    if item_weights.requires_grad:
        raise ValueError("expected item_weights to be constants, got a tensor that requires grad")


def pairwise_sums(
    anchors: Tensor,
    items: Tensor,
    *,
    item_weights: Tensor | None = None,
    surrogate: Surrogate = "squared_hinge",
    margin: float = 1.0,
    scale: float | Tensor = 1.0,
    algorithm: Algorithm = "auto",
) -> Tensor:
    """Sums of a surrogate over all (anchor, item) pairs: ``sum_j w_j phi(items_j - anchors_i)``.

    Memory is linear in the inputs. Differentiable in ``anchors`` and ``items``, once.

    Args:
        anchors: scores ``[P]``, float32, float64, float16 or bfloat16.
        items: scores ``[M]``.
        item_weights: ``[M]`` or ``[C, M]``, any sign; constants. With C channels every pair is
            visited once for all of them. ``None`` means ones.
        surrogate: with ``d`` = item - anchor, ``m`` = margin, ``s`` = scale: ``"squared"``
            ``(m+d)^2``, ``"squared_hinge"`` ``max(m+d, 0)^2``, ``"hinge"`` ``max(m+d, 0)``,
            ``"barrier_hinge"`` ``max(s(d-m)+m, m+d, -s(d+m))`` with ``s >= 1``, ``"logistic"``
            ``log(1+exp(s d))``, ``"sigmoid"`` ``1/(1+exp(-s d))``, ``"exponential"`` ``exp(s d)``,
            ``"zero_one"`` ``1[d>0] + 1[d=0]/2``. The slope at a kink is that of the left piece.
        margin: >= 0.
        scale: > 0, a float or a one-element tensor; a constant.
        algorithm: ``"direct"`` is O(P M) for any surrogate. ``"sort"`` is exact and near-linear,
            for all but logistic and sigmoid: it sorts the anchors and streams the items (squared
            and exponential need no sort). ``"smooth"`` is near-linear for logistic and sigmoid,
            with a bounded error, see below. ``"auto"`` chooses by the sizes. Scores with an
            infinity or a NaN always take the direct algorithm, which follows IEEE arithmetic.

    The error of ``"smooth"``: at most 1e-6 in float32 and 1e-12 in float64, relative to
    ``sum_j |w_j| (1 + phi_ij)`` for a sum and to ``s sum_j |w_j| (1 + phi'_ij / s)`` for the slopes
    that the gradients are made of, whatever the scores, the weights and the scale. It is an error
    of each pair term relative to its own size (3e-7 and 1e-13), plus e^-28 (e^-36) for pairs so far
    apart that they are cut off. The sums of few pairs are formed directly, as that is faster.

    Returns:
        ``[P]``, or ``[C, P]`` for weights ``[C, M]``; float64 if an input is float64, else float32.
        Without items the sums are 0.

    Raises:
        ValueError: a shape, device, surrogate, algorithm, margin or scale that is not as above.
        TypeError: an argument that is not a floating tensor.

    Source: Yang, "Algorithmic foundations of empirical X-risk minimization" (2022); the surrogates:
    Charoenphakdee et al., ICML 2019.
    """
    check_tensor(anchors, "anchors")
    check_tensor(items, "items")
    _check_weights(item_weights)
    check_devices(anchors, "anchors", items=items, item_weights=item_weights)
    plain = type(anchors) is Tensor and type(items) is Tensor and not torch.compiler.is_compiling()
    # The Function refuses function transforms; a node would not see them.
    by_node = plain and not torch._C._are_functorch_transforms_active()
    sums = _C.pairwise_sums if by_node else _PairwiseSums.apply
    return sums(  # type: ignore[no-any-return]
        anchors,
        items,
        item_weights,
        as_scalar(scale, "scale", anchors),
        as_margin(margin),
        surrogate_number(surrogate),
        algorithm_number(algorithm),
    )


def pairwise_log_sums(
    anchors: Tensor,
    items: Tensor,
    *,
    item_weights: Tensor | None = None,
    surrogate: Surrogate = "squared_hinge",
    margin: float = 1.0,
    scale: float | Tensor = 1.0,
    temperature: float | Tensor = 1.0,
    algorithm: Algorithm = "auto",
) -> Tensor:
    """``log sum_j w_j exp(phi(items_j - anchors_i) / temperature)``, shifted: it cannot overflow.

    Memory is linear in the inputs. Differentiable in ``anchors`` and ``items``, once.

    Args:
        anchors: scores ``[P]``, float32, float64, float16 or bfloat16.
        items: scores ``[M]``.
        item_weights: ``[M]``, >= 0; constants. An item of weight 0 is left out.
        surrogate, margin, scale: as in :func:`pairwise_sums`.
        temperature: >= 1e-30, a float or a one-element tensor; a constant.
        algorithm: ``"direct"`` is O(P M) for any surrogate. ``"sort"`` is exact and near-linear,
            for hinge, barrier hinge, and logistic where ``1 / temperature`` is a whole number up to
            512 (to the rounding of the scores' dtype). ``"smooth"`` is near-linear for the squared
            hinge, with a bounded error, see below. ``"auto"`` chooses by the sizes. Scores with an
            infinity or a NaN always take the direct algorithm. On CUDA the host does not
            look at the temperature: ``"sort"`` takes the direct algorithm where the device finds
            that of a logistic to be none such.

    The error of ``"smooth"``, whatever the scores, weights and temperature T: at most 1e-6 in
    float32 and 1e-12 in float64 of ``1 + |log sum|``, and for the gradients of
    ``sum |a_i| (p_ij + w_j / sum w) (phi'_ij + sqrt(T)) / T``, with ``p_ij`` the share of a pair in
    its anchor's sum and ``a`` the upstream gradient.

    Returns:
        ``[P]``, in the dtype of ``pairwise_sums``; ``-inf``, with zero gradients, where no item has
        a positive weight.

    Raises:
        ValueError: as :func:`pairwise_sums`, a negative weight, or a temperature or algorithm that
            is not as above.
        TypeError: as :func:`pairwise_sums`.

    Source: Zhu et al., "When AUC meets DRO" (ICML 2022).
    """
    check_tensor(anchors, "anchors")
    check_tensor(items, "items")
    _check_weights(item_weights)
    check_devices(anchors, "anchors", items=items, item_weights=item_weights)
    return _PairwiseLogSums.apply(  # type: ignore[no-any-return]
        anchors,
        items,
        item_weights,
        as_scalar(scale, "scale", anchors),
        as_scalar(temperature, "temperature", anchors),
        as_margin(margin),
        surrogate_number(surrogate),
        algorithm_number(algorithm),
    )


def _accumulation(anchors: Tensor, items: Tensor) -> torch.dtype:
    twice = torch.float64 in (anchors.dtype, items.dtype)
    return torch.float64 if twice else torch.float32


@torch.library.register_fake("xrisk_ext::pairwise_sums_rows")
def _(
    anchors: Tensor,
    items: Tensor,
    item_weights: Tensor | None,
    scale: Tensor,
    margin: float,
    surrogate: int,
    algorithm: int,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = list(anchors.shape)
    if item_weights is not None and item_weights.dim() == 2:
        shape = [item_weights.shape[0], *shape]
    sums = anchors.new_empty(shape, dtype=_accumulation(anchors, items))
    kept = 0
    if anchors.device.type == "cpu" and surrogate in _SMOOTH and algorithm != _DIRECT:
        count = anchors.shape[0] + items.shape[0]
        kept = count if count >= _ORDERED_FROM else 0
    return sums, torch.empty_like(sums), anchors.new_empty(kept, dtype=torch.int32)


@torch.library.register_fake("xrisk_ext::pairwise_sums_columns")
def _(
    anchors: Tensor,
    items: Tensor,
    item_weights: Tensor | None,
    anchor_weights: Tensor,
    order: Tensor,
    scale: Tensor,
    margin: float,
    surrogate: int,
    algorithm: int,
) -> Tensor:
    return items.new_empty(items.shape, dtype=_accumulation(anchors, items))


@torch.library.register_fake("xrisk_ext::pairwise_log_sums_rows")
def _(
    anchors: Tensor,
    items: Tensor,
    item_weights: Tensor | None,
    scale: Tensor,
    temperature: Tensor,
    margin: float,
    surrogate: int,
    algorithm: int,
) -> tuple[Tensor, Tensor, Tensor]:
    sums = anchors.new_empty(anchors.shape, dtype=_accumulation(anchors, items))
    return sums, torch.empty_like(sums), torch.empty_like(sums)


@torch.library.register_fake("xrisk_ext::pairwise_log_sums_columns")
def _(
    anchors: Tensor,
    items: Tensor,
    item_weights: Tensor | None,
    anchor_weights: Tensor,
    masses: Tensor,
    scale: Tensor,
    temperature: Tensor,
    margin: float,
    surrogate: int,
    algorithm: int,
) -> Tensor:
    return items.new_empty(items.shape, dtype=_accumulation(anchors, items))
