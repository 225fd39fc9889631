"""The contracts that the contrastive losses keep: precision, autograd, threads, state.

Arguments, empty batches and what is not finite: test_contrastive_input.py.
"""

import copy
import io

import pytest
import torch
from contrastive_helpers import (
    Truth,
    Views,
    buffers,
    each_kind,
    make,
    make_views,
    same,
    step,
)
from helpers import each_dtype
from loss_helpers import bits_equal, each_half
from torch import Tensor

from xrisk_ext.losses._contrastive_loss import ContrastiveLoss

# ----------------------------------------------------------------------------- precision, autograd


@each_kind
@each_dtype
def test_every_dtype(kind: str, dtype: torch.dtype) -> None:
    batches = [make_views(10 * k, dtype=dtype) for k in range(3)]
    for views in batches:
        follow_reference_loosely(make(kind), views)


@each_kind
@pytest.mark.parametrize("size", [1.0, 1e3, 1e6])
def test_a_float32_state_does_not_limit_the_gradient(kind: str, size: float) -> None:
    """log u of large exponents has few digits in float32; a step uses more than those it stores."""
    views = make_views()
    views = views._replace(first=size * views.first, second=size * views.second)
    small, large = (
        make(kind, normalize=False, state_dtype=t) for t in (torch.float32, torch.float64)
    )
    (_, *actual), (_, *expected) = step(small, views), step(large, views)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))
    for _ in range(2):
        assert all(t.isfinite().all() for t in step(small, views))


def follow_reference_loosely(loss: ContrastiveLoss, views: Views) -> None:
    truth = Truth(loss)
    actual, expected = step(loss, views), truth.step(views)
    for a, e in zip(actual[:3], expected[:3], strict=True):
        eps = max(torch.finfo(a.dtype).eps, 3e-6)
        assert float((a.double() - e).abs().max()) <= eps * float(e.abs().max()) + 1e-7


@each_kind
@each_half
@pytest.mark.parametrize("bfloat16", ["float32"], indirect=True)
def test_halves_are_computed_in_float32(kind: str, dtype: torch.dtype, bfloat16: str) -> None:
    half, single = make(kind), make(kind)
    for k in range(3):
        views = make_views(10 * k, dtype=dtype)
        actual = step(half, views)
        expected = step(single, Views(views.first.float(), views.second.float(), views.index))
        assert bits_equal(actual[0], expected[0])
        for a, e in zip(actual[1:3], expected[1:3], strict=True):
            assert bits_equal(a, e.to(dtype))  # cast last, once
    assert same(buffers(half), buffers(single))


@each_kind
@each_half
def test_autocast_lowers_nothing(kind: str, dtype: torch.dtype) -> None:
    plain, inside = make(kind), make(kind)
    for k in range(3):
        views = make_views(10 * k, size=30, width=24, dtype=torch.float32)
        expected = step(plain, views)
        with torch.autocast("cpu", dtype=dtype):
            actual = step(inside, views)
            # what the test is there to see
            assert (views.first @ views.second.T).dtype == dtype
        for a, e in zip(actual, expected, strict=True):
            assert bits_equal(a, e)


@each_kind
def test_grad_scaler_and_accumulation(kind: str) -> None:
    views = make_views(dtype=torch.float16)
    weight = views.first.float().requires_grad_()
    half = weight.half()
    half.retain_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    value = make(kind)(half, views.second, views.index)
    scaler.scale(value).backward(retain_graph=True)
    assert half.grad is not None
    once = half.grad.clone()
    _, plain, _, _ = step(make(kind), Views(*(v.float() for v in views[:2]), views.index))
    assert bits_equal(once, (plain * 2.0**10).half())
    scaler.scale(value).backward()  # retained, and added
    assert bits_equal(half.grad, once + once)
    scaler.step(optimizer)
    assert bool(weight.isfinite().all())


@each_kind
def test_only_what_is_asked_for_gets_a_gradient(kind: str) -> None:
    views = make_views()
    _, expected, _, _ = step(make(kind), views)
    first = views.first.clone().requires_grad_()
    make(kind)(first, views.second, views.index).backward()
    assert first.grad is not None
    assert bits_equal(first.grad, expected)
    loss = make(kind)
    both = loss(first, first, views.index)  # one tensor as both views
    (gradient,) = torch.autograd.grad(both, first)
    again = step(make(kind), views._replace(second=views.first))
    torch.testing.assert_close(gradient, again[1] + again[2])


