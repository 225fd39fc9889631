"""What the tests of the listwise losses share: the losses with their references, batches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from helpers import randn
from torch import Tensor

import xrisk_ext as xr
from xrisk_ext import reference
from xrisk_ext.losses._list_loss import ListLoss


class Kind(NamedTuple):
    make: Callable[..., ListLoss]
    truth: Callable[..., tuple[Tensor, Tensor]]
    options: tuple[dict[str, Any], ...]  # of which the first is used where one is enough


_GRADED = {
    "rank_net": Kind(
        xr.RankNetLoss,
        reference.rank_net,
        ({}, {"temperature": 0.6, "pair_weights": "difference"},
         {"pair_weights": "squared_difference"}),
    ),
    "lambda_rank": Kind(
        xr.LambdaRankLoss, reference.lambda_rank, ({}, {"temperature": 0.6, "top_k": 5})
    ),
    "list_net": Kind(xr.ListNetLoss, reference.list_net, ({},)),
    "list_mle": Kind(xr.ListMLELoss, reference.list_mle, ({},)),
    "approx_ndcg": Kind(xr.ApproxNDCGLoss, reference.approx_ndcg, ({}, {"temperature": 0.3})),
    "neural_ndcg": Kind(
        xr.NeuralNDCGLoss,
        reference.neural_ndcg,
        ({"max_iterations": 12, "tolerance": 0.0},
         {"temperature": 0.5, "top_k": 3, "max_iterations": 1, "tolerance": 0.0},
         {"temperature": 2.0}),
    ),
}  # fmt: skip
_RETRIEVAL = {
    "smooth_ap": Kind(
        xr.SmoothAPLoss, reference.smooth_ap, ({"temperature": 0.3}, {"temperature": 0.05})
    ),
    "fast_ap": Kind(
        xr.FastAPLoss,
        reference.fast_ap,
        ({"score_range": (-3.1, 3.3)}, {"num_bins": 3, "score_range": (-0.47, 1.03)}),
    ),
    "recall_at_k": Kind(
        xr.RecallAtKLoss,
        reference.recall_at_k,
        ({"k": (1, 4), "temperature": 0.3}, {"k": 3, "rank_temperature": 0.5, "temperature": 0.1}),
    ),
}
KINDS: dict[str, Kind] = {**_GRADED, **_RETRIEVAL}
GRADED, RETRIEVAL = tuple(_GRADED), tuple(_RETRIEVAL)

each_kind = pytest.mark.parametrize("kind", KINDS)
each_graded_kind = pytest.mark.parametrize("kind", GRADED)
each_retrieval_kind = pytest.mark.parametrize("kind", RETRIEVAL)
each_variant = pytest.mark.parametrize(
    ("kind", "options"),
    [(name, options) for name, kind in KINDS.items() for options in kind.options],
    ids=str,
)


def make_loss(kind: str, **options: Any) -> ListLoss:
    """A loss by name, with the first of its options unless others are given."""
    return KINDS[kind].make(**{**KINDS[kind].options[0], **options})


class Lists(NamedTuple):
    scores: Tensor  # [Q, S]
    relevance: Tensor  # [Q, S]; labels of a retrieval loss
    mask: Tensor | None = None
    weights: Tensor | None = None


def make_lists(
    kind: str,
    seed: int = 0,
    shape: tuple[int, ...] = (4, 9),
    *,
    masked: bool = False,
    weighted: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Lists:
    """Relevance 0 to 3 (labels 0 and 1), with an item of the highest and one of the lowest."""
    generator = torch.Generator().manual_seed(seed + 1000)
    high = 4 if kind in GRADED else 2
    relevance = torch.randint(high, shape, generator=generator)
    relevance[..., 0], relevance[..., 1] = high - 1, 0
    lists = Lists(randn(*shape, seed=seed).to(dtype), relevance)
    if masked:
        mask = torch.rand(*shape, generator=generator) < 0.7
        mask[..., :2] = True
        lists = lists._replace(mask=mask)
    if weighted:
        weights = torch.rand(*shape, generator=generator, dtype=torch.float64) * 2.0
        weights[..., 3] = 0.0
        lists = lists._replace(weights=weights)
    return lists


def call(loss: ListLoss, lists: Lists, scores: Tensor | None = None, **options: Any) -> Tensor:
    if lists.mask is not None:
        options["mask"] = lists.mask
    if lists.weights is not None:
        options["item_weights"] = lists.weights
    h = lists.scores if scores is None else scores
    return loss(h, lists.relevance, **options)  # type: ignore[no-any-return]


def step(
    loss: ListLoss, lists: Lists, upstream: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Value and gradient of a batch."""
    leaf = lists.scores.detach().requires_grad_()
    value = call(loss, lists, leaf, **options)
    weights = torch.ones_like(value) if upstream is None else upstream.to(value.dtype)
    (gradient,) = torch.autograd.grad(value, leaf, weights)
    return value.detach(), gradient


def list_values(
    kind: str, lists: Lists, options: dict[str, Any] | None = None
) -> tuple[Tensor, Tensor]:
    """Values [Q] and gradients [Q, S] of the lists, of the reference."""
    given = KINDS[kind].options[0] if options is None else options
    if lists.weights is not None:
        given = {**given, "item_weights": lists.weights}
    return KINDS[kind].truth(lists.scores, lists.relevance, mask=lists.mask, **given)


def expected_step(
    kind: str, lists: Lists, options: dict[str, Any] | None = None
) -> tuple[Tensor, Tensor]:
    """What `step` should give with reduction="mean", in float64."""
    values, gradients = list_values(kind, lists, options)
    if values.dim() == 0:
        return values, gradients
    mass = _mass(kind, lists)
    share = mass / mass.sum().clamp(min=1)
    return (share * values).sum(), share[:, None] * gradients


def _mass(kind: str, lists: Lists) -> Tensor:
    """Which lists count in the mean: those with items, of the retrieval losses with positives."""
    taken = torch.ones_like(lists.relevance, dtype=torch.bool) if lists.mask is None else lists.mask
    if lists.weights is not None:
        taken = taken & (lists.weights > 0)
    condition = lists.relevance > 0 if kind in RETRIEVAL else lists.relevance >= 0
    return (taken & condition).any(dim=1).double()
