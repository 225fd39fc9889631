"""NDCGLoss, ListwiseCrossEntropyLoss and mAP@K against the reference, in every layout and size."""

from typing import Any

import pytest
import torch
from helpers import INF, NAN, SURROGATE_ALGORITHMS, assert_close, each_dtype, each_simd, randn
from loss_helpers import assert_near, bits_equal
from ranking_helpers import (
    PAIRS,
    QUERIES,
    RankingBatch,
    each_kind,
    each_layout,
    follow_reference,
    make_batch,
    make_batches,
    make_loss,
    reference_step,
    same_states,
    states_of,
    step,
)

from xrisk_ext import ListwiseCrossEntropyLoss, NDCGLoss, reference

DOUBLE = {"state_dtype": torch.float64}


@each_kind
@each_layout
def test_the_reference_is_followed(kind: str, layout: str) -> None:
    follow_reference(make_loss(kind, **DOUBLE), make_batches(kind, layout=layout))


@each_kind
@each_dtype
def test_every_dtype(kind: str, dtype: torch.dtype) -> None:
    follow_reference(make_loss(kind), make_batches(kind, dtype=dtype), torch.float32)


@each_kind
@each_simd
def test_every_simd_variant(kind: str, simd: str) -> None:
    follow_reference(make_loss(kind, **DOUBLE), make_batches(kind, layout="both"))
    follow_reference(make_loss(kind), make_batches(kind, dtype=torch.float32), torch.float32)


