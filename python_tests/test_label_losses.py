"""AUC margin, min-max, focal, class-balanced and LDAM: references, contracts, bad input."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import INF, NAN, each_dtype, each_simd, finite_differences, randn
from label_helpers import (
    KINDS,
    check_against_the_reference,
    each_kind,
    make,
    make_batch,
    parameters,
    step,
)
from loss_helpers import bits_equal
from torch import Tensor

from xrisk_ext import (
    AUCMarginLoss,
    ClassBalancedCrossEntropyLoss,
    FocalLoss,
    LDAMLoss,
    MinMaxAUCLoss,
)
from xrisk_ext import losses as losses_of_the_package


@each_kind
@each_dtype
@pytest.mark.parametrize("weights", ["", "entry", "label"])
def test_reference(kind: str, dtype: torch.dtype, weights: str) -> None:
    for labels, reduction in ((1, "mean"), (3, "mean"), (3, "none")):
        batch = make_batch(labels, weights=weights)
        check_against_the_reference(make(kind, labels, reduction=reduction), kind, batch, dtype)


@each_kind
@each_simd
@pytest.mark.parametrize("size", [2, 15, 16, 17, 70_001])
def test_sizes_and_simd_variants(kind: str, simd: str, size: int) -> None:
    if size > 1000 and simd != "baseline":
        return  # one variant is enough for many chunks
    batch = make_batch(1, size=size, weights="entry" if size != 16 else "")
    check_against_the_reference(make(kind), kind, batch, torch.float32)
    wide = make_batch(3, size=min(size, 30_000))
    check_against_the_reference(make(kind, 3), kind, wide, torch.float64)


@each_kind
def test_finite_differences(kind: str) -> None:
    scores, labels, weights = make_batch(weights="entry")
    loss = make(kind).double()
    _, gradient, *_ = step(loss, scores, labels, item_weights=weights)
    expected = finite_differences(lambda h: loss(h, labels, item_weights=weights), scores)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)
    if not KINDS[kind].margin_based:
        return
    _, _, *by = step(loss, scores, labels)
    for sign, parameter, gradient in zip((1, 1, -1), parameters(loss), by, strict=True):
        kept = parameter.detach().clone()

        def value(x: Tensor, parameter: Tensor = parameter) -> Tensor:
            with torch.no_grad():
                parameter.copy_(x)
            return loss(scores, labels).detach()  # type: ignore[no-any-return]

        expected = finite_differences(value, kept)
        value(kept)
        torch.testing.assert_close(gradient, sign * expected, rtol=1e-6, atol=1e-8)


@each_kind
def test_one_and_two_threads_agree_bitwise(kind: str, restore_threads: None) -> None:
    batch = make_batch(1, size=100_000)[:2]
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(step(make(kind), *batch))
    assert all(bits_equal(a, b) for a, b in zip(*results, strict=True))


@each_kind
def test_autograd_contracts(kind: str) -> None:
    scores, labels, _ = make_batch()
    loss = make(kind)
    leaf = scores.float().requires_grad_()
    value = loss(leaf, labels)
    value.backward(retain_graph=True)
    (first, *others) = [t.grad.clone() for t in (leaf, *parameters(loss))]
    (3 * value).backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, 4 * first)
    for parameter, once in zip(parameters(loss), others, strict=True):
        torch.testing.assert_close(parameter.grad, 4 * once)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        (g,) = torch.autograd.grad(loss(leaf, labels), leaf, create_graph=True)
        g.sum().backward()
    with torch.no_grad():
        assert not loss(leaf, labels).requires_grad
    # scores that are constants: the parameters alone, where there are some
    assert loss(scores, labels).requires_grad == KINDS[kind].margin_based
    column = step(loss, scores[:, None], labels)
    assert column[1].shape == (23, 1)
    assert bits_equal(column[1][:, 0], step(loss, scores, labels)[1])
    for other in (labels.bool(), labels.double() * 2 - 1, labels[:, None]):
        assert bits_equal(loss(scores, other), loss(scores, labels))


@each_kind
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_halves_scale_before_the_cast(kind: str, half: torch.dtype) -> None:
    scores, labels, _ = make_batch()
    loss = make(kind)
    leaf = scores.to(half).requires_grad_()
    single = scores.to(half).float().requires_grad_()
    with torch.autocast("cpu", dtype=half):
        (loss(leaf, labels) * 2.0**12).backward()
    (loss(single, labels) * 2.0**12).backward()
    assert leaf.grad is not None and single.grad is not None
    assert bits_equal(leaf.grad, single.grad.to(half))


@each_kind
def test_compile(kind: str) -> None:
    scores, labels, _ = make_batch(3)
    eager, compiled = make(kind, 3), make(kind, 3)
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    expected = step(eager, scores, labels)
    leaf = scores.clone().requires_grad_()
    value = run(leaf, labels)
    actual = torch.autograd.grad(value, [leaf, *parameters(compiled)])
    for a, e in zip((value.detach(), *actual), expected, strict=True):
        assert bits_equal(a, e)
    for a, e in zip(parameters(compiled), parameters(eager), strict=True):
        assert bits_equal(a, e)  # alpha was clamped in both


@each_kind
def test_opcheck(kind: str) -> None:
    scores, labels, _ = make_batch(3)
    loss = make(kind, 3)
    if KINDS[kind].margin_based:
        arguments = (
            scores, labels, None, loss.a, loss.b, loss.alpha, loss.class_prior, 0.7, loss._kind,
            True, True,
        )  # fmt: skip
        torch.library.opcheck(torch.ops.xrisk_ext.auc_margin_step.default, arguments)
    else:
        arguments = (
            scores.requires_grad_(), labels, None, loss.class_weights, loss.class_margins,
            loss.scale, loss.focus, True, False,
        )  # fmt: skip
        torch.library.opcheck(torch.ops.xrisk_ext.cross_entropy_step.default, arguments)


# ------------------------------------------------------------------------------------- degenerate


@each_kind
def test_empty_sets_and_one_class(kind: str) -> None:
    scores = randn(5).float()
    for labels, weights in itertools.product(
        (torch.zeros(5), torch.ones(5)), (None, torch.zeros(5), torch.ones(5))
    ):
        loss = make(kind)
        options = {} if weights is None else {"item_weights": weights}
        results = step(loss, scores, labels, **options)
        counts = not KINDS[kind].margin_based or kind == "v1 prior"
        if counts and (weights is None or bool(weights.any())):
            assert all(bool(r.isfinite().all()) for r in results)
            assert bool(results[1].any())
        else:
            assert all(not r.any() for r in results)
    empty = step(make(kind), torch.zeros(0), torch.zeros(0))
    assert float(empty[0]) == 0.0
    one = step(make(kind), torch.tensor([0.3]), torch.tensor([1]))
    assert all(bool(r.isfinite().all()) for r in one)


@each_kind
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_scores_that_are_not_finite(kind: str, bad: float) -> None:
    scores, labels, _ = make_batch(3)
    scores[4, 1] = bad
    loss = make(kind, 3, reduction="none")
    before = [p.detach().clone() for p in parameters(loss)]
    value, gradient, *by = step(loss.eval(), scores, labels)
    assert value.isnan().tolist() == [False, True, False]
    for part in (gradient, *by):
        assert bool(part[..., 1].isnan().all())
        assert bool(part[..., [0, 2]].isfinite().all())
    assert all(bits_equal(a, b) for a, b in zip(parameters(loss), before, strict=True))
    weights = torch.ones(23, 3)
    weights[4, 1] = 0.0  # a missing label is not looked at
    assert all(bool(r.isfinite().all()) for r in step(loss, scores, labels, item_weights=weights))


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_overflows(kind: str, dtype: torch.dtype) -> None:
    scores, labels = torch.tensor([3e4, -3e4, 1e4], dtype=dtype), torch.tensor([0, 1, 1])
    assert all(bool(r.isfinite().all()) for r in step(make(kind), scores, labels))
    far = make_batch()[0] + 1000.0
    check_against_the_reference(make(kind), kind, (far, make_batch()[1], None), torch.float64)


# ------------------------------------------------------------------------------------- bad input


def test_bad_arguments() -> None:
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: AUCMarginLoss(margin=-1.0), "margin"),
        (lambda: AUCMarginLoss(num_labels=0), "num_labels"),
        (lambda: AUCMarginLoss(version="v3"), "version"),  # type: ignore[arg-type]
        (lambda: AUCMarginLoss(version="v2", class_prior=0.1), "class_prior"),
        (lambda: AUCMarginLoss(class_prior=1.0), "class_prior"),
        (lambda: AUCMarginLoss(class_prior=[0.1, 0.2]), "class_prior"),
        (lambda: MinMaxAUCLoss(reduction="sum"), "reduction"),  # type: ignore[arg-type]
        (lambda: FocalLoss(alpha=1.5), "alpha"),
        (lambda: FocalLoss(gamma=-1.0), "gamma"),
        (lambda: ClassBalancedCrossEntropyLoss([5, 0]), "class_counts"),
        (lambda: ClassBalancedCrossEntropyLoss([5]), "class_counts"),
        (lambda: ClassBalancedCrossEntropyLoss([5, 5], beta=1.0), "beta"),
        (lambda: LDAMLoss([5, 5], scale=0.0), "scale"),
        (lambda: LDAMLoss([5, 5], max_margin=-0.1), "max_margin"),
    ]
    for make_one, name in cases:
        with pytest.raises(ValueError, match=name):
            make_one()


@each_kind
def test_bad_inputs(kind: str) -> None:
    loss = make(kind)
    scores, labels, _ = make_batch()
    for arguments, options, name in [
        ((scores[:, None].expand(-1, 2), labels), {}, "scores"),
        ((scores, labels[:-1]), {}, "labels"),
        ((scores, labels), {"item_weights": torch.ones(2)}, "item_weights"),
        ((scores, labels), {"item_weights": -torch.ones(23)}, "item_weights"),
        ((scores, labels), {"item_weights": torch.full((23,), NAN)}, "item_weights"),
        ((scores, labels), {"item_weights": torch.ones(23, requires_grad=True)}, "item_weights"),
    ]:
        with pytest.raises(ValueError, match=name):
            loss(*arguments, **options)
    for arguments, name in [((scores.long(), labels), "scores"), ((None, labels), "scores")]:
        with pytest.raises(TypeError, match=name):
            loss(*arguments)
    with pytest.raises(TypeError, match="labels"):
        loss(scores, labels.tolist())


def test_they_are_all_tested() -> None:
    here = {"AUCMarginLoss", "MinMaxAUCLoss", "FocalLoss", "LDAMLoss"}
    assert here <= set(losses_of_the_package.__all__)
    for kind in KINDS:
        assert "num_labels" in repr(make(kind)) or "alpha" in repr(make(kind))
