"""Partial AUC and the push losses on a GPU: agreement with the CPU, no wait for the device.

Skipped where this build has no CUDA kernels or no GPU is there; `make gpu-check` runs it where one
is. The kernels' own source runs in CI without a GPU: csrc/tests/cuda/test_partial_auc_step.cu.
"""

from collections.abc import Iterator

import pytest
import torch
from helpers import NAN, randn
from loss_helpers import NUM_SAMPLES, Batch
from top_loss_helpers import (
    close,
    each_rule,
    each_width,
    make_top_batch,
    make_top_loss,
    states_of,
    top_step,
)

from xrisk_ext import _C

pytestmark = pytest.mark.skipif(
    not (_C.build_info()["cuda"] and torch.cuda.is_available()),
    reason="NOT RUN: no GPU, or a build without CUDA kernels",
)


@pytest.fixture
def no_sync() -> Iterator[None]:
    torch.cuda.synchronize()
    yield
    torch.cuda.set_sync_debug_mode("default")


def on_gpu(batch: Batch) -> Batch:
    return Batch(*(None if t is None else t.cuda() for t in batch))  # type: ignore[arg-type]


@each_rule
@each_width
@pytest.mark.parametrize("weights", ["", "label"])
@pytest.mark.parametrize("size", [1, 64, 1500])  # in one launch, and composed
def test_steps_agree_with_the_cpu(
    rule: str, num_labels: int | None, weights: str, size: int
) -> None:
    options = {"num_labels": num_labels, "state_dtype": torch.float64}
    here, there = (make_top_loss(rule, **options) for _ in range(2))
    there = there.cuda()
    for seed in range(3):
        batch = make_top_batch(rule, num_labels, seed, size, weights)
        value, gradient = top_step(here, batch)
        gpu_value, gpu_gradient = top_step(there, on_gpu(batch))
        close("value", gpu_value.cpu(), value, 1e-9)
        close("gradient", gpu_gradient.cpu(), gradient, 1e-9)
        for name, state in states_of(there).items():
            close(name, state.cpu(), states_of(here)[name], 1e-9)


@each_rule
@pytest.mark.parametrize("name", ["hinge", "barrier_hinge", "logistic", "squared"])
@pytest.mark.parametrize("size", [64, 1500])
def test_surrogates_agree_with_the_cpu(rule: str, name: str, size: int) -> None:
    here, there = (make_top_loss(rule, surrogate=name, scale=1.3) for _ in range(2))
    batch = make_top_batch(rule, size=size)
    expected, actual = top_step(here, batch), top_step(there.cuda(), on_gpu(batch))
    for a, b in zip(actual, expected, strict=True):
        close("step", a.cpu(), b, 1e-9)


@each_rule
def test_a_large_batch_agrees_with_the_cpu(rule: str) -> None:
    size = 70_000
    labels = (torch.arange(size) % 100 == 0).long()
    if rule == "p_norm_push":
        labels = 1 - labels
    batch = Batch(randn(size).float(), labels, torch.arange(size))
    here, there = make_top_loss(rule, size), make_top_loss(rule, size).cuda()
    expected, actual = top_step(here, batch), top_step(there, on_gpu(batch))
    for a, b in zip(actual, expected, strict=True):
        close("step", a.cpu(), b, 1e-3 if "cvar" in rule else 1e-4)


@each_rule
@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("size", [64, 3000])
def test_a_step_does_not_wait_for_the_device(rule: str, size: int) -> None:
    loss = make_top_loss(rule).cuda()
    batch = on_gpu(make_top_batch(rule, size=size))
    top_step(loss, batch)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    top_step(loss, batch)


@each_rule
def test_bad_scores_and_ids_leave_the_state(rule: str) -> None:
    loss = make_top_loss(rule).cuda()
    batch = make_top_batch(rule)
    top_step(loss, on_gpu(batch))
    before = states_of(loss)
    scores = batch.scores.clone()
    scores[0] = NAN
    value, gradient = top_step(loss, on_gpu(batch._replace(scores=scores)))
    assert value.isnan()
    assert gradient.isnan().all()
    for name, state in states_of(loss).items():
        assert torch.equal(state, before[name])
    far = batch._replace(index=batch.index + NUM_SAMPLES)  # never read or written
    top_step(loss, on_gpu(far))
    if loss.state is not None:
        assert torch.equal(loss.state.value, before["state"])


def test_labels_of_one_class_are_zero() -> None:
    for labels in (torch.zeros(50), torch.ones(50)):
        batch = Batch(randn(50), labels, torch.arange(50) % NUM_SAMPLES)
        value, gradient = top_step(make_top_loss("kl").cuda(), on_gpu(batch))
        assert float(value) == 0.0
        assert not gradient.any()
