"""Checks of the losses over embeddings; see distributed_checks.py."""

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from baseline_helpers import BASELINES, DIM, make_baseline
from distributed_checks import FEATURES, NUM_SAMPLES, UNEVEN, Ranks, assert_same, own_rows
from helpers import randn
from test_contrastive_rows import VARIANTS, make_global
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import xrisk_ext as xr
from xrisk_ext.distributed import DistributedLoss, gather_batch

CLASSES = 7
Call = Callable[[nn.Module, nn.Module, dict[str, Tensor]], Tensor]


class Encoder(nn.Module):
    """Two views of the rows, and the classes' weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Linear(FEATURES, DIM).double()
        self.text = nn.Linear(FEATURES, DIM).double()
        self.classes = nn.Parameter(torch.randn(CLASSES, DIM).double())

    def forward(self, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return self.image(rows["x"]), self.text(rows["y"]), 1.0 * self.classes


def whole_batch(rows: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": randn(rows, FEATURES, seed=seed),
        "y": randn(rows, FEATURES, seed=seed + 70),
        "labels": torch.randint(CLASSES, (rows,), generator=generator),
        "index": torch.randint(NUM_SAMPLES, (rows,), generator=generator),
    }


def two_views(loss: nn.Module, model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
    image, text, classes = model(rows)
    value: Tensor = loss(image, text)
    return value + 0.0 * classes.sum()


def follow_one_process(
    ranks: Ranks,
    make: Callable[[], nn.Module],
    sizes: tuple[int, ...],
    call: Call = two_views,
    *,
    own_values: bool = False,
    **options: Any,
) -> None:
    """Several steps; also parameters of the loss get the whole gradient on every process."""
    alone, model = make(), Encoder()
    together = DistributedLoss(make(), **options)
    parallel = DistributedDataParallel(Encoder(), find_unused_parameters=True)
    count = sum(sizes)
    for step in range(2):
        batch = whole_batch(count, step)
        own = own_rows(batch, list(sizes), ranks.rank)
        wanted, found = call(alone, model, batch), call(together, parallel, own)
        if own_values:  # reduction="none": the mean over the batch is everyone's affair
            views = len(wanted) // count
            parts = own_rows({"v": wanted.view(views, -1).T}, list(sizes), ranks.rank)["v"]
            assert_same("values", found.view(views, -1).T, parts)
            wanted, found = wanted.mean(), found.sum() / len(wanted) * len(sizes)
        else:
            assert_same("value", found, wanted)
        wanted.backward()
        found.backward()
        mine = [*parallel.parameters(), *together.loss.parameters()]
        theirs = [*model.parameters(), *alone.parameters()]
        for ours, expected in zip(mine, theirs, strict=True):
            if expected.grad is not None:
                assert_same(f"gradient of step {step}", ours.grad, expected.grad)  # type: ignore[arg-type]
        full = together.full_state_dict()
        for name, value in alone.state_dict().items():
            assert_same(name, full[name], value)


def check_contrastive_baselines(ranks: Ranks) -> None:
    for name in BASELINES:
        sizes = (3, 3, 3, 3) if name in ("NTXent", "MoCo") else UNEVEN
        follow_one_process(ranks, lambda: make_baseline(name), sizes)  # noqa: B023
    follow_one_process(ranks, lambda: make_baseline("NTXent"), UNEVEN)


def check_own_values_of_contrastive_baselines(ranks: Ranks) -> None:
    for name in ("NTXent", "SupCon", "CLIP", "MoCo"):
        make = lambda: make_baseline(name, reduction="none")  # noqa: B023, E731
        follow_one_process(ranks, make, (2, 2, 2, 2), own_values=True)


def check_supervised_labels(ranks: Ranks) -> None:
    def call(loss: nn.Module, model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
        image, text, classes = model(rows)
        value: Tensor = loss(image, text, rows["labels"])
        return value + 0.0 * classes.sum()

    for sizes in ((3, 3, 3, 3), UNEVEN):
        follow_one_process(ranks, lambda: make_baseline("SupCon"), sizes, call)


def check_a_learnable_temperature(ranks: Ranks) -> None:
    follow_one_process(ranks, lambda: xr.CLIPLoss(temperature=0.3).double(), UNEVEN)


def check_extreme_classification(ranks: Ranks) -> None:
    def call(loss: nn.Module, model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
        image, text, classes = model(rows)
        value: Tensor = loss(image, classes, rows["labels"], rows["index"])
        return value + 0.0 * text.sum()

    for method in ("sox", "scent"):
        for state in ("replicated", "sharded"):

            def make() -> nn.Module:
                return xr.CompositionalEntropicLoss(
                    NUM_SAMPLES,
                    method=method,  # type: ignore[arg-type]  # noqa: B023
                    gamma=0.6,
                    alpha=0.4,
                    state_dtype=torch.float64,
                )

            follow_one_process(ranks, make, UNEVEN, call, state=state)


def check_extreme_classification_modes(ranks: Ranks) -> None:
    own = own_rows(whole_batch(10, 0), list(UNEVEN), ranks.rank)
    for state in ("replicated", "sharded"):
        loss = DistributedLoss(xr.CompositionalEntropicLoss(NUM_SAMPLES), state=state)  # type: ignore[arg-type]
        image, _, classes = Encoder()(own)
        arguments = (image, classes, own["labels"], own["index"])
        loss(2.0 * image, *arguments[1:])  # of what moves the averages
        before = loss.full_state_dict()["state.value"].clone()
        first = loss(*arguments, update_state=False)
        loss.eval()(*arguments)
        loss.train()
        assert torch.equal(loss.full_state_dict()["state.value"], before)
        assert_same("update_state=False", loss(*arguments), first)
        loss.reset_state()
        assert loss.full_state_dict()["state.value"].isinf().all()


def check_global_contrastive_modes(ranks: Ranks) -> None:
    own = own_rows(whole_batch(10, 0), list(UNEVEN), ranks.rank)
    image, text, _ = Encoder()(own)
    for state in ("replicated", "sharded"):
        for kind, name in (("view", "per view"), ("image", "adam")):
            loss = DistributedLoss(make_global(kind, name), state=state)  # type: ignore[arg-type]
            loss(image, text, own["index"])
            before = {k: v.clone() for k, v in loss.full_state_dict().items()}
            first = loss(image, -text, own["index"], update_state=False)
            loss.eval()(image, -text, own["index"])
            loss.train()
            for key, value in loss.full_state_dict().items():
                assert torch.equal(value, before[key]), key
            assert_same("update_state=False", loss(image, -text, own["index"]), first)
            assert not torch.equal(loss.full_state_dict()["state.value"], before["state.value"])


def check_queues_that_were_drawn_apart_become_one(ranks: Ranks) -> None:
    torch.manual_seed(ranks.rank)
    loss = DistributedLoss(xr.MoCoLoss(dim=FEATURES, queue_size=20))
    own = own_rows(whole_batch(10, 0), list(UNEVEN), ranks.rank)
    for _ in range(2):
        loss(own["x"], own["y"])
        (queues,) = gather_batch(loss.loss.queue.unsqueeze(0), equal_batches=True)
        assert all(torch.equal(q, queues[0]) for q in queues)
        loss.reset_state()


def check_defect_wrong_positives_above_rank_0(ranks: Ranks) -> None:
    """LibAUC takes the first B columns' diagonal as positives on every rank: not the own ones."""
    batch = whole_batch(8, 0)
    own = own_rows(batch, [2, 2, 2, 2], ranks.rank)
    image = nn.functional.normalize(batch["x"], dim=1)
    mine = nn.functional.normalize(own["x"], dim=1)
    theirs = torch.diagonal(mine @ image.T)  # as in GCLoss_v2
    right = (mine * mine).sum(1)  # all 1
    assert torch.allclose(theirs, right) == (ranks.rank == 0)
    # perfect pairs at a small temperature: the loss vanishes if the positives are the right ones
    for name in ("CLIP", "NTXent", "SupCon"):
        loss = DistributedLoss(make_baseline(name, temperature=0.001, reduction="none"))
        assert float(loss(own["x"], own["x"]).max()) < math.log(2.0) + 1e-6
    paired = xr.BimodalGlobalContrastiveLoss(NUM_SAMPLES, temperature=0.001, reduction="none")
    # relative to its own positive every negative is behind: log u < 0, were it another's, far above
    assert float(DistributedLoss(paired)(own["x"], own["x"], own["index"]).max()) < 0.0


