"""AUC margin, min-max, focal, class-balanced and LDAM: references, contracts, LibAUC."""

import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from helpers import INF, NAN, each_dtype, each_simd, finite_differences, randn, random_labels
from libauc.losses import AUCMLoss, mAUCMLoss
from libauc.losses import FocalLoss as LibAUCFocalLoss
from loss_helpers import assert_near, bits_equal, computed_in
from torch import Tensor, nn

from xrisk_ext import (
    AUCMarginLoss,
    ClassBalancedCrossEntropyLoss,
    FocalLoss,
    LDAMLoss,
    MinMaxAUCLoss,
    reference,
)
from xrisk_ext import losses as losses_of_the_package

COUNTS = [[90.0, 70.0, 5.0], [10.0, 30.0, 95.0]]
PRIORS = [0.1, 0.3, 0.95]


class Kind(NamedTuple):
    make: Callable[..., Any]
    truth: Callable[..., tuple[Tensor, ...]]  # (loss, scores, labels, weights)
    margin_based: bool


def _columns(pairs: Any, labels: int) -> Any:
    return [row[:labels] for row in pairs]


def _auc_truth(version: str) -> Callable[..., tuple[Tensor, ...]]:
    def truth(loss: Any, scores: Tensor, labels: Tensor, weights: Tensor | None) -> Any:
        return reference.auc_margin(
            scores, labels, loss.a, loss.b, loss.alpha, version=version, margin=loss.margin,
            class_prior=loss.class_prior, item_weights=weights,
        )  # fmt: skip

    return truth


