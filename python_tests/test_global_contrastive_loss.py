"""GlobalContrastiveLoss and BimodalGlobalContrastiveLoss: their truth, and what the method says."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from contrastive_helpers import (
    KINDS,
    LEARNED,
    NUM_SAMPLES,
    STATEFUL_TEMPERATURES,
    Truth,
    Views,
    each_kind,
    follow_reference,
    make,
    make_views,
    step,
)
from helpers import assert_close, each_simd, finite_differences, randn
from loss_helpers import assert_near, bits_equal
from torch import Tensor

import xrisk_ext as xr
from xrisk_ext import reference
from xrisk_ext.bench.contrastive_truth import first_gradients
from xrisk_ext.bench.memory import peak_growth_mb
from xrisk_ext.testing.contrastive_cases import BimodalContrastiveCase, ContrastiveCase


@each_kind
@each_simd
def test_follows_the_reference(kind: str, simd: str) -> None:
    batches = [make_views(10 * k) for k in range(4)]
    follow_reference(make(kind, state_dtype=torch.float64), batches)


@each_kind
@pytest.mark.parametrize("normalize", [True, False])
def test_float32_follows_the_reference(kind: str, normalize: bool) -> None:
    batches = [make_views(10 * k, dtype=torch.float32) for k in range(4)]
    if not normalize:
        batches = [Views(0.4 * v.first, 0.4 * v.second, v.index) for v in batches]
    loss = make(kind, normalize=normalize)
    truth = Truth(loss)
    for views in batches:
        actual, expected = step(loss, views), truth.step(views)
        for what, a, e in zip(("value", "first", "second", "tau"), actual, expected, strict=True):
            assert a.dtype == torch.float32
            if what != "tau" or kind in LEARNED:
                size = float(e.abs().max())
                assert_close(a.double(), e, rtol=2e-5, atol=2e-5 * size)


@each_kind
def test_many_blocks(kind: str) -> None:
    # several blocks of 256 rows, edges that are not whole tiles
    generator = torch.Generator().manual_seed(0)
    size = 333
    views = Views(
        randn(size, 6, seed=1),
        randn(size, 6, seed=2),
        torch.randint(400, (size,), generator=generator),
    )
    follow_reference(make(kind, 400, state_dtype=torch.float64), [views, views])


def objective(kind: str, views: Views) -> Tensor:
    """The objective of the whole data set in one batch, from its definition."""
    _, options = KINDS[kind]
    tau = options.get("temperature", 0.1)
    a, c = (torch.nn.functional.normalize(v, dim=1) for v in views[:2])
    size = len(a)
    if kind.startswith(("bimodal", "fastclip")):
        s = a @ c.T
        total = s.new_zeros(())
        for h in (s - s.diag()[:, None], s.T - s.diag()[:, None]):
            rest = h[~torch.eye(size, dtype=torch.bool)].view(size, size - 1) / tau
            g = (rest.logsumexp(1) - math.log(size - 1)).exp()
            if kind == "fastclip_v0":
                total = total + (g + options["epsilon"]).log().mean() / 2
            else:
                total = total + tau * g.log().mean() / 2
        return total + (6.5 * tau if kind == "bimodal_global" else 0.0)
    z = torch.cat([a, c])
    item = torch.arange(2 * size) % size
    s, positive = z @ z.T, (a * c).sum(1)
    kept = item[:, None] != item[None, :]
    g = ((s / tau).exp() * kept).sum(1) / (2 * size - 2)
    g1, g2 = g[:size], g[size:]
    if kind == "per_view":
        return (tau * (g1.log() + g2.log()) - 2 * positive).mean()
    return (2 * tau * ((g1 + g2) / 2).log() - 2 * positive).mean()


@pytest.mark.parametrize("kind", ["sogclr", "per_view", "bimodal", "bimodal_global", "fastclip_v0"])
def test_gamma_one_is_the_gradient_of_the_objective(kind: str) -> None:
    views = make_views(seed=3, size=6)
    value, *gradients = step(make(kind, None, gamma=1.0), views)
    assert_close(value, objective(kind, views))
    for k in (0, 1):

        def moved(x: Tensor, k: int = k) -> Tensor:
            return objective(kind, views._replace(**{("first", "second")[k]: x}))

        expected = finite_differences(moved, views[k])
        assert_close(gradients[k], expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", LEARNED)
def test_gradient_of_the_global_temperature(kind: str) -> None:
    views, tau, size = make_views(seed=4), KINDS[kind][1]["temperature"], 1e-5

    def value(temperature: float) -> Tensor:
        loss = make(kind, None, gamma=1.0).double()
        loss.temperature.data.fill_(temperature)
        return step(loss, views)[0]

    *_, gradient = step(make(kind, None, gamma=1.0).double(), views)
    expected = (value(tau + size) - value(tau - size)) / (2 * size)
    assert_close(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["isogclr", "bimodal_individual"])
def test_individual_temperatures_descend_their_objective(kind: str) -> None:
    # first touch, momentum 1: tau moves by -eta dF/dtau_i, F of the batch alone
    views, eta, small = make_views(seed=5), 1e-3, 1e-5
    views = views._replace(index=torch.arange(len(views.index)))
    loss = make(kind, gamma=1.0, beta=1.0, eta=eta, state_dtype=torch.float64)
    assert loss.temperatures is not None
    start = loss.temperatures.value.clone()
    step(loss, views)
    moved = (start - loss.temperatures.value) / eta
    for sample in range(len(views.index)):
        for side in range(len(start)):
            values = []
            for sign in (1, -1):
                other = make(kind, gamma=1.0, state_dtype=torch.float64)
                assert other.temperatures is not None
                other.temperatures.value[side, sample] += sign * small
                values.append(step(other, views)[0])
            slope = (values[0] - values[1]) / (2 * small) * len(views.index)
            # the objective has two views, or is a mean of two sides
            share = 0.5 if kind == "isogclr" else 2.0
            assert_close(moved[side, sample], share * slope, rtol=1e-6)


def test_adam_is_that_of_torch_for_each_sample() -> None:
    adam = make("fastclip_v2", eta=0.002, state_dtype=torch.float64)
    slopes = make("bimodal_individual", eta=0.0, beta=1.0, state_dtype=torch.float64)
    slopes._options = slopes._options._replace(
        lowest=0.01, highest=1.0, epsilon=1e-14, slope_limit=5.5
    )
    assert adam.temperatures is not None and slopes.temperatures is not None
    one_each = [p.clone().requires_grad_() for p in adam.temperatures.value.flatten()]
    optimizer = torch.optim.Adam(one_each, lr=0.002, betas=(0.9, 0.999), eps=1e-8)
    clipped = set()
    for k in range(6):
        ids = torch.randperm(NUM_SAMPLES, generator=torch.Generator().manual_seed(k))[:5]
        views = make_views(10 * k, size=5)._replace(index=ids)
        slopes.temperatures.value.copy_(adam.temperatures.value)
        step(slopes, views)
        step(adam, views)
        optimizer.zero_grad()
        for side in (0, 1):
            for i in ids.tolist():
                slope = slopes.temperatures.momentum[side, i].clone()
                one_each[side * NUM_SAMPLES + i].grad = slope
                clipped.add(bool(slope.abs() == 5.5))
        optimizer.step()
        expected = torch.stack(one_each).detach().view(2, NUM_SAMPLES)
        assert_close(adam.temperatures.value, expected, rtol=1e-9)
    assert clipped == {False, True}  # the limit was met, and not always


def test_sogclr_is_flat_nce() -> None:
    # METHODS identity 7: gamma = 1, denominators apart: 2 tau times the gradient of the softmax
    # over the negatives alone, averaged over the 2B anchors
    views, tau = make_views(seed=6), 0.2
    _, first, second, _ = step(make("per_view", None, gamma=1.0), views)
    a, c = (v.clone().requires_grad_() for v in views[:2])
    z = torch.nn.functional.normalize(torch.cat([a, c]), dim=1)
    item = torch.arange(len(z)) % len(a)
    s = z @ z.T / tau
    positive = s[torch.arange(len(z)), (torch.arange(len(z)) + len(a)) % len(z)]
    v = s.masked_fill(item[:, None] == item[None, :], -math.inf).logsumexp(1) - positive
    flat = (v - v.detach()).exp().mean()
    expected = torch.autograd.grad(flat, (a, c))
    for actual, e in zip((first, second), expected, strict=True):
        assert_close(actual, 2 * tau * e)


def test_the_log_state_is_the_linear_one() -> None:
    loss = make("sogclr", state_dtype=torch.float64)
    linear = torch.full((NUM_SAMPLES,), math.nan, dtype=torch.float64)
    for k in range(4):
        views = make_views(10 * k)
        a, c = (torch.nn.functional.normalize(v, dim=1) for v in views[:2])
        z, item = torch.cat([a, c]), torch.arange(14) % 7
        g = ((z @ z.T / 0.2).exp() * (item[:, None] != item)).sum(1).view(2, 7).mean(0) / 12
        reference.moving_average_update_(linear, views.index, g, loss.gamma)
        step(loss, views)
        assert loss.state is not None
        untouched = linear.isnan()
        assert_close(loss.state.value[0][~untouched].exp(), linear[~untouched])
        assert bool((loss.state.value[0][untouched] == -math.inf).all())


@pytest.mark.parametrize("kind", ["sogclr", "per_view", "isogclr", "bimodal", "bimodal_individual"])
@pytest.mark.parametrize("temperature", [0.01, 1e-3])
def test_low_temperatures_do_not_overflow(kind: str, temperature: float) -> None:
    options: dict[str, Any] = {"temperature": temperature, "min_temperature": 1e-4}
    if kind == "bimodal_individual":
        options["eta"] = 1e-6
    elif kind == "isogclr":
        options["eta"] = 1e-5
    loss = make(kind, **options)
    truth = Truth(loss)
    for k in range(3):
        views = make_views(10 * k, size=20, width=16, dtype=torch.float32)
        actual, expected = step(loss, views), truth.step(views)
        assert loss.state is not None
        assert not loss.state.value.isnan().any()
        for a, e in zip(actual[:3], expected[:3], strict=True):
            assert bool(a.isfinite().all())
            # exponents are off by the rounding of a similarity over the temperature
            tolerance = 3e-7 / temperature
            assert_close(a.double(), e, rtol=tolerance, atol=tolerance * float(e.abs().max()))


def test_bf16_at_low_temperature_is_exact_for_its_inputs() -> None:
    views = make_views(size=40, width=64, dtype=torch.bfloat16)
    loss, truth = make("sogclr", temperature=0.01), Truth(make("sogclr", temperature=0.01))
    value, first, _, _ = step(loss, views)
    expected_value, expected, _, _ = truth.step(views)
    assert value.dtype == torch.float32
    assert_close(value.double(), expected_value, rtol=1e-5)
    assert_near("gradient", first, expected, torch.float32)


@each_kind
def test_memory_stays_linear(kind: str) -> None:
    # B x B floats would be 36 MiB (one modality 144)
    size, width = 3072, 8
    loss = make(kind, size)
    views = Views(torch.randn(size, width), torch.randn(size, width), torch.arange(size))
    with torch.profiler.profile(profile_memory=True) as profile:
        step(loss, views)
    largest = max(abs(event.cpu_memory_usage) for event in profile.events())
    assert largest < 40 * size * width * 4 < size * size * 4


@pytest.mark.parametrize("kind", ["sogclr", "bimodal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_matrix_of_pairs_in_memory(kind: str, dtype: torch.dtype) -> None:
    # What the kernels allocate by themselves is there too. B x B floats: 64 MiB (one modality 256);
    # blocks of similarities: 24 MiB, whatever the batch.
    size, width = 4096, 8
    loss = make(kind, size)
    views = Views(*(torch.randn(2, size, width).to(dtype)), torch.arange(size))
    assert peak_growth_mb(lambda: step(loss, views)) < 45


def test_cosine_gamma() -> None:
    gammas = [xr.losses.cosine_gamma(e, 10, 0.2) for e in range(15)]
    assert gammas[0] == 1.0
    assert gammas[5] == pytest.approx(0.6)
    assert gammas[10:] == [0.2] * 5
    assert all(a > b for a, b in itertools.pairwise(gammas[:11]))
    for bad in ((-1, 10, 0.2), (1, 0, 0.2), (1, 10, 1.2)):
        with pytest.raises(ValueError, match="expected"):
            xr.losses.cosine_gamma(*bad)
    loss = make("sogclr")
    loss.gamma = xr.losses.cosine_gamma(3, 10, 0.2)
    assert float(loss.gamma) == xr.losses.cosine_gamma(3, 10, 0.2)


@pytest.mark.parametrize("kind", LEARNED)
def test_a_learned_temperature_trains(kind: str) -> None:
    loss, views = make(kind), make_views()
    assert [name for name, _ in loss.named_parameters()] == ["temperature"]
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    before = copy.deepcopy(loss.temperature.detach())
    loss(*views).backward()
    optimizer.step()
    assert not bits_equal(loss.temperature.detach(), before)
    frozen = make(kind)
    frozen.temperature.requires_grad_(False)
    assert not frozen(*views).requires_grad


def test_individual_temperatures_stay_in_their_bounds() -> None:
    for kind in STATEFUL_TEMPERATURES:
        loss = make(kind, eta=10.0)
        for k in range(4):
            step(loss, make_views(10 * k))
        assert loss.temperatures is not None
        tau = loss.temperatures.value
        assert float(tau.min()) >= loss._options.lowest - 1e-7
        assert float(tau.max()) <= loss._options.highest + 1e-7
        loss.reset_state()
        assert bool((loss.temperatures.value == float(loss.temperature)).all())
        assert not loss.temperatures.momentum.any()


@pytest.mark.parametrize("bimodal", [False, True])
def test_the_truth_of_the_races_is_the_reference(bimodal: bool) -> None:
    case = (BimodalContrastiveCase if bimodal else ContrastiveCase)(batch=7, width=5)
    inputs = case.inputs()
    inputs = inputs._replace(first=inputs.first.detach(), second=inputs.second.detach())
    views = Views(inputs.first, inputs.second, torch.arange(7))
    kinds = ["bimodal"] if bimodal else ["sogclr", "per_view"]
    for kind in kinds:
        loss = make(kind, temperature=inputs.temperature, state_dtype=torch.float64)
        _, *expected = Truth(loss).step(views)
        actual = first_gradients(inputs, kind == "per_view")
        for a, e in zip(actual, expected, strict=False):
            assert_close(a.detach(), e)
