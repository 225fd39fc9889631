"""NDCG (SONG) and top-K NDCG (K-SONG): value and dynamic gradient of one step, per query.

Paper: Qiu, Hu, Zhong, Zhang and Yang, Large-scale stochastic optimization of NDCG surrogates for
deep learning with provable convergence (ICML 2022).
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
from ._threshold import TopK, thresholds_of
from .moving_average import moving_average_update_
from .surrogates import check_surrogate, surrogate_slope
from .surrogates import surrogate as pair_term

SMALLEST_RANK = 1.0 + 1e-6  # of r = 1 + N u: the discount diverges at 1


def ndcg(
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
    surrogate: str = "squared_hinge",
    margin: float | Tensor = 1.0,
    scale: float | Tensor = 1.0,
    stale: bool = False,
    top_k: TopK | None = None,
) -> tuple[Tensor, Tensor]:
    """Minus the surrogate NDCG of every query, and the gradient of each one's value.

    For a query with items j of weights w_j, W = sum_j w_j, and relevant items i::

        g_i   = sum_j w_j phi(h_j - h_i) / W,    u_i = moving average of g_i, at pair_index
        f(u)  = -(2^y - 1) / (Z log2(1 + N u)),  N = num_items, Z = ideal_dcg
        value = N+ sum_i (w_i / W_rel) psi(h_i - lambda) f(u_i),  N+ = num_relevant

    (psi = 1 for SONG), with gradient that of the same sum where f(u_i) stands for f'(u_i) g_i,
    f'(u_i) a constant; with `stale`, f' (and f) are taken at the u before the update. K-SONG (not
    practical) adds, with c_i = N+ (w_i / W_rel) psi'_i f_i, the term c_i at item i and
    -(sum_i c_i) dlambda/dh_k at item k, where dlambda/dh_k = w_k t_k / (W s), t the slope of
    sigma((h - lambda) / tau1), at most 1.

    scores, relevance, pair_index, mask, item_weights [Q, S], or all flat with offsets [Q + 1];
    state [num_pairs], updated in place; num_items, num_relevant, ideal_dcg: one number, [Q], or
    None for those of the items given. Returns [Q] and the scores' shape, in float64.

    A query without relevant items, or with ideal DCG 0: value and gradient 0, state left alone. A
    score that is not finite: value NaN, gradient NaN throughout the query, state left alone.
    """
    phi = (surrogate, *check_surrogate(surrogate, margin, scale))
    queries = list(iterate_queries(scores, relevance, mask, offsets, item_weights))
    values = torch.zeros(count_queries(scores, offsets), dtype=torch.float64)
    gradient = torch.zeros(scores.numel(), dtype=torch.float64)
    live: list[tuple[Query, float]] = []  # and Z
    for query in queries:
        given = size_of(ideal_dcg, query.number)
        cut = None if top_k is None else top_k.k
        z = _ideal_dcg(query.relevance, cut) if given is None else given
        if len(query.relevant) == 0 or z == 0:
            continue
        if not bool(query.scores.isfinite().all()):
            values[query.number] = math.nan
            gradient[all_places(scores, offsets, query)] = math.nan
            continue
        live.append((query, z))
    if not live:
        return values, gradient.reshape(scores.shape)

    observed = torch.cat([observe(query, phi) for query, _ in live])
    u = observed
    if state is not None:
        places = torch.cat([query.places[query.relevant] for query, _ in live])
        rows = checked_rows(pair_index, places, state.shape[0], "pair_index", scores.shape)
        before = state[rows].double()
        u = moving_average_update_(state, rows, observed, gamma)
        if stale:
            u = torch.where(before.isnan(), u, before)
    thresholds = thresholds_of(
        [query for query, _ in live], top_k, query_index, num_items, count_queries(scores, offsets)
    )

    for (query, z), u_q, threshold in zip(
        live, torch.split(u, [len(query.relevant) for query, _ in live]), thresholds, strict=True
    ):
        n = size_of(num_items, query.number) or float(len(query.places))
        given = size_of(num_relevant, query.number)
        n_relevant = float(len(query.relevant)) if given is None else given
        anchor_weights = query.weights[query.relevant]
        share = n_relevant * anchor_weights / anchor_weights.sum()  # [P]
        gain = torch.exp2(query.relevance[query.relevant]) - 1.0
        rank = (1.0 + n * u_q).clamp(min=SMALLEST_RANK)
        f = -gain / (z * rank.log2())
        f_slope = gain * n / (z * rank * rank.log2() ** 2 * math.log(2.0))
        f_slope = f_slope * (1.0 + n * u_q > SMALLEST_RANK)

        values[query.number] = (share * threshold.psi * f).sum()
        own = pair_gradient(query, share * threshold.psi * f_slope, phi)
        c = share * threshold.psi_slope * f
        own[query.relevant] += c
        gradient[query.places] = own - c.sum() * threshold.pull
    return values, gradient.reshape(scores.shape)


def _ideal_dcg(relevance: Tensor, cut: int | None) -> float:
    gains = (torch.exp2(relevance[relevance > 0]) - 1.0).sort(descending=True).values[:cut]
    return float((gains / torch.arange(2, len(gains) + 2).double().log2()).sum())


def differences(query: Query) -> Tensor:
    return query.scores[None, :] - query.scores[query.relevant][:, None]  # [P, S]


def observe(query: Query, phi: tuple[str, float, float]) -> Tensor:
    name, margin, scale = phi
    losses = pair_term(name, differences(query), margin, scale)
    return (losses * query.weights).sum(dim=1) / query.weights.sum()


def pair_gradient(query: Query, a: Tensor, phi: tuple[str, float, float]) -> Tensor:
    """d/dh of sum_i a_i g_i, a [P]."""
    name, margin, scale = phi
    slopes = surrogate_slope(name, differences(query), margin, scale)
    pull = a[:, None] * slopes * query.weights / query.weights.sum()
    gradient = pull.sum(dim=0)
    gradient[query.relevant] -= pull.sum(dim=1)
    return gradient
