"""The defects of LibAUC 2.0.1 that concern what is built so far: a test for each, named after it.

Each first shows that LibAUC has the defect, so that it says when a new release repairs one, then
that ours does not.
"""

from typing import Any

import pytest
import torch
from helpers import NAN, randn
from libauc.losses import auc as libauc
from loss_helpers import Batch, bits_equal, state_of, step, their_step
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from xrisk_ext import AveragePrecisionLoss, MeanAveragePrecisionLoss, PairwiseAUCLoss


def test_defect_state_dict_is_empty() -> None:
    for theirs in (libauc.APLoss(4), libauc.mAPLoss(4, num_labels=2)):
        assert not theirs.state_dict()
    for ours in (AveragePrecisionLoss(4), MeanAveragePrecisionLoss(4, 2)):
        assert "state.value" in ours.state_dict()


def test_defect_a_batch_of_one_fails() -> None:
    batch = Batch(torch.tensor([0.5]), torch.tensor([1]), torch.tensor([2]))
    for theirs in (libauc.APLoss(4), libauc.PairwiseAUCLoss("squared_hinge")):
        with pytest.raises((TypeError, IndexError, RuntimeError)):
            their_step(theirs, batch)
    wide = Batch(torch.tensor([[0.5, 0.1]]), torch.tensor([[1, 1]]), batch.index)
    with pytest.raises((TypeError, IndexError, RuntimeError)):
        their_step(libauc.mAPLoss(4, num_labels=2), wide)
    assert float(step(MeanAveragePrecisionLoss(4, 2), wide)[0]) == -1.0
    assert float(step(AveragePrecisionLoss(4), batch)[0]) == -1.0
    assert float(step(PairwiseAUCLoss(), batch)[0]) == 0.0


def test_defect_an_index_of_the_positives_alone_fails() -> None:
    scores, labels = (
        randn(6, 2).float(),
        torch.tensor([[1, 1], [0, 0], [1, 1], [0, 0]] + [[0, 0]] * 2),
    )
    with pytest.raises(UnboundLocalError):
        libauc.mAPLoss(2, num_labels=2)(scores, labels, torch.tensor([0, 1]))
    # ours: ids of the positives alone, -1 elsewhere; the state has a row for each positive only
    index = torch.tensor([0, -1, 1, -1, -1, -1])
    small, whole = MeanAveragePrecisionLoss(2, 2), MeanAveragePrecisionLoss(6, 2)
    batch = Batch(scores, labels, index)
    for a, b in zip(
        step(small, batch), step(whole, batch._replace(index=torch.arange(6))), strict=True
    ):
        assert torch.equal(a, b)
    assert torch.equal(small.state.value, whole.state.value[:, [0, 2]])


def test_defect_a_batch_without_positives_fails() -> None:
    batch = Batch(randn(4).float(), torch.zeros(4, dtype=torch.int64), torch.arange(4))
    for theirs in (libauc.APLoss(4), libauc.PairwiseAUCLoss()):
        with pytest.raises(AssertionError, match="no positive"):
            their_step(theirs, batch)
    wide = batch._replace(scores=randn(4, 2).float(), labels=torch.zeros(4, 2))
    with pytest.raises(AssertionError, match="no positive"):
        their_step(libauc.mAPLoss(4, num_labels=2), wide)
    for ours, seen in [
        (AveragePrecisionLoss(4), batch),
        (PairwiseAUCLoss(), batch),
        (MeanAveragePrecisionLoss(4, 2), wide),
    ]:
        before = state_of(ours)
        value, gradient = step(ours, seen)
        assert float(value) == 0.0
        assert not gradient.any()
        assert bits_equal(state_of(ours), before)


def test_defect_a_batch_without_negatives_is_nan() -> None:
    batch = Batch(randn(4).float(), torch.ones(4, dtype=torch.int64), torch.arange(4))
    assert their_step(libauc.PairwiseAUCLoss(), batch)[0].isnan()
    value, gradient = step(PairwiseAUCLoss(), batch)
    assert float(value) == 0.0
    assert not gradient.any()
    loss = AveragePrecisionLoss(4)
    value, gradient = step(loss, batch)
    assert float(value) == -1.0
    assert bool(gradient.isfinite().all())
    assert bool(loss.state.value.isfinite().all())


