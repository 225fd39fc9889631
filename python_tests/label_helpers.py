"""What the tests of the losses without pairs share: the losses by name, batches, one step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from helpers import randn, random_labels
from loss_helpers import assert_near, computed_in
from torch import Tensor, nn

from xrisk_ext import (
    AUCMarginLoss,
    ClassBalancedCrossEntropyLoss,
    FocalLoss,
    LDAMLoss,
    MinMaxAUCLoss,
    reference,
)

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
