"""What holds on a GPU alone: agreement with the CPU, no wait for the device, graphs, determinism.

Skipped where this build has no CUDA kernels or no GPU is there; `make gpu-check` runs it where one
is. The kernels' own source runs in CI without a GPU: csrc/simt.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import algorithms_of
from torch import Tensor

import xrisk_ext as xr
from xrisk_ext import _C

pytestmark = pytest.mark.skipif(
    not (_C.build_info()["cuda"] and torch.cuda.is_available()),
    reason="NOT RUN: no GPU, or a build without CUDA kernels",
)

SURROGATES = (
    "squared", "squared_hinge", "hinge", "barrier_hinge", "logistic", "sigmoid", "exponential",
    "zero_one",
)  # fmt: skip
NUM_SAMPLES = 500


@pytest.fixture
def no_sync() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def make_batch(size: int, labels: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = (torch.rand(size, labels, generator=generator) < 0.2).float()
    scores = torch.randn(size, labels, generator=generator) + target
    index = torch.randint(NUM_SAMPLES, (size,), generator=generator)  # ids repeat
    if labels == 1:
        return scores[:, 0], target[:, 0], index
    return scores, target, index


def make_loss(labels: int, **options: Any) -> torch.nn.Module:
    if labels == 1:
        return xr.AveragePrecisionLoss(NUM_SAMPLES, gamma=0.4, **options)
    return xr.MeanAveragePrecisionLoss(NUM_SAMPLES, labels, gamma=0.4, **options)


def step(loss: torch.nn.Module, batch: tuple[Tensor, ...], device: str) -> tuple[Tensor, Tensor]:
    scores, target, index = (t.to(device) for t in batch)
    scores = scores.detach().requires_grad_()
    value = loss(scores, target, index)
    value.backward()
    assert scores.grad is not None
    return value.detach().cpu(), scores.grad.cpu()


def assert_near(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    limit = 1e-4 if dtype == torch.float32 else 1e-10
    # untouched rows of a state hold NaN or -inf
    finite = expected.double()[expected.isfinite()].abs()
    scale = finite.amax().item() if finite.numel() else 1.0
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=limit, atol=limit * scale, equal_nan=True
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("algorithm", ["auto", "direct", "sort", "smooth"])
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_pairwise_sums_agree_with_the_cpu(
    surrogate: str, algorithm: str, dtype: torch.dtype
) -> None:
    if algorithm != "auto" and algorithm not in algorithms_of(surrogate):
        pytest.skip("no such algorithm")
    generator = torch.Generator().manual_seed(1)
    for p, m, channels in ((0, 5, 1), (5, 0, 1), (1, 1, 1), (70, 1000, 3), (1300, 700, 1)):
        anchors = torch.randn(p, generator=generator, dtype=dtype) + 3
        items = torch.randn(m, generator=generator, dtype=dtype) + 3
        weights = torch.rand(channels, m, generator=generator, dtype=dtype)
        results = []
        for device in ("cpu", "cuda"):
            x = anchors.detach().to(device).requires_grad_()
            y = items.detach().to(device).requires_grad_()
            sums = xr.ops.pairwise_sums(
                x, y, item_weights=weights.to(device), surrogate=surrogate, scale=1.5,
                algorithm=algorithm,
            )  # fmt: skip
            if sums.requires_grad:
                sums.square().sum().backward()
            results.append([t.detach().cpu() for t in (sums, x.grad, y.grad) if t is not None])
        for ours, theirs in zip(results[1], results[0], strict=True):
            assert_near(ours, theirs, dtype)


def test_defect_duplicate_ids_have_two_writers_on_cuda() -> None:
    """LibAUC assigns by index: which of a duplicate's entries stays is left to the device."""
    scores = torch.tensor([1.0, 0.0, 0.5, 0.25])
    labels, index = torch.tensor([1, 1, 0, 0]), torch.tensor([0, 0, 1, 1])
    states = []
    for device in ("cpu", "cuda", "cuda"):
        loss = xr.AveragePrecisionLoss(2, gamma=1.0).to(device)
        step(loss, (scores, labels, index), device)
        states.append(loss.state.value.cpu())
        scores, labels = scores.flip(0), labels.flip(0)
        index = index.flip(0)
    seen = [state[0, 0] for state in states]
    assert torch.equal(seen[1], seen[2])  # whichever of the entries comes first
    assert_near(seen[1], seen[0], torch.float32)


NEAR_LOG_SUMS = [(s, "sort") for s in ("hinge", "barrier_hinge", "logistic")]
NEAR_LOG_SUMS.append(("squared_hinge", "smooth"))


