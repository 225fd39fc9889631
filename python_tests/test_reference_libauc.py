"""The reference's losses held against LibAUC over several steps."""

import importlib

import pytest
import torch
from helpers import (
    LIBAUC_SURROGATES,
    MARGIN,
    SCALE,
    assert_close,
    libauc_hyperparameter,
    randn,
    random_labels,
)
from torch import Tensor

from xrisk_ext import reference


def _steps(num_samples: int, batch: int, shape: tuple[int, ...]) -> list[tuple[Tensor, ...]]:
    """Four batches without an id twice in a batch, but with ids that come back."""
    labels = random_labels(num_samples, *shape, seed=11)
    labels[: num_samples // 3] = 1  # LibAUC fails on a batch without a positive
    steps: list[tuple[Tensor, ...]] = []
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        index = torch.randperm(num_samples, generator=generator)[:batch]
        steps.append((randn(batch, *shape, seed=20 + step), labels[index], index))
    return steps


@pytest.mark.parametrize("name", LIBAUC_SURROGATES)
def test_average_precision_has_libauc_gradients(name: str) -> None:
    libauc = importlib.import_module("libauc.losses.auc")
    theirs = libauc.APLoss(
        20, gamma=0.3, margin=libauc_hyperparameter(name), surr_loss=name, device="cpu"
    )
    theirs.u_all, theirs.u_pos = theirs.u_all.double(), theirs.u_pos.double()
    state = torch.zeros(20, 2, dtype=torch.float64)
    for scores, labels, index in _steps(20, 12, ()):
        leaf = scores.clone().requires_grad_()
        theirs(leaf, labels, index).backward()
        _, gradient = reference.average_precision(
            scores, labels, index, state, 0.3, surrogate=name, margin=MARGIN, scale=SCALE
        )
        assert leaf.grad is not None
        assert_close(gradient, leaf.grad, rtol=1e-10)
        assert_close(state, torch.cat([theirs.u_all, theirs.u_pos], dim=1))
    assert (state > 0).any()


def test_mean_average_precision_has_libauc_gradients() -> None:
    libauc = importlib.import_module("libauc.losses.auc")
    theirs = libauc.mAPLoss(20, num_labels=3, gamma=0.3, margin=MARGIN, device="cpu")
    theirs.u_all, theirs.u_pos = theirs.u_all.double(), theirs.u_pos.double()
    state = torch.zeros(3, 20, 2, dtype=torch.float64)
    for scores, labels, index in _steps(20, 12, (3,)):
        leaf = scores.clone().requires_grad_()
        theirs(leaf, labels, index).backward()
        _, gradient = reference.average_precision(scores, labels, index, state, 0.3, margin=MARGIN)
        assert leaf.grad is not None
        assert_close(gradient / 3.0, leaf.grad, rtol=1e-10)
        assert_close(state, torch.cat([theirs.u_all, theirs.u_pos], dim=2))


@pytest.mark.parametrize("name", LIBAUC_SURROGATES)
def test_pairwise_auc_is_libauc(name: str) -> None:
    libauc = importlib.import_module("libauc.losses.auc")
    theirs = libauc.PairwiseAUCLoss(surr_loss=name, hparam=libauc_hyperparameter(name))
    scores, labels = randn(15, seed=8), random_labels(15, seed=8)
    leaf = scores.clone().requires_grad_()
    loss = theirs(leaf, labels)
    loss.backward()
    value, gradient = reference.pairwise_auc(
        scores, labels, surrogate=name, margin=MARGIN, scale=SCALE
    )
    assert leaf.grad is not None
    assert_close(value, loss.detach())
    assert_close(gradient, leaf.grad)
