"""Precision, autograd, threads and the process: the contracts that every loss keeps.

The state has test_contracts_state.py, arguments test_contracts_input.py, empty sets and scores that
are not finite test_contracts_degenerate.py.
"""

import itertools
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import INF, assert_close, each_dtype, randn
from loss_helpers import (
    LOSSES,
    NUM_LABELS,
    PAIRS,
    Batch,
    assert_near,
    bits_equal,
    call,
    each_half,
    each_loss,
    each_stateful_loss,
    follow_reference,
    make_batch,
    make_batches,
    make_loss,
    state_of,
    step,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xrisk_ext import _C
from xrisk_ext.losses._score_loss import ScoreLoss

ROOT = Path(__file__).resolve().parent.parent


class Scorer(nn.Module):
    """A linear layer whose scores have the shape that a loss takes."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(5, NUM_LABELS if kind == "map" else 1)
        self.shape = (-1, NUM_LABELS) if kind == "map" else (-1,)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).view(self.shape)  # type: ignore[no-any-return]


def features(seed: int = 0) -> Tensor:
    return randn(12, 5, seed=seed + 100).float()


# --------------------------------------------------------------------------------------- precision


@each_loss
@each_dtype
@pytest.mark.parametrize("weights", ["", "entry"])
def test_every_dtype(kind: str, dtype: torch.dtype, weights: str) -> None:
    # follow_reference asserts that the gradient has the scores' dtype, the value at least float32
    follow_reference(
        make_loss(kind), make_batches(kind, dtype=dtype, weights=weights), torch.float32
    )


@each_loss
@each_half
def test_halves_are_computed_in_float32(kind: str, dtype: torch.dtype) -> None:
    half, single = make_loss(kind), make_loss(kind)
    for batch in make_batches(kind, dtype=dtype):
        value, gradient = step(half, batch)
        expected_value, expected = step(single, batch._replace(scores=batch.scores.float()))
        assert bits_equal(value, expected_value)
        assert bits_equal(gradient, expected.to(dtype))  # cast last, once
    assert bits_equal(state_of(half), state_of(single))


@each_loss
@each_half
def test_halves_are_scaled_before_the_cast(kind: str, dtype: torch.dtype) -> None:
    # what a gradient scaler is for: a gradient that float16 would round to 0
    batch = make_batch(kind, dtype=dtype)
    options: dict[str, Any] = {"surrogate": "logistic", "scale": 1e-8}
    upstream = torch.tensor(3.0 * 2.0**22)
    _, gradient = step(make_loss(kind, **options), batch, upstream)
    single = batch._replace(scores=batch.scores.float())
    _, expected = step(make_loss(kind, **options), single, upstream)
    assert gradient.any()
    assert bits_equal(gradient, expected.to(dtype))
    _, unscaled = step(make_loss(kind, **options), batch)
    assert not unscaled.any() or dtype == torch.bfloat16


@each_loss
@each_half
def test_autocast_lowers_nothing(kind: str, dtype: torch.dtype) -> None:
    plain, inside = make_loss(kind), make_loss(kind)
    for batch in make_batches(kind, dtype=torch.float32):
        expected = step(plain, batch)
        with torch.autocast("cpu", dtype=dtype):
            actual = step(inside, batch)
        for a, b in zip(actual, expected, strict=True):
            assert bits_equal(a, b)
    assert bits_equal(state_of(inside), state_of(plain))


@each_loss
@each_half
def test_a_model_trains_under_autocast(kind: str, dtype: torch.dtype) -> None:
    model, loss = Scorer(kind), make_loss(kind)
    batch = make_batch(kind)
    with torch.autocast("cpu", dtype=dtype):
        scores = model(features())
        value = call(loss, batch, scores)
    assert scores.dtype == dtype
    assert value.dtype == torch.float32
    value.backward()
    gradient = model.linear.weight.grad
    assert gradient is not None
    assert gradient.dtype == torch.float32
    assert bool(gradient.isfinite().all())
    assert gradient.any()


@each_loss
def test_grad_scaler_with_float16(kind: str) -> None:
    model, plain = Scorer(kind), Scorer(kind)
    loss, plain_loss, batch = make_loss(kind), make_loss(kind), make_batch(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain_optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def train(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        value = call(loss, batch, model(x).half())
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        return value

    for seed in range(2):  # the scale is a power of two: the same but for the underflow of float16
        train(features(seed))
        plain_optimizer.zero_grad()
        call(plain_loss, batch, plain(features(seed)).half()).backward()
        plain_optimizer.step()
        torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-5)

    before, state = model.linear.weight.detach().clone(), state_of(loss)
    value = train(1e30 * features())  # scores overflow to inf in float16
    assert value.isnan()
    assert scaler.get_scale() == 2.0**9  # backed off
    assert torch.equal(model.linear.weight, before)  # skipped
    assert bits_equal(state_of(loss), state)
    value = train(features(3))
    assert value.isfinite()
    assert not torch.equal(model.linear.weight, before)
    assert kind == "auc" or not bits_equal(state_of(loss), state)


# ---------------------------------------------------------------------------------------- autograd


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_backward_twice_gives_the_same(kind: str, dtype: torch.dtype) -> None:
    leaf = make_batch(kind, dtype=dtype).scores.requires_grad_()
    value = call(make_loss(kind), make_batch(kind), leaf)
    gradients = []
    for upstream in (1.0, 4.0, 1.0):  # saved memory is not scaled in place
        (gradient,) = torch.autograd.grad(
            value, leaf, torch.tensor(upstream, dtype=value.dtype), retain_graph=True
        )
        gradients.append(gradient)
    assert gradients[0].any()
    assert torch.equal(gradients[0], gradients[2])
    subnormal = 2.0**-24 if dtype == torch.float16 else 0.0  # what float16 rounds there
    torch.testing.assert_close(4.0 * gradients[0], gradients[1], rtol=0.0, atol=4.0 * subnormal)
    gradients[0].zero_()  # nor does the caller share it
    (again,) = torch.autograd.grad(value, leaf)
    assert torch.equal(again, gradients[2])
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()


@each_loss
def test_gradients_accumulate(kind: str) -> None:
    first, second = make_batches(kind, count=2)
    separate = [step(make_loss(kind).eval(), batch)[1] for batch in (first, second)]
    loss = make_loss(kind).eval()
    leaf = first.scores.clone().requires_grad_()
    call(loss, first, leaf).backward()
    other = call(loss, second, leaf + (second.scores - first.scores))
    other.backward()
    assert leaf.grad is not None
    assert_close(leaf.grad, separate[0] + separate[1])
    # and in one graph
    leaf.grad = None
    both = call(loss, first, leaf) + call(loss, second, leaf + (second.scores - first.scores))
    both.backward()
    assert_close(leaf.grad, separate[0] + separate[1])


@each_loss
def test_gradient_of_a_scaled_loss(kind: str) -> None:
    batch = make_batch(kind)
    _, gradient = step(make_loss(kind), batch)
    for factor in (-2.5, 0.0, 1e-8, 1e8):
        leaf = batch.scores.clone().requires_grad_()
        (factor * call(make_loss(kind), batch, leaf)).backward()
        assert leaf.grad is not None
        assert_close(leaf.grad, factor * gradient)


@each_loss
def test_gradient_of_values_that_are_not_reduced(kind: str) -> None:
    batch = make_batch(kind)
    columns = batch.scores.reshape(12, -1)
    upstream = torch.tensor([2.0, -1.0, 0.0])[: columns.shape[1]]
    _, ones = step(make_loss(kind, reduction="none"), batch)
    _, gradient = step(make_loss(kind, reduction="none"), batch, upstream)
    assert_close(gradient, (ones.reshape(columns.shape) * upstream.double()).view_as(gradient))


@each_loss
def test_loss_of_scores_that_are_no_leaf(kind: str) -> None:
    batch = make_batch(kind)
    _, gradient = step(make_loss(kind), batch)
    leaf = batch.scores.div(3.0).requires_grad_()
    call(make_loss(kind), batch, leaf * 3.0).backward()
    assert leaf.grad is not None
    assert_close(leaf.grad, 3.0 * gradient, rtol=1e-9)


@each_loss
def test_double_backward_says_why_not(kind: str) -> None:
    batch = make_batch(kind)
    _, expected = step(make_loss(kind), batch)
    leaf = batch.scores.clone().requires_grad_()
    value = call(make_loss(kind), batch, leaf)
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    assert torch.equal(gradient, expected)  # the first derivative is all right
    with pytest.raises(RuntimeError, match="differentiated twice"):
        gradient.square().sum().backward()


@each_loss
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(kind: str, use_reentrant: bool) -> None:
    # The recomputation is the pass that writes: both passes then blend with the same old state.
    plain, loss = make_loss(kind), make_loss(kind)
    for batch in make_batches(kind):
        value, gradient = step(plain, batch)
        passes = itertools.count()

        def run(scores: Tensor, batch: Batch = batch, passes: Any = passes) -> Tensor:
            number = next(passes)
            options = {} if kind == "auc" else {"update_state": number == 1}
            return call(loss, batch, scores * 1.0, **options)

        leaf = batch.scores.clone().requires_grad_()
        checkpointed = checkpoint(run, leaf, use_reentrant=use_reentrant)
        assert isinstance(checkpointed, Tensor)
        checkpointed.backward()
        assert next(passes) == 2
        assert torch.equal(checkpointed, value)
        assert torch.equal(leaf.grad, gradient)
        assert bits_equal(state_of(loss), state_of(plain))


@each_stateful_loss
def test_a_closure_may_evaluate_before_it_steps(kind: str) -> None:
    # SAM, LBFGS: several forwards a step, of which one writes
    plain, loss, batch = make_loss(kind), make_loss(kind), make_batch(kind)
    step(loss, batch._replace(scores=batch.scores * 2.0), update_state=False)
    for a, b in zip(step(loss, batch), step(plain, batch), strict=True):
        assert torch.equal(a, b)
    assert bits_equal(state_of(loss), state_of(plain))


# ---------------------------------------------------------------------------- threads, the process


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_run_on_as_many_threads_as_torch_has(threads: int) -> None:
    # at::parallel_for, compiled without OpenMP, runs on one thread and says nothing
    torch.set_num_threads(threads)
    assert _C.build_info()["threads"] == "openmp"
    assert _C.threads_used() == threads


# Batches of several chunks: of anchors, of items, and of both and of the state update.
WIDE = [("direct", 20_000, 1000), ("direct", 140_000, 40), ("sort", 200_000, 40_000)]
WIDE_SURROGATES = ("squared_hinge", "barrier_hinge", "squared", "exponential")
WIDE_STEPS = [(name, *wide) for name in WIDE_SURROGATES for wide in WIDE]
WIDE_STEPS += [(name, "smooth", 200_000, 40_000) for name in ("logistic", "sigmoid")]


@each_loss
@pytest.mark.parametrize(("name", "algorithm", "size", "positives"), WIDE_STEPS)
@pytest.mark.usefixtures("restore_threads")
def test_threads_change_nothing(
    kind: str, name: str, algorithm: str, size: int, positives: int
) -> None:
    if kind == "kl":  # has no algorithm that need not visit every pair
        size, positives = size // 20, max(positives // 20, 40)
    shape = (size, NUM_LABELS) if kind == "map" else (size,)
    labels = torch.zeros(shape, dtype=torch.int64)
    labels[:: size // positives] = 1
    batch = Batch(randn(*shape).float(), labels, torch.arange(size) * 7 % 100_003)
    results: list[tuple[Tensor | None, ...]] = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        loss = make_loss(kind, 100_003, surrogate=name, algorithm=algorithm, scale=1.25)
        for _ in range(2):
            value, gradient = step(loss, batch)
        assert gradient.any()
        results.append((value, gradient, state_of(loss)))
    assert all(bits_equal(a, b) for a, b in zip(*results, strict=True))


@each_loss
def test_steps_are_deterministic(kind: str) -> None:
    def trajectory(loss: ScoreLoss) -> list[tuple[Tensor, ...]]:
        return [step(loss, batch) for batch in make_batches(kind, dtype=torch.float32)]

    first, second = trajectory(make_loss(kind)), trajectory(make_loss(kind))
    for x, y in zip(first, second, strict=True):
        assert all(bits_equal(a, b) for a, b in zip(x, y, strict=True))


IMPORT_CHANGES_NOTHING = """
import locale, random, signal, sys, threading, warnings
import numpy as np
import torch

def process():
    x = torch.tensor(1e-40)
    return {
        "numpy denormals": float(np.float32(1e-40) * np.float32(1)),
        "torch denormals": float(x * 1),
        "wide torch denormals": float((torch.full((100_000,), 1e-40) * 1).min()),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "random": (random.getstate(), torch.get_rng_state().tolist(), str(np.random.get_state())),
        "errors": np.geterr(),
        "filters": list(warnings.filters),
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGSEGV)],
        "python threads": threading.active_count(),
        "precision": torch.get_float32_matmul_precision(),
        "path": list(sys.path),
    }

