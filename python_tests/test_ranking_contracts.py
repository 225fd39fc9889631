"""The contracts that the ranking losses and mAP@K keep: state, autograd, precision, arguments."""

import io
from typing import Any

import pytest
import torch
from helpers import INF, NAN, assert_close
from loss_helpers import bits_equal
from ranking_helpers import (
    ITEMS,
    KINDS,
    QUERIES,
    RankingBatch,
    call,
    each_kind,
    make_batch,
    make_batches,
    make_loss,
    same_states,
    states_of,
    step,
    twin,
    versions,
    warm,
)
from torch import Tensor, nn

RANKING = tuple(kind for kind in KINDS if kind != "map_at_k")
STEPPED = ("k_song", "k_song_practical", "map_at_k")  # lambda and s are state
each_ranking = pytest.mark.parametrize("kind", RANKING)
each_half = pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))


def run(loss: Any, batches: list[RankingBatch]) -> list[tuple[Tensor, ...]]:
    return [(*step(loss, batch), *states_of(loss).values()) for batch in batches]


def same_steps(a: list[tuple[Tensor, ...]], b: list[tuple[Tensor, ...]]) -> bool:
    return all(
        bits_equal(p, q) for x, y in zip(a, b, strict=True) for p, q in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6, 1e12])
def test_a_float32_state_does_not_limit_the_gradient(size: float) -> None:
    """log u of large scores has few digits in float32; a step uses more than those it stores."""
    batch = make_batch("listwise")
    batch = batch._replace(scores=size * batch.scores)
    small, large = (make_loss("listwise", state_dtype=t) for t in (torch.float32, torch.float64))
    for actual, expected in zip(step(small, batch), step(large, batch), strict=True):
        assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    for _ in range(2):
        assert all(t.isfinite().all() for t in step(small, batch))


# -------------------------------------------------------------------------------------------- state


@each_kind
def test_what_is_state(kind: str) -> None:
    loss = make_loss(kind)
    names = {"state.value", "gamma", "scale"}
    if kind in STEPPED:
        names |= {"thresholds.value", "curvatures.value"}
    if kind not in ("song", "listwise"):
        names |= {"gamma1", "eta0", "tau1", "tau2", "sigmoid_alpha"}
    assert set(loss.state_dict()) == names
    assert not list(loss.parameters())


@each_kind
def test_eval_is_the_batch_alone(kind: str) -> None:
    loss, batch = warm(kind), make_batch(kind, seed=7)
    before, version = states_of(loss), versions(loss)
    solved = {} if kind in ("song", "listwise") else {"threshold": "solve"}
    alone = make_loss(kind, None, **solved)
    for a, b in zip(step(loss.eval(), batch), step(alone, batch), strict=True):
        assert bits_equal(a, b)
    assert same_states(states_of(loss), before)
    assert versions(loss) == version


@each_kind
def test_update_state_false_blends_and_does_not_write(kind: str) -> None:
    loss = warm(kind)
    batch, before, version = make_batch(kind, seed=3), states_of(loss), versions(loss)
    dry = [step(loss, batch, update_state=False) for _ in range(2)]
    assert same_states(states_of(loss), before)
    assert versions(loss) == version
    wet = step(loss, batch)
    assert all(new > old for new, old in zip(versions(loss), version, strict=True))
    assert not same_states(states_of(loss), before)
    for result in dry:
        for a, b in zip(result, wet, strict=True):
            assert bits_equal(a, b)


@each_kind
def test_no_grad_and_inference_mode_update_the_state(kind: str) -> None:
    losses = [make_loss(kind) for _ in range(3)]
    for batch in make_batches(kind):
        value, _ = step(losses[0], batch)
        with torch.no_grad():
            other = call(losses[1], batch, batch.scores.clone().requires_grad_())
        with torch.inference_mode():
            third = call(losses[2], batch)
        assert not other.requires_grad
        for each in (other, third.clone()):
            assert bits_equal(each, value)
        for loss in losses[1:]:
            assert same_states(states_of(loss), states_of(losses[0]))


@each_kind
def test_saved_and_loaded_goes_on_bitwise(kind: str) -> None:
    batches = make_batches(kind, count=5)
    loss = make_loss(kind)
    run(loss, batches[:3])
    loss.gamma = 0.123456789
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    expected = run(loss, batches[3:])
    file.seek(0)
    resumed = make_loss(kind, gamma=0.9)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert float(resumed.gamma) == 0.123456789
    assert same_steps(run(resumed, batches[3:]), expected)


