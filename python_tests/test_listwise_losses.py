"""The stateless losses of ranked lists: their numbers, against the float64 reference."""

from typing import Any

import pytest
import torch
from helpers import assert_close, each_dtype, each_simd, randn
from listwise_helpers import (
    KINDS,
    Lists,
    call,
    each_graded_kind,
    each_kind,
    each_retrieval_kind,
    each_variant,
    expected_step,
    list_values,
    make_lists,
    make_loss,
    step,
)
from loss_helpers import assert_near, bits_equal

import xrisk_ext as xr
from xrisk_ext.losses._list_loss import ListLoss


def follow(kind: str, loss: ListLoss, lists: Lists, options: dict[str, Any] | None = None) -> None:
    value, gradient = step(loss, lists)
    expected_value, expected_gradient = expected_step(kind, lists, options)
    assert gradient.dtype == lists.scores.dtype
    assert_near("value", value, expected_value)
    assert_near("gradient", gradient, expected_gradient, value.dtype)


# ------------------------------------------------------------------------------------ the reference


@each_variant
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(4, 9), (2, 70), (31,)])
@each_simd
def test_follows_the_reference(
    kind: str, options: dict[str, Any], masked: bool, shape: tuple[int, ...], simd: str
) -> None:
    lists = make_lists(kind, shape=shape, masked=masked)
    follow(kind, KINDS[kind].make(**options), lists, options)


@each_variant
@each_dtype
def test_follows_the_reference_in_every_dtype(
    kind: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    lists = make_lists(kind, shape=(3, 40), dtype=dtype, masked=True)
    follow(kind, KINDS[kind].make(**options), lists, options)


@each_kind
def test_continuous_relevance(kind: str) -> None:
    # every item a level of its own
    lists = make_lists(kind, shape=(3, 37))
    lists = lists._replace(relevance=randn(3, 37, seed=5).abs())
    follow(kind, make_loss(kind), lists)


@each_kind
@pytest.mark.parametrize("simd", ["baseline", "avx512"], indirect=True)
def test_long_lists(kind: str, simd: str) -> None:
    # several chunks of anchors, several flushes, and the engine's own cuts
    size = 200 if kind == "neural_ndcg" else 3500 if kind == "rank_net" else 1100
    lists = make_lists(kind, shape=(1, size))
    follow(kind, make_loss(kind), lists)
    follow(kind, make_loss(kind), lists._replace(scores=lists.scores.float()))


@each_retrieval_kind
@each_simd
def test_item_weights(kind: str, simd: str) -> None:
    for dtype in (torch.float32, torch.float64):
        lists = make_lists(kind, shape=(3, 21), weighted=True, masked=True, dtype=dtype)
        follow(kind, make_loss(kind), lists)


@each_retrieval_kind
def test_a_weight_is_a_number_of_copies(kind: str) -> None:
    copies = torch.tensor([2, 1, 3, 0, 1, 1, 2])
    lists = make_lists(kind, shape=(7,))
    weighted = lists._replace(weights=copies.double())
    repeated = Lists(
        lists.scores.repeat_interleave(copies), lists.relevance.repeat_interleave(copies)
    )
    value, gradient = step(make_loss(kind), weighted)
    expected, parts = step(make_loss(kind), repeated)
    assert_close(value, expected)
    summed = torch.zeros(7, dtype=torch.float64).index_add_(
        0, torch.arange(7).repeat_interleave(copies), parts
    )
    assert_close(gradient, summed)


@each_variant
def test_gradcheck(kind: str, options: dict[str, Any]) -> None:
    if kind == "lambda_rank":
        pytest.skip("its weights are constants: see test_lambda_rank_is_a_weighted_rank_net")
    lists = make_lists(kind, shape=(2, 6), masked=True)
    loss = KINDS[kind].make(**{**options, "reduction": "none"})
    leaf = lists.scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda h: call(loss, lists, h), (leaf,))


def test_lambda_rank_is_a_weighted_rank_net() -> None:
    # two levels of one pair: the weight is what exchanging the two changes of NDCG
    scores = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    value, gradient = step(xr.LambdaRankLoss(), Lists(scores, torch.tensor([[0, 2]])))
    change = 1.0 - 1.0 / torch.log2(torch.tensor(3.0, dtype=torch.float64))
    loss = torch.log2(1.0 + torch.exp(torch.tensor(0.7, dtype=torch.float64)))
    assert_close(value, change * loss)
    slope = change * torch.sigmoid(torch.tensor(0.7, dtype=torch.float64)) / 0.6931471805599453
    assert_close(gradient, torch.stack([slope, -slope])[None])


