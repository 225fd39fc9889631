"""Partial AUC and push losses beside LibAUC 2.0.1: the same numbers for many steps, its defects."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import INF, randn, random_labels
from libauc.losses import auc as libauc
from libauc.losses import perf_at_top
from loss_helpers import Batch, their_step
from top_loss_helpers import (
    LOG,
    NUM_LABELS,
    close,
    make_top_batch,
    make_top_loss,
    states_of,
    top_step,
)

from xrisk_ext import TopPushLoss


def parity_batches(dtype: torch.dtype, *shape: int) -> list[Batch]:
    """No id twice in a batch, which LibAUC leaves undefined, but ids that come back."""
    labels = random_labels(20, *shape, seed=11)
    labels[:7] = 1
    labels[7:11] = 0
    steps = []
    for k in range(5):
        index = torch.randperm(20, generator=torch.Generator().manual_seed(k))[:12]
        steps.append(Batch(randn(12, *shape, seed=20 + k).to(dtype), labels[index], index))
    return steps


PARITY: dict[str, tuple[str, dict[str, Any]]] = {
    "kl": ("pAUC_DRO_Loss", {"data_len": 20, "gamma": 0.3, "Lambda": 0.6, "margin": 0.7}),
    "cvar": (
        "pAUC_CVaR_Loss",
        {"data_len": 20, "pos_len": 7, "beta": 0.3, "eta": 0.4, "margin": 0.7},
    ),
    "two_way_kl": (
        "tpAUC_KL_Loss",
        {"data_len": 20, "gammas": (0.3, 0.4), "Lambda": 0.6, "tau": 0.9, "margin": 0.7},
    ),
    "two_way_cvar": (
        "tpAUC_CVaR_loss",
        {"data_length": 20, "threshold": 0.7, "alpha": 0.3, "beta_0": 0.4, "beta_1": 0.2}
        | {"theta_0": 0.4, "theta_1": 0.3},
    ),
}


@pytest.mark.parametrize("rule", PARITY)
@pytest.mark.parametrize("name", ["squared_hinge", "hinge", "logistic"])
def test_gradients_and_states_are_libauc_s(rule: str, name: str) -> None:
    class_name, options = PARITY[rule]
    theirs = getattr(libauc, class_name)(surr_loss=name, device="cpu", **options)
    loss = make_top_loss(rule, 20, surrogate=name, margin=0.7, scale=0.7, initial_state="zero",
                         state_dtype=torch.float64)  # fmt: skip
    for attribute in ("u_pos", "s1", "s2", "u", "dual_var"):
        if hasattr(theirs, attribute):
            setattr(theirs, attribute, getattr(theirs, attribute).double())
    rtol = 1e-6 if "cvar" in rule else 1e-9  # of theirs, factors are float32
    for batch in parity_batches(torch.float64):
        _, gradient = top_step(loss, batch)
        their_gradient = their_step(theirs, batch)[1]
        assert gradient.any()
        close("gradient", gradient, their_gradient, rtol)
        states = states_of(loss)
        if rule in LOG:
            close("u", states["state"].exp()[0], theirs.u_pos[:, 0], rtol)
        if rule == "two_way_kl":
            close("v", states["outer"].exp()[0], torch.as_tensor(theirs.w), rtol)
        if rule == "cvar":
            close("s", states["state"][0], theirs.u_pos[:, 0], rtol)
        if rule == "two_way_cvar":
            close("s", states["state"][0], theirs.s1[:, 0], rtol)
            close("y", states["dual"][0], theirs.dual_var[:, 0], rtol)
            close("t", states["outer"], theirs.s2[0], rtol)


@pytest.mark.parametrize(("rule", "mode"), [("kl", "SOPAs"), ("cvar", "SOPA")])
def test_several_labels_are_libauc_s(rule: str, mode: str) -> None:
    options = {"device": "cpu", **PARITY[rule][1]}
    theirs = libauc.mPAUCLoss(mode=mode, num_labels=NUM_LABELS, **options)
    theirs.u_pos_all = theirs.u_pos_all.double()
    loss = make_top_loss(rule, 20, margin=0.7, num_labels=NUM_LABELS, initial_state="zero",
                         state_dtype=torch.float64)  # fmt: skip
    for batch in parity_batches(torch.float64, NUM_LABELS):
        close("gradient", top_step(loss, batch)[1], their_step(theirs, batch)[1], 1e-9)


def test_defect_one_large_gap_kills_a_row_for_ever() -> None:
    gap = Batch(torch.tensor([-20.0, 20.0, 0.1]), torch.tensor([1, 0, 0]), torch.arange(3))
    calm = gap._replace(scores=torch.tensor([0.1, 0.5, 0.2]))
    for theirs in (libauc.pAUC_DRO_Loss(3), libauc.tpAUC_KL_Loss(3)):
        assert their_step(theirs, gap)[1].isnan().any()
        assert theirs.u_pos[0].isinf()
        assert not their_step(theirs, calm)[1].nan_to_num(0.0).any()
    for rule in ("kl", "two_way_kl"):
        loss = make_top_loss(rule, 3)
        top_step(loss, gap)
        assert bool(loss.state.value[0, 0].isfinite())
        assert bool(top_step(loss, calm)[1].isfinite().all())


def test_defect_a_batch_without_negatives_writes_nan() -> None:
    batch = Batch(randn(4).float(), torch.ones(4, dtype=torch.int64), torch.arange(4))
    theirs = libauc.pAUC_DRO_Loss(4)
    their_step(theirs, batch)
    assert theirs.u_pos.isnan().all()
    loss = make_top_loss("kl", 4)
    top_step(loss, batch)
    assert bool((loss.state.value == -INF).all())  # untouched


def test_defect_a_batch_of_one_fails() -> None:
    batch = Batch(torch.tensor([0.5]), torch.tensor([1]), torch.tensor([2]))
    for theirs in (libauc.pAUC_DRO_Loss(4), libauc.pAUC_CVaR_Loss(4, 4), libauc.tpAUC_KL_Loss(4)):
        with pytest.raises((TypeError, AssertionError)):
            their_step(theirs, batch)
    assert their_step(libauc.tpAUC_CVaR_loss(4), batch)[0].isnan()
    for rule in ("kl", "cvar", "two_way_kl", "two_way_cvar"):
        loss = make_top_loss(rule, 4)
        before = {name: value.clone() for name, value in loss.state_dict().items()}
        assert not any(t.any() for t in top_step(loss, batch))
        assert all(torch.equal(before[k], v) for k, v in loss.state_dict().items())


def test_defect_the_state_stays_behind_on_the_cpu() -> None:
    for theirs in (libauc.pAUC_DRO_Loss(4), libauc.tpAUC_KL_Loss(4)):
        assert theirs.to("meta").u_pos.device.type == "cpu"
    for rule in ("kl", "cvar", "two_way_kl", "two_way_cvar"):
        assert {b.device.type for b in make_top_loss(rule, 4).to("meta").buffers()} == {"meta"}


def test_defect_labels_share_one_scalar() -> None:
    options = {"device": "cpu", **PARITY["two_way_kl"][1]}
    batch = parity_batches(torch.float64, 2)[0]
    theirs = libauc.mPAUCLoss(mode="SOTAs", num_labels=2, **options)
    theirs.u_pos_all = theirs.u_pos_all.double()
    gradient = their_step(theirs, batch)[1]
    loss, apart = (
        make_top_loss("two_way_kl", 20, margin=0.7, num_labels=n, initial_state="zero",
                      state_dtype=torch.float64)
        for n in (2, None)
    )  # fmt: skip
    ours = top_step(loss, batch)[1]
    close("first label", gradient[:, 0], ours[:, 0], 1e-9)
    assert float((gradient[:, 1] - ours[:, 1]).abs().max()) > 1e-3  # v of another label
    second = batch._replace(scores=batch.scores[:, 1], labels=batch.labels[:, 1])
    close("second label", 2.0 * ours[:, 1], top_step(apart, second)[1], 1e-12)


def test_defect_top_push_does_not_run() -> None:
    # the first mention of `loss` reads it
    assert "loss > self.u_pos" in Path(perf_at_top.__file__).read_text()
    value, gradient = top_step(TopPushLoss(), make_top_batch("top_push"))
    assert bool(value.isfinite())
    assert gradient.any()


def test_defect_state_dict_is_empty() -> None:
    assert not libauc.pAUC_DRO_Loss(4).state_dict()
    assert not libauc.tpAUC_CVaR_loss(4).state_dict()
    keys = set(make_top_loss("two_way_cvar").state_dict())
    assert {"state.value", "dual.value", "outer.value", "eta"} <= keys