before = process()
assert before["numpy denormals"] > 0 and before["torch denormals"] > 0
import xrisk_ext
after = process()
changed = [name for name in before if before[name] != after[name]]
assert not changed, changed

loss = xrisk_ext.PairwiseAUCLoss()
scores = torch.randn(100_000, requires_grad=True)
torch.manual_seed(0)
before = process()
loss(scores, torch.arange(100_000) % 3).backward()
after = process()
changed = [name for name in before if before[name] != after[name]]
assert not changed, changed
print("nothing changed")
"""


def test_importing_and_using_changes_nothing_in_the_process() -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_CHANGES_NOTHING], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stdout == "nothing changed\n", result.stderr
    assert result.stderr == ""


@pytest.mark.parametrize("kind", [kind for kind in LOSSES if kind != "kl"])
def test_memory_is_linear_in_the_batch(kind: str) -> None:
    # 1e4 anchors and 1e6 items: the matrix of pairs would take 40 GB
    size = 1_000_000 if kind != "map" else 300_000
    shape = (size, NUM_LABELS) if kind == "map" else (size,)
    labels = torch.zeros(shape, dtype=torch.bool)
    labels[:: size // 10_000] = True
    batch = Batch(randn(*shape).float(), labels, torch.arange(size))
    loss = make_loss(kind, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    value, gradient = step(loss, batch)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
    assert value.isfinite()
    assert bool(gradient.isfinite().all())


@each_loss
def test_values_are_what_one_would_plot(kind: str) -> None:
    # an estimate of the objective: finite, and lower once the scores are in the right order
    loss = make_loss(kind).eval()
    batch = make_batch(kind)
    value, _ = step(loss, batch)
    ordered, _ = step(loss, batch._replace(scores=batch.scores + 10.0 * (batch.labels > 0)))
    assert -INF < float(ordered) < float(value) < INF
    assert_near("perfect order", ordered, torch.tensor(0.0 if kind in PAIRS else -1.0))
