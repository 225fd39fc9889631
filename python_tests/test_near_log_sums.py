"""The near-linear algorithms of pairwise_log_sums, against the definition in extended precision.

"smooth" (squared hinge) is held to the bound of its docstring, "sort" (hinge, barrier hinge,
logistic with a whole 1 / temperature) to the rounding of exponents and dtype.
"""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import INF, NAN, SMOOTH_BOUNDS, computed_in, each_simd, randn, value_and_gradients
from torch import Tensor

import xrisk_ext as xr
from xrisk_ext import ops

MARGIN = 0.7
SCALE = 2.0
ALGORITHMS = {"squared_hinge": "smooth", "hinge": "sort", "barrier_hinge": "sort"}
ALGORITHMS["logistic"] = "sort"
each_name = pytest.mark.parametrize("name", ALGORITHMS)
each_width = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])


def _pair_terms(name: str, d: Any) -> tuple[Any, Any]:
    """phi and phi' in extended precision, stated once more."""
    m, s = np.longdouble(MARGIN), np.longdouble(SCALE)
    if name == "squared_hinge":
        z = np.maximum(d + m, 0)
        return z * z, 2 * z
    if name == "hinge":
        return np.maximum(d + m, 0), (d + m > 0).astype(d.dtype)
    if name == "barrier_hinge":
        steep, left = s * (d - m) + m, -s * (d + m)
        slope = np.where(d + m > 0, np.where(steep > m + d, s, 1), -s)
        return np.maximum(np.maximum(steep, m + d), left), slope
    q = np.exp(-abs(s * d))
    return np.maximum(s * d, 0) + np.log1p(q), s * np.where(d > 0, 1, q) / (1 + q)


def _truth(
    name: str, x: Tensor, y: Tensor, weights: Tensor, upstream: Tensor, temperature: float
) -> dict[str, Any]:
    """Value, gradients, and the sizes that errors are relative to."""
    anchors, items, w, a = (
        t.double().numpy().astype(np.longdouble) for t in (x, y, weights, upstream)
    )
    t = np.longdouble(temperature)
    phi, slope = _pair_terms(name, items[None, :] - anchors[:, None])
    peak = np.where(w > 0, phi, -np.inf).max(axis=1, keepdims=True)
    depths = np.where(w > 0, (peak - phi) / t, 0)
    shares = w * np.exp(-depths)
    mass = shares.sum(axis=1, keepdims=True)
    shares = shares / mass
    value = (peak / t + np.log(mass))[:, 0]
    # what may be left out is small beside the items' weights
    floor = w / w.sum()
    scale = np.sqrt(t) if name == "squared_hinge" else np.longdouble(1)
    pull = (shares + floor) * (abs(slope) + scale) / t * abs(a)[:, None]
    # exponents are rounded, in double; the temperature of logistic, in the scores' dtype
    doubles = torch.finfo(torch.float64).eps / torch.finfo(computed_in(x.dtype)).eps
    rough = pull * (1 + np.minimum(depths, 700) + peak / t * doubles)
    return {
        "actual": (value, -(a[:, None] * shares * slope / t).sum(axis=1),
                   (a[:, None] * shares * slope / t).sum(axis=0)),
        "bound": (1 + abs(value), pull.sum(axis=1), pull.sum(axis=0)),
        "rounding": (1 + abs(value), rough.sum(axis=1), rough.sum(axis=0)),
    }  # fmt: skip


