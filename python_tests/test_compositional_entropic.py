"""Extreme classification: steps against the reference and LibAUC, identities, contracts."""

import copy
import math
from typing import Any

import pytest
import torch
from helpers import randn
from libauc.losses.xc import EntLossClassification
from torch import Tensor

import xrisk_ext as xr
from xrisk_ext import CompositionalEntropicLoss, libauc, reference

NUM_SAMPLES, CLASSES, DIM = 12, 9, 5
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
each_method = pytest.mark.parametrize("method", ["sox", "scent"])


def make(method: str = "sox", **options: Any) -> CompositionalEntropicLoss:
    defaults: dict[str, Any] = {"gamma": 0.6, "alpha": 0.4, "kappa": 1.3}
    defaults["state_dtype"] = torch.float64
    return CompositionalEntropicLoss(NUM_SAMPLES, method=method, **{**defaults, **options})  # type: ignore[arg-type]


def batch(seed: int = 0, size: int = 7, classes: int = CLASSES) -> tuple[Tensor, ...]:
    """Ids come back, within the batch and from one to the next."""
    generator = torch.Generator().manual_seed(seed)
    x, w = randn(size, DIM, seed=seed), randn(classes, DIM, seed=1)
    targets = torch.randint(classes, (size,), generator=generator)
    index = torch.randint(NUM_SAMPLES - 1, (size,), generator=generator)
    index[1:2] = index[:1]
    return x.requires_grad_(), w.requires_grad_(), targets, index


def step(
    loss: CompositionalEntropicLoss, inputs: tuple[Tensor, ...], **options: Any
) -> list[Tensor]:
    value = loss(*inputs, **options)
    return [value.detach(), *torch.autograd.grad(value.mean(), inputs[:2])]


def expected(
    loss: CompositionalEntropicLoss, inputs: tuple[Tensor, ...], state: Tensor | None
) -> tuple[Tensor, ...]:
    alpha = loss.alpha if loss.method == "scent" else None
    detached = [t.detach() for t in inputs]
    return reference.compositional_entropic(
        *detached, state, loss.gamma, alpha=alpha, kappa=loss.kappa
    )


def assert_same(found: Any, wanted: Any) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@each_method
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_steps_are_those_of_the_reference(method: str, reduction: str) -> None:
    loss = make(method, reduction=reduction)
    assert loss.state is not None
    state = loss.state.value.clone()
    for seed in range(4):
        inputs = batch(seed)
        values, *gradients = expected(loss, inputs, state)
        wanted = values if reduction == "none" else values.mean()
        assert_same(step(loss, inputs), [wanted, *gradients])
        torch.testing.assert_close(loss.state.value, state, **CLOSE)
    assert bool(state.isinf().any())  # the last id was never seen


@each_method
def test_libauc_agrees(method: str) -> None:
    options = {"alpha": 0.4, "alpha_multiplier": 1.3}
    theirs = EntLossClassification(NUM_SAMPLES, gamma=0.6, is_scent=method == "scent", **options)
    theirs.nu = theirs.nu.double()
    loss = make(method)
    assert loss.state is not None
    for seed in range(4):
        x, w, targets, index = batch(seed, size=4)
        index = torch.arange(4) + 2 * seed  # its duplicates are written in no certain order
        s = x @ w.T
        value = theirs(s - s.gather(1, targets[:, None]), index)["loss"]
        wanted = torch.autograd.grad(value, (x, w))
        found = step(loss, (x, w, targets, index))
        assert_same(found[1:], wanted)
        seen = theirs.nu[:, 0] != 0
        assert_same([loss.state.value[seen]], [theirs.nu[seen, 0]])