@each_kind
def test_second_derivative_raises(kind: str) -> None:
    views = make_views()
    first = views.first.clone().requires_grad_()
    value = make(kind)(first, views.second, views.index)
    (gradient,) = torch.autograd.grad(value, first, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        gradient.sum().backward()


@each_kind
def test_threads_change_nothing(kind: str, restore_threads: None) -> None:
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        loss = make(kind, 400)
        views = [
            Views(v.first, v.second, torch.arange(300) % 290)
            for v in (make_views(k, size=300, width=48, dtype=torch.float32) for k in (0, 1))
        ]
        results.append([t for v in views for t in step(loss, v)] + buffers(loss))
    assert same(*results)


@each_kind
def test_compiles(kind: str) -> None:
    torch._dynamo.reset()

    def train(loss: ContrastiveLoss, first: Tensor, second: Tensor, index: Tensor) -> Tensor:
        return 2.0 * loss(first, second, index)

    compiled = torch.compile(train, fullgraph=True, backend="aot_eager")
    plain, traced = make(kind), make(kind)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for k, gamma in enumerate((0.3, 0.5, 0.9)):
            views = make_views(10 * k)
            plain.gamma = traced.gamma = gamma
            results = []
            for f, loss in ((train, plain), (compiled, traced)):
                first = views.first.clone().requires_grad_()
                value = f(loss, first, views.second, views.index)
                results.append([value.detach(), *torch.autograd.grad(value, first)])
            assert same(*results)
    assert same(buffers(plain), buffers(traced))


# ------------------------------------------------------------------------------------------- state


@each_kind
def test_eval_neither_reads_nor_writes_the_state(kind: str) -> None:
    loss, views = make(kind), make_views(20)
    step(loss, make_views(0))
    before = buffers(loss)
    loss.eval()
    actual = step(loss, views)
    assert same(buffers(loss), before)
    fresh = make(kind).eval()
    assert same(list(actual), list(step(fresh, views)))
    first = views.first.clone().requires_grad_()
    loss(first, views.second).backward()  # no index
    assert first.grad is not None
    assert bits_equal(first.grad, actual[1])


@each_kind
def test_no_grad_updates_the_state(kind: str) -> None:
    plain, quiet = make(kind), make(kind)
    for k in range(2):
        views = make_views(10 * k)
        value = step(plain, views)[0]
        with torch.no_grad():
            assert bits_equal(quiet(*views), value)
    assert same(buffers(plain), buffers(quiet))


@each_kind
def test_update_state_false_blends_but_writes_nothing(kind: str) -> None:
    loss = make(kind)
    step(loss, make_views(0))
    before, views = buffers(loss), make_views(10)
    dry = step(loss, views, update_state=False)
    assert same(buffers(loss), before)
    assert same(list(dry), list(step(loss, views)))
    assert not same(buffers(loss), before)


@each_kind
def test_resume_is_bitwise(kind: str) -> None:
    loss = make(kind)
    step(loss, make_views(0))
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    resumed = make(kind, temperature=0.06, gamma=0.5)
    resumed.load_state_dict(torch.load(file))
    for k in (1, 2):
        assert same(list(step(loss, make_views(k))), list(step(resumed, make_views(k))))
    assert same(buffers(loss), buffers(resumed))
    loss.reset_state()
    assert same(list(step(loss, make_views(3))), list(step(make(kind), make_views(3))))


@each_kind
def test_the_state_keeps_its_precision(kind: str) -> None:
    loss = make(kind).bfloat16()
    assert loss.state is not None
    assert loss.state.value.dtype == torch.float32
    assert loss.gamma.dtype == torch.float64
    if loss.temperatures is not None:
        assert loss.temperatures.value.dtype == torch.float32
        assert loss.double().temperatures.value.dtype == torch.float64  # type: ignore[union-attr]
    assert loss.double().state.value.dtype == torch.float64  # type: ignore[union-attr]
    step(loss, make_views(0))


@each_kind
def test_first_touch_is_per_entry(kind: str) -> None:
    loss, gentle = make(kind), make(kind, gamma=1.0)
    seen = make_views(0)._replace(index=torch.arange(7))
    step(loss, seen)
    step(gentle, seen)
    # gamma does not matter at the first touch, whatever else was touched before
    assert loss.state is not None
    assert gentle.state is not None
    assert bits_equal(loss.state.value, gentle.state.value)
    mixed = make_views(1)._replace(index=torch.tensor([7, 8, 0, 1, 2, 3, 4]))
    fresh = make(kind, gamma=1.0)
    if loss.temperatures is None:  # they have moved
        step(loss, mixed)
        step(fresh, mixed)
        assert fresh.state is not None
        assert bits_equal(loss.state.value[:, 7:], fresh.state.value[:, 7:])


@each_kind
def test_order_does_not_matter_with_duplicate_ids(kind: str) -> None:
    views = make_views(0, size=12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    one = make(kind, state_dtype=torch.float64)
    other = make(kind, state_dtype=torch.float64)
    for _ in range(2):
        a = step(one, views)
        b = step(other, Views(*(t[order] for t in views)))
        torch.testing.assert_close(a[1][order], b[1], rtol=1e-9, atol=1e-12)
    for x, y in zip(buffers(one), buffers(other), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


@each_kind
def test_steps_do_not_leak(kind: str) -> None:
    # LibAUC's u keeps the graph of every step
    loss, views = make(kind), make_views(dtype=torch.float32)
    first = views.first.clone().requires_grad_()
    for _ in range(3):
        loss(first, views.second, views.index)
    for buffer in loss.buffers():
        assert buffer.grad_fn is None
        assert not buffer.requires_grad


@each_kind
def test_deepcopy(kind: str) -> None:
    loss = make(kind)
    step(loss, make_views(0))
    twin = copy.deepcopy(loss)
    assert same(list(step(loss, make_views(1))), list(step(twin, make_views(1))))
