"""NDCG (SONG) and top-K NDCG (K-SONG): value and dynamic gradient of one step, per query.

Paper: Qiu, Hu, Zhong, Zhang and Yang, Large-scale stochastic optimization of NDCG surrogates for
deep learning with provable convergence (ICML 2022).
"""

import math
from dataclasses import dataclass

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
from .surrogates import check_surrogate, surrogate_slope
from .surrogates import surrogate as pair_term

SMALLEST_RANK = 1.0 + 1e-6  # of r = 1 + N u: the discount diverges at 1


@dataclass
class TopK:
    """What K-SONG adds. `thresholds` and `curvatures` [num_queries] are updated in place; None, or
    `solve`: the smoothed problem is solved on the query's items.
    """

    k: int
    thresholds: Tensor | None = None  # lambda
    curvatures: Tensor | None = None  # s
    gamma1: float = 0.9
    eta0: float = 0.01
    tau1: float = 0.01
    tau2: float = 1e-4
    sigmoid_alpha: float = 2.0
    epsilon: float = 0.5
    practical: bool = False
    solve: bool = False
    published: bool = False  # psi' without its factor alpha, dlambda/dh without its cap


@dataclass
class _Threshold:
    """Of one query: psi of the relevant items, its slope, and dlambda/dh of all items."""

    psi: Tensor  # [P]
    psi_slope: Tensor  # [P]
    pull: Tensor  # [S]


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

    observed = torch.cat([_observe(query, phi) for query, _ in live])
    u = observed
    if state is not None:
        places = torch.cat([query.places[query.relevant] for query, _ in live])
        rows = checked_rows(pair_index, places, state.shape[0], "pair_index", scores.shape)
        before = state[rows].double()
        u = moving_average_update_(state, rows, observed, gamma)
        if stale:
            u = torch.where(before.isnan(), u, before)
    thresholds = _thresholds(live, top_k, query_index, num_items, count_queries(scores, offsets))

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
        own = _pair_gradient(query, share * threshold.psi * f_slope, phi)
        c = share * threshold.psi_slope * f
        own[query.relevant] += c
        gradient[query.places] = own - c.sum() * threshold.pull
    return values, gradient.reshape(scores.shape)


def _ideal_dcg(relevance: Tensor, cut: int | None) -> float:
    gains = (torch.exp2(relevance[relevance > 0]) - 1.0).sort(descending=True).values[:cut]
    return float((gains / torch.arange(2, len(gains) + 2).double().log2()).sum())


def _differences(query: Query) -> Tensor:
    return query.scores[None, :] - query.scores[query.relevant][:, None]  # [P, S]


def _observe(query: Query, phi: tuple[str, float, float]) -> Tensor:
    name, margin, scale = phi
    losses = pair_term(name, _differences(query), margin, scale)
    return (losses * query.weights).sum(dim=1) / query.weights.sum()


def _pair_gradient(query: Query, a: Tensor, phi: tuple[str, float, float]) -> Tensor:
    """d/dh of sum_i a_i g_i, a [P]."""
    name, margin, scale = phi
    slopes = surrogate_slope(name, _differences(query), margin, scale)
    pull = a[:, None] * slopes * query.weights / query.weights.sum()
    gradient = pull.sum(dim=0)
    gradient[query.relevant] -= pull.sum(dim=1)
    return gradient


