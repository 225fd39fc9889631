"""What four processes check together: every function `check_*`, each against one whole batch.

Not tests of their own: test_distributed.py starts the processes, which run them all in the order of
this file, since a collective has to be called by everyone.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from helpers import randn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import xrisk_ext as xr
from xrisk_ext.distributed import DistributedLoss, gather_batch

NUM_SAMPLES, FEATURES = 11, 5
UNEVEN = (3, 0, 5, 2)  # rows of the processes; the positives of the last are taken away
Make = Callable[[], nn.Module]


class Ranks:
    """Groups of processes: all four, and the two pairs."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
        self.pair = pairs[self.rank // 2]
        self.first_of_pair = self.rank // 2 * 2


def whole_batch(rows: int, seed: int, labels: int = 1) -> dict[str, Tensor]:
    """The same on every process; ids come back, on other processes, too."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows,) if labels == 1 else (rows, labels)
    return {
        "x": randn(rows, FEATURES, seed=seed),
        "labels": (torch.rand(*shape, generator=generator) < 0.4).long(),
        "index": torch.randint(NUM_SAMPLES, (rows,), generator=generator),
    }


def own_rows(batch: dict[str, Tensor], sizes: list[int], member: int) -> dict[str, Tensor]:
    start = sum(sizes[:member])
    return {name: t[start : start + sizes[member]] for name, t in batch.items()}


def scorer(labels: int = 1) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(FEATURES, labels, bias=True).double()


def scores_of(model: nn.Module, x: Tensor, labels: int) -> Tensor:
    scores: Tensor = model(x)
    return scores.squeeze(1) if labels == 1 else scores


def assert_same(what: str, actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(
        actual, expected, rtol=1e-11, atol=1e-13, equal_nan=True, msg=lambda m: f"{what}: {m}"
    )


def follow_one_process(
    ranks: Ranks,
    make: Make,
    sizes: list[int],
    *,
    group: Any = None,
    labels: int = 1,
    steps: int = 3,
    state: str = "replicated",
    **options: Any,
) -> None:
    """Several steps: loss, gradients of the model and state are those of the whole batch."""
    member = ranks.rank if group is None else ranks.rank - ranks.first_of_pair
    alone, model = make(), scorer(labels)
    together = DistributedLoss(make(), group, state=state, **options)  # type: ignore[arg-type]
    parallel = DistributedDataParallel(scorer(labels), process_group=group)
    first = 0 if group is None else ranks.first_of_pair  # the pairs have batches of their own
    for step in range(steps):
        batch = whole_batch(sum(sizes), 100 * first + step, labels)
        own = own_rows(batch, sizes, member)
        wanted = alone(scores_of(model, batch["x"], labels), batch["labels"], batch["index"])
        found = together(scores_of(parallel, own["x"], labels), own["labels"], own["index"])
        assert_same("value", found, wanted)
        wanted.sum().backward()
        found.sum().backward()
        for ours, theirs in zip(parallel.parameters(), model.parameters(), strict=True):
            assert_same(f"gradient of step {step}", ours.grad, theirs.grad)  # type: ignore[arg-type]
        full = together.full_state_dict()
        for name, value in alone.state_dict().items():
            assert_same(name, full[name], value)


def average_precision(**options: Any) -> xr.AveragePrecisionLoss:
    return xr.AveragePrecisionLoss(NUM_SAMPLES, gamma=0.6, state_dtype=torch.float64, **options)


def mean_average_precision(**options: Any) -> xr.MeanAveragePrecisionLoss:
    return xr.MeanAveragePrecisionLoss(
        NUM_SAMPLES, 3, gamma=0.6, state_dtype=torch.float64, **options
    )


def pairwise_auc() -> nn.Module:
    class WithIndex(xr.PairwiseAUCLoss):
        def forward(self, scores: Tensor, labels: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(scores, labels)

    return WithIndex()


def check_average_precision_of_four(ranks: Ranks) -> None:
    follow_one_process(ranks, average_precision, [4, 4, 4, 4])
    follow_one_process(ranks, average_precision, [4, 4, 4, 4], equal_batches=True)


def check_uneven_batches(ranks: Ranks) -> None:
    follow_one_process(ranks, average_precision, list(UNEVEN))
    follow_one_process(ranks, pairwise_auc, list(UNEVEN))


def check_two_of_four_by_a_subgroup(ranks: Ranks) -> None:
    follow_one_process(ranks, average_precision, [3, 4], group=ranks.pair)
    follow_one_process(ranks, average_precision, [5, 2], group=ranks.pair, state="sharded")


def check_several_labels(ranks: Ranks) -> None:
    for reduction in ("mean", "none"):
        make = lambda: mean_average_precision(reduction=reduction)  # noqa: B023, E731
        follow_one_process(ranks, make, list(UNEVEN), labels=3)
        follow_one_process(ranks, make, list(UNEVEN), labels=3, state="sharded")


def check_a_sharded_state(ranks: Ranks) -> None:
    follow_one_process(ranks, average_precision, [4, 4, 4, 4], state="sharded")
    follow_one_process(ranks, average_precision, list(UNEVEN), state="sharded")
    loss = DistributedLoss(average_precision(), state="sharded")
    rows = sum(s.stop - s.start for s in loss._shards())
    assert rows == (3, 3, 3, 2)[ranks.rank]  # each keeps a block, not all of it
    assert loss.loss.state.value.numel() == 0


def check_a_process_without_positives_and_none_at_all(ranks: Ranks) -> None:
    alone, together = average_precision(), DistributedLoss(average_precision())
    batch = whole_batch(10, 3)
    batch["labels"][8:] = 0  # those of the last process
    for labels in (batch["labels"], torch.zeros(10)):
        batch["labels"] = labels
        own = own_rows(batch, list(UNEVEN), ranks.rank)
        scores = batch["x"].sum(1).requires_grad_()
        mine = own["x"].sum(1).requires_grad_()
        wanted = alone(scores, batch["labels"], batch["index"])
        found = together(mine, own["labels"], own["index"])
        assert_same("value", found, wanted)
        (wanted_gradient,) = torch.autograd.grad(wanted, scores)
        (gradient,) = torch.autograd.grad(found, mine)
        expected = own_rows({"g": wanted_gradient}, list(UNEVEN), ranks.rank)["g"]
        assert_same("gradient", gradient, 4 * expected)  # averaging divides it by four
        assert_same("state", together.loss.state.value, alone.state.value)


def check_weights_and_modes(ranks: Ranks) -> None:
    batch = whole_batch(10, 5)
    batch["item_weights"] = torch.rand(10, generator=torch.Generator().manual_seed(1)).double()
    own = own_rows(batch, list(UNEVEN), ranks.rank)

    def call(loss: nn.Module, rows: dict[str, Tensor], **options: Any) -> Tensor:
        weights = rows["item_weights"]
        result: Tensor = loss(
            rows["x"].sum(1), rows["labels"], rows["index"], item_weights=weights, **options
        )
        return result

    def turned(rows: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**rows, "x": -rows["x"]}  # other averages

    for state in ("replicated", "sharded"):
        alone = average_precision()
        together = DistributedLoss(average_precision(), state=state)  # type: ignore[arg-type]
        for rows, mine in ((batch, own), (turned(batch), turned(own))):
            assert_same("weighted", call(together, mine), call(alone, rows))
        before = together.full_state_dict()["state.value"].clone()
        tried = call(together, own, update_state=False)
        assert_same("update_state=False", tried, call(alone, batch, update_state=False))
        alone.eval()
        together.eval()
        assert_same("eval", call(together, own), call(alone, batch))
        assert torch.equal(
            together.full_state_dict()["state.value"].nan_to_num(), before.nan_to_num()
        )
        together.train().reset_state()
        assert together.full_state_dict()["state.value"].isnan().all()


def check_replicas_are_equal_bit_by_bit(ranks: Ranks) -> None:
    loss = DistributedLoss(xr.AveragePrecisionLoss(NUM_SAMPLES, surrogate="sigmoid"))
    for step in range(3):
        own = own_rows(whole_batch(10, step), list(UNEVEN), ranks.rank)
        loss(own["x"].sum(1).float(), own["labels"], own["index"])
    value = loss.loss.state.value.nan_to_num(-1.0)
    (values,) = gather_batch(value, equal_batches=True)
    assert all(torch.equal(v, value[0]) for v in values)


class Both(nn.Module):
    """A model that keeps its loss, so that DistributedDataParallel sees the loss's buffers."""

    def __init__(self, state: str) -> None:
        super().__init__()
        self.model = scorer()
        self.loss = DistributedLoss(average_precision(), state=state)  # type: ignore[arg-type]

    def forward(self, rows: dict[str, Tensor]) -> Tensor:
        result: Tensor = self.loss(self.model(rows["x"]).squeeze(1), rows["labels"], rows["index"])
        return result


def check_broadcast_buffers_overwrites_no_shard(ranks: Ranks) -> None:
    for state in ("replicated", "sharded"):
        alone, model = average_precision(), scorer()
        both = Both(state)
        parallel = DistributedDataParallel(both)  # broadcasts buffers
        for step in range(4):
            batch = whole_batch(12, step)
            found = parallel(own_rows(batch, [3, 3, 3, 3], ranks.rank))
            wanted = alone(model(batch["x"]).squeeze(1), batch["labels"], batch["index"])
            assert_same("value", found, wanted)
            found.backward()
            wanted.backward()
        for ours, theirs in zip(both.model.parameters(), model.parameters(), strict=True):
            assert_same("gradient", ours.grad, theirs.grad)  # type: ignore[arg-type]
        full = both.loss.full_state_dict()["state.value"]
        assert_same("state", full, alone.state.value)


def check_a_shard_is_saved_and_resumed(ranks: Ranks) -> None:
    def step(loss: nn.Module, seed: int) -> Tensor:
        own = own_rows(whole_batch(12, seed), [3, 3, 3, 3], ranks.rank)
        value: Tensor = loss(own["x"].sum(1), own["labels"], own["index"])
        return value

    loss = DistributedLoss(average_precision(), state="sharded")
    for seed in range(3):
        step(loss, seed)
    saved = copy.deepcopy(loss.state_dict())
    whole = copy.deepcopy(loss.full_state_dict())
    expected = step(loss, 7)

    resumed = DistributedLoss(average_precision(), state="sharded")
    resumed.load_state_dict(saved)
    assert torch.equal(step(resumed, 7), expected)
    for state in (
        "sharded",
        "replicated",
    ):  # from one file
        other = DistributedLoss(average_precision(), state=state)  # type: ignore[arg-type]
        other.load_full_state_dict(whole)
        assert torch.equal(step(other, 7), expected)
    alone = average_precision()
    alone.load_state_dict(whole)
    batch = whole_batch(12, 7)
    assert_same("alone", alone(batch["x"].sum(1), batch["labels"], batch["index"]), expected)

    exchanged = [None] * 4
    dist.all_gather_object(exchanged, saved)
    try:
        resumed.load_state_dict(exchanged[(ranks.rank + 1) % 4])  # type: ignore[arg-type]
    except RuntimeError as error:
        assert "full_state_dict" in str(error)
    else:
        raise AssertionError("the shard of another process was loaded")


def check_a_shard_follows_its_loss_to_a_dtype(ranks: Ranks) -> None:
    loss = DistributedLoss(xr.AveragePrecisionLoss(NUM_SAMPLES), state="sharded")
    (shard,) = loss._shards()
    assert loss.half()._modules["shards"] is loss.shards
    assert shard.value.dtype == torch.float32
    loss.double()
    assert shard.value.dtype == torch.float64
    own = own_rows(whole_batch(12, 0), [3, 3, 3, 3], ranks.rank)
    assert loss(own["x"].sum(1), own["labels"], own["index"]).isfinite()


def expect(error: type[Exception], text: str, function: Callable[[], Any]) -> None:
    try:
        function()
    except error as found:
        assert text in str(found), f"{found} does not say {text!r}"
    else:
        raise AssertionError(f"expected a {error.__name__} with {text!r}")


def check_bad_input_is_refused_by_all(ranks: Ranks) -> None:
    scores, labels, index = torch.rand(3), torch.ones(3), torch.tensor([0, 1, 2])
    for state in ("replicated", "sharded"):
        loss = DistributedLoss(average_precision(), state=state)  # type: ignore[arg-type]
        bad = index + (NUM_SAMPLES if ranks.rank == 2 else 0)  # of one process alone
        expect(IndexError, "index", lambda: loss(scores, labels, bad))  # noqa: B023
        expect(ValueError, "labels", lambda: loss(scores, torch.ones(2), index))  # noqa: B023
        mixed = scores.double() if ranks.rank == 1 else scores
        expect(ValueError, "every process", lambda: loss(mixed, labels, index))  # noqa: B023
        assert loss.full_state_dict()["state.value"].isnan().all()
        assert loss(scores, labels, index).isfinite()  # and it goes on
    expect(ValueError, "nothing to shard", lambda: DistributedLoss(pairwise_auc(), state="sharded"))
    expect(ValueError, "replicated", lambda: DistributedLoss(pairwise_auc(), state="no"))  # type: ignore[arg-type]
    expect(TypeError, "loss", lambda: DistributedLoss(None))  # type: ignore[arg-type]
    stranger = dist.new_group([0])
    if ranks.rank:
        expect(ValueError, "process_group", lambda: DistributedLoss(average_precision(), stranger))


def check_gather_batch_keeps_every_dtype(ranks: Ranks) -> None:
    own = UNEVEN[ranks.rank]
    tensors = [
        torch.full((own, 2), ranks.rank + 0.5, dtype=dtype)
        for dtype in (torch.float64, torch.bfloat16, torch.float16)
    ]
    tensors += [torch.full((own,), ranks.rank), torch.full((own, 1, 2), ranks.rank > 1)]
    gathered = gather_batch(*tensors)
    owners = torch.repeat_interleave(torch.arange(4), torch.tensor(UNEVEN))
    for before, after in zip(tensors, gathered, strict=True):
        assert after.dtype == before.dtype
        assert after.shape == (10, *before.shape[1:])
    assert torch.equal(gathered[0][:, 1], owners + 0.5)
    assert torch.equal(gathered[3], owners)
    assert torch.equal(gathered[4][:, 0, 0], owners > 1)


def check_defect_every_process_holds_all_pairs(ranks: Ranks) -> None:
    """LibAUC builds the P x N matrix of the whole batch on every process. Ours builds none."""
    rows = 4096  # of each process: 2.7e8 pairs, a gigabyte in float32
    generator = torch.Generator().manual_seed(ranks.rank)
    scores = torch.rand(rows, generator=generator, requires_grad=True)
    labels = torch.arange(rows) % 4 == 0
    loss = DistributedLoss(xr.AveragePrecisionLoss(gamma=1.0), equal_batches=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        loss(scores, labels).backward()
    largest = max(e.self_cpu_memory_usage for e in profile.key_averages())
    assert largest < 64 * 4 * rows * 4  # bytes: a few per row of the whole batch
