"""The contrastive losses against LibAUC 2.0.1: the same numbers over many steps; its defects."""

import contextlib
import io
from typing import Any

import pytest
import torch
from contrastive_helpers import Views, make_views, step
from helpers import assert_close, randn
from libauc.losses.contrastive import GCLoss_v1, GCLoss_v2
from loss_helpers import bits_equal
from torch import Tensor, nn

from xrisk_ext import BimodalGlobalContrastiveLoss, GlobalContrastiveLoss

NUM_SAMPLES, GAMMA = 12, 0.3


def silent(make: Any, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """A loss of LibAUC, whose state is float32, in this dtype."""
    with contextlib.redirect_stdout(io.StringIO()):  # they print in the constructor
        theirs = make(**options)
    for name, value in list(vars(theirs).items()):
        if isinstance(value, Tensor):
            cast = value.detach().to(dtype).requires_grad_(value.requires_grad)
            setattr(theirs, name, cast)
    return theirs


def parity_views(normalize: bool) -> list[Views]:
    """No id twice in a batch. First every id once: LibAUC's first touch is one for the batch."""
    batches: list[Views] = []
    for k in range(6):
        generator = torch.Generator().manual_seed(k)
        index = torch.randperm(NUM_SAMPLES, generator=generator)[:6]
        if k < 2:
            index = torch.arange(6) + 6 * k
        first = randn(6, 5, seed=30 + k)
        second = first + 0.8 * randn(6, 5, seed=60 + k)
        if not normalize:
            first, second = (nn.functional.normalize(v, dim=1) for v in (first, second))
        batches.append(Views(first, second, index))
    return batches


def their_step(theirs: nn.Module, views: Views) -> tuple[Tensor, Tensor]:
    first, second = (v.clone().requires_grad_() for v in views[:2])
    result = theirs(first, second, views.index)
    value = result[0] if isinstance(result, tuple) else result
    a, b = torch.autograd.grad(value, (first, second))
    for name in ("grad_tau", "learnable_tau"):  # they keep the graph of every step
        if hasattr(theirs, name):
            setattr(theirs, name, getattr(theirs, name).detach())
    return a, b


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    expected = expected.double()
    size = float(expected.abs().max())
    assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance * size)


@pytest.mark.parametrize("individual", [False, True])
def test_parity_one_modality(individual: bool) -> None:
    options = {"tau": 0.25, "gamma": GAMMA, "enable_isogclr": individual, "device": "cpu"}
    theirs = silent(GCLoss_v1, N=NUM_SAMPLES, **options)
    ours = GlobalContrastiveLoss(
        NUM_SAMPLES,
        temperature=0.25,
        gamma=GAMMA,
        individual_temperature=individual,
        denominator="per_view",
        relative_to_positive=False,
        state_dtype=torch.float64,
    )
    for views in parity_views(normalize=True):
        expected = their_step(theirs, views)
        _, first, second, _ = step(ours, views)
        for a, e in zip((first, second), expected, strict=True):
            close(a, e)
        assert ours.state is not None
        close(ours.state.value[0].exp(), theirs.u[:, 0])
        if ours.temperatures is not None:
            close(ours.temperatures.value[0], theirs.learnable_tau[:, 0])
            close(ours.temperatures.momentum[0], theirs.grad_tau[:, 0])


@pytest.mark.parametrize("individual", [False, True])
def test_parity_two_modalities(individual: bool) -> None:
    scheme = "individual_learnable" if individual else "global_constant"
    options = {"tau": 0.03125, "gamma": GAMMA, "temperature_scheme": scheme}
    theirs = silent(GCLoss_v2, N=NUM_SAMPLES, **options)
    ours = BimodalGlobalContrastiveLoss(
        NUM_SAMPLES,
        temperature=0.03125,
        gamma=GAMMA,
        temperature_mode="individual" if individual else "constant",
        normalize=False,  # theirs expects unit vectors
        state_dtype=torch.float64,
    )
    for views in parity_views(normalize=False):
        expected = their_step(theirs, views)
        _, first, second, _ = step(ours, views)
        # theirs sums over the negatives where the objective has a mean
        for a, e in zip((first, second), expected, strict=True):
            close(a * (len(views.index) - 1), e)
        assert ours.state is not None
        for side, (u, b) in enumerate(((theirs.u1, theirs.b1), (theirs.u2, theirs.b2))):
            touched = u[:, 0] != 0
            mine = ours.state.value[side][touched]
            close(mine, (u.log() + b)[:, 0][touched])
        if ours.temperatures is not None:
            for side, name in enumerate(("img", "txt")):
                tau = getattr(theirs, f"learnable_tau_{name}")[:, 0]
                close(ours.temperatures.value[side], tau)