def _thresholds(
    live: list[tuple[Query, float]],
    top_k: TopK | None,
    query_index: Tensor | None,
    num_items: Size,
    num_queries: int,
) -> list[_Threshold]:
    """All queries read the old lambda before any writes it."""
    if top_k is None:
        ones = [torch.ones(len(q.relevant), dtype=torch.float64) for q, _ in live]
        return [
            _Threshold(one, torch.zeros_like(one), torch.zeros_like(q.scores))
            for one, (q, _) in zip(ones, live, strict=True)
        ]
    sizes = [size_of(num_items, q.number) or float(len(q.places)) for q, _ in live]
    kept = None if top_k.solve else top_k.thresholds
    cut = [(k, query) for k, (query, _) in enumerate(live) if sizes[k] > top_k.k]
    lambdas = {k: -math.inf for k in range(len(live))}  # at most k items: all are in the top k
    curvatures = {k: 1.0 for k in range(len(live))}
    rows = torch.zeros(0, dtype=torch.int64)
    if kept is not None:
        numbers = torch.tensor([query.number for _, query in cut], dtype=torch.int64)
        rows = checked_rows(
            query_index, numbers, kept.shape[0], "query_index", torch.Size([num_queries])
        )
    stepped, observed = [], []
    for at, (k, query) in enumerate(cut):
        fraction = (top_k.k + top_k.epsilon) / sizes[k]
        if kept is None:
            lambdas[k] = solve_threshold(query, fraction, top_k.tau1, top_k.tau2)
        else:
            old = float(kept[rows[at]])
            lambdas[k] = _first_threshold(query, fraction) if math.isnan(old) else old
        slope, curvatures[k] = _threshold_terms(query, lambdas[k], fraction, top_k)
        stepped.append(lambdas[k] - top_k.eta0 * slope)
        observed.append(curvatures[k])
    if kept is not None and cut:
        assert top_k.curvatures is not None
        moving_average_update_(kept, rows, torch.tensor(stepped, dtype=torch.float64), 1.0)
        s = moving_average_update_(
            top_k.curvatures, rows, torch.tensor(observed, dtype=torch.float64), top_k.gamma1
        )
        curvatures.update({k: float(s[at]) for at, (k, _) in enumerate(cut)})
    return [_psi(q, lambdas[k], curvatures[k], top_k) for k, (q, _) in enumerate(live)]


def _psi(query: Query, threshold: float, curvature: float, top_k: TopK) -> _Threshold:
    a = float(top_k.sigmoid_alpha)
    psi = torch.sigmoid(a * (query.scores[query.relevant] - threshold))
    slope = psi * (1.0 - psi) * (1.0 if top_k.published else a)
    pull = torch.zeros_like(query.scores)
    if threshold > -math.inf:
        shares = query.weights / query.weights.sum()
        pull = shares * _sigmoid_slope(query, threshold, top_k.tau1) / curvature
        if not top_k.published:
            pull = pull.clamp(max=1.0)
    if top_k.practical:
        slope, pull = torch.zeros_like(slope), torch.zeros_like(pull)
    return _Threshold(psi, slope, pull)


def _sigmoid_slope(query: Query, threshold: float, tau1: float) -> Tensor:
    z = (query.scores - threshold) / float(tau1)
    return torch.sigmoid(z) * torch.sigmoid(-z) / float(tau1)


def _threshold_terms(
    query: Query, threshold: float, fraction: float, top_k: TopK
) -> tuple[float, float]:
    """L' and L'' of the smoothed problem, at the threshold."""
    shares = query.weights / query.weights.sum()
    above = torch.sigmoid((query.scores - threshold) / float(top_k.tau1))
    first = fraction + float(top_k.tau2) * threshold - float((shares * above).sum())
    slopes = _sigmoid_slope(query, threshold, top_k.tau1)
    return first, float(top_k.tau2) + float((shares * slopes).sum())


def _first_threshold(query: Query, fraction: float) -> float:
    """The highest score that more than this fraction of the items reaches: of S items, the
    (floor(fraction S) + 1)-th largest.
    """
    h, order = query.scores.sort(descending=True)
    reached = query.weights[order].cumsum(0)
    above = (reached > fraction * query.weights.sum()).nonzero()[:, 0]
    return float(h[above[0]] if len(above) else h[-1])


def solve_threshold(query: Query, fraction: float, tau1: float, tau2: float) -> float:
    """The root of fraction + tau2 lambda - mean sigma((h - lambda) / tau1), by bisection."""
    shares = query.weights / query.weights.sum()

    def slope(threshold: float) -> float:
        above = torch.sigmoid((query.scores - threshold) / float(tau1))
        return fraction + float(tau2) * threshold - float((shares * above).sum())

    low, high = float(query.scores.min()) - 1.0, float(query.scores.max()) + 1.0
    while slope(low) > 0:
        low -= 2.0 * (high - low)
    while slope(high) < 0:
        high += 2.0 * (high - low)
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 0.5 * (low + high)
