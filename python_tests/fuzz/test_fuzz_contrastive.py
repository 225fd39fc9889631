"""The contrastive op and losses on anything, against the reference, step after step."""

from typing import Any

import torch
from contrastive_helpers import KINDS, Truth, Views, make, step
from fuzzing import drawn_simd, fuzz, threads
from helpers import NAN
from hypothesis import strategies as st
from loss_helpers import bits_equal
from strategies import generator_of
from torch import Tensor

from xrisk_ext import ops, reference

sizes = st.sampled_from((0, 1, 2, 3, 16, 17, 40, 270))
widths = st.sampled_from((0, 1, 3, 16, 33))
floats = st.sampled_from((torch.float32, torch.float64, torch.float16, torch.bfloat16))


def near(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    assert actual.shape == expected.shape
    if not bool(expected.isfinite().all()):
        return bool((actual.double().isfinite() == expected.isfinite()).all())
    size = float(expected.abs().max()) if expected.numel() else 0.0
    error = (actual.double() - expected).abs()
    return bool((error <= tolerance * max(size, 1e-3)).all())


@fuzz
def test_fuzz_contrastive_log_sums(data: st.DataObject) -> None:
    generator = generator_of(data)
    rows, keys, width = (data.draw(s) for s in (sizes, sizes, widths))
    dtype = data.draw(floats)
    q, k = (torch.randn(n, width, generator=generator).to(dtype) for n in (rows, keys))
    tau = torch.rand(rows, generator=generator, dtype=torch.float64) + 0.2
    temperature: float | Tensor = (
        tau if data.draw(st.booleans()) else data.draw(st.sampled_from((0.01, 0.5, 30.0)))
    )
    exclude = None
    if data.draw(st.booleans()):
        entries = data.draw(st.integers(1, 3))
        exclude = torch.randint(-1, max(keys, 1), (rows, entries), generator=generator)
        exclude = exclude.clamp(max=keys - 1)
    options: dict[str, Any] = {"temperature": temperature, "exclude": exclude}
    results = []
    with drawn_simd(data):
        for count in (1, 2):
            with threads(count):
                results.append(with_gradients(ops.contrastive_log_sums, q, k, options))
    assert all(bits_equal(a, b) for a, b in zip(*results, strict=True))
    lowest = float(torch.as_tensor(temperature).min()) if rows else 1.0
    single = torch.float64 if dtype == torch.float64 else torch.float32
    tolerance = 400 * torch.finfo(single).eps * max(1.0, (1 + width) / lowest)
    for a, e in zip(results[0], with_gradients(reference.contrastive_log_sums, q, k, options),
                    strict=True):  # fmt: skip
        assert near(a, e, tolerance + float(torch.finfo(a.dtype).eps))


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


@fuzz
def test_fuzz_contrastive_losses(data: st.DataObject) -> None:
    generator = generator_of(data)
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    dtype, width = data.draw(floats), data.draw(st.sampled_from((1, 3, 17)))
    ids = data.draw(st.sampled_from((1, 4, 300)))
    gamma = data.draw(st.sampled_from((0.1, 0.6, 1.0)))
    loss = make(kind, ids, gamma=gamma, normalize=data.draw(st.booleans()))
    truth = Truth(loss)
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
            actual = step(loss, views)
        expected = truth.step(views)
        lowest = float(loss.temperature.detach())
        if loss.temperatures is not None:
            lowest = loss._options.lowest
        tolerance = 1e-4 * max(1.0, 0.1 / lowest)
        for a, e in zip(actual[:3], expected[:3], strict=True):
            assert near(a, e, tolerance + 2 * float(torch.finfo(a.dtype).eps))
        assert loss.state is not None
        assert truth.state is not None
        assert bool((loss.state.value.isfinite() == truth.state.isfinite()).all())