KINDS = {
    "v2": Kind(lambda n, **o: AUCMarginLoss(margin=0.7, num_labels=n, **o), _auc_truth("v2"), True),
    "v1": Kind(
        lambda n, **o: AUCMarginLoss(margin=0.7, num_labels=n, version="v1", **o),
        _auc_truth("v1"),
        True,
    ),
    "v1 prior": Kind(
        lambda n, **o: AUCMarginLoss(margin=0.7, num_labels=n, class_prior=PRIORS[:n], **o),
        _auc_truth("v1"),
        True,
    ),
    "min-max": Kind(
        lambda n, **o: MinMaxAUCLoss(margin=0.7, num_labels=n, **o), _auc_truth("min_max"), True
    ),
    "focal": Kind(
        lambda n, **o: FocalLoss(alpha=0.3, gamma=1.7, num_labels=n, **o),
        lambda loss, h, y, w: reference.focal(h, y, alpha=0.3, gamma=1.7, item_weights=w),
        False,
    ),
    "balanced": Kind(
        lambda n, **o: ClassBalancedCrossEntropyLoss(
            _columns(COUNTS, n), beta=0.99, num_labels=n, **o
        ),
        lambda loss, h, y, w: reference.class_balanced_cross_entropy(
            h, y, torch.tensor(_columns(COUNTS, loss.num_labels)), beta=0.99, item_weights=w
        ),
        False,
    ),
    "ldam": Kind(
        lambda n, **o: LDAMLoss(_columns(COUNTS, n), scale=3.0, beta=0.9, num_labels=n, **o),
        lambda loss, h, y, w: reference.ldam(
            h,
            y,
            torch.tensor(_columns(COUNTS, loss.num_labels)),
            scale=3.0,
            class_weights=loss.class_weights,
            item_weights=w,
        ),
        False,
    ),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_margin_kind = pytest.mark.parametrize("kind", [k for k, v in KINDS.items() if v.margin_based])


def make(kind: str, labels: int = 1, **options: Any) -> Any:
    """A loss whose a, b and alpha are not at their start; alpha of the last of 3 is negative."""
    loss = KINDS[kind].make(labels, **options)
    if KINDS[kind].margin_based:
        with torch.no_grad():
            loss.a.copy_(torch.tensor([0.4, -0.3, 0.8])[:labels])
            loss.b.copy_(torch.tensor([-0.2, 0.1, 0.3])[:labels])
            loss.alpha.copy_(torch.tensor([0.6, 1.2, -0.5])[:labels])
    return loss


def make_batch(
    labels: int = 1, size: int = 23, seed: int = 0, weights: str = ""
) -> tuple[Tensor, Tensor, Tensor | None]:
    shape = (size,) if labels == 1 else (size, labels)
    scores, targets = randn(*shape, seed=seed), random_labels(*shape, seed=seed)
    if not weights:
        return scores, targets, None
    w = randn(*(shape if weights == "label" else (size,)), seed=seed + 1).abs() + 0.1
    w[3:4] = 0.0
    return scores, targets, w


def parameters(loss: nn.Module) -> list[Tensor]:
    return list(loss.parameters())


def step(loss: nn.Module, scores: Tensor, labels: Tensor, **options: Any) -> tuple[Tensor, ...]:
    """Value, then the gradients of its sum with respect to scores and parameters."""
    leaf = scores.detach().requires_grad_()
    value = loss(leaf, labels, **options)
    gradients = torch.autograd.grad(value.sum(), [leaf, *parameters(loss)])
    return (value.detach(), *gradients)


def check_against_the_reference(
    loss: Any, kind: str, batch: tuple[Tensor, Tensor, Tensor | None], dtype: torch.dtype
) -> None:
    scores, labels, weights = batch
    scores = scores.to(dtype)
    expected = list(KINDS[kind].truth(loss, scores, labels, weights))
    options = {} if weights is None else {"item_weights": weights}
    actual = step(loss, scores, labels, **options)
    if loss.reduction == "mean":
        expected = [expected[0].mean(), *(g / loss.num_labels for g in expected[1:])]
    if KINDS[kind].margin_based:
        expected[4] = -expected[4]  # reversed: alpha ascends
    assert actual[0].dtype == computed_in(dtype)
    for what, a, e in zip(("value", "scores", "a", "b", "alpha"), actual, expected, strict=False):
        assert_near(f"{kind}, {what}", a, e, torch.float32)
    assert len(actual) == (5 if KINDS[kind].margin_based else 2)


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


# ------------------------------------------------------------------------------- a, b and alpha


@each_margin_kind
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_alpha_ascends_under_any_optimizer(kind: str, optimizer: Any) -> None:
    scores, labels, _ = make_batch()
    loss = KINDS[kind].make(1)
    before = float(loss(scores, labels).detach())
    optimizer([loss.alpha], lr=0.05).zero_grad()
    one = optimizer([loss.alpha], lr=0.05)
    loss(scores, labels).backward()
    one.step()
    assert loss.alpha.any()
    assert float(loss(scores, labels).detach()) > before


def test_alpha_is_clamped_in_training_alone() -> None:
    scores, labels, _ = make_batch()
    loss = AUCMarginLoss()
    with torch.no_grad():
        loss.alpha.fill_(-0.5)
    version = loss.alpha._version
    at_zero = AUCMarginLoss()(scores, labels).detach()
    assert bits_equal(loss.eval()(scores, labels).detach(), at_zero)
    assert bits_equal(loss.train()(scores, labels, update_state=False).detach(), at_zero)
    assert loss.alpha.item() == -0.5
    assert loss.alpha._version == version
    assert bits_equal(loss(scores, labels).detach(), at_zero)
    assert loss.alpha.item() == 0.0
    minmax = MinMaxAUCLoss()
    with torch.no_grad():
        minmax.alpha.fill_(-0.5)
    minmax(scores, labels)
    assert minmax.alpha.item() == -0.5  # free of sign


def test_training_reaches_the_saddle_point() -> None:
    # var_+ + var_- + (m + mean_- - mean_+)_+^2: METHODS of the papers, for fixed scores
    scores, labels, _ = make_batch(size=60)
    positive, negative = scores[labels > 0], scores[labels == 0]
    loss = AUCMarginLoss(margin=3.0).double()
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        value = loss(scores, labels)
        value.backward()
        optimizer.step()
    gap = 3.0 + negative.mean() - positive.mean()
    assert gap > 0
    expected = positive.var(correction=0) + negative.var(correction=0) + gap**2
    torch.testing.assert_close(value.detach(), expected)
    torch.testing.assert_close(loss.alpha.detach()[0], gap)
    pairs = (3.0 + negative[None, :] - positive[:, None]).square().mean()
    torch.testing.assert_close(expected, pairs)  # the mean pairwise squared loss
    minmax = MinMaxAUCLoss(margin=3.0).double()
    with torch.no_grad():
        minmax.a.copy_(positive.mean())
        minmax.b.copy_(negative.mean())
        minmax.alpha.copy_(negative.mean() - positive.mean())
    p = len(positive) / 60
    torch.testing.assert_close(minmax(scores, labels).detach(), p * (1 - p) * (pairs - 9.0))


def test_the_alpha_step_of_pesg() -> None:
    loss = make("v2", 3)
    alpha, a, b = (p.detach().clone() for p in (loss.alpha, loss.a, loss.b))
    loss.ascend_alpha_(0.1)
    expected = (alpha + 0.1 * (2 * (0.7 + b - a) - 2 * alpha)).clamp(0, 999)
    torch.testing.assert_close(loss.alpha.detach(), expected)


@each_margin_kind
def test_state_and_moves(kind: str) -> None:
    loss, other = make(kind, 3), KINDS[kind].make(3)
    other.load_state_dict(loss.state_dict())
    scores, labels, _ = make_batch(3)
    for a, b in zip(step(loss, scores, labels), step(other, scores, labels), strict=True):
        assert bits_equal(a, b)
    assert loss.double().a.dtype == torch.float64
    if loss.class_prior is not None:
        assert loss.half().class_prior.dtype == torch.float64
    loss.reset_state()
    assert not any(p.any() for p in parameters(loss))
    with pytest.raises(ValueError, match=r"\.to\("):
        loss.to("meta")(scores, labels)


# ---------------------------------------------------------------------------------------- LibAUC


def their_step(theirs: nn.Module, scores: Tensor, labels: Tensor, **kwargs: Any) -> Any:
    leaf = scores.detach().requires_grad_()
    value = theirs(leaf, labels, **kwargs)
    wrt = [leaf, theirs.a, theirs.b, theirs.alpha]
    return (value.detach().reshape(()), *torch.autograd.grad(value.sum(), wrt))


def follow(theirs: nn.Module, loss: Any) -> None:
    with torch.no_grad():
        for name in ("a", "b", "alpha"):
            getattr(theirs, name).data.copy_(getattr(loss, name))


def test_parity_with_aucm_v1() -> None:
    # several steps of our optimizer; theirs follows with the same a, b and alpha
    ours, theirs = AUCMarginLoss(margin=0.7, version="v1"), AUCMLoss(margin=0.7)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.5)
    for seed in range(4):
        scores, labels, _ = make_batch(seed=seed)
        follow(theirs, ours)
        expected = their_step(theirs, scores.float(), labels)
        actual = step(ours, scores.float(), labels)
        for a, e, sign in zip(actual, expected, (1, 1, 1, 1, -1), strict=True):
            torch.testing.assert_close(a, sign * e, rtol=1e-5, atol=1e-6)
        optimizer.zero_grad()
        ours(scores.float(), labels).backward()
        optimizer.step()
        ours(scores.float(), labels)  # clamps


