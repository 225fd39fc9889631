"""The fused step of the ranking losses: rows -> rule -> columns for all queries, in one op call."""

from collections.abc import Sequence

import torch
from torch import Tensor

import xrisk_ext._C as _C

# csrc/core/params.h numbers the rules and the options.
RULES: dict[str, int] = {"ndcg": 0, "listwise": 1, "average_precision": 2}
STALE_STATE = 1
PRACTICAL_TOP_K = 2
SOLVED_THRESHOLD = 4
PUBLISHED_TOP_K = 8
IRRELEVANT_ITEMS = 16
BATCH_SHIFT = 32


def ranking_step(
    scores: Tensor,
    relevance: Tensor,
    pair_index: Tensor | None,
    query_index: Tensor | None,
    mask: Tensor | None,
    offsets: Tensor | None,
    item_weights: Tensor | None,
    num_items: Tensor | None,
    num_relevant: Tensor | None,
    ideal_dcg: Tensor | None,
    state: Tensor | None,
    thresholds: Tensor | None,
    curvatures: Tensor | None,
    gamma: Tensor,
    scale: Tensor,
    schedules: Sequence[Tensor],
    margin: float,
    epsilon: float,
    top_k: int,
    rule: int,
    options: int,
    surrogate: int,
    algorithm: int,
    update_state: bool,
    mean_reduction: bool,
) -> Tensor:
    """One training or evaluation step of a ranking loss; the losses are thin around it.

    Shapes: scores, relevance, pair_index, mask, item_weights ``[Q, S]``, or ``[T]`` with offsets
    ``[Q + 1]``; query_index ``[Q]``; the sizes ``[]`` or ``[Q]``; state ``[num_pairs]``, thresholds
    and curvatures ``[num_queries]``. For ``average_precision`` scores and labels are ``[B, L]``,
    the ids ``[B]``, state ``[L, N, 2]``, thresholds ``[L]``. Returns the mean over the queries, or
    one value each.
    """
    if type(scores) is Tensor and not torch.compiler.is_compiling():
        value: Tensor = _C.ranking_step(
            scores, relevance, pair_index, query_index, mask, offsets, item_weights, num_items,
            num_relevant, ideal_dcg, state, thresholds, curvatures, gamma, scale, schedules, margin,
            epsilon, top_k, rule, options, surrogate, algorithm, update_state, mean_reduction,
        )  # fmt: skip
        return value
    value, _ = torch.ops.xrisk_ext.ranking_step_(
        scores.requires_grad and torch.is_grad_enabled(), scores, relevance, pair_index,
        query_index, mask, offsets, item_weights, num_items, num_relevant, ideal_dcg, state,
        thresholds, curvatures, gamma, scale, schedules, margin, epsilon, top_k, rule, options,
        surrogate, algorithm, update_state, mean_reduction,
    )  # fmt: skip
    return value


@torch.library.register_fake("xrisk_ext::ranking_step_")
def _(
    needs_gradient: bool,
    scores: Tensor,
    relevance: Tensor,
    pair_index: Tensor | None,
    query_index: Tensor | None,
    mask: Tensor | None,
    offsets: Tensor | None,
    item_weights: Tensor | None,
    num_items: Tensor | None,
    num_relevant: Tensor | None,
    ideal_dcg: Tensor | None,
    state: Tensor | None,
    thresholds: Tensor | None,
    curvatures: Tensor | None,
    gamma: Tensor,
    scale: Tensor,
    schedules: Sequence[Tensor],
    margin: float,
    epsilon: float,
    top_k: int,
    rule: int,
    options: int,
    surrogate: int,
    algorithm: int,
    update_state: bool,
    mean_reduction: bool,
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    if offsets is not None:
        num_queries = offsets.shape[0] - 1
    else:
        num_queries = scores.shape[1 if rule == RULES["average_precision"] else 0]
    value = scores.new_empty([] if mean_reduction else [num_queries], dtype=dtype)
    gradient = scores.new_empty(scores.shape if needs_gradient else [0], dtype=dtype)
    return value, gradient