@pytest.mark.parametrize(
    ("surrogate", "algorithm"),
    [*((s, "auto") for s in SURROGATES if s != "zero_one"), *NEAR_LOG_SUMS],
)
def test_pairwise_log_sums_agree_with_the_cpu(surrogate: str, algorithm: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    anchors = torch.randn(300, generator=generator)
    items = torch.randn(1000, generator=generator)
    weights = torch.randint(3, (1000,), generator=generator).float()
    results = []
    for device in ("cpu", "cuda"):
        x, y = (t.detach().to(device).requires_grad_() for t in (anchors, items))
        sums = xr.ops.pairwise_log_sums(
            x, y, item_weights=weights.to(device), surrogate=surrogate, temperature=0.1,
            algorithm=algorithm,
        )  # fmt: skip
        sums.sum().backward()
        results.append([t.detach().cpu() for t in (sums, x.grad, y.grad) if t is not None])
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert_near(ours, theirs, torch.float32)


@pytest.mark.parametrize("name", ["RankNetLoss", "ApproxNDCGLoss", "SmoothAPLoss", "RecallAtKLoss"])
def test_long_lists_agree_with_the_cpu(name: str) -> None:
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(2, 9000, generator=generator)
    relevance = torch.randint(3, (2, 9000), generator=generator)
    results = []
    for device in ("cpu", "cuda"):
        h = scores.detach().to(device).requires_grad_()
        value = getattr(xr, name)(temperature=0.1).to(device)(h, relevance.to(device))
        value.backward()
        results.append([t.detach().cpu() for t in (value, h.grad) if t is not None])
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert_near(ours, theirs, torch.float32)


@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
@pytest.mark.parametrize("entries", [0, 1, 1000, 40_000])  # compared, sorted
def test_moving_average_agrees_with_the_cpu(entries: int, log: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = 10_000
    state = torch.randn(rows, generator=generator)
    state[::3] = -torch.inf if log else torch.nan
    index = torch.randint(rows, (entries,), generator=generator)
    index[: entries // 4] = 7  # a long group
    values = torch.randn(entries, generator=generator)
    on_gpu = state.cuda()
    stored = xr.ops.moving_average_update_(state, index, values, 0.3, log=log)
    ours = xr.ops.moving_average_update_(on_gpu, index.cuda(), values.cuda(), 0.3, log=log)
    assert_near(ours.cpu(), stored, torch.float32)
    assert_near(on_gpu.cpu(), state, torch.float32)


@pytest.mark.parametrize("method", ["exact", "smooth"])
@pytest.mark.parametrize("shape", [(5, 40), (1000, 300), (3, 20_000), (1, 3_000_000)], ids=str)
def test_topk_threshold_agrees_with_the_cpu(shape: tuple[int, int], method: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(shape, generator=generator)
    scores[0] = scores[0].round(decimals=1)  # ties
    lengths = [shape[1] // 3, 0, shape[0] * shape[1] - shape[1] // 3]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    for x, rows in ((scores, None), (scores.flatten(), offsets)):
        results = []
        for device in ("cpu", "cuda"):
            leaf = x.detach().to(device).requires_grad_()
            ours = None if rows is None else rows.to(device)
            value = xr.ops.topk_threshold(leaf, 7, method=method, offsets=ours)
            value.nan_to_num(neginf=0.0).sum().backward()
            assert leaf.grad is not None
            results.append((value.detach().cpu(), leaf.grad.cpu()))
        (expected, slopes), (value, found) = results
        if method == "exact":
            assert torch.equal(value, expected)
            assert torch.equal(found, slopes)
        else:
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(found, slopes, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("surrogate", ["squared_hinge", "barrier_hinge", "sigmoid"])
@pytest.mark.parametrize("size", [1, 64, 3000, 70_000])
def test_steps_agree_with_the_cpu(surrogate: str, labels: int, size: int) -> None:
    if size > 3000 and surrogate == "sigmoid":
        pytest.skip("slow on the CPU")
    here, there = (make_loss(labels, surrogate=surrogate) for _ in range(2))
    there = there.cuda()
    for seed in range(3):
        batch = make_batch(size, labels, seed)
        value, gradient = step(here, batch, "cpu")
        gpu_value, gpu_gradient = step(there, batch, "cuda")
        assert_near(gpu_value, value, torch.float32)
        assert_near(gpu_gradient, gradient, torch.float32)
        for name, buffer in here.state_dict().items():
            assert_near(there.state_dict()[name].cpu(), buffer, torch.float32)


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("size", [64, 3000, 70_000])
def test_a_step_does_not_wait_for_the_device(size: int) -> None:
    torch.cuda.set_sync_debug_mode("default")
    loss = make_loss(1).cuda()
    scores, target, index = (t.cuda() for t in make_batch(size, 1))
    scores.requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    loss(scores, target, index).backward()


@pytest.mark.parametrize("size", [64, 70_000])
def test_a_graph_replays_steps_and_sees_a_new_gamma(size: int) -> None:
    loss, expected = make_loss(1).cuda(), make_loss(1)
    scores, target, index = (t.cuda() for t in make_batch(size, 1))
    scores.requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # warm-up
        loss(scores, target, index).backward()
    torch.cuda.current_stream().wait_stream(side)
    loss.reset_state()
    scores.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss(scores, target, index)
        value.backward()
    loss.reset_state()
    for seed, gamma in enumerate((0.4, 0.9, 0.1)):
        batch = make_batch(size, 1, seed)
        with torch.no_grad():
            for static, fresh in zip((scores, target, index), batch, strict=True):
                static.copy_(fresh)
        loss.gamma = torch.tensor(gamma, device="cuda")
        expected.gamma = gamma
        graph.replay()
        reference, gradient = step(expected, batch, "cpu")
        assert_near(value.detach().cpu(), reference, torch.float32)
        assert scores.grad is not None
        assert_near(scores.grad.cpu(), gradient, torch.float32)


def test_a_hundred_runs_give_the_same_bits() -> None:
    batch = make_batch(5000, 1)
    results = set()
    for _ in range(100):
        value, gradient = step(make_loss(1).cuda(), batch, "cuda")
        results.add((value.item(), gradient.numpy().tobytes()))
    assert len(results) == 1


def test_another_stream() -> None:
    batch = make_batch(3000, 1)
    expected = step(make_loss(1).cuda(), batch, "cuda")
    loss = make_loss(1).cuda()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        actual = step(loss, batch, "cuda")
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_steps_are_the_same(mode: str) -> None:
    loss, eager = make_loss(1).cuda(), make_loss(1).cuda()
    compiled = torch.compile(loss, fullgraph=True, mode=mode)
    for seed in range(5):  # reduce-overhead: a warm-up, a recording, replays
        batch = make_batch(256, 1, seed)
        loss.gamma = eager.gamma = 0.9 / (seed + 1)
        torch.compiler.cudagraph_mark_step_begin()
        ours, theirs = step(compiled, batch, "cuda"), step(eager, batch, "cuda")
        for actual, expected in zip(ours, theirs, strict=True):
            assert_near(actual, expected, torch.float32)
        for name, buffer in eager.state_dict().items():
            assert_near(loss.state_dict()[name].cpu(), buffer.cpu(), torch.float32)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NOT RUN: a single GPU")
def test_another_device_than_the_current_one() -> None:
    for size in (64, 3000, 70_000):
        batch = make_batch(size, 1)
        expected = step(make_loss(1).cuda(), batch, "cuda")
        actual = step(make_loss(1).to("cuda:1"), batch, "cuda:1")
        for ours, theirs in zip(actual, expected, strict=True):
            assert torch.equal(ours, theirs)


def test_an_id_out_of_range_is_left_alone() -> None:
    state = torch.zeros(3, device="cuda")
    index = torch.tensor([1, 7, -1], device="cuda")
    stored = xr.ops.moving_average_update_(state, index, torch.ones(3, device="cuda"), 1.0)
    assert state.tolist() == [0.0, 1.0, 0.0]
    assert stored.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ("ops.moving_average_update_(x, x.long() + 7, x, 1.0)", "expected index in [0, 3)"),
        ("ops.moving_average_update_(x, x.long(), x, 1.5)", "expected gamma in [0, 1]"),
        ("ops.pairwise_sums(x, x, item_weights=x / 0)", "expected item_weights to be finite"),
        ("ops.pairwise_log_sums(x, x, item_weights=x - 1)", "expected item_weights to be finite"),
        ("ops.pairwise_log_sums(x, x, temperature=0.0)", "expected temperature >= 1e-30"),
        ("ops.pairwise_sums(x, x, scale=-1.0)", "expected scale > 0"),
        ("ops.topk_threshold(x, 0, offsets=x.long())", "expected offsets that ascend"),
        ("AveragePrecisionLoss(3).to(x)(x, x + 1, x.long() + 3)", "expected index in [0, 3)"),
    ],
)
def test_debug_names_bad_values(call: str, complaint: str) -> None:
    code = f"import torch, xrisk_ext as xr\nx = torch.zeros(3, device='cuda')\nxr.{call}"
    failed = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"XRISK_DEBUG": "1"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert failed.returncode != 0
    assert complaint in failed.stderr


def test_log_sums_refuse_an_algorithm_they_have_not() -> None:
    x = torch.zeros(3, device="cuda")
    with pytest.raises(ValueError, match="is for squared_hinge"):
        xr.ops.pairwise_log_sums(x, x, surrogate="hinge", algorithm="smooth")
    with pytest.raises(ValueError, match="hinge, barrier_hinge, and logistic"):
        xr.ops.pairwise_log_sums(x, x, algorithm="sort")


def test_what_stands_on_two_devices_is_refused() -> None:
    with pytest.raises(ValueError, match="device"):
        xr.ops.pairwise_sums(torch.zeros(2, device="cuda"), torch.zeros(2))
    with pytest.raises(ValueError, match="device"):
        make_loss(1)(torch.zeros(2, device="cuda"), torch.ones(2), torch.arange(2))
