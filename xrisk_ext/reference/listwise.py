"""The learning-to-rank losses without state: RankNet, LambdaRank, ListNet, ListMLE and two of NDCG.

All take scores [Q, S] (or [S]: one list), relevance of the same shape and an optional bool mask;
negative relevance is padding, too. They return the values [Q] of the lists and the gradients [Q, S]
of each list's own value, in float64, by autograd of the formulas as they are printed.

Papers: Burges et al., Learning to rank using gradient descent (2005) and From RankNet to LambdaRank
to LambdaMART (2010); Cao et al., Learning to rank: from pairwise to listwise approach (2007); Xia
et al., Listwise approach to learning to rank (2008); Qin et al., A general approximation framework
for direct optimization of IR measures (2010); Pobrotyn and Bialobrzeski, NeuralNDCG (2021).
"""

import torch
from torch import Tensor

from ._lists import each_list


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), on both sides exact: torch's own drops exp(-x) beyond x = 20."""
    return torch.logaddexp(x, torch.zeros_like(x))


def rank_net(
    scores: Tensor,
    relevance: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    pair_weights: str = "none",
) -> tuple[Tensor, Tensor]:
    """Mean over the pairs y_i > y_j of ``w_ij log(1 + exp(-(h_i - h_j) / temperature))``.

    w_ij is 1 ("none"), y_i - y_j ("difference") or y_i^2 - y_j^2 ("squared_difference").
    """

    def loss(h: Tensor, y: Tensor, _: Tensor) -> Tensor | None:
        pairs = y[:, None] > y[None, :]
        if not bool(pairs.any()):
            return None
        losses = softplus((h[None, :] - h[:, None]) / temperature)
        if pair_weights == "difference":
            losses = losses * (y[:, None] - y[None, :])
        elif pair_weights == "squared_difference":
            losses = losses * (y[:, None] ** 2 - y[None, :] ** 2)
        return losses[pairs].mean()

    return each_list(loss, scores, relevance, mask)