def test_defect_duplicate_ids_are_written_twice_and_one_wins() -> None:
    # two positives of one id observe different g: theirs keeps one of them, ours their mean
    scores = torch.tensor([1.0, 0.0, 0.5, 0.25])
    labels, index = torch.tensor([1, 1, 0, 0]), torch.tensor([0, 0, 1, 1])
    theirs, alone = libauc.APLoss(2, gamma=1.0), []
    their_step(theirs, Batch(scores, labels, index))
    ours = AveragePrecisionLoss(2, gamma=1.0)
    step(ours, Batch(scores, labels, index))
    for anchor in (0, 1):
        apart = AveragePrecisionLoss(4, gamma=1.0)
        step(apart, Batch(scores, labels, torch.arange(4)))
        alone.append(apart.state.value[0, anchor])
    assert any(float(theirs.u_all[0]) == float(one[0]) for one in alone)
    assert torch.equal(ours.state.value[0, 0], (alone[0] + alone[1]) / 2)
    flipped = AveragePrecisionLoss(2, gamma=1.0)
    step(flipped, Batch(scores.flip(0), labels.flip(0), index.flip(0)))
    assert bits_equal(flipped.state.value, ours.state.value)


def test_defect_logistic_overflows_and_poisons_the_state() -> None:
    gap = Batch(torch.tensor([-60.0, 60.0]), torch.tensor([1, 0]), torch.tensor([0, 1]))
    calm = gap._replace(scores=torch.tensor([0.5, 0.25]))
    theirs = libauc.APLoss(2, surr_loss="logistic")
    ours = AveragePrecisionLoss(2, surrogate="logistic")
    assert their_step(theirs, gap)[1].isnan().any()
    assert theirs.u_all.isinf().any()
    assert their_step(theirs, calm)[1].isnan().any()  # the row is dead for ever
    for batch in (gap, calm):
        for result in step(ours, batch):
            assert bool(result.isfinite().all())
    assert bool(ours.state.value[0, 0].isfinite().all())
    assert their_step(libauc.PairwiseAUCLoss("logistic"), gap)[0].isinf()
    assert float(step(PairwiseAUCLoss(surrogate="logistic"), gap)[0]) == 120.0


def test_defect_one_bad_score_writes_nan_into_the_state() -> None:
    bad = Batch(torch.tensor([NAN, 0.1, 0.2]), torch.tensor([1, 1, 0]), torch.tensor([0, 1, 2]))
    calm = bad._replace(scores=torch.tensor([0.3, 0.1, 0.2]))
    theirs, ours, never_saw = libauc.APLoss(3), AveragePrecisionLoss(3), AveragePrecisionLoss(3)
    their_step(theirs, bad)
    assert theirs.u_all[:2].isnan().all()
    assert their_step(theirs, calm)[1].isnan().any()  # both rows are dead for ever
    assert step(ours, bad)[0].isnan()  # it is said, and not kept
    for a, b in zip(step(ours, calm), step(never_saw, calm), strict=True):
        assert bits_equal(a, b)
    assert bits_equal(state_of(ours), state_of(never_saw))


def test_defect_the_state_stays_behind_on_the_cpu() -> None:
    # theirs is no buffer: .to() leaves it, and on a GPU every step copies index, u and p across
    assert libauc.APLoss(4, device="cpu").to("meta").u_all.device.type == "cpu"
    ours = AveragePrecisionLoss(4).to("meta")
    assert ours.state.value.device.type == "meta"  # type: ignore[union-attr]
    scores, labels = torch.tensor([0.1, 0.2]), torch.tensor([1, 0])
    with pytest.raises(ValueError, match=r"\.to\("):  # never a silent copy
        ours(scores, labels, torch.tensor([0, 1]))


def test_defect_zero_over_zero() -> None:
    # margin 0 and the positive on top: u_all is 0
    batch = Batch(torch.tensor([1.0, 0.0]), torch.tensor([1, 0]), torch.tensor([0, 1]))
    assert their_step(libauc.APLoss(2, margin=0.0), batch)[0].isnan()
    value, gradient = step(AveragePrecisionLoss(2, margin=0.0), batch)
    assert float(value) == 0.0
    assert not gradient.any()


class Count(TorchDispatchMode):
    """Counts the ops that reach the dispatcher: on a GPU each is at least one launch."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.ops += 1
        return func(*args, **(kwargs or {}))


def test_defect_python_s_sum_launches_a_kernel_a_sample() -> None:
    def ops(loss: nn.Module, size: int, *index: Tensor) -> int:
        leaf = randn(size).float().requires_grad_()
        labels = torch.arange(size) % 2
        with Count() as count:
            loss(leaf, labels, *index).backward()
        return count.ops

    theirs = [ops(libauc.APLoss(200), size, torch.arange(size)) for size in (20, 200)]
    assert theirs[1] >= theirs[0] + 180
    for loss, index in [(AveragePrecisionLoss(200), True), (PairwiseAUCLoss(), False)]:
        ours = [ops(loss, size, *([torch.arange(size)] * index)) for size in (20, 200)]
        assert ours[0] == ours[1]
        assert ours[0] < 12
