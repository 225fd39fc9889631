"""NDCG and listwise losses against LibAUC 2.0.1: the same numbers, and its defects."""

import warnings
from typing import Any

import pytest
import torch
from helpers import INF, randn
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from libauc.losses import ranking as libauc

from xrisk_ext import ListwiseCrossEntropyLoss, NDCGLoss

QUERIES, POSITIVES, ITEMS = 6, 3, 9
PAIRS, USERS, GAMMA = 60, 10, 0.3


def batches(count: int = 5) -> list[dict[str, Tensor]]:
    """Relevant items first, as LibAUC wants them; ids that come back, none twice in a batch."""
    result = []
    for k in range(count):
        generator = torch.Generator().manual_seed(k)
        ratings = torch.zeros(QUERIES, ITEMS, dtype=torch.int64)
        ratings[:, :POSITIVES] = torch.randint(1, 5, (QUERIES, POSITIVES), generator=generator)
        pairs = torch.randperm(PAIRS, generator=generator)[: QUERIES * ITEMS]
        result.append(
            {
                "scores": randn(QUERIES, ITEMS, seed=k).float(),
                "rating": ratings,
                "user_id": torch.randperm(USERS, generator=generator)[:QUERIES],
                "num_pos_items": torch.randint(3, 20, (QUERIES,), generator=generator),
                "ideal_dcg": torch.rand(QUERIES, generator=generator) + 0.5,
                "user_item_id": pairs.reshape(QUERIES, ITEMS),
            }
        )
    return result


def their_gradient(theirs: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    leaf = batch["scores"].clone().requires_grad_()
    theirs(leaf, batch).backward()
    assert leaf.grad is not None
    return leaf.grad


def our_gradient(ours: nn.Module, batch: dict[str, Tensor], **sizes: Any) -> Tensor:
    leaf = batch["scores"].clone().requires_grad_()
    ours(leaf, batch["rating"], batch["user_item_id"], batch["user_id"], **sizes).backward()
    assert leaf.grad is not None
    return leaf.grad


def sizes_of(batch: dict[str, Tensor], num_items: int) -> dict[str, Any]:
    return {
        "num_items": num_items,
        "num_relevant": batch["num_pos_items"],
        "ideal_dcg": batch["ideal_dcg"],
    }


def same(actual: Tensor, expected: Tensor) -> None:
    size = float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6 * max(size, 1.0))


@pytest.mark.parametrize("version", [None, "theo", "prac"])
@pytest.mark.parametrize("num_items", [9, 50])
def test_ndcg_parity(version: str | None, num_items: int) -> None:
    top_k = -1 if version is None else 4
    theirs = libauc.NDCGLoss(
        PAIRS, USERS, num_items, POSITIVES, gamma0=GAMMA, gamma1=0.4, eta0=0.05, topk=top_k,
        topk_version=version or "theo", tau_1=0.3, tau_2=0.01, sigmoid_alpha=1.5,
    )  # fmt: skip
    ours = NDCGLoss(
        PAIRS,
        USERS,
        gamma=GAMMA,
        gamma1=0.4,
        eta0=0.05,
        top_k=None if version is None else top_k,
        top_k_version="practical" if version == "prac" else "theoretical",
        tau1=0.3,
        tau2=0.01,
        sigmoid_alpha=1.5,
        epsilon=0.0,
        psi_slope="published",
        initial_state="zero",
    )
    for batch in batches():
        expected = their_gradient(theirs, batch)
        same(our_gradient(ours, batch, **sizes_of(batch, num_items)), expected)
        same(ours.state.value, theirs.u)
        if version is not None:
            same(ours.thresholds.value, theirs.lambda_q[:-1])
        if version == "theo":
            same(ours.curvatures.value, theirs.s_q[:-1])
    assert bool((ours.state.value > 0).any())


def test_listwise_parity() -> None:
    # its sum over the irrelevant items stands for our mean, and it knows no relevance
    theirs = libauc.ListwiseCELoss(PAIRS, POSITIVES, GAMMA, eps=0.0)
    ours = ListwiseCrossEntropyLoss(
        PAIRS, gamma=GAMMA, items="irrelevant", shift="batch", initial_state="zero"
    )
    sizes = {"num_items": 1, "num_relevant": POSITIVES * (ITEMS - POSITIVES)}
    for batch in batches():
        expected = their_gradient(theirs, batch)
        flat = batch | {"rating": (batch["rating"] > 0).long()}
        same(our_gradient(ours, flat, **sizes), expected)
        same(ours.state.value.exp(), theirs.u)