def lambda_rank(
    scores: Tensor,
    relevance: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum over the pairs y_i > y_j, both among the top_k ranks of the scores, of
    ``W_ij log2(1 + exp(-(h_i - h_j) / temperature))``, with the constant weight
    ``W_ij = |G_i - G_j| |1 / D_i - 1 / D_j|``, ``G = (2^y - 1) / maxDCG@k``,
    ``D = log2(1 + rank)``.
    """

    def loss(h: Tensor, y: Tensor, _: Tensor) -> Tensor | None:
        if len(h) == 0 or bool((y == y[0]).all()):
            return None
        k = len(h) if top_k is None else top_k
        ranks = descending_ranks(h.detach())
        gains = normalized_gains(y, k)
        discounts = 1.0 / torch.log2(1.0 + ranks)
        weights = (gains[:, None] - gains[None, :]).abs()
        weights = weights * (discounts[:, None] - discounts[None, :]).abs()
        top = ranks <= k
        pairs = (y[:, None] > y[None, :]) & top[:, None] & top[None, :]
        losses = softplus((h[None, :] - h[:, None]) / temperature) / torch.log(h.new_tensor(2.0))
        return (weights * losses)[pairs].sum()

    return each_list(loss, scores, relevance, mask)


def list_net(
    scores: Tensor, relevance: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cross entropy from softmax(y) to softmax(h)."""

    def loss(h: Tensor, y: Tensor, _: Tensor) -> Tensor | None:
        if len(h) == 0 or bool((y == y[0]).all()):
            return None
        return -(torch.softmax(y, 0) * torch.log_softmax(h, 0)).sum()

    return each_list(loss, scores, relevance, mask)


def list_mle(
    scores: Tensor, relevance: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of the order by relevance (ties as they stand) under Plackett-Luce:
    ``sum_k log sum_{l >= k} exp(h_(l) - h_(k))``.
    """

    def loss(h: Tensor, y: Tensor, _: Tensor) -> Tensor | None:
        if len(h) == 0 or bool((y == y[0]).all()):
            return None
        ordered = h[torch.sort(y, descending=True, stable=True).indices]
        gaps = ordered[None, :] - ordered[:, None]  # [k, l]
        behind = torch.where(torch.ones_like(gaps, dtype=torch.bool).triu(), gaps, -torch.inf)
        top = behind.max(dim=1, keepdim=True).values.detach()
        return (top[:, 0] + (behind - top).exp().sum(1).log()).sum()

    return each_list(loss, scores, relevance, mask)


def approx_ndcg(
    scores: Tensor,
    relevance: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """``-sum_i G_i / log2(1 + r_i)`` with soft ranks,
    ``r_i = 1 + sum_{j != i} sigma((h_j - h_i) / temperature)``.
    """

    def loss(h: Tensor, y: Tensor, _: Tensor) -> Tensor | None:
        if len(h) == 0 or not bool((y > 0).any()):
            return None
        above = torch.sigmoid((h[None, :] - h[:, None]) / temperature)
        others = ~torch.eye(len(h), dtype=torch.bool, device=h.device)
        ranks = 1.0 + torch.where(others, above, 0.0).sum(1)
        return -(normalized_gains(y, len(h)) / torch.log2(1.0 + ranks)).sum()

    return each_list(loss, scores, relevance, mask)


def neural_ndcg(
    scores: Tensor,
    relevance: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    max_iterations: int = 50,
    tolerance: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """``-sum_k (P g)_k / log2(1 + k) / maxDCG`` with P the relaxed permutation of NeuralSort,
    ``softmax_j(((n + 1 - 2 k) h_j - sum_l |h_l - h_j|) / temperature)`` in row k, scaled to be
    doubly stochastic by Sinkhorn: columns, then rows, until both sum to 1 within the tolerance.
    """

    def loss(h: Tensor, y: Tensor, _: Tensor) -> Tensor | None:
        n = len(h)
        if n == 0 or not bool((y > 0).any()):
            return None
        position = torch.arange(1, n + 1, dtype=h.dtype, device=h.device)
        distance = (h[:, None] - h[None, :]).abs().sum(0)
        permutation = torch.softmax(
            ((n + 1 - 2 * position)[:, None] * h[None, :] - distance) / temperature, dim=1
        )
        for _iteration in range(max_iterations):
            permutation = permutation / permutation.sum(0, keepdim=True).clamp(min=1e-10)
            permutation = permutation / permutation.sum(1, keepdim=True).clamp(min=1e-10)
            if bool(((permutation.sum(0) - 1).abs() < tolerance).all()):
                break
        k = n if top_k is None else min(top_k, n)
        gains = permutation @ normalized_gains(y, k)
        return -(gains / torch.log2(1.0 + position))[:k].sum()

    return each_list(loss, scores, relevance, mask)


def descending_ranks(h: Tensor) -> Tensor:
    """Ranks from 1, float64; ties in the order in which they stand."""
    order = torch.sort(h, descending=True, stable=True).indices
    ranks = torch.empty_like(h)
    ranks[order] = torch.arange(1, len(h) + 1, dtype=h.dtype, device=h.device)
    return ranks


def normalized_gains(y: Tensor, k: int) -> Tensor:
    """``(2^y - 1) / maxDCG@k``; both divided by 2^max(y) if that is large. 0 where nothing is
    relevant.
    """
    top = y.max()
    if float(top) > 30.0:
        gains = torch.exp2(y - top) - torch.exp2(-top)
    else:
        gains = torch.expm1(y * torch.log(y.new_tensor(2.0)))
    ideal = torch.sort(gains, descending=True).values[:k]
    position = torch.arange(1, len(ideal) + 1, dtype=y.dtype, device=y.device)
    best = (ideal / torch.log2(1.0 + position)).sum()
    return gains / best if bool(best > 0) else torch.zeros_like(gains)
