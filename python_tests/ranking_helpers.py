"""What the tests of the ranking losses share: losses by name, batches, one step of each truth."""

import copy
from typing import Any, NamedTuple

import pytest
import torch
from helpers import computed_in, randn
from loss_helpers import assert_near, bits_equal
from torch import Tensor

from xrisk_ext import (
    ListwiseCrossEntropyLoss,
    MeanAveragePrecisionLoss,
    NDCGLoss,
    reference,
)
from xrisk_ext.losses._top_k import TopKLoss

QUERIES, ITEMS, PAIRS, USERS = 5, 11, 30, 4
# SONG, K-SONG and its variants, the listwise loss, AP@K with labels for queries
KINDS = ("song", "k_song", "k_song_practical", "k_song_solved", "listwise", "map_at_k")
each_kind = pytest.mark.parametrize("kind", KINDS)
# how the lists come, see make_batch
LAYOUTS = ("full", "masked", "weighted", "both", "ragged")
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
_TOP_K: dict[str, dict[str, Any]] = {
    "k_song": {"top_k": 3},
    "k_song_practical": {"top_k": 3, "top_k_version": "practical"},
    "k_song_solved": {"top_k": 3, "threshold": "solve"},
}


class RankingBatch(NamedTuple):
    scores: Tensor  # [Q, S], or [T] with offsets
    relevance: Tensor
    pair_index: Tensor  # -1 where not relevant; of AP@K [Q]: a row is a sample there
    query_index: Tensor  # [Q]
    mask: Tensor | None = None
    offsets: Tensor | None = None
    weights: Tensor | None = None
    sizes: dict[str, Any] | None = None  # num_items, num_relevant, ideal_dcg


def make_loss(kind: str, num_pairs: int | None = PAIRS, **options: Any) -> Any:
    """gamma is 0.3, and tau1 wide enough for several items near the threshold."""
    options = {"gamma": 0.3 if num_pairs is not None else 1.0, **options}
    if kind == "listwise":
        return ListwiseCrossEntropyLoss(num_pairs, **options)
    if kind != "song":
        options = {"tau1": 0.2, "gamma1": 0.4, "eta0": 0.1, **_TOP_K.get(kind, {}), **options}
    if kind == "map_at_k":
        return MeanAveragePrecisionLoss(num_pairs, ITEMS, **{"top_k": 2, **options})
    return NDCGLoss(num_pairs, USERS, **options)


def make_batch(
    kind: str, seed: int = 0, layout: str = "full", dtype: torch.dtype = torch.float64
) -> RankingBatch:
    """Random lists; pair ids repeat within and across queries, query ids across them. The first
    item of every query is relevant and takes part, the second is not relevant.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = randn(QUERIES, ITEMS, seed=seed).to(dtype)
    relevance = (torch.randint(0, 6, (QUERIES, ITEMS), generator=generator) - 2).clamp(min=0)
    relevance[:, 0], relevance[:, 1] = 2, 0
    pairs = torch.randint(PAIRS, (QUERIES, ITEMS), generator=generator)
    pairs[1, 0] = pairs[0, 0]
    pairs[relevance <= 0] = -1
    users = torch.randint(USERS, (QUERIES,), generator=generator)
    users[1] = users[0]
    mask = torch.rand(QUERIES, ITEMS, generator=generator) > 0.25
    mask[:, 0] = True
    weights = torch.rand(QUERIES, ITEMS, generator=generator).double() + 0.1
    weights[:, 3] = 0.0
    batch = RankingBatch(scores, relevance, pairs, users)
    if kind == "map_at_k":
        batch = batch._replace(pair_index=torch.arange(QUERIES) * 2)
    if layout in ("weighted", "both"):
        batch = batch._replace(weights=weights)
    if layout in ("masked", "both") and kind != "map_at_k":
        batch = batch._replace(mask=mask)
    if layout == "ragged" and kind != "map_at_k":
        kept = torch.arange(ITEMS) < torch.tensor([[11], [4], [0], [7], [1]])
        offsets = torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))
        batch = RankingBatch(
            scores[kept], relevance[kept], pairs[kept], users, offsets=offsets, weights=None
        )
    return batch


def make_batches(kind: str, count: int = 4, **options: Any) -> list[RankingBatch]:
    return [make_batch(kind, seed=10 * k, **options) for k in range(count)]


def arguments_of(kind: str, batch: RankingBatch) -> dict[str, Any]:
    """The keyword arguments of a forward, without the scores."""
    if kind == "map_at_k":
        return {
            "labels": batch.relevance,
            "index": batch.pair_index,
            "item_weights": batch.weights,
        }
    given: dict[str, Any] = {"relevance": batch.relevance, "pair_index": batch.pair_index}
    given.update(query_index=batch.query_index, mask=batch.mask, offsets=batch.offsets)
    return given | {"item_weights": batch.weights} | (batch.sizes or {})


def call(loss: Any, batch: RankingBatch, scores: Tensor | None = None, **options: Any) -> Tensor:
    kind = "map_at_k" if isinstance(loss, MeanAveragePrecisionLoss) else ""
    h = batch.scores if scores is None else scores
    return loss(h, **arguments_of(kind, batch), **options)  # type: ignore[no-any-return]


def step(
    loss: Any, batch: RankingBatch, upstream: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Value and gradient of a batch."""
    leaf = batch.scores.detach().requires_grad_()
    value = call(loss, batch, leaf, **options)
    weights = torch.ones_like(value) if upstream is None else upstream.to(value.dtype)
    (gradient,) = torch.autograd.grad(value, leaf, weights)
    return value.detach(), gradient


