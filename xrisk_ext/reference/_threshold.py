"""The top-K threshold of K-SONG: one step of lambda and s, or the solution of the smoothed problem.

Paper: Qiu, Hu, Zhong, Zhang and Yang, Large-scale stochastic optimization of NDCG surrogates for
deep learning with provable convergence (ICML 2022).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ._queries import Query, Size, checked_rows, size_of
from .moving_average import moving_average_update_


class TopK(NamedTuple):
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


class Threshold(NamedTuple):
    """Of one query: psi of the relevant items, its slope, and dlambda/dh of all items."""

    psi: Tensor  # [P]
    psi_slope: Tensor  # [P]
    pull: Tensor  # [S]


def thresholds_of(
    queries: list[Query],
    top_k: TopK | None,
    query_index: Tensor | None,
    num_items: Size,
    num_queries: int,
) -> list[Threshold]:
    """All queries read the old lambda before any writes it."""
    if top_k is None:
        ones = [torch.ones(len(q.relevant), dtype=torch.float64) for q in queries]
        return [
            Threshold(one, torch.zeros_like(one), torch.zeros_like(q.scores))
            for one, q in zip(ones, queries, strict=True)
        ]
    sizes = [size_of(num_items, q.number) or float(len(q.places)) for q in queries]
    kept = None if top_k.solve else top_k.thresholds
    cut = [(k, query) for k, query in enumerate(queries) if sizes[k] > top_k.k]
    lambdas = {k: -math.inf for k in range(len(queries))}  # at most k items: all are in the top k
    curvatures = {k: 1.0 for k in range(len(queries))}
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
    return [_psi(q, lambdas[k], curvatures[k], top_k) for k, q in enumerate(queries)]


def _psi(query: Query, threshold: float, curvature: float, top_k: TopK) -> Threshold:
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
    return Threshold(psi, slope, pull)


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