def check_defect_the_gathered_average_lacks_its_shift(ranks: Ranks) -> None:
    """LibAUC gathers u without the maximum that it is relative to, which differs between ranks.

    At this temperature the ranks' largest exponents differ by hundreds.
    """

    def make() -> nn.Module:
        return xr.BimodalGlobalContrastiveLoss(
            NUM_SAMPLES, temperature=0.002, gamma=0.4, state_dtype=torch.float64
        )

    follow_one_process(ranks, make, UNEVEN, with_ids)


def check_defect_every_process_computes_all_rows(ranks: Ranks) -> None:
    """Ours asks the primitive for the own rows alone."""
    own = own_rows(whole_batch(10, 0), list(UNEVEN), ranks.rank)
    for name, module, rows in (
        ("NTXent", "contrastive_baselines", 2 * UNEVEN[ranks.rank]),
        ("CLIP", "contrastive_baselines", 2 * UNEVEN[ranks.rank]),
        ("MoCo", "contrastive_queues", UNEVEN[ranks.rank]),
    ):
        asked = []

        def count(queries: Tensor, keys: Tensor, **options: Any) -> Tensor:
            asked.append(len(queries))  # noqa: B023
            return xr.ops.contrastive_log_sums(queries, keys, **options)

        with mock.patch(f"xrisk_ext.losses.{module}.contrastive_log_sums", count):
            DistributedLoss(make_baseline(name))(
                own["x"] @ torch.ones(FEATURES, DIM).double(),
                own["y"] @ torch.ones(FEATURES, DIM).double(),
            )
        assert sum(asked) == rows


def with_ids(loss: nn.Module, model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
    image, text, classes = model(rows)
    value: Tensor = loss(image, text, rows["index"])
    return value + 0.0 * classes.sum()


def check_own_values_of_global_contrastive_losses(ranks: Ranks) -> None:
    for kind, name in (("view", "individual"), ("image", "global")):
        make = lambda: make_global(kind, name, reduction="none")  # noqa: B023, E731
        follow_one_process(ranks, make, (3, 1, 4, 2), with_ids, own_values=True)


def check_global_contrastive_losses(ranks: Ranks) -> None:
    for kind, name in VARIANTS:
        make = lambda: make_global(kind, name)  # noqa: B023, E731
        follow_one_process(ranks, make, UNEVEN, with_ids)
        if name in ("individual", "adam"):
            follow_one_process(ranks, make, (3, 3, 3, 3), with_ids, state="sharded")
