"""The contrastive ops on a GPU: agreement with the CPU, no wait for the device, graphs.

Skipped as test_cuda.py is; the kernels' own source runs in CI without a GPU: csrc/simt.
"""

import pytest
import torch
from baseline_helpers import each_baseline, gradients, make_baseline
from baseline_helpers import views as baseline_views
from contrastive_helpers import LEARNED, Views, buffers, each_kind, make, make_views, step
from helpers import randn
from loss_helpers import bits_equal
from torch import Tensor

import xrisk_ext as xr
from xrisk_ext import _C

pytestmark = pytest.mark.skipif(
    not (_C.build_info()["cuda"] and torch.cuda.is_available()),
    reason="NOT RUN: no GPU, or a build without CUDA kernels",
)


def near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    finite = expected.isfinite()
    assert bool((actual.cpu().isfinite() == finite).all())
    # not only relative: a batch of one has no loss, but its rounding
    size = max(float(expected[finite].abs().max()) if bool(finite.any()) else 0.0, 1e-2)
    torch.testing.assert_close(
        actual.cpu().double(),
        expected.double(),
        rtol=tolerance,
        atol=tolerance * size,
        equal_nan=True,
    )


def on_gpu(views: Views) -> Views:
    return Views(*(t.cuda() for t in views))


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_agrees_with_the_cpu(kind: str, dtype: torch.dtype) -> None:
    tolerance = 2e-4 if dtype == torch.float32 else 1e-9
    cpu, gpu = (make(kind, 3000, state_dtype=torch.float64) for _ in "12")
    gpu = gpu.cuda()
    # the last is larger than a block of similarities
    for seed, size in ((0, 7), (10, 40), (20, 1), (30, 2300)):
        views = make_views(seed, size=size, width=24, dtype=dtype)
        expected, actual = step(cpu, views), step(gpu, on_gpu(views))
        for a, e in zip(actual[:3], expected[:3], strict=True):
            near(a, e, tolerance)
        if kind in LEARNED:
            near(actual[3], expected[3], tolerance)
        for a, e in zip(buffers(gpu), buffers(cpu), strict=True):
            near(a, e, tolerance)


@each_kind
def test_what_is_not_finite_leaves_the_state_alone(kind: str) -> None:
    loss = make(kind).cuda()
    step(loss, on_gpu(make_views(0)))
    before, views = buffers(loss), make_views(1)
    views.second[2, 1] = float("nan")
    value, first, second, _ = step(loss, on_gpu(views))
    assert bool(value.isnan())
    assert bool(first.isnan().all() and second.isnan().all())
    assert all(bits_equal(a, b) for a, b in zip(buffers(loss), before, strict=True))


