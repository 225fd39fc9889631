"""The contrastive op and losses on anything, against the reference, step after step."""

from typing import Any

import torch
from contrastive_helpers import KINDS, Truth, Views, make, step
from fuzzing import drawn_simd, each_device, fuzz, fuzz_less, threads
from helpers import NAN
from hypothesis import strategies as st
from loss_helpers import bits_equal
from strategies import SPECIAL, generator_of, relaid, scores_of_kind
from torch import Tensor

from xrisk_ext import ops, reference

sizes = st.sampled_from((0, 1, 2, 3, 16, 17, 40, 270))
widths = st.sampled_from((0, 1, 3, 16, 33))
# ties, duplicates, neighbours in the dtype, and rows of very different lengths
EMBEDDINGS = ("normal", "grid", "few", "equal", "far", "tiny_gaps", "subnormal", "huge", "outliers")
floats = st.sampled_from((torch.float32, torch.float64, torch.float16, torch.bfloat16))


def near(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    assert actual.shape == expected.shape
    if not bool(expected.isfinite().all()):
        return bool((actual.double().isfinite() == expected.isfinite()).all())
    size = float(expected.abs().max()) if expected.numel() else 0.0
    error = (actual.double() - expected).abs()
    return bool((error <= tolerance * max(size, 1e-3)).all())


@each_device
@fuzz
def test_fuzz_contrastive_log_sums(data: st.DataObject, device: str) -> None:
    generator = generator_of(data)
    rows, keys, width = (data.draw(s) for s in (sizes, sizes, widths))
    kinds = [data.draw(st.sampled_from(EMBEDDINGS)) for _ in "qk"]
    q, k = (
        scores_of_kind(kind, (n, width), data.draw(floats), generator)
        for kind, n in zip(kinds, (rows, keys), strict=True)
    )
    tau = torch.rand(rows, generator=generator, dtype=torch.float64) + 0.2
    temperature: float | Tensor = (
        tau if data.draw(st.booleans()) else data.draw(st.sampled_from((0.01, 0.5, 30.0)))
    )
    exclude = None
    if data.draw(st.booleans()):
        entries = data.draw(st.integers(1, 3))
        exclude = torch.randint(-1, max(keys, 1), (rows, entries), generator=generator)
        exclude = exclude.clamp(max=keys - 1).to(
            data.draw(st.sampled_from((torch.int64, torch.int32)))
        )
    options: dict[str, Any] = {"temperature": temperature, "exclude": exclude}
    given = [relaid(data, t.to(device)) for t in (q, k)]
    moved = {n: t.to(device) if isinstance(t, Tensor) else t for n, t in options.items()}
    results = []
    with drawn_simd(data):
        for count in (1, 2):
            with threads(count):
                results.append(with_gradients(ops.contrastive_log_sums, *given, moved))
    assert all(bits_equal(a, b) for a, b in zip(*results, strict=True))
    lowest = float(torch.as_tensor(temperature).min()) if rows else 1.0
    single = torch.float64 if torch.float64 in (q.dtype, k.dtype) else torch.float32
    # a similarity is rounded to eps |q| |k|, which the exponential sees in units of tau
    longest = [float(t.double().norm(dim=1).max()) if t.numel() else 0.0 for t in (q, k)]
    rough = 40 * torch.finfo(single).eps * (1.0 + width + longest[0] * longest[1] / lowest)
    if rough > 0.01:
        return
    expected = with_gradients(reference.contrastive_log_sums, q, k, options)
    reach = (longest[0] * longest[1] / lowest, longest[1] / lowest, longest[0] / lowest * rows)
    for a, e, size in zip(results[0], expected, reach, strict=True):
        finite = e.isfinite()
        a = a.cpu()
        assert bool((a.isfinite() == finite).all())
        rounding = torch.finfo(a.dtype)
        allowed = rough * (1.0 + size) + rounding.eps * e.abs() + rounding.smallest_normal
        assert bool(((a.double() - e).abs() <= allowed)[finite].all())


@each_device
@fuzz_less
def test_rows_that_are_not_finite_or_very_large(data: st.DataObject, device: str) -> None:
    """A row of its own that is bad spoils its own value alone; finite scores never a number."""
    generator = generator_of(data)
    rows, keys = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    dtype = data.draw(floats)
    q = scores_of_kind("normal", (rows, 5), dtype, generator)
    k = scores_of_kind("normal", (keys, 5), dtype, generator)
    row = data.draw(st.integers(0, rows - 1), label="row")
    bad = q.clone()
    bad[row, data.draw(st.integers(0, 4))] = data.draw(st.sampled_from(SPECIAL))
    with drawn_simd(data):
        calm, spoilt = (
            ops.contrastive_log_sums(x.to(device), k.to(device)).cpu() for x in (q, bad)
        )
    others = torch.arange(rows) != row
    assert not bool(spoilt[row].isfinite())
    assert bits_equal(spoilt[others], calm[others])
    # products that fit the dtype computed in are a number, at any temperature
    size = data.draw(st.sampled_from((1e4, 1e8, 1e15)), label="size")
    size = min(size, 1e4) if dtype == torch.float16 else size
    large = [scores_of_kind("few", (n, 5), dtype, generator) * size for n in (rows, keys)]
    value, *gradients = with_gradients(
        ops.contrastive_log_sums, *(t.to(device) for t in large), {"temperature": 0.05}
    )
    assert bool(value.isfinite().all())
    assert not any(g.isnan().any() for g in gradients)


def with_gradients(f: Any, q: Tensor, k: Tensor, options: dict[str, Any]) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in (q, k)]
    value = f(*leaves, **options)
    total = value.where(value.detach().isfinite(), 0.0).sum()
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    dense = [
        torch.zeros_like(t) if g is None else g for t, g in zip(leaves, gradients, strict=True)
    ]
    expected = f is reference.contrastive_log_sums
    return [value.detach(), *(g.double() if expected else g for g in dense)]