def test_defect_unimodal_exponentials_are_not_shifted() -> None:
    views = make_views(size=8, width=3, dtype=torch.float32)
    views = views._replace(first=views.second)  # similarities of 1: exp(100) is no float
    views.first[1] = views.first[0]
    theirs = silent(GCLoss_v1, torch.float32, N=9, tau=0.01, device="cpu")
    assert any(bool(g.isnan().any()) for g in their_step(theirs, views))
    ours = GlobalContrastiveLoss(9, temperature=0.01)
    assert all(bool(t.isfinite().all()) for t in step(ours, views))


def test_defect_the_bimodal_average_is_relative_to_a_shift_of_its_own() -> None:
    # u means nothing without b: whoever saves, gathers or merges u alone gets it wrong
    views = parity_views(normalize=False)[0]
    theirs = silent(GCLoss_v2, N=NUM_SAMPLES, tau=0.01)
    their_step(theirs, views)
    assert float(theirs.b1.abs().max()) > 0
    ours = BimodalGlobalContrastiveLoss(NUM_SAMPLES, temperature=0.01)
    step(ours, views)
    other = BimodalGlobalContrastiveLoss(NUM_SAMPLES, temperature=0.01)
    assert [name for name in ours.state_dict() if "state" in name] == ["state.value"]
    assert ours.state is not None
    assert other.state is not None
    other.state.value.copy_(ours.state.value)
    for a, b in zip(step(ours, views), step(other, views), strict=True):
        assert bits_equal(a, b)


def test_defect_individual_temperatures_leak_the_graph() -> None:
    views = parity_views(normalize=True)[0]
    theirs = silent(GCLoss_v1, N=NUM_SAMPLES, enable_isogclr=True, device="cpu")
    leaf = views.first.clone().requires_grad_()
    theirs(leaf, views.second, views.index)
    assert theirs.grad_tau.requires_grad
    ours = GlobalContrastiveLoss(NUM_SAMPLES, individual_temperature=True)
    ours(leaf, views.second, views.index)
    assert not any(buffer.requires_grad for buffer in ours.buffers())


def test_defect_the_global_temperature_lacks_a_logarithm() -> None:
    # the slope of tau is rho + mean u / 2, whatever the similarities over tau are
    views = parity_views(normalize=False)[0]
    theirs = silent(GCLoss_v2, N=NUM_SAMPLES, tau=0.1, temperature_scheme="global_learnable")
    value, _ = theirs(*views)
    value.backward()
    ours = BimodalGlobalContrastiveLoss(
        NUM_SAMPLES, temperature=0.1, gamma=1.0, temperature_mode="global", rho=6.0
    ).double()
    size, values = 1e-6, []
    gradient = step(ours, views)[3]
    for sign in (1, -1):
        moved = BimodalGlobalContrastiveLoss(gamma=1.0, temperature_mode="global", rho=6.0).double()
        moved.temperature.data.fill_(ours.temperature.item() + sign * size)
        values.append(step(moved, views)[0])
    slope = (values[0] - values[1]) / (2 * size)
    assert_close(gradient, slope, rtol=1e-6)
    assert abs(theirs.tau.grad.item() - float(slope)) > 0.1


def test_defect_state_dict_is_empty() -> None:
    for theirs in (silent(GCLoss_v1, N=4, device="cpu"), silent(GCLoss_v2, N=4)):
        assert not theirs.state_dict()
    for ours in (GlobalContrastiveLoss(4), BimodalGlobalContrastiveLoss(4)):
        assert "state.value" in ours.state_dict()
    assert (
        "temperatures.momentum"
        in GlobalContrastiveLoss(4, individual_temperature=True).state_dict()
    )


def test_defect_a_batch_of_one_fails() -> None:
    views = Views(randn(1, 4).float(), randn(1, 4, seed=1).float(), torch.tensor([2]))
    single = torch.float32
    for theirs in (silent(GCLoss_v1, single, N=4, device="cpu"), silent(GCLoss_v2, single, N=4)):
        try:
            gradients = their_step(theirs, views)
        except (RuntimeError, ZeroDivisionError):
            continue
        assert any(bool(g.isnan().any()) for g in gradients)
    for ours in (GlobalContrastiveLoss(4), BimodalGlobalContrastiveLoss(4)):
        assert not any(t.any() for t in step(ours, views))


def test_defect_the_state_stays_behind_on_the_cpu() -> None:
    for theirs in (silent(GCLoss_v1, N=4, device="cpu"), silent(GCLoss_v2, N=4)):
        theirs.to("meta")
        held = [t for t in vars(theirs).values() if isinstance(t, Tensor)]
        assert held and {t.device.type for t in held} == {"cpu"}
    for ours in (GlobalContrastiveLoss(4), BimodalGlobalContrastiveLoss(4)):
        assert {b.device.type for b in ours.to("meta").buffers()} == {"meta"}