@pytest.mark.parametrize(("name", "algorithm"), SURROGATE_ALGORITHMS)
@pytest.mark.parametrize("kind", ["song", "map_at_k"])
def test_every_surrogate(kind: str, name: str, algorithm: str) -> None:
    options = {"surrogate": name, "algorithm": algorithm, "margin": 0.7, "scale": 1.3}
    follow_reference(make_loss(kind, **options, **DOUBLE), make_batches(kind, count=2))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("song", {"stale_state": True}),
        ("song", {"initial_state": "zero"}),
        ("k_song", {"initial_state": "zero", "epsilon": 0.0, "psi_slope": "published"}),
        ("k_song", {"tau1": 0.01, "tau2": 0.1, "sigmoid_alpha": 5.0, "top_k": 1}),
        ("k_song", {"top_k": 7}),
        ("listwise", {"stale_state": True}),
        ("listwise", {"initial_state": "zero"}),
        ("listwise", {"items": "irrelevant"}),
        ("listwise", {"shift": "batch"}),
        ("map_at_k", {"psi_slope": "published", "top_k_version": "practical"}),
        ("map_at_k", {"threshold": "solve"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", ["full", "both"])
def test_every_option(kind: str, options: dict[str, Any], layout: str) -> None:
    follow_reference(make_loss(kind, **options, **DOUBLE), make_batches(kind, layout=layout))


@pytest.mark.parametrize("kind", ["song", "k_song", "listwise"])
@pytest.mark.parametrize(
    "sizes",
    [
        {"num_items": 100, "num_relevant": 7, "ideal_dcg": 2.5},
        {
            "num_items": torch.tensor([20, 30, 40, 50, 2]),
            "num_relevant": torch.tensor([1.0, 0.0, 3.0, 4.0, 5.0]),
            "ideal_dcg": torch.tensor([0.5, 1.0, 0.0, 2.0, 3.0]),
        },
    ],
)
def test_sizes_may_be_given(kind: str, sizes: dict[str, Any]) -> None:
    batches = [b._replace(sizes=sizes) for b in make_batches(kind)]
    follow_reference(make_loss(kind, reduction="none", **DOUBLE), batches)


def lists(
    queries: int, items: int, relevant: int, spread: float = 1.0, dtype: torch.dtype = torch.float32
) -> RankingBatch:
    scores = (spread * randn(queries, items, seed=1)).to(dtype)
    relevance = torch.zeros(queries, items)
    relevance[:, :relevant] = 1.0 + torch.arange(relevant) % 4
    ids = torch.arange(queries * items).reshape(queries, items)
    return RankingBatch(scores, relevance, ids, torch.arange(queries))


@pytest.mark.parametrize(
    ("queries", "items", "relevant"),
    [(1, 40000, 3), (1, 33000, 90), (3, 4000, 700), (40, 700, 10), (700, 9, 3), (2, 2, 1)],
)
@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.usefixtures("restore_threads")
def test_lists_of_all_sizes_and_threads(
    queries: int, items: int, relevant: int, top_k: int | None
) -> None:
    # alone and in chunks, direct and sorted; the threads change nothing
    batch = lists(queries, items, relevant)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        loss = NDCGLoss(queries * items, queries, gamma=0.3, top_k=top_k, tau1=0.2)
        truth = states_of(loss)
        for _ in range(2):
            result = step(loss, batch)
        results.append((*result, *states_of(loss).values()))
    for a, b in zip(*results, strict=True):
        assert bits_equal(a, b)
    for _ in range(2):
        expected = reference_step(loss, batch, truth)
    assert_near("value", result[0], expected[0])
    assert_near("gradient", result[1], expected[1])
    for name, state in states_of(loss).items():
        assert_near(name, state, truth[name])


@pytest.mark.parametrize("kind", ["song", "k_song", "listwise", "map_at_k"])
@pytest.mark.usefixtures("restore_threads")
def test_relevance_of_any_dtype_and_threads(kind: str) -> None:
    batch = make_batch(kind)
    expected = step(make_loss(kind), batch)
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.float16,
                  torch.bfloat16, torch.float32, torch.float64, torch.uint16):  # fmt: skip
        torch.set_num_threads(1 + dtype.is_floating_point)
        relevance = batch.relevance.to(dtype)
        for a, b in zip(
            step(make_loss(kind), batch._replace(relevance=relevance)), expected, strict=True
        ):
            assert bits_equal(a, b)
    binary = batch._replace(relevance=(batch.relevance > 0).long())
    for a, b in zip(
        step(make_loss(kind), binary._replace(relevance=binary.relevance.bool())),
        step(make_loss(kind), binary),
        strict=True,
    ):
        assert bits_equal(a, b)


@pytest.mark.parametrize("kind", ["song", "k_song", "listwise"])
def test_padded_and_ragged_lists_are_one_thing(kind: str) -> None:
    for batch in make_batches(kind, layout="masked"):
        assert batch.mask is not None
        counts = batch.mask.sum(dim=1)
        ragged = RankingBatch(
            *(t[batch.mask] for t in batch[:3]),
            batch.query_index,
            offsets=torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int(),
        )
        padded = batch._replace(scores=batch.scores.masked_fill(~batch.mask, NAN))
        losses = [make_loss(kind, **DOUBLE) for _ in range(2)]
        value, gradient = step(losses[0], padded)
        other_value, other_gradient = step(losses[1], ragged)
        assert_close(other_value, value)
        assert_close(other_gradient, gradient[batch.mask])
        assert not gradient[~batch.mask].any()
        for name, state in states_of(losses[0]).items():
            assert_near(name, state, states_of(losses[1])[name])


@pytest.mark.parametrize("kind", ["song", "k_song", "listwise"])
def test_queries_do_not_see_each_other(kind: str) -> None:
    batch = make_batch(kind)
    batch = batch._replace(
        pair_index=torch.arange(QUERIES * batch.scores.shape[1]).reshape(batch.scores.shape) % PAIRS
    )
    loss = make_loss(kind, num_pairs=None, reduction="none", **DOUBLE).eval()
    values, gradient = step(loss, batch)
    for q in range(QUERIES):
        alone = RankingBatch(*(t[q : q + 1] for t in batch[:4]))
        value, own = step(loss, alone)
        assert_close(value[0], values[q])
        assert_close(own[0], gradient[q])


def test_a_pair_that_occurs_twice_keeps_the_mean() -> None:
    # two queries name pair 3: both read the old state, the mean of the blends is stored and used
    scores = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    relevance = torch.tensor([[1, 0], [1, 0]])
    index = torch.tensor([[3, -1], [3, -1]])
    loss = NDCGLoss(4, gamma=1.0, **DOUBLE)
    loss(scores, relevance, index)
    # phi = ((1 + 0)^2 + (1 + 1)^2) / 2 and (1 + 9) / 2
    assert_close(loss.state.value[3], (2.5 + 5.0) / 2)
    assert bool(loss.state.value[:3].isnan().all())


def test_ndcg_by_hand() -> None:
    # items at 0 (relevance 2) and 1: g = (1 + 4) / 2, rank 1 + 2 g = 6, Z = 3 / log2 2
    scores = torch.tensor([[0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    loss = NDCGLoss(1, gamma=0.5, **DOUBLE)
    value = loss(scores, torch.tensor([[2, 0]]), torch.tensor([[0, -1]]))
    log2 = torch.tensor(6.0, dtype=torch.float64).log2()
    assert_close(value.detach(), -1.0 / log2)
    value.backward()
    pull = 2.0 / (6.0 * log2**2 * torch.tensor(2.0, dtype=torch.float64).log()) * 4.0 / 2.0
    assert_close(scores.grad, [[-float(pull), float(pull)]])
    assert_close(loss.state.value, [2.5])


@pytest.mark.parametrize("name", ["squared_hinge", "logistic"])
def test_the_whole_training_set_as_one_query(name: str) -> None:
    # no state, near-linear: what a boosting library or L-BFGS minimises
    scores = randn(1, 5000, seed=1).float().requires_grad_()
    relevance = (randn(1, 5000, seed=2) - 0.8).clamp(min=0).ceil().long()
    value = NDCGLoss(None, gamma=1.0, surrogate=name)(scores, relevance)
    value.backward()
    expected, gradient = reference.ndcg(scores.detach(), relevance, surrogate=name)
    torch.testing.assert_close(value.detach().double(), expected.mean(), rtol=1e-5, atol=0)
    scale = float(gradient.abs().max())
    torch.testing.assert_close(scores.grad.double(), gradient, rtol=1e-4, atol=1e-6 * scale)


def test_listwise_by_hand() -> None:
    # one relevant item of relevance 3: -3 log softmax over N = 2 items, over 2
    scores = torch.tensor([[0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    loss = ListwiseCrossEntropyLoss(1, **DOUBLE)
    value = loss(scores, torch.tensor([[3, 0]]), torch.tensor([[0, -1]]))
    softmax = torch.tensor([0.0, 1.0], dtype=torch.float64).softmax(0)
    assert_close(value.detach(), -1.5 * softmax[0].log())
    value.backward()
    assert_close(scores.grad, 1.5 * (softmax - torch.tensor([1.0, 0.0]))[None])


# ------------------------------------------------------------------------------ any size of score


@pytest.mark.parametrize("kind", ["song", "k_song", "listwise", "map_at_k"])
@pytest.mark.parametrize("spread", [1e3, 1e18])
def test_wide_scores_do_not_overflow(kind: str, spread: float) -> None:
    loss = make_loss(kind, **DOUBLE)
    truth = states_of(loss)
    for batch in make_batches(kind, count=2):
        wide = batch._replace(scores=(spread * batch.scores).float())
        value, gradient = step(loss, wide)
        expected_value, expected = reference_step(loss, wide, truth)
        assert_near("value", value, expected_value)
        # a pair of an item with itself, of weight near 1, cancels in its gradient
        assert_close(gradient.double(), expected, rtol=1e-6, atol=3e-8)
        for name, state in states_of(loss).items():
            assert_near(name, state, truth[name], torch.float32)


def test_uncentred_scores_lose_nothing() -> None:
    batch = lists(4, 300, 10, spread=0.05)
    centred = step(NDCGLoss(1200, gamma=1.0), batch)
    away = batch._replace(scores=batch.scores + 30.0)
    exact = away._replace(scores=away.scores.double() - 30.0)
    for a, b in zip(
        step(NDCGLoss(1200, gamma=1.0), away), step(NDCGLoss(1200), exact), strict=True
    ):
        assert_near("shifted", a.double(), b, torch.float32)
    assert abs(float(centred[1].sum())) < 1e-6


@pytest.mark.parametrize("kind", ["song", "k_song", "listwise"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_bad_score_spoils_its_query_alone(kind: str, bad: float) -> None:
    batch = make_batch(kind)
    users = torch.arange(QUERIES) % 4
    batch = batch._replace(query_index=users, pair_index=batch.pair_index.clone())
    batch.pair_index[4] = -1  # the query that shares a user, and pairs, is left out
    batch.relevance[4] = 0
    scores = batch.scores.clone()
    scores[2, 5] = bad
    loss, clean = (make_loss(kind, reduction="none", **DOUBLE) for _ in range(2))
    values, gradient = step(loss, batch._replace(scores=scores))
    expected_values, expected = step(clean, batch)
    assert values[2].isnan()
    assert bool(gradient[2].isnan().all())
    others = torch.arange(QUERIES) != 2
    assert bool(gradient[others].isfinite().all())
    assert bool(values[others].isfinite().all())
    assert bool(expected_values.isfinite().all())
    assert bool(expected.isfinite().all())
    follower = make_loss(kind, reduction="none", **DOUBLE)  # sees the others alone
    nothing = batch.relevance.clone()
    nothing[2] = 0
    step(follower, batch._replace(relevance=nothing))
    assert same_states(states_of(loss), states_of(follower))


def test_a_bad_score_under_the_mask_is_not_seen() -> None:
    batch = make_batch("song", layout="masked")
    assert batch.mask is not None
    good, seen = make_loss("song"), make_loss("song")
    spoilt = batch._replace(scores=batch.scores.masked_fill(~batch.mask, NAN))
    for a, b in zip(step(seen, spoilt), step(good, batch), strict=True):
        assert bits_equal(a, b)
    assert same_states(states_of(seen), states_of(good))


@pytest.mark.parametrize("threshold", ["step", "solve"])
@pytest.mark.parametrize("top_k", [3, 8])
def test_a_query_of_at_most_k_items_has_no_threshold(threshold: Any, top_k: int) -> None:
    relevance, ids = torch.tensor([[1, 0, 2]]), torch.tensor([[0, -1, 1]])
    batch = RankingBatch(randn(1, 3), relevance, ids, torch.tensor([0]))
    loss = NDCGLoss(2, 1, gamma=1.0, top_k=top_k, threshold=threshold, **DOUBLE)
    for a, b in zip(step(loss, batch), step(NDCGLoss(2, gamma=1.0, **DOUBLE), batch), strict=True):
        assert_close(a, b)
    assert loss.thresholds is None or bool(loss.thresholds.value.isnan().all())
