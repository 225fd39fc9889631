"""What users read of a loss and assign to it by LibAUC's names, and what eval() leaves alone."""

from typing import Any

import pytest
import torch
from loss_helpers import bits_equal
from test_libauc_dropin import CASES, SAMPLES, make_both, run, scored, views
from torch import Tensor, nn

from xrisk_ext import libauc as dropin

# How they compute, and what a user has no use for; of the last batch alone; of the optimizer.
INTERNAL = {"surrogate_loss", "criterion", "L_AVG", "LARGE_NUM", "labels", "prev_num_logits"} | {
    "L_AUC", "u", "grad_tau", "grad_tau_img", "grad_tau_txt", "num_neg", "p", "eps", "alpha",
    "rank", "world_size", "cache_labels", "gamma_decay_epochs", "hparam", "gamma",
    "b1", "b2", "u1", "u2",
}  # fmt: skip


def compare_attributes(name: str, theirs: nn.Module, ours: nn.Module) -> None:
    """Hyper-parameters and state by LibAUC's names."""
    top_k = {"lambda_q", "s_q", "gamma1", "tau_1", "tau_2", "eta0", "sigmoid_alpha"}
    unused = {(False, "theo"): top_k, (True, "theo"): set(), (True, "prac"): {"s_q"}}
    for key, value in vars(theirs).items():
        if key.startswith("_") or key in INTERNAL:
            continue
        if name == "NDCGLoss" and key in unused[ours.topk > 0, ours.topk_version]:  # type: ignore[operator, index]
            continue
        mine = getattr(ours, key)
        if isinstance(value, Tensor) and value.dim():
            assert mine.shape == value.shape, key
            torch.testing.assert_close(
                mine.float(), value.detach(), rtol=1e-4, atol=1e-6, msg=f"{name}.{key}"
            )
        elif isinstance(value, (int, float, Tensor)):
            assert float(mine or 0) == pytest.approx(float(value or 0), rel=1e-4), (name, key)


@pytest.mark.parametrize("name", CASES)
def test_attributes_are_the_same_after_some_steps(name: str) -> None:
    case = CASES[name]
    theirs, ours = make_both(case)
    for k in range(3):
        run(theirs, case.make_step(k))
        run(ours, case.make_step(k))
    compare_attributes(case.name, theirs, ours)


def test_state_and_hyper_parameters_can_be_assigned_by_their_names() -> None:
    made: list[tuple[Any, dict[str, float], tuple[str, ...]]] = [
        (dropin.APLoss(4), {"gamma": 0.3}, ("u_all", "u_pos")),
        (dropin.mAPLoss(4, 2), {"gamma": 0.3}, ("u_all", "u_pos")),
        (dropin.pAUC_CVaR_Loss(4, 2), {"beta": 0.3, "eta": 0.2}, ("u_pos",)),
        (dropin.pAUC_DRO_Loss(4), {"Lambda": 0.3}, ("u_pos",)),
        (dropin.tpAUC_KL_Loss(4), {"tau": 0.3, "gamma1": 0.2}, ("u_pos", "w")),
        (dropin.tpAUC_CVaR_loss(4), {"alpha": 0.3, "beta_0": 0.4}, ("s1", "s2", "dual_var")),
        (dropin.GCLoss_v1(4), {"tau": 0.3}, ("u",)),
        (dropin.GCLoss_v2(4, enable_isogclr=True), {"tau": 0.3}, ("learnable_tau_img",)),
        (dropin.MIDAM_attention_pooling_loss(4), {"gamma": 0.3}, ("sn", "sd")),
    ]
    for loss, numbers, states in made:
        for name, number in numbers.items():
            setattr(loss, name, number)
            assert float(getattr(loss, name)) == pytest.approx(number)
        for name in states:
            old = getattr(loss, name).clone()
            setattr(loss, name, torch.full_like(old, 0.25))
            torch.testing.assert_close(getattr(loss, name), torch.full_like(old, 0.25))
            setattr(loss, name, old)
            assert bits_equal(getattr(loss, name), old)
        assert loss.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_averages_of_two_modalities_are_relative_to_a_shift() -> None:
    theirs, ours = make_both(CASES["bimodal"])
    for k in range(3):
        run(theirs, views(k, True))
        run(ours, views(k, True))
    for side in ("1", "2"):
        u, b = (getattr(theirs.loss_fn, name + side) for name in "ub")
        mine, shift = (getattr(ours.loss_fn, name + side) for name in "ub")
        torch.testing.assert_close(mine * shift.exp(), u * b.exp(), rtol=1e-4, atol=1e-6)


def test_mean_average_precision_at_k_in_eval_and_without_positives() -> None:
    loss = dropin.mAPLoss(SAMPLES, num_labels=3, top_k=2)
    step = scored(0, 3)
    run(loss, step)
    before = loss.state_dict()["state.value"].clone()
    loss.eval()
    fresh = dropin.mAPLoss(SAMPLES, num_labels=3, top_k=2, gamma=1.0)
    for a, b in zip(run(loss, step), run(fresh, step), strict=True):
        torch.testing.assert_close(a, b)
    assert bits_equal(loss.state_dict()["state.value"], before)
    labels, index = step.rest
    for a in run(fresh, step._replace(rest=(torch.zeros_like(labels), index))):
        assert not a.any()
