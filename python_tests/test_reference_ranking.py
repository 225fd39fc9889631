"""The reference's ranking losses held against formulas, finite differences and identities."""

import math
from typing import Any

import pytest
import torch
from helpers import INF, NAN, assert_close, finite_differences, phi, randn
from torch import Tensor

from xrisk_ext import reference

SIGMA = torch.sigmoid


def lists(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three lists of seven; the last has nothing relevant."""
    relevance = torch.tensor([[1, 0, 3, 0, 0, 2, 0], [0, 0, 0, 1, 0, 0, 2], [0] * 7])
    return randn(3, 7, seed=seed), relevance


def ndcg_objective(h: Tensor, y: Tensor, name: str, psi: Any = None) -> float:
    """-NDCG with estimated ranks, summed over the lists, from its formula, item by item."""
    total = 0.0
    for scores, gains in zip(h.tolist(), (2.0**y - 1).tolist(), strict=True):
        ideal = sum(g / math.log2(k + 2) for k, g in enumerate(sorted(gains, reverse=True)))
        for i, gain in enumerate(gains):
            if gain == 0:
                continue
            rank = 1.0 + sum(phi(name, s - scores[i], 0.7, 1.3) for s in scores)
            weight = 1.0 if psi is None else psi(scores, i)
            total -= weight * gain / (ideal * math.log2(rank))
    return total


@pytest.mark.parametrize("name", ["squared_hinge", "squared", "logistic", "sigmoid"])
def test_ndcg_is_its_objective_at_gamma_one(name: str) -> None:
    h, y = lists()
    values, gradient = reference.ndcg(h, y, surrogate=name, margin=0.7, scale=1.3)

    def objective(x: Tensor) -> Tensor:
        return torch.tensor(ndcg_objective(x, y, name), dtype=torch.float64)

    assert_close(values.sum(), objective(h))
    assert_close(gradient, finite_differences(objective, h), rtol=1e-6, atol=1e-8)
    assert float(values[2]) == 0.0
    assert not gradient[2].any()
    assert bool((gradient.sum(dim=1).abs() < 1e-13).all())


def solved(scores: list[float], k: int, tau1: float, tau2: float) -> tuple[float, float]:
    """lambda and H of the smoothed top-K problem, by bisection in plain Python."""

    def slope(at: float) -> float:
        above = sum(1.0 / (1.0 + math.exp((at - s) / tau1)) for s in scores)
        return (k + 0.5) / len(scores) + tau2 * at - above / len(scores)

    low, high = min(scores) - 50.0, max(scores) + 50.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    q = [1.0 / (1.0 + math.exp((low - s) / tau1)) for s in scores]
    return low, tau2 + sum(p * (1.0 - p) / tau1 for p in q) / len(scores)


@pytest.mark.parametrize("k", [1, 3])
def test_k_song_is_the_bilevel_objective(k: int) -> None:
    # METHODS 10.2: lambda solved, s = H, and psi' with its factor alpha
    h, y = lists(seed=3)
    tau1, tau2, alpha = 0.3, 0.01, 2.0
    top_k = reference.TopK(k, tau1=tau1, tau2=tau2, sigmoid_alpha=alpha, solve=True)
    ideal = torch.tensor([2.0, 3.0, 1.0])
    _, gradient = reference.ndcg(h, y, top_k=top_k, ideal_dcg=ideal)

    def objective(x: Tensor) -> Tensor:
        total = 0.0
        for scores, gains, z in zip(x.tolist(), (2.0**y - 1).tolist(), ideal.tolist(), strict=True):
            threshold, _ = solved(scores, k, tau1, tau2)
            for i, gain in enumerate(gains):
                rank = 1.0 + sum(phi("squared_hinge", s - scores[i], 1.0, 1.0) for s in scores)
                psi = 1.0 / (1.0 + math.exp(-alpha * (scores[i] - threshold)))
                total -= psi * gain / (z * math.log2(rank))
        return torch.tensor(total, dtype=torch.float64)

    differences = finite_differences(objective, h)
    assert_close(gradient, differences, rtol=1e-6, atol=1e-8)
    published = reference.TopK(
        k, tau1=tau1, tau2=tau2, sigmoid_alpha=alpha, solve=True, published=True
    )
    _, without_alpha = reference.ndcg(h, y, top_k=published, ideal_dcg=ideal)
    assert float((without_alpha - differences).abs().max()) > 0.01
    # METHODS 10.3: the sum of the gradient is (sum c_i) tau2 / H
    for q in range(2):
        threshold, curvature = solved(h[q].tolist(), k, tau1, tau2)
        psi = SIGMA(alpha * (h[q] - threshold))
        gains = 2.0 ** y[q].double() - 1.0
        ranks = 1.0 + (1.0 + h[q][None] - h[q][:, None]).clamp(min=0).square().sum(dim=1)
        c = alpha * psi * (1 - psi) * -gains / (ideal[q] * ranks.log2())
        assert_close(gradient[q].sum(), c.sum() * tau2 / curvature, rtol=1e-6)


def test_the_first_threshold_is_the_batch_s_own() -> None:
    scores = torch.tensor([[0.5, 3.0, 1.0, 2.0]], dtype=torch.float64)
    kept = torch.full((1,), NAN, dtype=torch.float64)
    top_k = reference.TopK(1, kept, kept.clone(), eta0=0.0)
    reference.ndcg(scores, torch.tensor([[0, 1, 0, 0]]), None, torch.tensor([0]), top_k=top_k)
    assert_close(kept, [2.0])  # the second largest; eta0 = 0 leaves it there
    weights = torch.tensor([[1.0, 1.0, 1.0, 5.0]])
    kept.fill_(NAN)
    reference.ndcg(
        scores, torch.tensor([[0, 1, 0, 0]]), None, torch.tensor([0]), top_k=top_k,
        item_weights=weights, num_items=10,
    )  # fmt: skip
    assert_close(kept, [2.0])  # 0.15 of the weight is reached by 3 and 2


def test_average_precision_at_k_is_average_precision_where_k_is_large() -> None:
    h, y = randn(9, 2), (randn(9, 2, seed=1) > 0).long()
    top_k = reference.TopK(9, solve=True)
    values, gradient = reference.average_precision_at_k(h, y, top_k=top_k)
    expected, expected_gradient = reference.average_precision(h, y)
    assert_close(values, expected)
    assert_close(gradient, expected_gradient)


def test_average_precision_at_k_is_its_bilevel_objective() -> None:
    h, y = randn(8, 1, seed=2), torch.tensor([[1], [0], [1], [0], [0], [1], [0], [0]])
    top_k = reference.TopK(3, tau1=0.3, tau2=0.01, solve=True)
    _, gradient = reference.average_precision_at_k(h, y, top_k=top_k)

    def objective(x: Tensor) -> Tensor:
        scores = x[:, 0].tolist()
        threshold, _ = solved(scores, 3, 0.3, 0.01)
        total = 0.0
        for i in (0, 2, 5):
            terms = [phi("squared_hinge", s - scores[i], 1.0, 1.0) for s in scores]
            psi = 1.0 / (1.0 + math.exp(-2.0 * (scores[i] - threshold)))
            total -= psi * (terms[0] + terms[2] + terms[5]) / sum(terms) / 3.0
        return torch.tensor(total, dtype=torch.float64)

    assert_close(gradient, finite_differences(objective, h), rtol=1e-6, atol=1e-8)


def test_listwise_is_its_objective_at_gamma_one() -> None:
    h, y = lists(seed=1)
    values, gradient = reference.listwise_cross_entropy(h, y)
    leaf = h.clone().requires_grad_()
    objective = -(y * leaf.log_softmax(dim=1)).sum(dim=1) / 7
    objective.sum().backward()
    assert_close(values, objective.detach())
    assert_close(gradient, leaf.grad)
    assert bool((gradient.sum(dim=1).abs() < 1e-14).all())


def test_the_log_state_exponentiates_to_the_linear_one() -> None:
    # METHODS 10.4
    state = torch.full((7,), -INF, dtype=torch.float64)
    linear = torch.full((7,), NAN, dtype=torch.float64)
    for seed in range(3):
        h, y = lists(seed)
        index = torch.arange(7).expand(3, 7)
        reference.listwise_cross_entropy(h[:1], y[:1], index[:1], None, state, 0.3)
        rows = y[0] > 0
        g = (h[0][None] - h[0][rows][:, None]).exp().mean(dim=1)
        reference.moving_average_update_(linear, index[0][rows], g, 0.3)
    touched = ~linear.isnan()
    assert_close(state[touched].exp(), linear[touched])
    assert bool((state[~touched] == -INF).all())


@pytest.mark.parametrize("loss", ["ndcg", "listwise"])
def test_a_constant_added_to_all_scores_changes_nothing(loss: str) -> None:
    # METHODS 10.4
    states = [torch.full((21,), NAN if loss == "ndcg" else -INF).double() for _ in range(2)]
    for seed in range(3):
        h, y = lists(seed)
        index = (torch.arange(21) * (seed + 1) % 21).reshape(3, 7)
        step = reference.ndcg if loss == "ndcg" else reference.listwise_cross_entropy
        a = step(h, y, index, None, states[0], 0.4)
        b = step(h + 3.25, y, index, None, states[1], 0.4)
        for p, q in (*zip(a, b, strict=True), states):
            assert_close(p, q, rtol=1e-10, atol=1e-14)


def test_the_rank_stays_above_one() -> None:
    # margin 0: the top item has u = 0, where the discount diverges
    h, y = torch.tensor([[2.0, 1.0]]), torch.tensor([[1, 0]])
    values, gradient = reference.ndcg(h, y, margin=0.0)
    assert math.isfinite(float(values))
    assert bool(gradient.isfinite().all())
    assert not gradient.any()
