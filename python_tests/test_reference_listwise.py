"""The references of the listwise losses against facts that they do not use."""

import math

import torch
from helpers import assert_close, finite_differences, randn
from listwise_helpers import KINDS, each_kind, make_lists

from xrisk_ext import reference


def sigma(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


@each_kind
def test_gradients_are_those_of_the_values(kind: str) -> None:
    if kind == "lambda_rank":
        return  # its weights are constants for differentiation
    lists = make_lists(kind, shape=(3, 6), masked=True)
    options = KINDS[kind].options[0]

    def values(scores: torch.Tensor) -> torch.Tensor:
        return KINDS[kind].truth(scores, lists.relevance, mask=lists.mask, **options)[0]

    _, gradient = KINDS[kind].truth(lists.scores, lists.relevance, mask=lists.mask, **options)
    assert_close(gradient, finite_differences(values, lists.scores), rtol=1e-6, atol=1e-8)


def test_two_items_by_hand() -> None:
    h, y = torch.tensor([0.2, 0.9]), torch.tensor([3, 1])
    gap = 0.9 - 0.2
    gains = (7.0, 1.0)
    ideal = 7.0 + 1.0 / math.log2(3.0)
    value, gradient = reference.rank_net(h, y)
    assert_close(value, math.log1p(math.exp(gap)), rtol=1e-6)
    assert_close(gradient, [-sigma(gap), sigma(gap)], rtol=1e-6)
    weight = (gains[0] - gains[1]) / ideal * (1.0 - 1.0 / math.log2(3.0))
    value, gradient = reference.lambda_rank(h, y)
    assert_close(value, weight * math.log2(1.0 + math.exp(gap)), rtol=1e-6)
    assert_close(gradient[0], -weight * sigma(gap) / math.log(2.0), rtol=1e-6)
    value, gradient = reference.list_net(h, y)
    assert_close(gradient, [sigma(-gap) - sigma(2.0), sigma(gap) - sigma(-2.0)], rtol=1e-6)
    assert_close(value, sigma(2.0) * math.log1p(math.exp(gap))
                 + sigma(-2.0) * math.log1p(math.exp(-gap)), rtol=1e-6)  # fmt: skip
    value, _ = reference.list_mle(h, y)
    assert_close(value, math.log1p(math.exp(gap)), rtol=1e-6)
    value, _ = reference.approx_ndcg(h, y)
    ranks = (1.0 + sigma(gap), 1.0 + sigma(-gap))
    assert_close(
        value, -sum(g / math.log2(1.0 + r) for g, r in zip(gains, ranks, strict=True)) / ideal,
        rtol=1e-6,
    )  # fmt: skip
    value, _ = reference.smooth_ap(h, torch.tensor([1, 0]), temperature=0.5)
    assert_close(value, 1.0 - 1.0 / (1.0 + sigma(2.0 * gap)), rtol=1e-6)
    value, _ = reference.recall_at_k(h, torch.tensor([1, 0]), k=1, temperature=0.5)
    assert_close(value, 1.0 - sigma(-sigma(2.0 * gap)), rtol=1e-6)
    # places 4.0 and 0.5 of 5: weights (1, 0) and (1/2, 1/2); the positive is alone at its edge
    value, _ = reference.fast_ap(torch.tensor([-0.6, 0.8]), torch.tensor([1, 0]), num_bins=5)
    assert_close(value, 1.0 - 1.0 / 2.0, rtol=1e-6)


def test_list_mle_has_the_gradient_of_two_scans() -> None:
    h, y = randn(9), torch.arange(9, 0, -1)
    tails = h.flip(0).logcumsumexp(0).flip(0)
    expected = (h + (-tails).logcumsumexp(0)).exp() - 1.0
    assert_close(reference.list_mle(h, y)[1], expected)


def test_neural_sort_is_doubly_stochastic_and_sorts() -> None:
    # with gains (1, 0, ..., 0) of one item the value is minus its expected discount
    h = torch.tensor([0.1, 2.0, -1.0, 0.6])
    for item, rank in enumerate((3, 1, 4, 2)):
        y = torch.zeros(4)
        y[item] = 1.0
        value, _ = reference.neural_ndcg(h, y, temperature=0.01)
        assert_close(value, -1.0 / math.log2(1.0 + rank), rtol=1e-6)


def test_weights_of_pairs() -> None:
    h, y = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([3.0, 1.0, 0.0])
    for name, mean in (("none", 1.0), ("difference", 2.0), ("squared_difference", 6.0)):
        value, _ = reference.rank_net(h, y, pair_weights=name)
        assert_close(value, mean * math.log(2.0))