def states_of(loss: Any) -> dict[str, Tensor]:
    """Copies of all state, by name."""
    return {
        name: module.value.clone()
        for name in ("state", "thresholds", "curvatures")
        if (module := getattr(loss, name)) is not None
    }


def same_states(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(bits_equal(a[name], b[name]) for name in a)


def top_k_of(loss: TopKLoss, states: dict[str, Tensor]) -> reference.TopK | None:
    if loss.top_k is None:
        return None
    schedules = {name: float(getattr(loss, name)) for name in ("gamma1", "eta0", "tau1", "tau2")}
    return reference.TopK(
        loss.top_k,
        states.get("thresholds"),
        states.get("curvatures"),
        **schedules,
        sigmoid_alpha=float(loss.sigmoid_alpha),  # type: ignore[arg-type]
        epsilon=loss.epsilon,
        practical=loss.top_k_version == "practical",
        solve=loss.threshold == "solve",
        published=loss.psi_slope == "published",
    )


def reference_step(
    loss: Any, batch: RankingBatch, states: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """What `step` should give, in float64; `states` are updated in place."""
    state = states.get("state")
    top_k = top_k_of(loss, states)
    surrogate = {"surrogate": loss.surrogate, "margin": loss.margin, "scale": loss.scale}
    if isinstance(loss, MeanAveragePrecisionLoss):
        assert top_k is not None
        values, gradient = reference.average_precision_at_k(
            batch.scores, batch.relevance, batch.pair_index, state, loss.gamma,
            top_k=top_k, item_weights=batch.weights, **surrogate,
        )  # fmt: skip
    else:
        given = (batch.scores, batch.relevance, batch.pair_index, batch.query_index, state)
        options: dict[str, Any] = {"mask": batch.mask, "offsets": batch.offsets}
        options.update(item_weights=batch.weights, stale=loss.stale_state, **(batch.sizes or {}))
        if isinstance(loss, ListwiseCrossEntropyLoss):
            values, gradient = reference.listwise_cross_entropy(
                *given, loss.gamma, **options, irrelevant_only=loss.items == "irrelevant",
                batch_shift=loss.shift == "batch",
            )  # fmt: skip
        else:
            values, gradient = reference.ndcg(
                *given, loss.gamma, **options, **surrogate, top_k=top_k
            )
    if loss.reduction == "none":
        return values, gradient
    count = max(len(values), 1)
    return values.sum() / count, gradient / count


def follow_reference(
    loss: Any, batches: list[RankingBatch], computed: torch.dtype | None = None
) -> None:
    """Takes a step on every batch; value, gradient and state are those of the reference."""
    truth = states_of(loss)
    for k, batch in enumerate(batches):
        value, gradient = step(loss, batch)
        expected_value, expected_gradient = reference_step(loss, batch, truth)
        assert value.dtype == computed_in(batch.scores.dtype)
        assert gradient.dtype == batch.scores.dtype
        assert_near(f"value of step {k}", value, expected_value, computed)
        assert_near(f"gradient of step {k}", gradient, expected_gradient, computed)
        for name, state in states_of(loss).items():
            assert_near(f"{name} of step {k}", state, truth[name], computed)


def warm(kind: str, **options: Any) -> Any:
    """A loss whose state has seen a batch."""
    loss = make_loss(kind, **options)
    step(loss, make_batch(kind))
    return loss


def twin(loss: Any) -> Any:
    return copy.deepcopy(loss)


def versions(loss: Any) -> list[int]:
    return [getattr(loss, name).value._version for name in states_of(loss)]