def check(
    name: str, x: Tensor, y: Tensor, weights: Tensor | None = None, temperature: float = 1.0
) -> None:
    upstream = randn(x.shape[0], seed=9).to(x.dtype)
    options: dict[str, Any] = {"margin": MARGIN, "scale": SCALE, "temperature": temperature}
    actual = value_and_gradients(
        ops.pairwise_log_sums, x, y, upstream,
        item_weights=weights, surrogate=name, algorithm=ALGORITHMS[name], **options,
    )  # fmt: skip
    ones = torch.ones(y.shape[0])
    truth = _truth(name, x, y, ones if weights is None else weights, upstream, temperature)
    dtype = computed_in(x.dtype)
    smooth = ALGORITHMS[name] == "smooth"
    allowed = SMOOTH_BOUNDS[dtype] if smooth else 64 * torch.finfo(dtype).eps
    sizes = truth["bound" if smooth else "rounding"]
    for got, wanted, size, what in zip(
        actual, truth["actual"], sizes, ("value", "d anchors", "d items"), strict=True
    ):
        assert bool(got.isfinite().all())
        error = abs(got.double().numpy() - wanted)
        worst = float((error / np.maximum(size, 1e-300)).max())
        assert worst <= allowed, f"{what}: {worst:.1e} of the size of its terms"


def scores_of(kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
    p, m = 1400, 120  # more anchors than Chebyshev nodes
    x, y = randn(p, seed=1), randn(m, seed=2)
    weights: Tensor | None = None
    if kind == "weights":
        weights = randn(m, seed=3) ** 2
        weights[::3] = 0.0
    elif kind == "ties":
        x, y = (2 * x).round(), (2 * y).round()
    elif kind == "all_tied":
        x, y = torch.full_like(x, 0.3), torch.full_like(y, 0.3)
    elif kind == "clusters":
        x = 1e-3 * x + 30.0 * (torch.arange(p) % 2)
        y = 1e-3 * y + 30.0 * (torch.arange(m) % 3)
    elif kind == "outliers":
        x[3], x[5], y[7], y[9] = -1e6, 1e6, 1e6, -1e6
    elif kind == "one_low_anchor":
        x[3] = -1e6
    elif kind == "far_apart":
        x = x - 1e4
    elif kind == "no_loss":
        x = x + 1e4
    elif kind == "cauchy":
        x, y = torch.tan(1.57 * (2 * (x.sigmoid() - 0.5))), torch.tan(1.57 * (2 * y.sigmoid() - 1))
    elif kind == "spread":
        x, y = 1e7 * x.sigmoid(), 1e7 * y.sigmoid()
    elif kind == "light_top":
        weights = torch.ones(m).double()
        weights[y.argmax()] = 1e-30
    elif kind == "few":
        x, y = x[:2], y[:1]
    elif kind == "few_anchors":
        x, y = x[:7], randn(5000, seed=2)
    else:
        assert kind == "normal"
    return x.to(dtype), y.to(dtype), None if weights is None else weights.to(dtype)


KINDS = [
    "normal", "weights", "ties", "all_tied", "clusters", "outliers", "one_low_anchor", "far_apart",
    "no_loss", "cauchy", "spread", "light_top", "few", "few_anchors",
]  # fmt: skip


@each_width
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "temperature"),
    [("squared_hinge", 1.0), ("squared_hinge", 0.05), ("barrier_hinge", 0.1), ("logistic", 1 / 16)],
)
def test_errors_keep_their_bound(
    name: str, temperature: float, kind: str, dtype: torch.dtype
) -> None:
    x, y, weights = scores_of(kind, dtype)
    check(name, x, y, weights, temperature)


@each_width
@pytest.mark.parametrize("temperature", [1e-6, 0.013, 300.0, 1e12])
def test_any_temperature(temperature: float, dtype: torch.dtype) -> None:
    for name in ("squared_hinge", "hinge"):
        for kind in ("weights", "outliers"):
            x, y, weights = scores_of(kind, dtype)
            check(name, x, y, weights, temperature)
    if temperature == 0.013:
        for whole in (3, 10, 100, 512):  # 1 / 3 and 1 / 10 are whole to the rounding of the dtype
            t = torch.tensor(1 / whole, dtype=dtype)
            check("logistic", *scores_of("weights", dtype), float(t))


@each_simd
@each_name
def test_under_every_simd_variant(name: str, simd: str) -> None:
    check(name, *scores_of("weights", torch.float32))