def test_parity_with_multi_label_aucm_v2() -> None:
    ours, theirs = make("v2", 3), mAUCMLoss(margin=0.7, version="v2", num_labels=3)
    scores, labels, _ = make_batch(3)
    ours(scores, labels)  # clamps
    follow(theirs, ours)
    expected = their_step(theirs, scores.float(), labels)
    actual = step(ours, scores.float(), labels)
    for a, e, sign in zip(actual, expected, (1, 1, 1, 1, -1), strict=True):
        torch.testing.assert_close(a, sign * e, rtol=1e-5, atol=1e-6)


def test_defect_aucm_ignores_imratio() -> None:
    scores, labels, _ = make_batch()
    rare, frequent = (AUCMLoss(imratio=p) for p in (0.01, 0.9))
    for theirs in (rare, frequent):
        theirs.a.data.fill_(0.3)
    assert torch.equal(rare(scores, labels), frequent(scores, labels))  # the batch's share wins
    ours = [AUCMarginLoss(class_prior=p) for p in (0.01, 0.9)]
    values = []
    for loss, p in zip(ours, (0.01, 0.9), strict=True):
        with torch.no_grad():
            loss.a.fill_(0.3)
        values.append(loss(scores, labels).detach())
        theirs = AUCMLoss(imratio=p)
        theirs.a.data.fill_(0.3)
        expected = theirs(scores, labels, auto=False).detach()  # which it does take when told so
        torch.testing.assert_close(values[-1], expected.double()[0], rtol=1e-5, atol=1e-6)
    assert not torch.isclose(*values, rtol=0.1)


