"""reduction="none" of the global contrastive losses: one value per sample, with its gradient."""

import pytest
import torch
from contrastive_helpers import Views, buffers, each_kind, make, make_views, same, step
from helpers import each_dtype
from loss_helpers import bits_equal, each_half
from test_global_contrastive_loss import finite_differences, objective
from torch import Tensor

from xrisk_ext.losses._contrastive_loss import ContrastiveLoss


def none(kind: str, num_samples: int | None = 9, **options: object) -> ContrastiveLoss:
    return make(kind, num_samples, reduction="none", **options)  # type: ignore[arg-type]


@each_kind
@each_dtype
def test_the_mean_of_the_values_is_the_loss(kind: str, dtype: torch.dtype) -> None:
    mean, apart = make(kind), none(kind)
    tolerance = max(float(torch.finfo(dtype).eps), 3e-6)
    for k in range(4):
        views = make_views(10 * k, dtype=dtype)
        mean.train(k != 2)  # once in eval()
        apart.train(k != 2)
        options = {"update_state": False} if k == 1 else {}
        expected = step(mean, views, **options)
        first, second = (v.clone().requires_grad_() for v in views[:2])
        values = apart(first, second, views.index, **options)
        assert values.shape == (7,)
        assert values.dtype == expected[0].dtype
        torch.testing.assert_close(values.mean(), expected[0], rtol=1e-5, atol=1e-6)
        found = torch.autograd.grad(values.mean(), (first, second))
        for ours, theirs in zip(found, expected[1:3], strict=True):
            assert ours.dtype == dtype
            scale = float(theirs.abs().max())
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * scale)
        for ours, theirs in zip(buffers(apart), buffers(mean), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["sogclr", "per_view", "bimodal", "bimodal_global", "fastclip_v0"])
def test_each_value_has_its_gradient(kind: str) -> None:
    views = make_views(seed=3, size=4)
    weights = torch.tensor([0.5, 2.0, 0.0, 1.5]).double()
    loss = none(kind, None, gamma=1.0)
    values = loss(views.first, views.second)
    torch.testing.assert_close(values.mean(), objective(kind, views), rtol=1e-9, atol=1e-9)
    first = views.first.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(first, views.second), first, weights)

    def weighted(x: Tensor) -> Tensor:
        return (weights * loss(x, views.second).detach()).sum()

    expected = finite_differences(weighted, views.first)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@each_kind
def test_a_value_depends_on_its_own_average(kind: str) -> None:
    loss = none(kind)
    views = make_views(1)._replace(index=torch.arange(7))
    loss(*views)
    before = loss(*views, update_state=False).detach()
    assert loss.state is not None
    loss.state.value[:, 3] += 1.0
    moved = (loss(*views, update_state=False) - before).abs() > 1e-6
    assert moved.tolist() == [k == 3 for k in range(7)]


@each_kind
@pytest.mark.parametrize("size", [0, 1])
def test_a_batch_of_one_is_zero_and_leaves_the_state_alone(kind: str, size: int) -> None:
    loss = none(kind)
    step(loss, make_views(0))
    before = buffers(loss)
    value, first, second, _ = step(loss, Views(*(t[:size] for t in make_views(1))))
    assert value.shape == (size,)
    assert not any(t.any() for t in (value, first, second))
    assert same(buffers(loss), before)


@each_kind
def test_what_is_not_finite_gives_nan_and_leaves_the_state_alone(kind: str) -> None:
    for size in (2, 7):
        loss, views = none(kind), make_views(1, size)
        step(loss, make_views(0))
        before = buffers(loss)
        views.second[1, 1] = float("inf")
        value, first, second, _ = step(loss, views)
        assert all(bool(t.isnan().all()) for t in (value, first, second))
        assert same(buffers(loss), before)


@each_kind
@each_half
def test_halves_are_computed_in_float32(kind: str, dtype: torch.dtype) -> None:
    views = make_views(1, dtype=dtype)
    single = Views(views.first.float(), views.second.float(), views.index)
    for ours, theirs in zip(step(none(kind), views), step(none(kind), single), strict=True):
        assert bits_equal(ours, theirs.to(ours.dtype))


@each_kind
@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_length_of_an_embedding_does_not_matter(kind: str, scale: float) -> None:
    views = make_views(1)
    value, first, _, _ = step(none(kind), views)
    other, scaled, _, _ = step(none(kind), views._replace(first=views.first * scale))
    torch.testing.assert_close(other, value, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(scaled * scale, first, rtol=1e-9, atol=1e-12)


def test_bad_input_is_named_and_writes_nothing() -> None:
    loss, views = none("isogclr"), make_views()
    before = buffers(loss)
    with pytest.raises(IndexError, match="index"):
        loss(views.first, views.second, views.index + 9)
    with pytest.raises(ValueError, match="index"):
        loss(views.first, views.second)
    with pytest.raises(ValueError, match="view2"):
        loss(views.first, views.second[:6], views.index)
    with pytest.raises(TypeError, match="view1"):
        loss(views.first.long(), views.second, views.index)
    assert same(buffers(loss), before)


@pytest.mark.parametrize("kind", ["isogclr", "bimodal_global"])
def test_compiles(kind: str) -> None:
    torch._dynamo.reset()

    def train(loss: ContrastiveLoss, first: Tensor, second: Tensor, index: Tensor) -> Tensor:
        return loss(first, second, index)  # type: ignore[no-any-return]

    compiled = torch.compile(train, fullgraph=True, backend="aot_eager")
    plain, traced = none(kind), none(kind)
    for k in range(2):
        views, results = make_views(10 * k), []
        for f, loss in ((train, plain), (compiled, traced)):
            first = views.first.clone().requires_grad_()
            values = f(loss, first, views.second, views.index)
            results.append([values.detach(), *torch.autograd.grad(values.sum(), first)])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(buffers(traced), buffers(plain), strict=True):
        torch.testing.assert_close(ours, theirs)
