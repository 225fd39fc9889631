"""Samplers, weights and the data set with ids."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from xrisk_ext import AveragePrecisionLoss, MeanAveragePrecisionLoss, PairwiseAUCLoss
from xrisk_ext.data import (
    IndexedDataset,
    MultiLabelBatchSampler,
    PositiveBatchSampler,
    PositiveSampler,
    positive_ids,
    stratified_weights,
)

# 7 positives of 60, scattered
LABELS = torch.zeros(60, dtype=torch.int64)
LABELS[torch.arange(7) * 8 + 3] = 1


def many_labels(samples: int = 90, labels: int = 5, seed: int = 0) -> Tensor:
    """The first label is rare, the last has no positive at all."""
    rates = torch.tensor([0.05, 0.1, 0.2, 0.4, 0.0])[:labels]
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(samples, labels, generator=generator) < rates).long()


# ------------------------------------------------------------------------------- positives, 1 label


def test_every_batch_has_the_positives_first_and_exactly_so_many() -> None:
    sampler = PositiveBatchSampler(LABELS, 16, 3)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 5  # 53 negatives, 13 a batch
    for batch in batches:
        labels = LABELS[batch]
        assert len(batch) == len(set(batch)) == 16
        assert labels[:3].all()
        assert not labels[3:].any()


def test_an_epoch_is_a_pass_over_the_negatives_and_fair_to_the_positives() -> None:
    sampler = PositiveBatchSampler(LABELS, 8, 2, num_batches=200)
    seen = Counter(position for batch in sampler for position in batch)
    positives = [seen[int(p)] for p in LABELS.nonzero()]
    # 2 of 7 positives a batch: passes of 4 batches draw each once and one of them twice
    assert sum(positives) == 400
    assert min(positives) >= 50
    assert max(positives) <= 75

    one_pass = PositiveBatchSampler(LABELS, 8, 2)
    negatives = Counter(p for batch in one_pass for p in batch if not LABELS[p])
    assert len(negatives) == 53
    assert sum(count - 1 for count in negatives.values()) == len(one_pass) * 6 - 53
    dropped = PositiveBatchSampler(LABELS, 8, 2, drop_last=True)
    assert len(dropped) == 53 // 6
    assert max(Counter(p for b in dropped for p in b if not LABELS[p]).values()) == 1


def test_fewer_positives_than_a_batch_takes_are_repeated() -> None:
    labels = [0] * 20 + [1, 1]
    for batch in PositiveBatchSampler(labels, 8, 5):
        assert Counter(batch[:5]) in (Counter({20: 3, 21: 2}), Counter({20: 2, 21: 3}))


def test_epochs_differ_and_repeat_by_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    sampler = PositiveBatchSampler(LABELS, 16, 3, seed=1)
    first, second = list(sampler), list(sampler)  # the epoch moves on by itself
    assert first != second
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(PositiveBatchSampler(LABELS, 16, 3, seed=1)) == first
    assert list(PositiveBatchSampler(LABELS, 16, 3, seed=2)) != first
    assert torch.equal(torch.random.get_rng_state(), before)
    next(iter(sampler))
    abandoned = list(sampler)  # an epoch that was left is begun again
    sampler.set_epoch(1)
    assert abandoned == list(sampler) == second


def test_ranks_share_an_epoch() -> None:
    samplers = [
        PositiveBatchSampler(LABELS, 8, 2, seed=3, num_replicas=3, rank=rank) for rank in range(3)
    ]
    batches = [list(sampler) for sampler in samplers]
    assert {len(b) for b in batches} == {3}  # 9 batches, none left over
    rounds = [batch for together in zip(*batches, strict=True) for batch in together]
    assert rounds == list(PositiveBatchSampler(LABELS, 8, 2, seed=3))
    negatives = {p for batch in rounds for p in batch if not LABELS[p]}
    assert len(negatives) == 53
    assert {len(PositiveBatchSampler(LABELS, 8, 2, num_replicas=4, rank=r)) for r in range(4)} == {
        3
    }
    dropping = PositiveBatchSampler(LABELS, 8, 2, num_replicas=4, drop_last=True)
    assert len(dropping) == 2


@pytest.mark.parametrize("kind", ["positives", "labels", "queries"])
def test_a_sampler_resumes_where_it_was(kind: str) -> None:
    def make() -> Any:
        if kind == "positives":
            return PositiveBatchSampler(LABELS, 8, 2, seed=4)
        if kind == "labels":
            return MultiLabelBatchSampler(many_labels(), 12, 2, labels_per_batch=3, seed=4)
        from xrisk_ext.data import QueryBatchSampler

        query = torch.arange(60) % 20
        return QueryBatchSampler(query, LABELS.new_ones(60), 3, num_positives=2, seed=4)

    sampler = make()
    list(sampler)
    iterator = iter(sampler)
    taken = [next(iterator) for _ in range(3)]
    state = sampler.state_dict()
    assert state == {"seed": 4, "epoch": 1, "batches_taken": 3}
    rest = list(iterator)
    following = list(sampler)

    fresh = make()
    fresh.load_state_dict(state)
    assert fresh.state_dict() == state
    fresh.set_epoch(1)  # as a training loop says it anyway
    assert list(fresh) == rest
    assert list(fresh) == following
    fresh.load_state_dict(sampler.state_dict(batches_taken=0) | {"epoch": 1})
    assert list(fresh) == taken + rest
    fresh.load_state_dict({**state, "batches_taken": len(fresh)})  # saved after the last batch
    assert list(fresh) == following
    with pytest.raises(KeyError):
        fresh.load_state_dict({"seed": 0})


def test_labels_of_any_kind() -> None:
    expected = list(PositiveBatchSampler(LABELS, 8, 2))
    for labels in (LABELS.bool(), LABELS.float() * 2 - 1, LABELS[:, None], LABELS.tolist()):
        assert list(PositiveBatchSampler(labels, 8, 2)) == expected
    assert list(PositiveBatchSampler(LABELS.numpy(), 8, 2)) == expected  # type: ignore[arg-type]


def test_bad_arguments_of_the_positive_sampler() -> None:
    for bad in ({"num_positives": 0}, {"num_positives": 8}, {"batch_size": 0}, {"rank": 1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            PositiveBatchSampler(LABELS, **{"batch_size": 8, "num_positives": 2, **bad})
    for labels in (torch.zeros(5), torch.ones(5)):
        with pytest.raises(ValueError, match="positive and negative labels"):
            PositiveBatchSampler(labels, 4, 1)
    with pytest.raises(ValueError, match="drop_last"):
        PositiveBatchSampler(LABELS, 64, 2, drop_last=True)
    with pytest.raises(ValueError, match=r"\[N\]"):
        PositiveBatchSampler(torch.zeros(4, 2), 4, 1)


def test_a_million_samples_are_drawn_in_a_few_seconds() -> None:
    # a Python loop over samples or positives would take far longer
    labels = torch.zeros(1_000_000, dtype=torch.int64)
    labels[::10_000] = 1
    sampler = PositiveBatchSampler(labels, 256, 32)
    rows = sampler.draw_epoch(0)
    assert rows.shape == (4464, 256)
    assert bool((labels[rows].sum(1) == 32).all())


# ------------------------------------------------------------------------------------ many labels


def test_every_chosen_label_has_its_positives() -> None:
    labels = many_labels()
    sampler = MultiLabelBatchSampler(labels, 16, 2, labels_per_batch=2, num_batches=40)
    counts = torch.zeros(5)
    for batch in sampler:
        assert len(batch) == len(set(batch)) == 16
        enough = labels[batch].sum(0) >= 2
        assert int(enough.sum()) >= 2
        counts += enough
    assert bool((counts[:4] >= 20).all())  # 40 batches, 2 of 4 labels each
    assert counts[4] == 0


def test_all_labels_in_every_batch_and_a_pass_over_the_samples() -> None:
    labels = many_labels()
    sampler = MultiLabelBatchSampler(labels, 20, 2)
    batches = list(sampler)
    assert len(batches) == -(-90 // (20 - 4 * 2))
    assert all(bool((labels[batch].sum(0)[:4] >= 2).all()) for batch in batches)
    seen = {position for batch in batches for position in batch}
    assert len(seen) > 85  # replaced repeats may miss a few


def test_bad_arguments_of_the_multi_label_sampler() -> None:
    labels = many_labels()
    with pytest.raises(ValueError, match="batch_size"):
        MultiLabelBatchSampler(labels, 8, 2)
    with pytest.raises(ValueError, match="labels_per_batch"):
        MultiLabelBatchSampler(labels, 80, 2, labels_per_batch=5)
    with pytest.raises(ValueError, match="a label with a positive"):
        MultiLabelBatchSampler(torch.zeros(8, 2), 8)
    with pytest.raises(ValueError, match=r"\[N, L\]"):
        MultiLabelBatchSampler(torch.zeros(8), 8)


# ---------------------------------------------------------------------------------------- weights


def test_weights_make_means_over_batches_unbiased() -> None:
    values = torch.randn(60, generator=torch.Generator().manual_seed(0)) + 3 * LABELS
    sampler = PositiveBatchSampler(LABELS, 16, 4, num_batches=3000)
    rows = sampler.draw_epoch(0)
    weights = torch.stack([sampler.item_weights(labels) for labels in LABELS[rows]])
    assert torch.allclose(weights.sum(1), torch.full((3000,), 16.0))
    drawn = values[rows]
    truth = values.mean()
    assert abs(float((weights * drawn).mean() - truth)) < 0.03
    assert abs(float(drawn.mean() - truth)) > 0.3


def test_weights_recover_the_shares_of_every_label() -> None:
    labels = many_labels(4000)
    sampler = MultiLabelBatchSampler(labels, 64, 4, num_batches=50)
    for batch in sampler:
        seen = labels[batch]
        w = sampler.item_weights(seen)
        shares = (w * seen).sum(0)[:4] / w.sum(0)[:4]
        torch.testing.assert_close(shares, sampler.positive_rate[:4])
        assert bool((w[:, 4] == 1).all())  # nothing to undo


def test_weights_with_missing_labels_and_single_strata() -> None:
    labels = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 1, 0], [1, 1, 0]])
    observed = torch.ones(4, 3, dtype=torch.bool)
    observed[0, 0] = False
    w = stratified_weights(labels, torch.tensor([0.1, 0.2, 0.3]), observed=observed)
    expected = torch.tensor([[0.0, 1, 1], [1.35, 1, 1], [1.35, 1, 1], [0.3, 1, 1]])
    torch.testing.assert_close(w, expected)
    for bad in (0.0, 1.0, torch.rand(2)):
        with pytest.raises(ValueError, match="positive_rate"):
            stratified_weights(labels, bad)
    with pytest.raises(ValueError, match="observed"):
        stratified_weights(labels, 0.5, observed=observed[:2])
    with pytest.raises(TypeError, match="labels"):
        stratified_weights([1, 0], 0.5)  # type: ignore[arg-type]


def test_weighted_average_precision_of_a_sampled_batch_is_that_of_the_data() -> None:
    # scores that depend on the label alone, so that sampling has no variance: the batch, weighted,
    # is the data in small
    sampler = PositiveBatchSampler(LABELS, 20, 5)
    loss = AveragePrecisionLoss(gamma=1.0)
    scores = torch.where(LABELS > 0, 0.6, 0.4)
    whole = loss(scores, LABELS)
    batch = next(iter(sampler))
    weights = sampler.item_weights(LABELS[batch])
    torch.testing.assert_close(loss(scores[batch], LABELS[batch], item_weights=weights), whole)
    assert not torch.isclose(loss(scores[batch], LABELS[batch]), whole, rtol=0.1)


# ---------------------------------------------------------------------------------------- dataset


class Mappings(Dataset[Any]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": torch.full((2,), float(i)), "y": i % 2}


class Batched(TensorDataset):
    fetched = 0

    def __getitems__(self, positions: list[int]) -> list[Any]:
        self.fetched += 1
        return [self[p] for p in positions]


def test_samples_carry_their_ids() -> None:
    x, y = torch.arange(6.0), torch.arange(6) % 2
    assert IndexedDataset(TensorDataset(x, y))[4] == (4.0, 0, 4)
    assert IndexedDataset(TensorDataset(x, y))[-1] == (5.0, 1, 5)
    assert IndexedDataset([3.0, 4.0])[1] == (4.0, 1)
    assert IndexedDataset(Mappings())[2]["index"] == 2
    only = IndexedDataset(TensorDataset(x, y), ids=positive_ids(y))
    assert [only[i][2] for i in range(6)] == [-1, 0, -1, 1, -1, 2]
    assert positive_ids(torch.tensor([[0, 1], [0, 0], [1, 1]])).tolist() == [0, -1, 1]


def test_whole_batches_are_fetched_at_once() -> None:
    inner = Batched(torch.arange(6.0))
    loader = DataLoader(IndexedDataset(inner), batch_size=3)
    (first, index), _ = loader
    assert inner.fetched == 2
    assert index.tolist() == first.tolist() == [0, 1, 2]
    assert not hasattr(IndexedDataset([1, 2]), "__getitems__")


def test_bad_arguments_of_the_dataset() -> None:
    with pytest.raises(TypeError, match="map-style"):
        IndexedDataset(iter([1]))
    with pytest.raises(TypeError, match="ids"):
        IndexedDataset([1, 2], ids=torch.rand(2))
    with pytest.raises(ValueError, match="ids"):
        IndexedDataset([1, 2], ids=[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_loop_with_loader_sampler_and_weights(workers: int) -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) + LABELS[:, None]
    data = IndexedDataset(TensorDataset(x, LABELS), ids=positive_ids(LABELS))
    batches = PositiveBatchSampler(LABELS, 16, 4)
    by_batch = DataLoader(data, batch_sampler=batches, num_workers=workers)
    one_by_one = DataLoader(data, sampler=PositiveSampler(batches), batch_size=16)
    loss = AveragePrecisionLoss(7)
    model = torch.nn.Linear(3, 1)
    for features, labels, index in by_batch:
        weights = batches.item_weights(labels)
        loss(model(features), labels, index, item_weights=weights).backward()
    assert bool(loss.state.value.isfinite().all())  # type: ignore[union-attr]
    # the same batches in the next epoch, either way
    assert len(PositiveSampler(batches)) == 16 * len(batches)
    batches.set_epoch(7)
    whole = [index for _, _, index in by_batch]
    batches.set_epoch(7)
    assert all(torch.equal(a, b[2]) for a, b in zip(whole, one_by_one, strict=True))


def test_the_flat_sampler_resumes_too() -> None:
    flat = PositiveSampler(PositiveBatchSampler(LABELS, 8, 2))
    flat.set_epoch(2)
    whole = list(flat)
    flat.load_state_dict({"seed": 0, "epoch": 2, "batches_taken": 2})
    assert flat.state_dict()["batches_taken"] == 2
    assert list(flat) == whole[16:]


def test_losses_take_the_weights_of_many_labels() -> None:
    labels = many_labels()
    labels[:, 4] = labels[:, 3]
    sampler = MultiLabelBatchSampler(labels, 24, 2)
    batch = next(iter(sampler))
    scores = torch.randn(24, 5, requires_grad=True)
    weights = sampler.item_weights(labels[batch])
    MeanAveragePrecisionLoss(90, 5)(
        scores, labels[batch], torch.tensor(batch), item_weights=weights
    ).backward()
    assert scores.grad is not None
    assert bool(scores.grad.isfinite().all())
    PairwiseAUCLoss()(scores[:, 0], labels[batch][:, 0], item_weights=weights[:, 0]).backward()