@each_kind
def test_reset_and_copies(kind: str) -> None:
    loss = make_loss(kind)
    fresh = states_of(loss)
    first = run(loss, make_batches(kind))
    other = twin(loss)
    loss.reset_state()
    assert same_states(states_of(loss), fresh)
    assert not same_states(states_of(other), fresh)
    assert same_steps(run(loss, make_batches(kind)), first)
    assert type(loss).__name__ in repr(loss)
    assert ("top_k=" in repr(loss)) == (kind not in ("song", "listwise"))


@each_kind
def test_halving_leaves_it_alone_and_double_promotes(kind: str) -> None:
    loss = warm(kind)
    before = states_of(loss)
    nn.ModuleDict({"layer": nn.Linear(1, 1), "loss": loss}).half()
    assert same_states(states_of(loss), before)
    loss.double()
    assert all(state.dtype == torch.float64 for state in states_of(loss).values())
    assert all(b.dtype == torch.float64 for b in loss.buffers())
    step(loss, make_batch(kind))
    assert {t.device.type for t in loss.to("meta").buffers()} == {"meta"}


@each_kind
def test_schedules_are_set_in_place(kind: str) -> None:
    loss = make_loss(kind)
    values = {"gamma": 0.5, "gamma1": 0.25, "eta0": 0.5, "tau1": 0.125, "tau2": 0.0}
    values["sigmoid_alpha"] = 3.0
    for name, value in values.items():
        if name not in loss._buffers:
            continue
        buffer = getattr(loss, name)
        setattr(loss, name, value)
        assert getattr(loss, name) is buffer
        assert float(buffer) == value
        for bad in (NAN, -1.0, "much", None, torch.ones(2)):
            with pytest.raises((ValueError, TypeError), match=name):
                setattr(loss, name, bad)
        assert float(buffer) == value
    step(loss, make_batch(kind))
    changed = make_loss(kind, **{k: v for k, v in values.items() if k in loss._buffers})
    for a, b in zip(
        step(changed, make_batch(kind, seed=5)),
        step(make_loss(kind), make_batch(kind, seed=5)),
        strict=True,
    ):
        assert kind in ("song", "listwise") or not bits_equal(a, b)


@pytest.mark.parametrize("name", ["gamma1", "eta0", "tau1", "tau2", "sigmoid_alpha", "gamma"])
def test_a_bad_value_written_past_the_setter_is_refused_by_forward(name: str) -> None:
    loss = warm("k_song")
    before = states_of(loss)
    getattr(loss, name).fill_(-1.0)
    with pytest.raises(ValueError, match=name):
        step(loss, make_batch("k_song"))
    assert same_states(states_of(loss), before)


# ----------------------------------------------------------------------------------------- autograd


@each_kind
def test_backward_twice_and_upstream(kind: str) -> None:
    batch = make_batch(kind)
    loss, other = make_loss(kind), make_loss(kind)
    leaf = batch.scores.clone().requires_grad_()
    value = call(loss, batch, leaf)
    after = states_of(loss)
    value.backward(retain_graph=True)
    value.backward()
    assert same_states(states_of(loss), after)
    _, gradient = step(other, batch, torch.tensor(2.0))
    assert_close(leaf.grad, gradient)


@each_kind
def test_double_backward_says_that_it_is_not_known(kind: str) -> None:
    leaf = make_batch(kind).scores.clone().requires_grad_()
    value = call(make_loss(kind), make_batch(kind), leaf)
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        gradient.sum().backward()


@each_kind
@pytest.mark.parametrize("layout", ["full", "ragged"])
def test_reduction_none_is_one_value_each(kind: str, layout: str) -> None:
    count = ITEMS if kind == "map_at_k" else QUERIES
    mean, none = make_loss(kind), make_loss(kind, reduction="none")
    for batch in make_batches(kind, layout=layout):
        value, gradient = step(mean, batch)
        values, gradients = step(none, batch)
        assert values.shape == (count,)
        assert_close(values.mean(), value, rtol=1e-6)
        assert_close(gradients / count, gradient, rtol=1e-6, atol=1e-9)
        # each value has its own upstream gradient
        weights = torch.arange(count, dtype=torch.float64)
        _, weighted = step(none, batch, weights, update_state=False)
        _, ones = step(none, batch, update_state=False)
        if kind == "map_at_k":
            expected = ones * weights
        elif batch.offsets is None:
            expected = ones * weights[:, None]
        else:
            expected = ones * weights.repeat_interleave(batch.offsets.diff())
        assert_close(weighted, expected)
    assert same_states(states_of(mean), states_of(none))


