"""The state and the schedules of the losses: when they are read and written, kept, moved, saved."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from helpers import INF, NAN, assert_close
from loss_helpers import (
    NUM_LABELS,
    NUM_SAMPLES,
    Batch,
    bits_equal,
    call,
    each_loss,
    each_precision,
    each_stateful_loss,
    follow_reference,
    make_batch,
    make_batches,
    make_loss,
    state_of,
    step,
)
from torch import Tensor, nn

from xrisk_ext import MovingAverage
from xrisk_ext.losses._score_loss import ScoreLoss

Steps = list[tuple[Tensor, ...]]


def run(loss: ScoreLoss, batches: list[Batch]) -> Steps:
    """Value, gradient and, where there is one, the state after every step."""
    results: Steps = []
    for batch in batches:
        results.append(step(loss, batch))
        state = state_of(loss)
        if state is not None:
            results[-1] += (state,)
    return results


def same_steps(a: Steps, b: Steps) -> bool:
    return all(
        bits_equal(p, q) for x, y in zip(a, b, strict=True) for p, q in zip(x, y, strict=True)
    )


def version_of(loss: ScoreLoss) -> int:
    assert loss.state is not None
    return loss.state.value._version


# -------------------------------------------------------------------------------- read and written


@each_loss
def test_eval_is_the_objective_of_the_batch(kind: str) -> None:
    batch, loss = make_batch(kind, seed=1), make_loss(kind)
    stateless = step(make_loss(kind, None, gamma=1.0), batch)
    run(loss, make_batches(kind))
    if kind != "auc":
        assert not bits_equal(step(loss, batch)[0], stateless[0])
    for _ in range(2):
        for a, b in zip(step(loss.eval(), batch), stateless, strict=True):
            assert bits_equal(a, b)
        if loss.state is not None:
            loss.state.value.fill_(0.1)  # whatever it holds


@each_stateful_loss
def test_eval_leaves_the_state_bitwise_alone(kind: str) -> None:
    loss = make_loss(kind)
    run(loss, make_batches(kind))
    before, version = state_of(loss), version_of(loss)
    loss.eval()
    run(loss, make_batches(kind, count=2))
    assert bits_equal(state_of(loss), before)
    assert version_of(loss) == version


@each_stateful_loss
def test_state_is_written_once_by_forward_and_never_by_backward(kind: str) -> None:
    loss, batch = make_loss(kind), make_batch(kind)
    leaf = batch.scores.clone().requires_grad_()
    value = call(loss, batch, leaf)
    after_forward, version = state_of(loss), version_of(loss)
    value.backward(retain_graph=True)
    value.backward()
    assert bits_equal(state_of(loss), after_forward)
    assert version_of(loss) == version


@each_stateful_loss
def test_the_version_counter_is_bumped(kind: str) -> None:
    loss, batch = make_loss(kind), make_batch(kind)
    version = version_of(loss)
    step(loss, batch)
    assert version_of(loss) > version
    # so autograd sees that what it saved of the state has changed
    factor = torch.ones((), requires_grad=True)
    product = factor * loss.state.value
    step(loss, batch)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


@each_loss
def test_no_grad_in_training_updates_the_state(kind: str) -> None:
    with_grad, without = make_loss(kind), make_loss(kind)
    for batch in make_batches(kind):
        value, _ = step(with_grad, batch)
        with torch.no_grad():
            other = call(without, batch, batch.scores.clone().requires_grad_())
        assert other.grad_fn is None
        assert not other.requires_grad
        assert bits_equal(other, value)
        assert bits_equal(state_of(without), state_of(with_grad))
    constant = call(without, batch)  # scores that need no gradient
    assert constant.grad_fn is None


@each_stateful_loss
def test_update_state_false_blends_and_does_not_write(kind: str) -> None:
    loss, other = make_loss(kind), make_loss(kind)
    for batch in make_batches(kind):
        before, version = state_of(loss), version_of(loss)
        dry = [step(loss, batch, update_state=False) for _ in range(2)]
        assert bits_equal(state_of(loss), before)
        assert version_of(loss) == version
        wet = step(loss, batch, update_state=True)
        assert not bits_equal(state_of(loss), before)
        for result in dry:
            for a, b in zip(result, wet, strict=True):
                assert bits_equal(a, b)
        step(other, batch)
        assert bits_equal(state_of(loss), state_of(other))


@each_loss
def test_inference_mode(kind: str) -> None:
    loss, other = make_loss(kind), make_loss(kind)
    for batch in make_batches(kind):
        with torch.inference_mode():
            value = call(loss, batch)
        assert bits_equal(value.clone(), step(other, batch)[0])
        assert bits_equal(state_of(loss), state_of(other))
    batch = make_batch(kind, seed=9)
    for a, b in zip(step(loss, batch), step(other, batch), strict=True):  # training goes on
        assert bits_equal(a, b)
    expected = run(make_loss(kind), [batch])[0]
    with torch.inference_mode():  # its state has no version counter
        born = make_loss(kind)
        assert bits_equal(call(born, batch), expected[0])
        assert born.state is None or bits_equal(state_of(born), expected[2])


# --------------------------------------------------------------------------------------- schedules


@each_stateful_loss
@pytest.mark.parametrize("as_tensor", [False, True])
def test_gamma_may_change_at_any_time(kind: str, as_tensor: bool) -> None:
    loss = make_loss(kind, state_dtype=torch.float64)
    buffer = loss.gamma
    for k, batch in enumerate(make_batches(kind, count=5)):
        gamma = (0.875, 0.0, 1.0, 0.25, 0.5)[k]  # exact in float32
        loss.gamma = torch.tensor(gamma) if as_tensor else gamma
        assert loss.gamma is buffer  # in place: a captured graph sees it too
        assert float(loss.gamma) == gamma
        follow_reference(loss, [batch])  # the reference reads loss.gamma


@each_loss
@pytest.mark.parametrize("as_tensor", [False, True])
def test_scale_may_change_at_any_time(kind: str, as_tensor: bool) -> None:
    loss = make_loss(kind, surrogate="logistic", state_dtype=torch.float64)
    buffer, values = loss.scale, set()
    for scale in (1.0, 0.25, 3.0):
        loss.scale = torch.tensor(scale, dtype=torch.float16) if as_tensor else scale
        assert loss.scale is buffer
        loss.reset_state()
        batch = make_batch(kind)
        expected = make_loss(kind, surrogate="logistic", scale=scale, state_dtype=torch.float64)
        for a, b in zip(step(loss, batch), step(expected, batch), strict=True):
            assert bits_equal(a, b)
        values.add(float(step(loss, batch)[1].abs().sum()))
    assert len(values) == 3


@each_stateful_loss
def test_a_schedule_reaches_the_value_without_python(kind: str) -> None:
    # what a captured CUDA graph or a compiled step does: the buffer itself is written
    loss, other, batch = make_loss(kind), make_loss(kind, gamma=0.7), make_batch(kind)
    for each in (loss, other):
        each.state.value.fill_(0.5)
    loss.gamma.fill_(0.7)
    assert bits_equal(step(loss, batch)[0], step(other, batch)[0])


BAD_SCHEDULES: list[tuple[str, Any]] = [
    *(("gamma", bad) for bad in (-0.1, 1.5, NAN, INF, "often", None)),
    *(("scale", bad) for bad in (0.0, -2.0, NAN, INF, "big", None)),
    *((name, torch.tensor([0.5, 0.5])) for name in ("gamma", "scale")),
    *((name, torch.tensor(-1.0)) for name in ("gamma", "scale")),
]


@each_loss
@pytest.mark.parametrize(("name", "bad"), BAD_SCHEDULES, ids=str)
def test_a_bad_schedule_is_refused_and_the_old_one_stays(kind: str, name: str, bad: Any) -> None:
    loss = make_loss(kind)
    before = float(getattr(loss, name))
    with pytest.raises((ValueError, TypeError), match=name):
        setattr(loss, name, bad)
    assert float(getattr(loss, name)) == before
    step(loss, make_batch(kind))


@each_loss
def test_gamma_stays_one_without_state(kind: str) -> None:
    loss = make_loss(kind, None, gamma=1.0)
    loss.gamma = 1.0
    with pytest.raises(ValueError, match="gamma"):
        loss.gamma = 0.5
    assert float(loss.gamma) == 1.0


@each_stateful_loss
def test_a_bad_value_written_past_the_setter_is_refused_by_forward(kind: str) -> None:
    barrier = make_loss(kind, surrogate="barrier_hinge")
    before = state_of(barrier)
    for name, value in [("gamma", 1.5), ("gamma", NAN), ("scale", 0.5), ("scale", -1.0)]:
        buffer = getattr(barrier, name)
        good = buffer.clone()
        buffer.fill_(value)
        with pytest.raises(ValueError, match=name):
            step(barrier, make_batch(kind))
        buffer.copy_(good)
    assert bits_equal(state_of(barrier), before)


# --------------------------------------------------------------------------- kept, moved and saved


@each_stateful_loss
@each_precision
def test_state_dtype(kind: str, dtype: torch.dtype) -> None:
    loss = make_loss(kind, state_dtype=dtype)
    assert loss.state.value.dtype == dtype
    columns = () if kind == "kl" else (2,)
    assert loss.state.value.shape == (NUM_LABELS if kind == "map" else 1, NUM_SAMPLES, *columns)
    step(loss, make_batch(kind))
    assert loss.state.value.dtype == dtype
    assert make_loss(kind).state.value.dtype == torch.float32


HALVING: dict[str, Any] = {
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.bfloat16(),
    "to": lambda m: m.to(torch.float16),
    "to-kwarg": lambda m: m.to(device="cpu", dtype=torch.bfloat16),
    "_apply": lambda m: m._apply(lambda t: t.half()),
}


@each_loss
@each_precision
@pytest.mark.parametrize("way", HALVING)
def test_halving_a_model_leaves_its_loss_alone(kind: str, dtype: torch.dtype, way: str) -> None:
    loss = make_loss(kind, state_dtype=dtype)
    untouched = make_loss(kind, state_dtype=dtype)
    run(loss, make_batches(kind))
    run(untouched, make_batches(kind))
    loss.scale = 1.0 + 2**-20
    model = nn.ModuleDict({"layer": nn.Linear(2, 2), "loss": loss})
    HALVING[way](model)
    assert model["layer"].weight.dtype in (torch.float16, torch.bfloat16)
    assert model["loss"].scale.dtype == torch.float64
    assert float(model["loss"].scale) == 1.0 + 2**-20
    loss.scale = 1.0
    assert bits_equal(state_of(loss), state_of(untouched))
    assert same_steps(run(loss, make_batches(kind)), run(untouched, make_batches(kind)))


@each_loss
def test_double_promotes_the_state_and_float_brings_it_back(kind: str) -> None:
    loss = make_loss(kind)
    run(loss, make_batches(kind))
    before = state_of(loss)
    for change, dtype in [
        (loss.double, torch.float64),
        (loss.float, torch.float32),
        (lambda: loss.to(torch.float64), torch.float64),
        (lambda: loss.half(), torch.float64),  # leaves it as it is
        (lambda: loss.to("cpu"), torch.float64),
    ]:
        change()
        assert loss.gamma.dtype == loss.scale.dtype == torch.float64
        if before is not None and loss.state is not None:
            assert loss.state.value.dtype == dtype
            assert bits_equal(loss.state.value.to(before.dtype), before)
    follow_reference(loss, make_batches(kind))


@each_loss
def test_to_moves_every_buffer(kind: str) -> None:
    for arguments in ({"device": "meta"}, {"device": "meta", "dtype": torch.float16}):
        loss = make_loss(kind)
        loss.to(**arguments)
        assert {name: t.device.type for name, t in loss.named_buffers()} == dict.fromkeys(
            dict(make_loss(kind).named_buffers()), "meta"
        )


@each_loss
def test_saved_and_loaded_goes_on_bitwise(kind: str) -> None:
    batches = make_batches(kind, count=6)
    uninterrupted = make_loss(kind, surrogate="logistic")
    expected = run(uninterrupted, batches[:3])
    if kind != "auc":
        uninterrupted.gamma = 0.123456789
    uninterrupted.scale = 1.23456789
    file = io.BytesIO()
    torch.save(uninterrupted.state_dict(), file)
    expected = run(uninterrupted, batches[3:])
    file.seek(0)
    resumed = make_loss(kind, surrogate="logistic", gamma=0.9)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert float(resumed.gamma) == float(uninterrupted.gamma)
    assert float(resumed.scale) == float(uninterrupted.scale)
    assert same_steps(run(resumed, batches[3:]), expected)


@each_loss
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_go_on_alike_and_apart(kind: str, way: str) -> None:
    batches = make_batches(kind, count=6)
    loss = make_loss(kind)
    run(loss, batches[:3])
    twin = copy.deepcopy(loss) if way == "deepcopy" else pickle.loads(pickle.dumps(loss))
    before = state_of(twin)
    expected = run(loss, batches[3:])
    assert bits_equal(state_of(twin), before)  # the original has a state of its own
    assert same_steps(run(twin, batches[3:]), expected)
    if kind != "auc":
        twin.gamma = 0.75
        assert float(loss.gamma) == 0.3
        assert float(twin.gamma) == 0.75
    assert repr(twin) != ""
    assert type(twin) is type(loss)


@each_stateful_loss
@pytest.mark.parametrize("initial_state", ["assign", "zero"])
def test_reset_state_forgets(kind: str, initial_state: str) -> None:
    loss = make_loss(kind, initial_state=initial_state)
    buffer, fresh = loss.state.value, state_of(loss)
    first = run(loss, make_batches(kind))
    assert not bits_equal(state_of(loss), fresh)
    loss.reset_state()
    assert loss.state.value is buffer
    assert bits_equal(state_of(loss), fresh)
    assert same_steps(run(loss, make_batches(kind)), first)


@each_stateful_loss
def test_the_state_is_a_buffer_and_not_a_parameter(kind: str) -> None:
    loss = make_loss(kind)
    own = {"kl_weight", "eta"} if kind == "kl" else set()
    assert set(loss.state_dict()) == {"gamma", "scale", "state.value"} | own
    assert not list(loss.parameters())
    assert isinstance(loss.state, MovingAverage)
    assert not loss.state.value.requires_grad
    leaf = make_batch(kind).scores.requires_grad_()
    call(loss, make_batch(kind), leaf).backward()
    assert not loss.state.value.requires_grad
    assert_close(loss.gamma, 0.3)


@each_loss
def test_repr_says_what_it_is(kind: str) -> None:
    loss = make_loss(kind, surrogate="sigmoid", margin=0.25, scale=4.0, algorithm="direct")
    text = repr(loss)
    for part in (type(loss).__name__, "'sigmoid'", "margin=0.25", "scale=4.0", "'direct'"):
        assert part in text
    assert "reduction='mean'" in loss.extra_repr()
    if kind != "auc":
        loss.gamma = 0.625
        assert "gamma=0.625" in loss.extra_repr()
        assert str(tuple(loss.state.value.shape)) in text
        assert "float32" in loss.state.extra_repr()
