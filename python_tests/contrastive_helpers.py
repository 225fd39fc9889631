"""What the tests of the global contrastive losses share: kinds, batches, steps of each truth."""

from typing import Any, NamedTuple

import pytest
import torch
from helpers import computed_in, randn
from loss_helpers import assert_near, bits_equal
from torch import Tensor, nn

from xrisk_ext import BimodalGlobalContrastiveLoss, GlobalContrastiveLoss, reference
from xrisk_ext.losses._contrastive_loss import ContrastiveLoss

NUM_SAMPLES = 9
# by name: whether there are two modalities, and the options
KINDS: dict[str, tuple[bool, dict[str, Any]]] = {
    "sogclr": (False, {"temperature": 0.2}),
    "per_view": (False, {"temperature": 0.2, "denominator": "per_view"}),
    "isogclr": (False, {"temperature": 0.3, "individual_temperature": True}),
    "isogclr_raw": (
        False,
        {"individual_temperature": True, "relative_to_positive": False, "denominator": "per_view"},
    ),
    "bimodal": (True, {"temperature": 0.1}),
    "bimodal_individual": (True, {"temperature": 0.03, "temperature_mode": "individual"}),
    "fastclip_v2": (
        True,
        {
            "temperature": 0.03,
            "temperature_mode": "individual",
            "temperature_optimizer": "adam",
            "max_slope": 5.5,
            "min_temperature": 0.01,
            "max_temperature": 1.0,
            "epsilon": 1e-14,
        },
    ),
    "bimodal_global": (True, {"temperature": 0.0625, "temperature_mode": "global"}),
    "fastclip_v0": (
        True,
        {
            "temperature": 0.0625,
            "temperature_mode": "global",
            "temperature_weighted": False,
            "epsilon": 1e-6,
        },
    ),
}
STATEFUL_TEMPERATURES = ("isogclr", "isogclr_raw", "bimodal_individual", "fastclip_v2")
LEARNED = ("bimodal_global", "fastclip_v0")
each_kind = pytest.mark.parametrize("kind", KINDS)


class Views(NamedTuple):
    first: Tensor  # [B, D]
    second: Tensor
    index: Tensor  # [B]


def make(kind: str, num_samples: int | None = NUM_SAMPLES, **options: Any) -> ContrastiveLoss:
    """A loss by name; gamma is 0.3 so that old and new observations both matter."""
    bimodal, own = KINDS[kind]
    if num_samples is not None:
        options = {"gamma": 0.3, **options}
    options = {**own, **options}
    if bimodal:
        return BimodalGlobalContrastiveLoss(num_samples, **options)
    return GlobalContrastiveLoss(num_samples, **options)


def make_views(
    seed: int = 0, size: int = 7, width: int = 5, dtype: torch.dtype = torch.float64
) -> Views:
    """Related views; the first and the third entry have one id."""
    first = randn(size, width, seed=seed)
    second = first + 0.7 * randn(size, width, seed=seed + 500)
    generator = torch.Generator().manual_seed(seed + 1000)
    index = torch.randint(NUM_SAMPLES, (size,), generator=generator)
    index[2:3] = index[0:1]
    return Views(first.to(dtype), (1.5 * second).to(dtype), index)


def step(
    loss: ContrastiveLoss, views: Views, **options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value, gradients of both views and of the temperature (0 if it is a constant)."""
    first, second = (v.detach().clone().requires_grad_() for v in views[:2])
    value = loss(first, second, views.index, **options)
    inputs = [first, second]
    if loss.temperature.requires_grad:
        inputs.append(loss.temperature)
    gradients = list(torch.autograd.grad(value, inputs, torch.ones_like(value)))
    if not loss.temperature.requires_grad:
        gradients.append(torch.zeros((), dtype=value.dtype))
    return value.detach(), *gradients  # type: ignore[return-value]


class Truth:
    """The state of a loss in float64, stepped by the reference."""

    def __init__(self, loss: ContrastiveLoss) -> None:
        self.loss = loss
        self.state = None if loss.state is None else loss.state.value.clone()
        own = loss.temperatures
        self.tau = None if own is None else own.value.clone()
        self.momentum = None if own is None else own.momentum.clone()

    def step(self, views: Views) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        options, loss = self.loss._options, self.loss
        individual = None
        state, tau, momentum = self.state, self.tau, self.momentum
        if not options.bimodal and state is not None:
            state = state[0]
        if tau is not None and momentum is not None:
            individual = reference.Individual(
                tau, momentum, options.rho, loss.eta, options.beta, options.lowest,
                options.highest, options.second_beta, options.slope_limit,
            )  # fmt: skip
        temperature = loss.temperature.detach().double()
        arguments = (*views, state, loss.gamma)
        if options.bimodal:
            return reference.bimodal_global_contrastive(
                *arguments,
                temperature=temperature,
                individual=individual,
                rho=options.rho,
                temperature_weighted=options.temperature_weighted,
                epsilon=options.epsilon,
                normalize=options.normalize,
            )
        value, first, second = reference.global_contrastive(
            *arguments,
            temperature=temperature,
            individual=individual,
            denominator="per_view" if options.per_view else "shared",
            relative_to_positive=options.relative,
            normalize=options.normalize,
        )
        return value, first, second, torch.zeros((), dtype=torch.float64)


def follow_reference(
    loss: ContrastiveLoss, batches: list[Views], computed: torch.dtype | None = None
) -> None:
    """Takes a step on every batch; value, gradients and state are those of the reference."""
    truth = Truth(loss)
    for k, views in enumerate(batches):
        actual, expected = step(loss, views), truth.step(views)
        assert actual[0].dtype == computed_in(views.first.dtype)
        assert actual[1].dtype == views.first.dtype
        for what, a, e in zip(("value", "first", "second"), actual, expected, strict=False):
            assert_near(f"{what} of step {k}", a, e, computed)
        if loss.temperature.requires_grad:
            assert_near(f"temperature of step {k}", actual[3], expected[3], torch.float32)
        mine = Truth(loss)  # a copy of the state
        for what, a, e in (
            ("state", mine.state, truth.state),
            ("temperatures", mine.tau, truth.tau),
            ("momenta", mine.momentum, truth.momentum),
        ):
            if a is not None and e is not None:
                finite = e.isfinite()
                assert bool((a.isfinite() == finite).all()), what
                assert_near(f"{what} of step {k}", a[finite], e[finite], computed)


def buffers(loss: nn.Module) -> list[Tensor]:
    return [b.clone() for b in loss.buffers()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(bits_equal(x, y) for x, y in zip(a, b, strict=True))