@each_kind
def test_a_step_is_captured_and_does_not_wait(kind: str) -> None:
    captured, plain = make(kind).cuda(), make(kind).cuda()
    views = on_gpu(make_views(0, size=30, width=16, dtype=torch.float32))
    first = views.first.clone().requires_grad_()

    def train(loss: torch.nn.Module) -> Tensor:
        first.grad = None
        value = loss(first, views.second, views.index)
        value.backward()
        return value.detach()  # type: ignore[no-any-return]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            train(captured)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        train(captured)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    captured.reset_state()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = train(captured)
    replayed = first.grad  # written by every replay; `train` below makes another
    captured.reset_state()
    for gamma in (1.0, 0.3):
        captured.gamma = plain.gamma = gamma  # a captured step sees the new value
        graph.replay()
        near(value, train(plain).cpu(), 1e-6)
        assert first.grad is not None and replayed is not None
        near(replayed, first.grad.cpu(), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_log_sums_agree_with_the_cpu(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = randn(2100, 20, seed=1).to(dtype), randn(2500, 20, seed=2).to(dtype)
    tau, exclude = torch.rand(2100) + 0.5, torch.randint(-1, 2500, (2100, 2), generator=generator)
    results = []
    for device in ("cpu", "cuda"):
        leaves = [t.detach().to(device).requires_grad_() for t in (q, k, tau)]
        value = xr.ops.contrastive_log_sums(
            leaves[0], leaves[1], temperature=leaves[2], exclude=exclude.to(device)
        )
        results.append([value.detach(), *torch.autograd.grad(value.sum(), leaves)])
    tolerance = {torch.float64: 1e-6, torch.float32: 2e-4, torch.bfloat16: 1e-2}[dtype]
    for expected, actual in zip(*results, strict=True):
        near(actual, expected, tolerance)


each_way = pytest.mark.parametrize("way", ["", "streamed", "blocks", "blocks:128", "float32"])
each_half = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@each_way
@each_half
@pytest.mark.parametrize("width", [7, 64, 200])
def test_log_sums_of_halves_are_those_of_float32(
    width: int, dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XRISK_SIMILARITIES", way)
    q, k = (randn(n, width, seed=s).div(width**0.5).to(dtype) for n, s in ((700, 1), (900, 2)))
    exclude = torch.arange(700)
    results = []
    for convert in (lambda t: t.cuda(), lambda t: t.double()):
        leaves = [convert(t).requires_grad_() for t in (q, k)]
        value = xr.ops.contrastive_log_sums(
            leaves[0], leaves[1], temperature=0.01, exclude=exclude.to(leaves[0].device)
        )
        results.append([value.detach(), *torch.autograd.grad(value.sum(), leaves)])
    (mean, *gradients_found), (true_mean, *true_gradients) = results
    near(mean, true_mean, 1e-5)
    for actual, expected in zip(gradients_found, true_gradients, strict=True):
        near(actual, expected, 2 * torch.finfo(dtype).eps)


@each_way
@each_half
@each_kind
def test_a_step_of_halves_is_that_of_float64(
    kind: str, dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XRISK_SIMILARITIES", way)
    losses = [make(kind, 300, state_dtype=torch.float64).cuda() for _ in "12"]
    for seed, size in ((0, 6), (1, 300)):
        views = make_views(seed, size=size, width=24, dtype=dtype)
        views.first[1] = 0  # a row of zeros
        halves = on_gpu(views)
        wide = Views(halves.first.double(), halves.second.double(), halves.index)
        expected, actual = (step(loss, v) for loss, v in zip(losses, (wide, halves), strict=True))
        near(actual[0], expected[0].cpu(), 1e-4)
        for a, e in zip(actual[1:3], expected[1:3], strict=True):
            near(a, e.cpu(), 2 * torch.finfo(dtype).eps)
        for a, e in zip(buffers(losses[1]), buffers(losses[0]), strict=True):
            near(a, e.cpu(), 1e-4)  # float32 sums


def test_an_unknown_way_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.zeros(4, 8, device="cuda", dtype=torch.bfloat16)
    for name in ("tensor", "blocks:100", "streamed:128"):
        monkeypatch.setenv("XRISK_SIMILARITIES", name)
        with pytest.raises(ValueError, match="XRISK_SIMILARITIES"):
            xr.ops.contrastive_log_sums(q, q, temperature=0.1)


@each_baseline
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_baselines_agree_with_the_cpu(name: str, reduction: str, dtype: torch.dtype) -> None:
    tolerance = 2e-4 if dtype == torch.float32 else 1e-9
    cpu = make_baseline(name, reduction=reduction)
    gpu = make_baseline(name, reduction=reduction).cuda()
    # the last is larger than a block of similarities
    for seed, size in ((0, 7), (1, 40), (2, 1), (3, 1100)):
        here = baseline_views(size, seed, dtype)
        there = [v.detach().cuda().requires_grad_() for v in here]
        expected, actual = cpu(*here), gpu(*there)
        upstream = torch.linspace(0.5, 2.0, expected.numel()).view_as(expected).to(expected.dtype)
        near(actual.detach(), expected.detach(), tolerance)
        ours = gradients(actual, *there, upstream=upstream.cuda())
        for a, e in zip(ours, gradients(expected, *here, upstream=upstream), strict=True):
            near(a, e, tolerance)
    for a, e in zip(buffers(gpu), buffers(cpu), strict=True):
        near(a, e, tolerance)


def test_supervised_labels_and_a_learned_temperature_agree_with_the_cpu() -> None:
    labels = torch.arange(40) % 3
    for loss, extra in ((xr.SupConLoss(), (labels,)), (xr.CLIPLoss(temperature=0.3), ())):
        a, b = baseline_views(40)
        expected = loss(a, b, *extra)
        wanted = gradients(expected, a, b, *loss.parameters())
        there = [v.detach().cuda().requires_grad_() for v in (a, b)]
        loss = loss.cuda()
        actual = loss(*there, *(t.cuda() for t in extra))
        near(actual.detach(), expected.detach(), 1e-6)
        for found, e in zip(gradients(actual, *there, *loss.parameters()), wanted, strict=True):
            near(found, e, 1e-6)


@each_baseline
def test_a_step_of_a_baseline_does_not_wait(name: str) -> None:
    loss = make_baseline(name).cuda()
    a, b = (v.detach().cuda().requires_grad_() for v in baseline_views(30))
    loss(a, b).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss(a, b).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_baseline_that_is_not_finite_is_nan() -> None:
    a, b = (v.detach().cuda() for v in baseline_views(30))
    b[3, 1] = float("inf")
    a.requires_grad_()
    value = make_baseline("NTXent").cuda()(a, b)
    assert bool(value.isnan())
    assert bool(torch.autograd.grad(value, a)[0].isnan().all())