# --------------------------------------------------------------------------------------- reductions


@each_kind
def test_reductions(kind: str) -> None:
    lists = make_lists(kind, shape=(5, 9), masked=True)
    values, gradients = list_values(kind, lists)
    upstream = randn(5, seed=3)
    value, gradient = step(make_loss(kind, reduction="none"), lists, upstream)
    assert_close(value, values)
    assert_close(gradient, upstream[:, None] * gradients)
    value, gradient = step(make_loss(kind, reduction="sum"), lists)
    assert_close(value, values.sum())
    assert_close(gradient, gradients)
    one = Lists(lists.scores[0], lists.relevance[0], lists.mask[0])  # type: ignore[index]
    value, gradient = step(make_loss(kind, reduction="none"), one, upstream[:1])
    assert_close(value, values[:1])
    assert_close(gradient, upstream[0] * gradients[0])


def test_rank_net_over_the_pairs_of_all_lists() -> None:
    lists = make_lists("rank_net", shape=(4, 9), masked=True)
    values, gradients = list_values("rank_net", lists)
    present = lists.mask & (lists.relevance >= 0)  # type: ignore[operator]
    pairs = (lists.relevance[:, :, None] > lists.relevance[:, None, :]) & (
        present[:, :, None] & present[:, None, :]
    )
    share = pairs.sum((1, 2)).double() / pairs.sum()
    value, gradient = step(xr.RankNetLoss(pool_pairs=True), lists)
    assert_close(value, (share * values).sum())
    assert_close(gradient, share[:, None] * gradients)


# -------------------------------------------------------------------------------------- invariances


@each_kind
def test_padding_changes_nothing(kind: str) -> None:
    lists = make_lists(kind, shape=(3, 12))
    padded = Lists(
        torch.cat([torch.full((3, 5), 1e30), lists.scores, torch.full((3, 2), torch.nan)], 1),
        torch.cat([torch.full((3, 5), 3), lists.relevance, torch.full((3, 2), 1)], 1),
        torch.cat([torch.zeros(3, 5), torch.ones(3, 12), torch.zeros(3, 2)], 1).bool(),
    )
    value, gradient = step(make_loss(kind), lists)
    with_padding, padded_gradient = step(make_loss(kind), padded)
    assert bits_equal(with_padding, value)
    assert bits_equal(padded_gradient[:, 5:17].contiguous(), gradient)
    assert not padded_gradient[:, :5].any()
    assert not padded_gradient[:, 17:].any()
    # a list of padding alone is no list
    nothing = Lists(
        torch.cat([lists.scores, torch.full((1, 12), torch.nan)]),
        torch.cat([lists.relevance, torch.ones(1, 12, dtype=torch.int64)]),
        torch.cat([torch.ones(3, 12), torch.zeros(1, 12)]).bool(),
    )
    with_nothing, gradient_with_nothing = step(make_loss(kind), nothing)
    assert bits_equal(with_nothing, value)
    assert bits_equal(gradient_with_nothing[:3].contiguous(), gradient)
    assert not gradient_with_nothing[3].any()


@each_graded_kind
def test_negative_relevance_is_padding(kind: str) -> None:
    lists = make_lists(kind, shape=(3, 12), masked=True)
    by_relevance = Lists(
        lists.scores,
        torch.where(lists.mask, lists.relevance, -1),  # type: ignore[arg-type]
    )
    for a, b in zip(step(make_loss(kind), lists), step(make_loss(kind), by_relevance), strict=True):
        assert bits_equal(a, b)


@each_kind
def test_the_order_of_the_items_does_not_matter(kind: str) -> None:
    lists = make_lists(kind, shape=(3, 15))
    if kind == "list_mle":  # but for ties
        lists = lists._replace(relevance=randn(3, 15, seed=5).abs())
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    shuffled = Lists(lists.scores[:, order], lists.relevance[:, order])
    value, gradient = step(make_loss(kind), lists)
    same_value, same_gradient = step(make_loss(kind), shuffled)
    assert_close(same_value, value)
    assert_close(same_gradient, gradient[:, order])