@each_kind
@each_half
def test_halves_are_computed_in_float32(kind: str, dtype: torch.dtype) -> None:
    half, single, auto = make_loss(kind), make_loss(kind), make_loss(kind)
    for batch in make_batches(kind, dtype=dtype):
        upstream = torch.tensor(1024.0)
        value, gradient = step(half, batch, upstream)
        wide = batch._replace(scores=batch.scores.float())
        expected_value, expected = step(single, wide, upstream)
        assert bits_equal(value, expected_value)
        assert bits_equal(gradient, expected.to(dtype))
        with torch.autocast("cpu", dtype=dtype):
            assert bits_equal(step(auto, wide, upstream)[1], expected)
    assert same_states(states_of(half), states_of(single))


@pytest.mark.parametrize("kind", ["song", "k_song", "map_at_k"])
def test_grad_scaler_with_float16(kind: str) -> None:
    model = nn.Linear(3, 1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch, loss = make_batch(kind), make_loss(kind)
    with torch.autocast("cpu", dtype=torch.float16):
        scores = model(torch.randn(QUERIES, ITEMS, 3)).squeeze(-1)
        value = call(loss, batch, scores)
    before = model.weight.detach().clone()
    scaler.scale(value).backward()
    scaler.step(optimizer)
    scaler.update()
    assert bool(model.weight.isfinite().all())
    assert not torch.equal(model.weight, before)


@each_kind
def test_compiled_is_eager(kind: str) -> None:
    torch._dynamo.reset()
    loss, other = make_loss(kind), make_loss(kind)

    def forward(scores: Tensor, batch: RankingBatch) -> Tensor:
        return call(loss, batch, scores * 1.0)

    compiled = torch.compile(forward, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch in make_batches(kind):
            leaf = batch.scores.clone().requires_grad_()
            value = compiled(leaf, batch)
            value.backward()
            expected_value, expected = step(other, batch)
            assert bits_equal(value.detach(), expected_value)
            assert_close(leaf.grad, expected)
            assert same_states(states_of(loss), states_of(other))
            loss.gamma = other.gamma = 0.25
    torch._dynamo.reset()


# ----------------------------------------------------------------------------------- empty and bad


@each_ranking
def test_empty_queries_give_zero_and_leave_the_state_alone(kind: str) -> None:
    loss = warm(kind, reduction="none")
    before = states_of(loss)
    batch = make_batch(kind, seed=1)
    nothing = torch.zeros_like(batch.relevance)
    empties = [batch._replace(relevance=nothing)]
    empties += [batch._replace(mask=nothing.bool())]
    empties += [batch._replace(weights=nothing.double())]
    empties += [RankingBatch(*(t[:, :0] for t in batch[:3]), batch.query_index)]
    empties += [RankingBatch(*(t[:0] for t in batch[:4]))]
    flat = RankingBatch(*(t.reshape(-1)[:0] for t in batch[:3]), batch.query_index)
    empties += [flat._replace(offsets=torch.zeros(QUERIES + 1, dtype=torch.int64))]
    if kind != "listwise":
        empties += [batch._replace(sizes={"ideal_dcg": 0.0})]
    for empty in empties:
        values, gradient = step(loss, empty)
        assert not values.any()
        assert not gradient.any()
        assert same_states(states_of(loss), before)
        mean = make_loss(kind)
        assert float(call(mean, empty)) == 0.0


def test_an_empty_label_of_map_at_k() -> None:
    loss = warm("map_at_k", reduction="none")
    before, batch = states_of(loss), make_batch("map_at_k", seed=1)
    labels = batch.relevance.clone()
    labels[:, 4] = 0
    values, gradient = step(loss, batch._replace(relevance=labels))
    assert float(values[4]) == 0.0
    assert not gradient[:, 4].any()
    for name, state in states_of(loss).items():
        assert bits_equal(state[4], before[name][4])
    assert float(call(loss, batch._replace(relevance=torch.zeros_like(labels))).sum()) == 0.0


def test_map_at_k_and_a_bad_score() -> None:
    loss, batch = warm("map_at_k", reduction="none"), make_batch("map_at_k", seed=1)
    before, scores = states_of(loss), batch.scores.clone()
    scores[1, 0] = INF  # a label whose first entry is positive
    values, gradient = step(loss, batch._replace(scores=scores))
    assert values[0].isnan()
    assert bool(gradient[:, 0].isnan().all())
    assert bool(values[1:].isfinite().all())
    for name, state in states_of(loss).items():
        assert bits_equal(state[0], before[name][0])
