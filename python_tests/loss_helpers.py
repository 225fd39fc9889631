"""What the tests of the losses share: the losses by name, batches, and one step of each truth."""

from typing import Any, NamedTuple

import pytest
import torch
from helpers import (
    MARGIN,
    SCALE,
    SURROGATE_ALGORITHMS,
    algorithms_of,
    computed_in,
    randn,
    random_labels,
)
from torch import Tensor, nn

from xrisk_ext import (
    AveragePrecisionLoss,
    MeanAveragePrecisionLoss,
    PairwiseAUCLoss,
    PartialAUCLoss,
    reference,
)
from xrisk_ext.losses._score_loss import ScoreLoss

LOSSES = ("ap", "map", "auc", "kl")
STATEFUL = ("ap", "map", "kl")
PAIRS = ("auc", "kl")  # of positives and negatives: nothing to do where one of them is missing
NUM_LABELS = 3
NUM_SAMPLES = 8
# options that a loss without state does not take
_OF_THE_STATE = ("gamma", "state_dtype", "initial_state")

each_loss = pytest.mark.parametrize("kind", LOSSES)
each_stateful_loss = pytest.mark.parametrize("kind", STATEFUL)
each_half = pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=("half", "bf16"))
each_precision = pytest.mark.parametrize(
    "dtype", (torch.float32, torch.float64), ids=("float32", "float64")
)
# surrogate, algorithm and the hyper-parameters that suit them all
SURROGATE_OPTIONS: list[dict[str, Any]] = [
    {"surrogate": name, "algorithm": algorithm, "margin": MARGIN, "scale": SCALE}
    for name, algorithm in SURROGATE_ALGORITHMS
]
each_surrogate = pytest.mark.parametrize(
    "options", SURROGATE_OPTIONS, ids=lambda o: f"{o['surrogate']}-{o['algorithm']}"
)


class Batch(NamedTuple):
    scores: Tensor  # [B] or [B, L]
    labels: Tensor
    index: Tensor  # [B], -1 where no label is positive
    weights: Tensor | None = None  # [B] or the scores' shape


def make_loss(kind: str, num_samples: int | None = NUM_SAMPLES, **options: Any) -> ScoreLoss:
    """A loss by name; gamma is 0.3 so that old and new observations both matter."""
    if num_samples is not None:
        options = {"gamma": 0.3, **options}
    if kind == "auc":
        return PairwiseAUCLoss(**{k: v for k, v in options.items() if k not in _OF_THE_STATE})
    if kind == "map":
        return MeanAveragePrecisionLoss(num_samples, NUM_LABELS, **options)
    if kind == "kl":  # exponentials of a surrogate have the direct algorithm alone
        near_linear = algorithms_of(options.get("surrogate", "squared_hinge"))[1]
        if options.get("algorithm") == near_linear:
            options["algorithm"] = "direct"
        return PartialAUCLoss(num_samples, mode="kl", **options)
    return AveragePrecisionLoss(num_samples, **options)


def make_batch(
    kind: str, seed: int = 0, size: int = 12, *, weights: str = "", dtype: torch.dtype | None = None
) -> Batch:
    """Random scores, the first and third entry positive and of one id, the second negative.

    `weights`: "" for none, "entry" for [B], "label" for the scores' shape.
    """
    shape = (size, NUM_LABELS) if kind == "map" else (size,)
    scores = randn(*shape, seed=seed)
    labels = random_labels(*shape, seed=seed)
    labels[2:3] = 1
    generator = torch.Generator().manual_seed(seed + 2000)
    index = torch.randint(NUM_SAMPLES, (size,), generator=generator)
    index[2:3] = index[0:1]
    index[~(labels.reshape(size, -1) > 0).any(dim=1)] = -1
    batch = Batch(scores.to(dtype or torch.float64), labels, index)
    if not weights:
        return batch
    w = randn(*(shape if weights == "label" else (size,)), seed=seed + 3000).abs() + 0.1
    w[3] = 0.0
    return batch._replace(weights=w)


def make_batches(kind: str, count: int = 4, **options: Any) -> list[Batch]:
    """Batches whose ids come back, within a batch and from one to the next."""
    return [make_batch(kind, seed=10 * k, **options) for k in range(count)]


