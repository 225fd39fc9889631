"""AUC margin and min-max: a, b and alpha in training; LibAUC, and its defects."""

import warnings
from typing import Any

import pytest
import torch
from helpers import randn, random_labels
from label_helpers import KINDS, each_margin_kind, make, make_batch, parameters, step
from libauc.losses import AUCMLoss, mAUCMLoss
from libauc.losses import FocalLoss as LibAUCFocalLoss
from loss_helpers import bits_equal
from torch import Tensor, nn

from xrisk_ext import AUCMarginLoss, FocalLoss, MinMaxAUCLoss

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
    assert AUCMarginLoss()(scores, labels).item() == 0.0
