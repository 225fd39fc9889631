"""Checks of every family of losses over scores; see distributed_checks.py.

On all four processes, on pairs of them, and with the state sharded where it has ids of samples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import label_helpers
import listwise_helpers
import ranking_helpers
import torch
from distributed_checks import Ranks, assert_same, expect, own_rows
from helpers import randn, random_labels
from top_loss_helpers import RULES, WITH_STATE, make_top_batch, make_top_loss
from torch import Tensor, nn

import xrisk_ext as xr
from xrisk_ext.distributed import DistributedLoss

ROWS = ranking_helpers.QUERIES
SIZES = (2, 0, 2, 1)  # rows of the four, who are lists or samples
PAIR_SIZES = (3, 2)


class Family(NamedTuple):
    make: Callable[[], nn.Module]
    batch: Callable[[int], dict[str, Tensor]]  # by the seed; scores first, all with a row for each
    sharded: bool = False


def _ranking(kind: str) -> Family:
    def batch(seed: int) -> dict[str, Tensor]:
        drawn = ranking_helpers.make_batch(kind, seed, "both")
        given = ranking_helpers.arguments_of(kind, drawn)
        rows = {n: t for n, t in given.items() if isinstance(t, Tensor)}
        return {"scores": drawn.scores, **rows}

    return Family(lambda: ranking_helpers.make_loss(kind, state_dtype=torch.float64), batch)


def _ranked_lists(kind: str) -> Family:
    def batch(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        scores = randn(ROWS, 7, seed=seed)
        relevance = torch.randint(0, 3, (ROWS, 7), generator=generator)
        name = "labels" if kind in listwise_helpers.RETRIEVAL else "relevance"
        return {"scores": scores, name: relevance, "mask": torch.arange(7) < relevance[:, :1] + 5}

    return Family(lambda: listwise_helpers.make_loss(kind), batch)


def _top(rule: str, num_labels: int | None) -> Family:
    def batch(seed: int) -> dict[str, Tensor]:
        drawn = make_top_batch(rule, num_labels, seed=seed, size=ROWS, weights="entry")
        rows = {"scores": drawn.scores, "labels": drawn.labels, "index": drawn.index}
        if rule == "top_push":
            del rows["index"]
        elif rule in WITH_STATE:
            rows["index"] = drawn.index.clamp(min=0)  # a shard asks for every id
        assert drawn.weights is not None
        return {**rows, "item_weights": drawn.weights + 0.5}

    options: dict[str, Any] = {} if num_labels is None else {"num_labels": num_labels}
    if rule != "top_push":
        options["state_dtype"] = torch.float64
    return Family(lambda: make_top_loss(rule, **options), batch, rule in WITH_STATE)


def _labels(kind: str) -> Family:
    def batch(seed: int) -> dict[str, Tensor]:
        return {"scores": randn(ROWS, 3, seed=seed), "labels": random_labels(ROWS, 3, seed=seed)}

    return Family(lambda: label_helpers.KINDS[kind].make(3).double(), batch)


FAMILIES = {
    **{kind: _ranking(kind) for kind in ranking_helpers.KINDS},
    **{kind: _ranked_lists(kind) for kind in listwise_helpers.KINDS},
    **{rule: _top(rule, None) for rule in RULES},
    "kl, three labels": _top("kl", 3),
    "two_way_cvar, three labels": _top("two_way_cvar", 3),
    **{kind: _labels(kind) for kind in label_helpers.KINDS},
}


def follow_one_process(
    ranks: Ranks, family: Family, sizes: tuple[int, ...], *, group: Any = None, **options: Any
) -> None:
    """Two steps: value, gradients of scores and parameters, and state."""
    member = ranks.rank if group is None else ranks.rank - ranks.first_of_pair
    alone, together = family.make(), DistributedLoss(family.make(), group, **options)
    for step in range(2):
        batch = family.batch(10 * step + (0 if group is None else ranks.first_of_pair))
        own = own_rows(batch, list(sizes), member)
        gradients, values = [], []
        for loss, rows in ((alone, batch), (together, own)):
            scores = rows["scores"].clone().requires_grad_()
            value = loss(**{**rows, "scores": scores})
            inputs = [scores, *loss.parameters()]
            gradients.append(torch.autograd.grad(value.sum(), inputs))
            values.append(value)
        assert_same("value", values[1], values[0])
        (by_scores, *expected), (by_own, *found) = gradients
        mine = own_rows({"g": by_scores}, list(sizes), member)["g"]
        assert_same("gradient", by_own, len(sizes) * mine)  # averaging divides it
        for ours, theirs in zip(found, expected, strict=True):
            assert_same("gradient of a parameter", ours, theirs)
        full = together.full_state_dict()
        for name, kept in alone.state_dict().items():
            assert_same(name, full[name], kept)


def check_every_family_of_scores(ranks: Ranks) -> None:
    for name, family in FAMILIES.items():
        try:
            follow_one_process(ranks, family, SIZES)
            follow_one_process(ranks, family, PAIR_SIZES, group=ranks.pair)
            if family.sharded:
                follow_one_process(ranks, family, SIZES, state="sharded")
        except Exception as error:
            raise AssertionError(name) from error


def check_what_cannot_be_shared_is_refused(ranks: Ranks) -> None:
    expect(ValueError, "shard", lambda: DistributedLoss(xr.NDCGLoss(9), state="sharded"))
    expect(ValueError, "shard", lambda: DistributedLoss(xr.TopPushLoss(), state="sharded"))
    loss = DistributedLoss(xr.NDCGLoss(9))
    scores, pairs = torch.randn(4), torch.arange(4)
    ragged = torch.tensor([0, 2, 4])
    expect(ValueError, "offsets", lambda: loss(scores, torch.ones(4), pairs, offsets=ragged))
    lists = torch.randn(2, 3 + ranks.rank)  # not padded to one length
    expect(ValueError, "same shapes", lambda: loss(lists, torch.ones_like(lists), None))
