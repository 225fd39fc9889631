"""The peers of the listwise races compute what they claim, and allRank's losses what ours do."""

import pytest
import torch
from helpers import randn
from torch import Tensor

import xrisk_ext as xr
from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import UnavailableError
from xrisk_ext.bench.peers import listwise as peers
from xrisk_ext.testing.listwise_cases import LISTWISE, ListwiseCase


@pytest.mark.parametrize("loss", LISTWISE)
def test_eager_formulas_are_the_reference(loss: str) -> None:
    inputs = ListwiseCase(loss, 5, 12).inputs()
    peers.EAGER[loss](inputs.scores, inputs.relevance).backward()
    assert truth.listwise_error(inputs, inputs.scores.grad) < 2e-5


def _gradient(loss: peers.Loss, scores: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    leaf = scores.clone().requires_grad_()
    value = loss(leaf, relevance)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


PARITY = {
    "rankNet": xr.RankNetLoss(pool_pairs=True),
    "rankNet_weightByGTDiff": xr.RankNetLoss(pool_pairs=True, pair_weights="difference"),
    "rankNet_weightByGTDiff_pow": xr.RankNetLoss(
        pool_pairs=True, pair_weights="squared_difference"
    ),
    "lambdaLoss": xr.LambdaRankLoss(top_k=6, reduction="sum"),
    "listNet": xr.ListNetLoss(),
    "listMLE": xr.ListMLELoss(),
    "approxNDCGLoss": xr.ApproxNDCGLoss(),
    "neuralNDCG": xr.NeuralNDCGLoss(),
}


@pytest.mark.parametrize("name", PARITY)
def test_parity_with_allrank(name: str) -> None:
    """Relevance without ties, since allRank shuffles those of ListMLE; padding at the end, where
    alone its NeuralNDCG leaves out the right rows.
    """
    try:
        losses = peers.import_allrank()
    except UnavailableError as reason:
        pytest.skip(str(reason))
    options = {"weighing_scheme": "lambdaRank_scheme", "k": 6} if name == "lambdaLoss" else {}
    scores = randn(4, 9).float()
    relevance = randn(4, 9, seed=1).argsort(1).float() / 2.0
    relevance[:2, 7:] = -1.0
    value, gradient = _gradient(PARITY[name], scores, relevance)
    theirs = _gradient(lambda h, y: getattr(losses, name)(h, y, **options), scores, relevance)
    torch.testing.assert_close(value, theirs[0], rtol=2e-5, atol=1e-5)
    torch.testing.assert_close(gradient, theirs[1], rtol=1e-4, atol=2e-5)