def test_defect_multi_label_aucm_ignores_the_margin() -> None:
    scores, labels, _ = make_batch(3)
    small, large = (mAUCMLoss(margin=m, num_labels=3) for m in (0.1, 10.0))
    for theirs in (small, large):
        theirs.alpha.data.fill_(0.5)
    assert torch.equal(small(scores, labels), large(scores, labels))
    ours = [AUCMarginLoss(margin=m, num_labels=3, version="v1") for m in (0.1, 10.0)]
    for loss in ours:
        with torch.no_grad():
            loss.alpha.fill_(0.5)
    shares = (labels > 0).double().mean(0)
    difference = ours[1](scores, labels) - ours[0](scores, labels)
    expected = (2 * 0.5 * shares * (1 - shares) * (10.0 - 0.1)).mean()
    torch.testing.assert_close(difference.detach(), expected)


def test_defect_aucm_v2_misplaces_a_parenthesis_and_drops_zeros() -> None:
    scores, labels = torch.tensor([0.9, 0.5, 0.0, 0.3, 0.1]), torch.tensor([1, 1, 0, 0, 0])
    theirs, ours = AUCMLoss(version="v2"), AUCMarginLoss()
    with torch.no_grad():
        ours.alpha.fill_(0.5)
    follow(theirs, ours)
    positive, negative = scores[:2], scores[2:]
    spread = positive.square().mean() + negative.square().mean()
    truth = spread + 2 * 0.5 * (1 + negative.mean() - positive.mean()) - 0.25
    torch.testing.assert_close(ours(scores, labels).detach(), truth)
    assert not torch.isclose(theirs(scores, labels).detach().reshape(()), truth, rtol=1e-2)


def test_defect_focal_multiplies_all_weights_with_all_losses_and_swaps_the_classes() -> None:
    # its weights [B] meet its losses [B, 1]: B x B numbers, and everyone's weight for everyone
    scores, labels = randn(9).float(), random_labels(9).float()
    one = LibAUCFocalLoss(alpha=0.25)(scores, labels)
    plain = 2 * FocalLoss(alpha=0.5)(scores, labels)  # both classes weigh 1
    shares = torch.where(labels > 0, 0.75, 0.25).mean()  # of the paper, the other way round
    torch.testing.assert_close(one, shares * plain)
    assert not torch.isclose(one, FocalLoss(alpha=0.75)(scores, labels), rtol=0.02)


def test_defect_aucm_of_one_class_is_nan_or_biased() -> None:
    scores, labels = torch.tensor([0.9, 0.5]), torch.tensor([0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert AUCMLoss(version="v2")(scores, labels).isnan()
    assert float(AUCMarginLoss()(scores, labels)) == 0.0


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
