"""The contrastive losses on small batches, on what is not finite, and on bad input."""

import math
from typing import Any

import pytest
import torch
from contrastive_helpers import (
    NUM_SAMPLES,
    Views,
    buffers,
    each_kind,
    follow_reference,
    make,
    make_views,
    same,
    step,
)
from helpers import INF, NAN
from loss_helpers import bits_equal

from xrisk_ext import BimodalGlobalContrastiveLoss, GlobalContrastiveLoss


@each_kind
@pytest.mark.parametrize("size", [0, 1])
def test_a_batch_of_one_is_zero_and_leaves_the_state_alone(kind: str, size: int) -> None:
    loss = make(kind)
    step(loss, make_views(0))
    before = buffers(loss)
    views = Views(*(t[:size] for t in make_views(1)))
    results = step(loss, views)
    assert not any(t.any() for t in results)
    assert same(buffers(loss), before)


@each_kind
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_what_is_not_finite_gives_nan_and_leaves_the_state_alone(kind: str, bad: float) -> None:
    loss, views = make(kind), make_views(1)
    step(loss, make_views(0))
    before = buffers(loss)
    views.second[2, 1] = bad
    value, first, second, _ = step(loss, views)
    assert bool(value.isnan())
    assert bool(first.isnan().all()) and bool(second.isnan().all())
    assert same(buffers(loss), before)


@each_kind
def test_similarities_that_overflow_give_nan(kind: str) -> None:
    loss = make(kind, normalize=False)
    views = make_views(1, dtype=torch.float32)
    before = buffers(loss)
    huge = Views(views.first * 1e25, views.second * 1e25, views.index)
    assert bool(step(loss, huge)[0].isnan())
    assert same(buffers(loss), before)


@each_kind
@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1e25, 1e200])
def test_the_length_of_an_embedding_does_not_matter(kind: str, scale: float) -> None:
    views = make_views(1)
    value, first, _, _ = step(make(kind), views)
    other, scaled, _, _ = step(make(kind), views._replace(first=views.first * scale))
    torch.testing.assert_close(other, value, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(scaled * scale, first, rtol=1e-9, atol=1e-12)


@each_kind
def test_a_row_of_zeros(kind: str) -> None:
    views = make_views(1)
    views.first[3] = 0.0
    follow_reference(make(kind, state_dtype=torch.float64), [views])
    _, first, second, _ = step(make(kind), views)
    assert not first[3].any()
    assert bool(second.isfinite().all())


@each_kind
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"first": [1.0]}, TypeError, "tensor"),
        ({"first": torch.zeros(7)}, ValueError, "shape"),
        ({"first": torch.zeros(6, 5)}, ValueError, "one shape"),
        ({"second": torch.zeros(7, 5, dtype=torch.int64)}, TypeError, "view2"),
        ({"index": None}, ValueError, "index"),
        ({"index": list(range(7))}, TypeError, "index"),
        ({"index": torch.arange(6)}, ValueError, "index"),
        ({"index": torch.arange(7.0)}, TypeError, "index"),
        ({"index": torch.arange(7) - 1}, IndexError, "index"),
        ({"index": torch.arange(7) + 3}, IndexError, "index"),
    ],
)
def test_bad_input_is_named_and_writes_nothing(
    kind: str, change: dict[str, Any], error: type, message: str
) -> None:
    loss = make(kind)
    step(loss, make_views(0))
    before = buffers(loss)
    with pytest.raises(error, match=message):
        loss(*make_views(1)._replace(**change))
    assert same(buffers(loss), before)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": NAN},
        {"gamma": 1.5},
        {"gamma": 0.5, "num_samples": None},
        {"num_samples": 0},
        {"reduction": "sum"},
        {"beta": 2.0},
        {"eta": -1.0},
        {"min_temperature": 0.0},
        {"min_temperature": 1.0, "max_temperature": 0.5},
        {"state_dtype": torch.float16},
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any]) -> None:
    for make_one in (GlobalContrastiveLoss, BimodalGlobalContrastiveLoss):
        with pytest.raises(ValueError, match="expected"):
            make_one(**{"num_samples": NUM_SAMPLES, **options})


def test_bad_options_of_one_loss() -> None:
    for options in (
        {"denominator": "both"},
        {"num_samples": None, "gamma": 1.0, "individual_temperature": True},
    ):
        with pytest.raises(ValueError, match=r"denominator|num_samples"):
            GlobalContrastiveLoss(**options)  # type: ignore[arg-type]
    for options in (
        {"temperature_mode": "local"},
        {"epsilon": -1.0},
        {"rho": INF},
        {"temperature_mode": "individual", "temperature_weighted": False},
        {"temperature_mode": "individual", "temperature_optimizer": "sgd"},
        {"betas": (0.9, 1.0)},
        {"max_slope": 0.0},
    ):
        with pytest.raises(ValueError, match=r"temperature|epsilon|rho|betas|max_slope"):
            BimodalGlobalContrastiveLoss(NUM_SAMPLES, **options)  # type: ignore[arg-type]


def test_without_num_samples_there_is_no_state() -> None:
    loss = GlobalContrastiveLoss(gamma=1.0)
    assert loss.state is None
    views = make_views()
    first = loss(views.first, views.second)
    views = views._replace(index=torch.arange(7))
    kept = make("sogclr", gamma=1.0, temperature=0.1, state_dtype=torch.float64)
    assert bits_equal(first, kept(*views))
    with pytest.raises(ValueError, match="gamma"):
        loss.gamma = 0.5
    assert math.isfinite(float(first))