def call(loss: ScoreLoss, batch: Batch, scores: Tensor | None = None, **options: Any) -> Tensor:
    h = batch.scores if scores is None else scores
    if batch.weights is not None:
        options["item_weights"] = batch.weights
    if isinstance(loss, PairwiseAUCLoss):
        return loss(h, batch.labels, **options)  # type: ignore[no-any-return]
    return loss(h, batch.labels, batch.index, **options)  # type: ignore[no-any-return]


def step(
    loss: ScoreLoss, batch: Batch, upstream: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Value and gradient of a batch."""
    leaf = batch.scores.detach().requires_grad_()
    value = call(loss, batch, leaf, **options)
    weights = torch.ones_like(value) if upstream is None else upstream.to(value.dtype)
    (gradient,) = torch.autograd.grad(value, leaf, weights)
    return value.detach(), gradient


def their_step(theirs: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """What `step` is for a loss of LibAUC."""
    leaf = batch.scores.clone().requires_grad_()
    value = theirs(leaf, batch.labels, batch.index)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def reference_step(
    loss: ScoreLoss, batch: Batch, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What `step` should give, in float64; `state` [L, N, ...] is updated in place."""
    options: dict[str, Any] = {"surrogate": loss.surrogate, "margin": loss.margin}
    options.update(scale=loss.scale, item_weights=batch.weights)
    if isinstance(loss, PairwiseAUCLoss):
        value, gradient = reference.pairwise_auc(batch.scores, batch.labels, **options)
    elif isinstance(loss, PartialAUCLoss):
        options |= {"mode": "kl", "kl_weight": loss.kl_weight, "gamma": loss.gamma}
        rows = None if state is None else state[0]
        value, gradient = reference.partial_auc(
            batch.scores, batch.labels, batch.index, rows, **options
        )
    else:
        rows = state[0] if state is not None and batch.scores.dim() == 1 else state
        value, gradient = reference.average_precision(
            batch.scores, batch.labels, batch.index, rows, loss.gamma, **options
        )
    if value.dim() == 0:
        return (value if loss.reduction == "mean" else value[None]), gradient
    return (value.mean(), gradient / len(value)) if loss.reduction == "mean" else (value, gradient)


def state_of(loss: ScoreLoss) -> Tensor | None:
    """A copy of the state."""
    return None if loss.state is None else loss.state.value.clone()


def bits_equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Bitwise, all NaN being one; None equals None."""
    if a is None or b is None:
        return a is b
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(_bytes(a), _bytes(b))


def _bytes(t: Tensor) -> Tensor:
    canonical = torch.where(t.isnan(), torch.full_like(t, float("nan")), t)
    return canonical.detach().contiguous().reshape(-1).view(torch.uint8)


def assert_near(
    what: str, actual: Tensor, expected: Tensor, computed: torch.dtype | None = None
) -> None:
    """Within a few roundings of the dtype computed in, relative to the largest entry.

    What the actual's own dtype rounds away is forgiven; a NaN equals a NaN.
    """
    assert actual.shape == expected.shape, f"{what}: {actual.shape}, expected {expected.shape}"
    if expected.numel() == 0:
        return
    dtype = computed or computed_in(actual.dtype)
    size = float(expected.nan_to_num(0.0, 0.0, 0.0).abs().max())
    tolerance = 3e-6 if dtype == torch.float32 else 1e-12
    rounding = torch.finfo(actual.dtype)
    torch.testing.assert_close(
        actual.double(),
        expected.double(),
        rtol=rounding.eps / 2,
        atol=max(tolerance * size, 1e-14, rounding.smallest_normal * rounding.eps),
        equal_nan=True,
        msg=lambda text: f"{what}: {text}",
    )


def follow_reference(
    loss: ScoreLoss, batches: list[Batch], computed: torch.dtype | None = None
) -> None:
    """Takes a step on every batch; value, gradient and state are those of the reference."""
    truth = state_of(loss)
    for k, batch in enumerate(batches):
        value, gradient = step(loss, batch)
        expected_value, expected_gradient = reference_step(loss, batch, truth)
        assert value.dtype == computed_in(batch.scores.dtype)
        assert gradient.dtype == batch.scores.dtype
        assert_near(f"value of step {k}", value, expected_value, computed)
        assert_near(f"gradient of step {k}", gradient, expected_gradient, computed)
        if loss.state is not None and truth is not None:
            assert_near(f"state of step {k}", loss.state.value, truth, computed)