def test_defect_an_ideal_dcg_of_zero_is_nan() -> None:
    batch = batches(1)[0]
    batch["ideal_dcg"][2] = 0.0
    batch["rating"][2] = 0
    theirs = libauc.NDCGLoss(PAIRS, USERS, 50, POSITIVES, gamma0=GAMMA)
    assert their_gradient(theirs, batch).isnan().any()
    ours = NDCGLoss(PAIRS, gamma=GAMMA)
    gradient = our_gradient(ours, batch, **sizes_of(batch, 50))
    assert bool(gradient.isfinite().all())
    assert not gradient[2].any()
    assert gradient[0].any()


def test_defect_the_listwise_shift_mixes_scales() -> None:
    # One query far off shifts every exponent of its batch, and the averages keep that scale: theirs
    # of a pair in another query depends on it, ours does not.
    batch = batches(1)[0]
    far = batch | {"scores": batch["scores"].clone()}
    far["scores"][5, -1] += 30.0
    kept = []
    for each in (batch, far):
        theirs = libauc.ListwiseCELoss(PAIRS, POSITIVES, GAMMA)
        ours = ListwiseCrossEntropyLoss(PAIRS, gamma=GAMMA)
        their_gradient(theirs, each)
        our_gradient(ours, each)
        first = each["user_item_id"][0, 0]
        kept.append((float(theirs.u[first]), float(ours.state.value[first])))
    assert kept[1][0] < 1e-10 * kept[0][0]
    assert kept[1][1] == kept[0][1]
    # and where the shift has made u vanish, its next gradients are those of eps
    gradient = their_gradient(theirs, batch)
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("loss", ["ndcg", "listwise"])
def test_defect_state_dict_is_empty(loss: str) -> None:
    if loss == "ndcg":
        theirs: nn.Module = libauc.NDCGLoss(PAIRS, USERS, 50, POSITIVES, topk=4)
        ours: nn.Module = NDCGLoss(PAIRS, USERS, top_k=4)
    else:
        theirs, ours = (
            libauc.ListwiseCELoss(PAIRS, POSITIVES, GAMMA),
            ListwiseCrossEntropyLoss(PAIRS),
        )
    assert not theirs.state_dict()
    saved = set(ours.state_dict())
    assert "state.value" in saved
    assert loss == "listwise" or {"thresholds.value", "curvatures.value"} <= saved


def test_defect_the_state_stays_behind_on_the_cpu() -> None:
    theirs = libauc.NDCGLoss(PAIRS, USERS, 50, POSITIVES, topk=4).to("meta")
    assert theirs.u.device.type == theirs.lambda_q.device.type == "cpu"
    ours = NDCGLoss(PAIRS, USERS, top_k=4).to("meta")
    assert {b.device.type for b in ours.buffers()} == {"meta"}
    batch = batches(1)[0]
    with pytest.raises(ValueError, match=r"state.*\.to\("):
        our_gradient(ours, batch)


def test_defect_the_missing_factor() -> None:
    # psi' without alpha is not the gradient of the objective: doubling alpha shows it
    batch = batches(1)[0]
    gradients = [
        our_gradient(
            NDCGLoss(PAIRS, top_k=4, threshold="solve", tau1=0.3, gamma=1.0, psi_slope=slope),
            batch,
        )
        for slope in ("derivative", "published")
    ]
    leaf = batch["scores"].double()
    loss = NDCGLoss(PAIRS, top_k=4, threshold="solve", tau1=0.3, gamma=1.0).eval()

    def value(scores: Tensor) -> float:
        ranks = loss(scores, batch["rating"], batch["user_item_id"], batch["user_id"])
        return float(ranks)

    step = 1e-6
    bump = torch.zeros_like(leaf)
    bump[0, 0] = step
    difference = (value(leaf + bump) - value(leaf - bump)) / (2 * step)
    errors = [abs(float(g[0, 0]) - difference) / abs(difference) for g in gradients]
    assert errors[0] < 1e-3 < 0.1 < errors[1]


def test_defect_overflow_of_the_exponentials() -> None:
    batch = batches(1)[0]
    batch["scores"] = batch["scores"] * 1000.0
    ours = ListwiseCrossEntropyLoss(PAIRS)
    for _ in range(2):
        assert bool(our_gradient(ours, batch).isfinite().all())
    touched = ours.state.value > -INF
    assert bool(ours.state.value[touched].isfinite().all())