@each_kind
def test_a_constant_added_to_the_scores_does_not_matter(kind: str) -> None:
    if kind == "fast_ap":
        pytest.skip("its scores have a range")
    lists = make_lists(kind)
    value, gradient = step(make_loss(kind), lists)
    shifted_value, shifted = step(make_loss(kind), lists._replace(scores=lists.scores + 8.0))
    assert_close(shifted_value, value)
    assert_close(shifted, gradient, rtol=1e-10)
    assert_close(gradient.sum(1), torch.zeros(4), atol=1e-12)


@each_kind
def test_ordered_scores_are_better(kind: str) -> None:
    lists = make_lists(kind)
    ordered = lists._replace(scores=lists.scores + 2.0 * lists.relevance)
    if kind == "fast_ap":
        ordered = lists._replace(scores=0.2 * lists.scores + lists.relevance)
    worse, better = (float(step(make_loss(kind), each)[0]) for each in (lists, ordered))
    assert better < worse


# ------------------------------------------------------------------------ particular to one of them


def test_ties_of_list_mle_stay_or_are_shuffled() -> None:
    lists = make_lists("list_mle", shape=(2, 12))
    stable = step(xr.ListMLELoss(), lists)
    values = set()
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        loss = xr.ListMLELoss(shuffle_ties=True, generator=generator)
        value, gradient = step(loss, lists)
        assert gradient.shape == lists.scores.shape
        values.add(float(value))
    assert len(values) == 4
    assert float(stable[0]) not in values
    distinct = lists._replace(relevance=randn(2, 12, seed=3).abs())
    shuffled = xr.ListMLELoss(shuffle_ties=True)
    for a, b in zip(step(xr.ListMLELoss(), distinct), step(shuffled, distinct), strict=True):
        assert_close(a, b)


def test_fast_ap_beyond_its_range() -> None:
    scores = torch.tensor([[1.7, 0.3, -5.0, -0.25, 1.2]], dtype=torch.float64)
    lists = Lists(scores, torch.tensor([[1, 0, 1, 1, 0]]))
    value, gradient = step(xr.FastAPLoss(), lists)
    clamped = lists._replace(scores=scores.clamp(-1.0 + 1e-12, 1.0 - 1e-12))
    assert_close(value, step(xr.FastAPLoss(), clamped)[0], rtol=1e-9)
    assert not gradient[0, [0, 2, 4]].any()
    assert gradient[0, 3] < 0.0


def test_neural_ndcg_of_certain_scores_is_ndcg() -> None:
    lists = make_lists("neural_ndcg", shape=(3, 8))
    lists = lists._replace(scores=1000.0 * lists.scores)
    for k in (None, 3):
        value, _ = step(xr.NeuralNDCGLoss(top_k=k), lists)
        expected = xr.metrics.ndcg_at_k(lists.scores, lists.relevance, k)
        assert_close(value, -expected, rtol=1e-9)


def test_approximations_become_exact() -> None:
    lists = make_lists("approx_ndcg", shape=(3, 20))
    value, _ = step(xr.ApproxNDCGLoss(temperature=1e-9), lists)
    assert_close(value, -xr.metrics.ndcg_at_k(lists.scores, lists.relevance), rtol=1e-9)
    labels = (lists.relevance > 1).long()
    lists = lists._replace(relevance=labels)
    value, _ = step(xr.SmoothAPLoss(temperature=1e-9), lists)
    exact = torch.stack(
        [xr.metrics.average_precision(h, y) for h, y in zip(lists.scores, labels, strict=True)]
    )
    assert_close(value, 1.0 - exact.mean(), rtol=1e-9)
    recall = xr.RecallAtKLoss(k=4, temperature=1e-9, rank_temperature=1e-9)
    rank = 1 + (lists.scores[:, None, :] > lists.scores[:, :, None]).sum(2)
    inside = torch.where(rank == 4, 0.5, (rank < 4).double())  # sigma(0) at the cut
    expected = 1.0 - ((inside * labels).sum(1) / labels.sum(1).clamp(max=4)).mean()
    assert_close(step(recall, lists)[0], expected)
