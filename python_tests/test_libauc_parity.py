"""Against LibAUC 2.0.1: the same numbers over many steps. Its defects: test_libauc_defects.py.

A LibAUC that is missing or of another version is a failure, never a skip: `make` installs it.
"""

import importlib.metadata
from typing import Any

import pytest
import torch
from helpers import LIBAUC_SURROGATES, MARGIN, SCALE, libauc_hyperparameter, randn, random_labels
from libauc.losses import auc as libauc
from loss_helpers import Batch, step, their_step
from torch import Tensor, nn

from xrisk_ext import AveragePrecisionLoss, MeanAveragePrecisionLoss, PairwiseAUCLoss

NUM_SAMPLES, NUM_LABELS, BATCH, GAMMA = 20, 3, 12, 0.3
# float64, where LibAUC's state is cast, and float32 as it comes
PRECISIONS = {torch.float64: 1e-10, torch.float32: 1e-5}
each_surrogate = pytest.mark.parametrize("name", LIBAUC_SURROGATES)
each_precision = pytest.mark.parametrize("dtype", PRECISIONS, ids=("float64", "float32"))


def test_libauc_is_the_version_that_was_studied() -> None:
    assert importlib.metadata.version("libauc") == "2.0.1"


def parity_batches(dtype: torch.dtype, *shape: int) -> list[Batch]:
    """No id twice in a batch, which LibAUC leaves undefined, but ids that come back."""
    labels = random_labels(NUM_SAMPLES, *shape, seed=11)
    labels[: NUM_SAMPLES // 3] = 1  # LibAUC fails on a batch without a positive
    batches: list[Batch] = []
    for k in range(5):
        index = torch.randperm(NUM_SAMPLES, generator=torch.Generator().manual_seed(k))[:BATCH]
        batches.append(Batch(randn(BATCH, *shape, seed=20 + k).to(dtype), labels[index], index))
    return batches


def their_state(theirs: nn.Module) -> Tensor:
    """[L, N, 2]"""
    state = torch.cat([theirs.u_all, theirs.u_pos], dim=-1)
    return state.reshape(-1, NUM_SAMPLES, 2)


def same(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.dtype == expected.dtype
    size = float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * size)


def hyper_parameters(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    ours = {"surrogate": name, "margin": MARGIN, "scale": SCALE}
    return ours, {"surr_loss": name, "margin": libauc_hyperparameter(name)}


# -------------------------------------------------------------------------------- the same numbers


@each_surrogate
@each_precision
@pytest.mark.parametrize("algorithm", ["direct", "auto"])
@pytest.mark.parametrize("kind", ["ap", "map"])
def test_gradients_and_states_are_libauc_s(
    kind: str, name: str, dtype: torch.dtype, algorithm: str
) -> None:
    ours, their = hyper_parameters(name)
    ours |= {"gamma": GAMMA, "initial_state": "zero", "state_dtype": dtype, "algorithm": algorithm}
    their |= {"gamma": GAMMA, "device": "cpu"}
    if kind == "ap":
        loss: Any = AveragePrecisionLoss(NUM_SAMPLES, **ours)
        theirs: Any = libauc.APLoss(NUM_SAMPLES, **their)
    else:
        loss = MeanAveragePrecisionLoss(NUM_SAMPLES, NUM_LABELS, **ours)
        theirs = libauc.mAPLoss(NUM_SAMPLES, num_labels=NUM_LABELS, **their)
    theirs.u_all, theirs.u_pos = theirs.u_all.to(dtype), theirs.u_pos.to(dtype)
    for batch in parity_batches(dtype, *([NUM_LABELS] if kind == "map" else [])):
        _, gradient = step(loss, batch)  # the values differ: theirs is the dynamic one
        _, their_gradient = their_step(theirs, batch)
        assert gradient.any()
        same(gradient, their_gradient, PRECISIONS[dtype])
        same(loss.state.value, their_state(theirs), PRECISIONS[dtype])


@each_surrogate
@each_precision
@pytest.mark.parametrize("algorithm", ["direct", "auto"])
def test_pairwise_auc_is_libauc_s(name: str, dtype: torch.dtype, algorithm: str) -> None:
    ours, their = hyper_parameters(name)
    loss = PairwiseAUCLoss(algorithm=algorithm, **ours)
    theirs = libauc.PairwiseAUCLoss(surr_loss=name, hparam=their["margin"])
    for batch in parity_batches(dtype):
        for a, b in zip(step(loss, batch), their_step(theirs, batch), strict=True):
            same(a, b, PRECISIONS[dtype])
