"""The fused step of the stateless losses of ranked lists: value and gradient in one op call."""

from collections.abc import Sequence

import torch
from torch import Tensor

import xrisk_ext._C as _C

# csrc/core/list_losses.h numbers the losses, the weights of a pair and the reductions.
LIST_LOSSES: dict[str, int] = {
    "rank_net": 0,
    "lambda_rank": 1,
    "list_net": 2,
    "list_mle": 3,
    "approx_ndcg": 4,
    "neural_ndcg": 5,
    "smooth_ap": 6,
    "fast_ap": 7,
    "recall_at_k": 8,
}
PAIR_WEIGHTS: dict[str, int] = {"none": 0, "difference": 1, "squared_difference": 2}
REDUCTIONS: dict[str, int] = {"none": 0, "mean": 1, "sum": 2}


def listwise_step(
    scores: Tensor,
    relevance: Tensor,
    mask: Tensor | None,
    item_weights: Tensor | None,
    temperature: Tensor,
    rank_temperature: Tensor,
    loss: int,
    counts: Sequence[int],
    numbers: Sequence[float],
    reduction: int,
) -> Tensor:
    """One call of a listwise loss; the losses are thin around it.

    Shapes: scores, relevance, mask and item_weights ``[Q, S]``, or ``[S]`` for one list;
    temperatures 0-dim; ``counts`` and ``numbers`` are the loss's own (csrc/torch/listwise_inputs.h
    lists them). Returns a scalar, or ``[Q]`` (``[1]`` for one list) without reduction.
    """
    if type(scores) is Tensor and not torch.compiler.is_compiling():
        value: Tensor = _C.listwise_step(
            scores, relevance, mask, item_weights, temperature, rank_temperature, loss, counts,
            numbers, reduction,
        )  # fmt: skip
    else:
        value, _ = torch.ops.xrisk_ext.listwise_step(
            scores, relevance, mask, item_weights, temperature, rank_temperature, loss, counts,
            numbers, reduction, scores.requires_grad and torch.is_grad_enabled(),
        )  # fmt: skip
    return value.squeeze(1) if value.dim() == 2 else value  # [Q, 1], as it multiplies a gradient


@torch.library.register_fake("xrisk_ext::listwise_step")
def _(
    scores: Tensor,
    relevance: Tensor,
    mask: Tensor | None,
    item_weights: Tensor | None,
    temperature: Tensor,
    rank_temperature: Tensor,
    loss: int,
    counts: Sequence[int],
    numbers: Sequence[float],
    reduction: int,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    lists = [scores.shape[0], 1] if scores.dim() == 2 else [1]
    value = scores.new_empty(lists if reduction == 0 else [], dtype=dtype)
    gradient = scores.new_empty(scores.shape if needs_gradient else [0], dtype=dtype)
    return value, gradient
