"""Listwise cross entropy by compositional optimisation: value and dynamic gradient of one step.

Paper: Qiu, Hu, Zhong, Zhang and Yang, Large-scale stochastic optimization of NDCG surrogates for
deep learning with provable convergence (ICML 2022), its listwise loss; the list-wise loss itself:
Cao et al., Learning to rank (ICML 2007).
"""

import math

import torch
from torch import Tensor

from ._queries import (
    Query,
    Size,
    all_places,
    checked_rows,
    count_queries,
    iterate_queries,
    size_of,
)
from .moving_average import moving_average_update_


def listwise_cross_entropy(
    scores: Tensor,
    relevance: Tensor,
    pair_index: Tensor | None = None,
    query_index: Tensor | None = None,
    state: Tensor | None = None,
    gamma: float | Tensor = 1.0,
    *,
    mask: Tensor | None = None,
    offsets: Tensor | None = None,
    item_weights: Tensor | None = None,
    num_items: Size = None,
    num_relevant: Size = None,
    ideal_dcg: Size = None,
    stale: bool = False,
    irrelevant_only: bool = False,
    batch_shift: bool = False,
) -> tuple[Tensor, Tensor]:
    """The listwise cross entropy of every query, and the gradient of each one's value.

    For a query with items j of weights w_j, W = sum_j w_j, and relevant items i::

        g_i   = sum_j w_j exp(h_j - h_i) / W,  log u_i = moving average in the log domain
        value = (N+ / N) sum_i (w_i / W_rel) y_i (log u_i + log N)

    where N = num_items and N+ = num_relevant, with gradient that of the same sum where log u_i
    stands for g_i / u_i, u_i a constant. `state` [num_pairs] holds log u. Arguments, empty queries
    and bad scores as in `ndcg`; query_index and ideal_dcg are not used. `irrelevant_only`: the
    items j are those of relevance <= 0. `batch_shift`: the largest h_j - h_i of the batch is taken
    off every log g, as LibAUC does.
    """
    values = torch.zeros(count_queries(scores, offsets), dtype=torch.float64)
    gradient = torch.zeros(scores.numel(), dtype=torch.float64)
    live: list[Query] = []
    for query in iterate_queries(scores, relevance, mask, offsets, item_weights):
        if len(query.relevant) == 0 or not bool(_is_item(query, irrelevant_only).any()):
            continue
        if not bool(query.scores.isfinite().all()):
            values[query.number] = math.nan
            gradient[all_places(scores, offsets, query)] = math.nan
            continue
        live.append(query)
    if not live:
        return values, gradient.reshape(scores.shape)

    exponents = [_exponents(query, irrelevant_only) for query in live]  # [P, S] each
    log_g = torch.cat([e.logsumexp(dim=1) for e in exponents])
    shift = 0.0
    if batch_shift:
        shift = max(
            float((q.scores[_is_item(q, irrelevant_only)].max() - q.scores[q.relevant]).max())
            for q in live
        )
        log_g = log_g - shift
    log_u = log_g
    if state is not None:
        places = torch.cat([query.places[query.relevant] for query in live])
        rows = checked_rows(pair_index, places, state.shape[0], "pair_index", scores.shape)
        before = state[rows].double()
        log_u = moving_average_update_(state, rows, log_g, gamma, log=True)
        if stale:
            log_u = torch.where(before == -math.inf, log_u, before)
    for query, e, log_u_q in zip(
        live, exponents, torch.split(log_u, [len(q.relevant) for q in live]), strict=True
    ):
        n = size_of(num_items, query.number) or float(len(query.places))
        given = size_of(num_relevant, query.number)
        n_relevant = float(len(query.relevant)) if given is None else given
        anchor_weights = query.weights[query.relevant]
        share = n_relevant / n * anchor_weights / anchor_weights.sum()
        share = share * query.relevance[query.relevant]
        values[query.number] = (share * (log_u_q + math.log(n))).sum()
        pull = share[:, None] * (e - shift - log_u_q[:, None]).exp()
        own = pull.sum(dim=0)
        own[query.relevant] -= pull.sum(dim=1)
        gradient[query.places] = own
    return values, gradient.reshape(scores.shape)


def _is_item(query: Query, irrelevant_only: bool) -> Tensor:
    everyone = torch.ones_like(query.scores, dtype=torch.bool)
    return ~(query.relevance > 0) if irrelevant_only else everyone


def _exponents(query: Query, irrelevant_only: bool) -> Tensor:
    """log of w_j exp(h_j - h_i) / W, [P, S]; -inf where j is no item."""
    items = _is_item(query, irrelevant_only)
    w = query.weights * items
    logs = (w / w.sum()).log()
    return query.scores[None, :] - query.scores[query.relevant][:, None] + logs