def test_halves() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        x, y, _ = scores_of("normal", torch.float32)
        x, y = x.to(dtype), y.to(dtype)
        for name, algorithm in ALGORITHMS.items():
            options: dict[str, Any] = {"surrogate": name, "algorithm": algorithm}
            half = ops.pairwise_log_sums(x, y, **options)
            assert torch.equal(half, ops.pairwise_log_sums(x.float(), y.float(), **options))


@each_name
def test_auto_is_near_linear(name: str) -> None:
    x, y = randn(60_000, seed=1).float(), randn(50_000, seed=2).float()
    auto = value_and_gradients(ops.pairwise_log_sums, x, y, surrogate=name)
    named = value_and_gradients(
        ops.pairwise_log_sums, x, y, surrogate=name, algorithm=ALGORITHMS[name]
    )
    for a, b in zip(auto, named, strict=True):
        assert torch.equal(a, b)
    few = x[:20].clone(), y[:50].clone()
    direct = ops.pairwise_log_sums(*few, surrogate="squared_hinge", algorithm="direct")
    assert torch.equal(ops.pairwise_log_sums(*few), direct)


@each_name
def test_what_is_not_finite_goes_the_direct_way(name: str) -> None:
    x, y, _ = scores_of("normal", torch.float32)
    for value in (INF, -INF, NAN):
        for where in (x, y):
            old = where[5].clone()
            where[5] = value
            named, direct = (
                value_and_gradients(
                    ops.pairwise_log_sums, x, y, surrogate=name, algorithm=algorithm
                )
                for algorithm in (ALGORITHMS[name], "direct")
            )
            for a, b in zip(named, direct, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
            where[5] = old
    # an item of weight 0 is not there, whatever it is
    weights = torch.ones_like(y)
    weights[5] = 0.0
    without = ops.pairwise_log_sums(
        x, torch.cat([y[:5], y[6:]]), surrogate=name, algorithm=ALGORITHMS[name]
    )
    y[5] = NAN
    named = value_and_gradients(
        ops.pairwise_log_sums, x, y, item_weights=weights, surrogate=name,
        algorithm=ALGORITHMS[name],
    )  # fmt: skip
    torch.testing.assert_close(named[0], without, rtol=1e-6, atol=1e-6)
    assert named[2][5] == 0.0
    nothing = ops.pairwise_log_sums(
        x, y, item_weights=torch.zeros_like(y), surrogate=name, algorithm=ALGORITHMS[name]
    )
    assert bool((nothing == -INF).all())


def test_an_algorithm_that_is_not_there() -> None:
    x = randn(5).float()
    for name, algorithm, temperature in [
        ("squared_hinge", "sort", 1.0),
        ("hinge", "smooth", 1.0),
        ("logistic", "sort", 0.3),
        ("logistic", "sort", 1 / 513),
        ("logistic", "smooth", 1.0),
        ("sigmoid", "smooth", 1.0),
        ("squared", "sort", 1.0),
    ]:
        with pytest.raises(ValueError, match=f'algorithm "{algorithm}" is for'):
            ops.pairwise_log_sums(
                x,
                x,
                surrogate=name,
                algorithm=algorithm,
                temperature=temperature,  # type: ignore[arg-type]
            )
    with pytest.raises(ValueError, match="expected algorithm to be one of"):
        ops.pairwise_log_sums(x, x, algorithm="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["hinge", "barrier_hinge", "logistic"])
def test_partial_auc_steps_use_them(name: str) -> None:
    """The loss of a large batch equals that of the direct algorithm, state and gradient, too."""
    scores, labels = randn(3000, seed=4).float(), torch.arange(3000) % 5 == 0
    results = []
    for algorithm in ("auto", "direct"):
        loss_fn = xr.PartialAUCLoss(
            3000, mode="kl", kl_weight=0.5, surrogate=name, scale=1.5, algorithm=algorithm
        )
        x = scores.clone().requires_grad_()
        loss = loss_fn(x, labels, torch.arange(3000))
        loss.backward()
        results.append((loss.detach(), x.grad, loss_fn.state.value.clone()))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=3e-5, atol=1e-9, equal_nan=True)
