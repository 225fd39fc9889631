"""torch.compile(fullgraph=True): the same numbers and the same state as eager, one compilation."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import NAN, randn
from loss_helpers import (
    LOSSES,
    NUM_LABELS,
    NUM_SAMPLES,
    Batch,
    bits_equal,
    call,
    each_loss,
    each_stateful_loss,
    make_batch,
    make_batches,
    make_loss,
    state_of,
    step,
)
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from xrisk_ext import ops
from xrisk_ext.losses._score_loss import ScoreLoss


@pytest.fixture(autouse=True)
def one_compilation() -> Iterator[None]:
    """A second compilation of anything is an error, unless a test allows it."""
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch._dynamo.reset()


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


class Trained:
    """A small model and its loss, trained by plain SGD that is part of the step."""

    def __init__(self, kind: str, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, NUM_LABELS if kind == "map" else 1)
        )
        self.loss = make_loss(kind, **options)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        return call(self.loss, batch, self.model(x).view(batch.labels.shape)).sum()

    def step(self, x: Tensor, batch: Batch) -> Tensor:
        parameters = list(self.model.parameters())
        value = self.forward(x, batch)
        gradients = torch.autograd.grad(value, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(0.1 * gradient)
        return value.detach()

    def snapshot(self) -> list[Tensor]:
        """Weights and state."""
        state = state_of(self.loss)
        weights = [p.detach().clone() for p in self.model.parameters()]
        return weights if state is None else [*weights, state]


def features(size: int = 12, seed: int = 0) -> Tensor:
    return randn(size, 5, seed=seed + 100).float()


def assert_same_training(eager: Trained, compiled: Trained, tolerance: float = 0.0) -> None:
    for a, b in zip(compiled.snapshot(), eager.snapshot(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


# ------------------------------------------------------------------------------- a training step


# Any two of loss, weights and reduction meet, not any three: each of them takes most of a second.
STEPS = [
    (kind, weights, ("mean", "none")[(k + (weights == "entry")) % 2])
    for k, kind in enumerate(LOSSES)
    for weights in ("", "entry")
]


@pytest.mark.parametrize(("kind", "weights", "reduction"), STEPS)
def test_a_whole_step_is_one_graph(kind: str, weights: str, reduction: str) -> None:
    # model, loss, gradient and update of the weights in one graph
    eager, compiled = (Trained(kind, reduction=reduction) for _ in range(2))
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        run = torch.compile(compiled.step, fullgraph=True, backend="aot_eager")
        for k, batch in enumerate(make_batches(kind, weights=weights)):
            before = eager.snapshot()
            value = eager.step(features(seed=k), batch)
            assert torch.equal(run(features(seed=k), batch), value)
            assert_same_training(eager, compiled)
            assert not all(bits_equal(a, b) for a, b in zip(before, eager.snapshot(), strict=True))
    assert graphs() == 1


def test_inductor_trains_like_eager() -> None:
    # the common idiom: a compiled model and loss, loss.backward(), an optimizer of torch
    eager, compiled = Trained("map"), Trained("map")
    runs = [eager.forward, torch.compile(compiled.forward, fullgraph=True, backend="inductor")]
    optimizers = [torch.optim.SGD(t.model.parameters(), lr=0.1) for t in (eager, compiled)]
    for k, batch in enumerate(make_batches("map")):
        values = []
        for run, optimizer in zip(runs, optimizers, strict=True):
            optimizer.zero_grad()
            value = run(features(seed=k), batch)
            value.backward()
            optimizer.step()
            values.append(value.detach())
        torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-6)
        assert_same_training(eager, compiled, tolerance=1e-5)
    assert graphs() == 1


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(kind: str, dtype: torch.dtype) -> None:
    eager, compiled = make_loss(kind), make_loss(kind)
    run = compile_loss(compiled)
    for batch in make_batches(kind, dtype=dtype):
        expected_value, expected_gradient = step(eager, batch)
        leaf = batch.scores.clone().requires_grad_()
        value = run(batch, leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
        assert bits_equal(value.detach(), expected_value)
        assert bits_equal(gradient, expected_gradient)
        assert bits_equal(state_of(compiled), state_of(eager))


def compile_loss(loss: ScoreLoss, backend: Any = "aot_eager") -> Callable[..., Tensor]:
    def run(batch: Batch, scores: Tensor) -> Tensor:
        return call(loss, batch, scores)

    return torch.compile(run, fullgraph=True, backend=backend)  # type: ignore[no-any-return]


@each_loss
def test_under_autocast(kind: str) -> None:
    eager, compiled = Trained(kind), Trained(kind)
    run = torch.compile(compiled.forward, fullgraph=True, backend="aot_eager")
    for k, batch in enumerate(make_batches(kind)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value, other = run(features(seed=k), batch), eager.forward(features(seed=k), batch)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, other, rtol=1e-2, atol=1e-2)


@each_loss
def test_without_gradients(kind: str) -> None:
    eager, compiled = make_loss(kind), make_loss(kind)
    run = compile_loss(compiled)
    with torch.no_grad():
        for batch in make_batches(kind):
            value = run(batch, batch.scores)
            assert bits_equal(value, call(eager, batch))
            assert value.grad_fn is None
            assert bits_equal(state_of(compiled), state_of(eager))
    assert graphs() == 1


@each_stateful_loss
@pytest.mark.parametrize("training", [True, False])
def test_eval_and_update_state_false_write_nothing(kind: str, training: bool) -> None:
    loss, batch = make_loss(kind), make_batch(kind)
    step(loss, batch)
    loss.train(training)
    before, expected = state_of(loss), step(loss, batch, update_state=False)

    def dry(scores: Tensor) -> Tensor:
        return call(loss, batch, scores, update_state=not training)

    leaf = batch.scores.clone().requires_grad_()
    value = torch.compile(dry, fullgraph=True, backend="aot_eager")(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert bits_equal(value.detach(), expected[0])
    assert bits_equal(gradient, expected[1])
    assert bits_equal(state_of(loss), before)


@each_loss
def test_a_bad_batch_leaves_the_state_alone(kind: str) -> None:
    loss, batch = make_loss(kind), make_batch(kind)
    run = compile_loss(loss)
    run(batch, batch.scores.clone().requires_grad_())
    before = state_of(loss)
    leaf = batch.scores.clone()
    leaf[0] = NAN
    leaf.requires_grad_()
    value = run(batch, leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert value.isnan()
    assert gradient.isnan().all()
    assert bits_equal(state_of(loss), before)
    if kind != "auc":
        with pytest.raises(IndexError, match="index"):
            run(batch._replace(index=batch.index + NUM_SAMPLES), batch.scores.requires_grad_())
        assert bits_equal(state_of(loss), before)


# ------------------------------------------------------------------------------- one compilation


@each_stateful_loss
def test_twelve_gammas_compile_once(kind: str) -> None:
    counter = CompileCounterWithBackend("eager")
    eager, compiled = make_loss(kind), make_loss(kind)
    run, values = compile_loss(compiled, counter), set()
    for k in range(12):
        gamma: Any = (k + 0.5) / 13
        for loss in (eager, compiled):
            loss.gamma = torch.tensor(gamma) if k % 2 else gamma
        batch = make_batch(kind, seed=k)
        leaf = batch.scores.clone().requires_grad_()
        value = run(batch, leaf)
        expected_value, expected_gradient = step(eager, batch)
        assert bits_equal(value.detach(), expected_value)
        assert bits_equal(torch.autograd.grad(value, leaf)[0], expected_gradient)
        assert bits_equal(state_of(compiled), state_of(eager))
        values.add(value.item())
    assert counter.frame_count == 1
    assert len(values) == 12


@each_loss
def test_twelve_scales_compile_once(kind: str) -> None:
    counter = CompileCounterWithBackend("eager")
    loss, batch = make_loss(kind, None, gamma=1.0, surrogate="logistic"), make_batch(kind)
    run, values = compile_loss(loss, counter), set()
    for k in range(12):
        loss.scale = 0.5 + k
        value = run(batch, batch.scores)
        assert bits_equal(value, call(loss, batch))
        values.add(value.item())
    assert counter.frame_count == 1
    assert len(values) == 12


@each_loss
def test_batches_of_any_size_compile_once(kind: str) -> None:
    eager, compiled = make_loss(kind), make_loss(kind)

    def forward(scores: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        return call(compiled, Batch(scores, labels, index))

    run = torch.compile(forward, fullgraph=True, backend="aot_eager", dynamic=True)
    for k, size in enumerate((12, 40, 7, 3, 333)):
        batch = make_batch(kind, seed=k, size=size)
        leaf = batch.scores.clone().requires_grad_()
        value = run(leaf, batch.labels, batch.index)
        (gradient,) = torch.autograd.grad(value, leaf)
        expected_value, expected_gradient = step(eager, batch)
        assert bits_equal(value.detach(), expected_value)
        assert bits_equal(gradient, expected_gradient)
        assert bits_equal(state_of(compiled), state_of(eager))
    assert graphs() == 1


# ------------------------------------------------------------------------------ functional ops


@pytest.mark.parametrize("weights", [None, (30,), (2, 30)], ids=str)
@pytest.mark.parametrize("algorithm", ["direct", "sort", "smooth"])
def test_pairwise_sums(weights: tuple[int, ...] | None, algorithm: Any) -> None:
    w = None if weights is None else randn(*weights, seed=3)
    name: Any = "sigmoid" if algorithm == "smooth" else "hinge"

    def sums(anchors: Tensor, items: Tensor, scale: Tensor) -> Tensor:
        return ops.pairwise_sums(
            anchors, items, item_weights=w, scale=scale, algorithm=algorithm, surrogate=name
        )

    run = torch.compile(sums, fullgraph=True, backend="aot_eager")
    for scale in (0.5, 1.0, 2.0):  # a tensor: no guard on its value
        results = []
        for f in (run, sums):
            anchors, items = randn(20, seed=1).requires_grad_(), randn(30, seed=2).requires_grad_()
            value = f(anchors, items, torch.tensor(scale))
            upstream = randn(*value.shape, seed=4)
            results.append(
                (value.detach(), *torch.autograd.grad(value, (anchors, items), upstream))
            )
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
        assert results[0][1].any()
    assert graphs() == 1


def test_pairwise_log_sums() -> None:
    def sums(anchors: Tensor, items: Tensor, temperature: Tensor) -> Tensor:
        return ops.pairwise_log_sums(anchors, items, temperature=temperature)

    run = torch.compile(sums, fullgraph=True, backend="aot_eager")
    for temperature in (0.5, 1.0):
        results = []
        for f in (run, sums):
            anchors, items = randn(20, seed=1).requires_grad_(), randn(30, seed=2).requires_grad_()
            value = f(anchors, items, torch.tensor(temperature))
            results.append((value.detach(), *torch.autograd.grad(value.sum(), (anchors, items))))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert graphs() == 1


@pytest.mark.parametrize("log", [False, True])
def test_moving_average_update(log: bool) -> None:
    index, untouched = torch.tensor([0, 3, 3, 1]), -torch.inf if log else NAN
    states = [torch.full((5, 2), untouched) for _ in range(2)]

    def update(state: Tensor, values: Tensor, gamma: Tensor) -> Tensor:
        return ops.moving_average_update_(state, index, values, gamma, log=log) + 1.0

    run = torch.compile(update, fullgraph=True, backend="aot_eager")
    for k, gamma in enumerate((0.25, 0.5, 1.0)):
        values = randn(4, 2, seed=k).float()
        outs = [
            f(s, values, torch.tensor(gamma)) for f, s in zip((run, update), states, strict=True)
        ]
        assert torch.equal(*outs)
        assert bits_equal(*states)
    assert not states[0][:2].isnan().any()
    assert graphs() == 1