@pytest.mark.parametrize("is_scent", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_dropin_takes_one_step_of_what_it_composes_elsewhere(
    is_scent: bool, training: bool
) -> None:
    fused, composed = (
        libauc.EntLossClassification(NUM_SAMPLES, 0.4, 0.6, is_scent, 1.3).double().train(training)
        for _ in range(2)
    )
    for seed in range(3):
        *_, index = batch(seed)
        index[2:3] = 3 + seed  # id 3 comes back
        logits = randn(7, 40, seed=seed).requires_grad_()
        value, other = fused(logits, index)["loss"], composed._composed(logits, index)
        assert_same([value], [other])
        assert_same(torch.autograd.grad(value, logits), torch.autograd.grad(other, logits))
    assert_same([fused.nu], [composed.nu])
    assert bool((fused.nu != 0).any()) == training


def test_the_dropin_refuses_bad_input_before_anything_is_written() -> None:
    loss = libauc.EntLossClassification(NUM_SAMPLES)
    logits, index = randn(7, 5), torch.arange(7)
    for error, match, arguments in [
        (TypeError, "logits", (logits.long(), index)),
        (ValueError, "logits", (logits[:, :0], index)),
        (ValueError, "index", (logits, index[1:])),
        (IndexError, "index", (logits, index + NUM_SAMPLES)),
    ]:
        with pytest.raises(error, match=match):
            loss(*arguments)
    assert not bool(loss.nu.any())
    logits[1, 2] = math.nan
    assert loss(logits, index)["loss"].isnan()
    assert (loss.nu[:7, 0] == 0).tolist() == [k == 1 for k in range(7)]


@pytest.mark.parametrize("how", ["no state", "gamma=1", "eval"])
def test_with_gamma_one_it_is_softmax_cross_entropy(how: str) -> None:
    loss = {
        "no state": lambda: CompositionalEntropicLoss(None, gamma=1.0),
        "gamma=1": lambda: make(gamma=1.0),
        "eval": lambda: make("scent").eval(),
    }[how]()
    x, w, targets, index = batch()
    index = torch.arange(7)
    value = torch.nn.functional.cross_entropy(x @ w.T, targets)
    assert_same(step(loss, (x, w, targets, index)), [value, *torch.autograd.grad(value, (x, w))])
    if how == "eval":
        assert bool(loss.state.value.isinf().all())  # type: ignore[union-attr]
        assert_same([loss(x, w, targets)], [value])  # ids are not needed


def test_defect_large_logits_overflow() -> None:
    """LibAUC exponentiates logits as they are: the state of a sample is lost for ever."""
    x, w, targets, index = (t.detach() for t in batch())
    x = 200 * x.float()
    s = x @ w.float().T
    theirs = EntLossClassification(NUM_SAMPLES, is_scent=False)
    theirs(s - s.gather(1, targets[:, None]), index)
    assert bool(theirs.nu.isinf().any())
    loss = make(gamma=0.5)
    for _ in range(2):
        results = step(loss, (x.requires_grad_(), w.float().requires_grad_(), targets, index))
        assert all(r.isfinite().all() for r in results)
    assert bool(loss.state.value[index].isfinite().all())  # type: ignore[union-attr]


@pytest.mark.parametrize("classes", [1, 2])
def test_few_classes(classes: int) -> None:
    loss = make(gamma=1.0)
    x, w, targets, _ = batch(classes=classes)
    found = step(loss, (x, w, targets, torch.arange(7)))
    value = torch.nn.functional.cross_entropy(x @ w.T, targets)
    torch.testing.assert_close(found[0], value.detach(), **CLOSE)
    assert all(r.isfinite().all() for r in found)


def test_gradcheck_without_state() -> None:
    loss = CompositionalEntropicLoss(None, gamma=1.0)
    x, w, targets, _ = batch(size=4)
    assert torch.autograd.gradcheck(lambda x, w: loss(x, w, targets), (x, w))


# ---------------------------------------------------------------------------------------- contracts


@each_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes_and_autocast(method: str, dtype: torch.dtype) -> None:
    loss, other = make(method), make(method)
    x, w, targets, index = batch()
    inputs = (x.detach().to(dtype).requires_grad_(), w.detach().to(dtype).requires_grad_())
    values, *gradients = expected(loss, (*inputs, targets, index), loss.state.value.clone())  # type: ignore[union-attr]
    found = step(loss, (*inputs, targets, index))
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found[0].double(), values.mean(), rtol=1e-5, atol=1e-5)
    eps = torch.finfo(dtype).eps
    for ours, theirs in zip(found[1:], gradients, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=4 * eps, atol=4 * eps + 1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = other(*inputs, targets, index)
    assert torch.equal(lowered.detach(), found[0])


@each_method
def test_state_is_saved_and_resumed_bit_by_bit(method: str) -> None:
    loss, resumed = make(method), make(method, gamma=0.1, alpha=9.0)
    step(loss, batch(0))
    resumed.load_state_dict(copy.deepcopy(loss.state_dict()))
    for ours, theirs in zip(step(loss, batch(1)), step(resumed, batch(1)), strict=True):
        assert torch.equal(ours, theirs)
    loss.reset_state()
    assert bool(loss.state.value.isinf().all())  # type: ignore[union-attr]


@each_method
def test_update_state_false_blends_and_writes_nothing(method: str) -> None:
    loss = make(method)
    assert loss.state is not None
    step(loss, batch(0))
    before = loss.state.value.clone()
    tried = step(loss, batch(1), update_state=False)
    assert torch.equal(loss.state.value, before)
    assert_same(tried, step(loss, batch(1)))
    assert not torch.equal(loss.state.value, before)
    with torch.no_grad():
        before = loss.state.value.clone()
        loss(*batch(2))
    assert not torch.equal(loss.state.value, before)


@each_method
def test_features_that_are_not_finite_give_nan_and_leave_the_state(method: str) -> None:
    loss = make(method)
    assert loss.state is not None
    x, w, targets, index = batch()
    with torch.no_grad():
        x[3, 0] = math.nan
    assert loss(x, w, targets, index).isnan()
    assert not bool(loss.state.value.isnan().any())
    assert loss(*batch(1)).isfinite()


@each_method
def test_an_empty_batch_gives_zero(method: str) -> None:
    loss = make(method)
    x, w, targets, index = batch(size=0)
    value, gradient, by_class = step_of_sum(loss, (x, w, targets, index))
    assert float(value) == 0.0
    assert gradient.shape == (0, DIM)
    assert not bool(by_class.any())


def step_of_sum(loss: CompositionalEntropicLoss, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    value = loss(*inputs)
    return [value.detach(), *torch.autograd.grad(value, inputs[:2])]


def test_bad_input_is_refused_before_anything_is_written() -> None:
    loss = make()
    assert loss.state is not None
    x, w, targets, index = batch()
    for error, match, arguments in [
        (TypeError, "features", (None, w, targets, index)),
        (TypeError, "class_weights", (x, w.long(), targets, index)),
        (TypeError, "targets", (x, w, targets.float(), index)),
        (TypeError, "index", (x, w, targets, index.tolist())),
        (ValueError, "features", (x[0], w, targets, index)),
        (ValueError, "class_weights", (x, w[:, 1:], targets, index)),
        (ValueError, "targets", (x, w, targets[1:], index)),
        (ValueError, "index", (x, w, targets, index[1:])),
        (ValueError, "index", (x, w, targets)),
        (IndexError, "targets", (x, w, targets + CLASSES, index)),
        (IndexError, "targets", (x, w, targets - CLASSES, index)),
        (IndexError, "index", (x, w, targets, index + NUM_SAMPLES)),
        (IndexError, "index", (x, w, targets, index - NUM_SAMPLES)),
    ]:
        with pytest.raises(error, match=match):
            loss(*arguments)
    assert bool(loss.state.value.isinf().all())
    for match, options in [
        ("num_samples", {"num_samples": 0}),
        ("num_samples", {"num_samples": None}),
        ("num_samples", {"num_samples": None, "gamma": 1.0, "method": "scent"}),
        ("method", {"method": "adam"}),
        ("gamma", {"gamma": 1.5}),
        ("alpha", {"alpha": math.inf}),
        ("kappa", {"kappa": -1.0}),
        ("reduction", {"reduction": "sum"}),
        ("state_dtype", {"state_dtype": torch.float16}),
    ]:
        with pytest.raises(ValueError, match=match):
            CompositionalEntropicLoss(**{"num_samples": 3, **options})
    stateless = CompositionalEntropicLoss(None, gamma=1.0)
    with pytest.raises(ValueError, match="gamma"):
        stateless.gamma = 0.5  # type: ignore[assignment]


def test_no_matrix_of_logits() -> None:
    rows = 2048
    x, w = torch.randn(rows, 4, requires_grad=True), torch.randn(rows, 4, requires_grad=True)
    loss = CompositionalEntropicLoss(rows)
    with torch.profiler.profile(profile_memory=True) as profile:
        loss(x, w, torch.arange(rows), torch.arange(rows)).backward()
    largest = max(e.self_cpu_memory_usage for e in profile.key_averages())
    assert largest < rows * rows  # bytes; the logits have four times as many


@each_method
def test_compiles_without_a_break(method: str) -> None:
    loss, eager = make(method), make(method)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for seed, gamma in enumerate((0.6, 0.7)):
        loss.gamma = eager.gamma = gamma  # type: ignore[assignment]
        inputs = batch(seed)
        found, wanted = compiled(*inputs), eager(*inputs)
        torch.testing.assert_close(found, wanted)
        assert_same(torch.autograd.grad(found, inputs[:2]), torch.autograd.grad(wanted, inputs[:2]))
    assert_same([loss.state.value], [eager.state.value])  # type: ignore[union-attr]


def test_one_derivative() -> None:
    inputs = batch()
    value = make()(*inputs)
    first = torch.autograd.grad(value, inputs[0], retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(value, inputs[0])[0])
    (gradient,) = torch.autograd.grad(make()(*inputs), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        gradient.sum().backward()


def test_it_is_public() -> None:
    assert xr.losses.CompositionalEntropicLoss is CompositionalEntropicLoss
    assert "scent" in repr(make("scent"))