@each_device
@fuzz
def test_fuzz_contrastive_losses(data: st.DataObject, device: str) -> None:
    generator = generator_of(data)
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    dtype, width = data.draw(floats), data.draw(st.sampled_from((1, 3, 17)))
    ids = data.draw(st.sampled_from((1, 4, 300)))
    gamma = data.draw(st.sampled_from((0.1, 0.6, 1.0)))
    loss = make(kind, ids, gamma=gamma, normalize=data.draw(st.booleans()))
    truth = Truth(loss)
    loss = loss.to(device)
    for _ in range(data.draw(st.integers(1, 3))):
        size = data.draw(sizes)
        first, second = (
            0.5 * torch.randn(size, width, generator=generator, dtype=torch.float64) for _ in "12"
        )
        if data.draw(st.booleans()):
            second = first + 0.1 * second
        index = torch.randint(ids, (size,), generator=generator)
        views = Views(first.to(dtype), second.to(dtype), index)
        if size > 1 and data.draw(st.integers(0, 9)) == 0:
            views.first[0, 0] = NAN
        with drawn_simd(data), threads(data.draw(st.integers(1, 2))):
            there = Views(*(relaid(data, t.to(device)) for t in views))
            actual = [t.cpu() for t in step(loss, there)]
        expected = truth.step(views)
        lowest = float(loss.temperature.detach())
        if loss.temperatures is not None:
            lowest = loss._options.lowest
        tolerance = 1e-4 * max(1.0, 0.1 / lowest)
        for a, e in zip(actual[:3], expected[:3], strict=True):
            assert near(a, e, tolerance + 2 * float(torch.finfo(a.dtype).eps))
        assert loss.state is not None
        assert truth.state is not None
        assert bool((loss.state.value.cpu().isfinite() == truth.state.isfinite()).all())
