"""The losses that look at the top of the list by name, and one step of their reference."""

from typing import Any

import pytest
import torch
from helpers import randn, random_labels
from loss_helpers import NUM_SAMPLES, Batch, bits_equal, step
from torch import Tensor

from xrisk_ext import (
    PartialAUCLoss,
    PNormPushLoss,
    TopPushLoss,
    TwoWayPartialAUCLoss,
    reference,
)
from xrisk_ext.losses._top_loss import TopLoss

NUM_LABELS = 3
KL = {"mode": "kl", "kl_weight": 0.6, "gamma": 0.3}
RULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "kl": (PartialAUCLoss, KL),
    "cvar": (PartialAUCLoss, {"mode": "cvar", "max_fpr": 0.3, "eta": 0.4}),
    "exact": (PartialAUCLoss, {"mode": "exact", "max_fpr": 0.3}),
    "two_way_kl": (TwoWayPartialAUCLoss, KL | {"positive_kl_weight": 0.9, "outer_gamma": 0.4}),
    "two_way_cvar": (
        TwoWayPartialAUCLoss,
        {"mode": "cvar", "max_fpr": 0.3, "min_tpr": 0.6, "eta": 0.4, "dual_eta": 0.3}
        | {"outer_eta": 0.2},
    ),
    "two_way_exact": (TwoWayPartialAUCLoss, {"mode": "exact", "max_fpr": 0.3, "min_tpr": 0.6}),
    "top_push": (TopPushLoss, {}),
    "p_norm_push": (PNormPushLoss, {"p": 3.0, "gamma": 0.3}),
}
WITH_STATE = ("kl", "cvar", "two_way_kl", "two_way_cvar", "p_norm_push")
LOG = ("kl", "two_way_kl", "p_norm_push")
each_rule = pytest.mark.parametrize("rule", RULES)
each_stateful_rule = pytest.mark.parametrize("rule", WITH_STATE)
each_width = pytest.mark.parametrize("num_labels", [None, NUM_LABELS])


def make_top_loss(rule: str, num_samples: int | None = NUM_SAMPLES, **options: Any) -> TopLoss:
    loss_type, own = RULES[rule]
    arguments = {**own, **options}
    if rule == "top_push":
        return loss_type(**arguments)  # type: ignore[no-any-return]
    return loss_type(num_samples, **arguments)  # type: ignore[no-any-return]


def make_top_batch(
    rule: str, num_labels: int | None = None, seed: int = 0, size: int = 15, weights: str = ""
) -> Batch:
    """Random scores; ids that occur more than once, and -1 where no label makes an anchor."""
    shape = (size,) if num_labels is None else (size, num_labels)
    labels = random_labels(*shape, seed=seed)
    generator = torch.Generator().manual_seed(seed + 7)
    index = torch.randint(NUM_SAMPLES, (size,), generator=generator)
    anchors = labels <= 0 if rule == "p_norm_push" else labels > 0
    index[~anchors.reshape(size, -1).any(dim=1)] = -1
    batch = Batch(randn(*shape, seed=seed), labels, index)
    if not weights:
        return batch
    drawn = torch.randint(0, 4, shape if weights == "label" else (size,), generator=generator)
    return batch._replace(weights=drawn.double() / 2)


def batches(rule: str, num_labels: int | None = None, **options: Any) -> list[Batch]:
    return [make_top_batch(rule, num_labels, seed=5 * k, **options) for k in range(4)]


def states_of(loss: TopLoss) -> dict[str, Tensor]:
    """Copies of what the loss keeps, by name."""
    parts = {"state": loss.state, "dual": loss.dual, "outer": loss.outer}
    return {name: part.value.clone() for name, part in parts.items() if part is not None}


def same_states(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(bits_equal(a[name], b[name]) for name in a)


def top_step(loss: TopLoss, batch: Batch, **options: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(loss, TopPushLoss):
        return step(loss, batch, **options)
    leaf = batch.scores.detach().requires_grad_()
    value = loss(leaf, batch.labels, item_weights=batch.weights, **options)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def top_reference(loss: TopLoss, batch: Batch, states: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Value and gradient of `reduction="none"`, in float64; `states` are updated in place."""
    options: dict[str, Any] = {"surrogate": loss.surrogate, "margin": loss.margin}
    options |= {"scale": loss.scale, "item_weights": batch.weights}
    given = (batch.scores, batch.labels)
    rows = {name: t if batch.scores.dim() == 2 else t[0] for name, t in states.items()}
    if isinstance(loss, TopPushLoss):
        return reference.top_push(*given, **options)
    if isinstance(loss, PNormPushLoss):
        return reference.p_norm_push(
            *given, batch.index, rows.get("state"), loss.gamma, p=loss.power, **options
        )
    options |= {name: getattr(loss, name) for name in ("mode", "max_fpr", *loss._schedule_names)}
    if isinstance(loss, PartialAUCLoss):
        return reference.partial_auc(*given, batch.index, rows.get("state"), **options)
    return reference.two_way_partial_auc(
        *given, batch.index, **rows, min_tpr=loss.min_tpr, **options
    )


def follow(
    loss: TopLoss, batches: list[Batch], rtol: float = 1e-9, given: list[Batch] | None = None
) -> None:
    """Takes a step on every batch; value, gradient and states are those of the reference.

    Beyond 1e-6 what is tolerated is relative to numbers around 1, too: logarithms near 0 cancel.
    ``given``: the same numbers where the loss is, in any layout.
    """
    truth = {name: state.cpu() for name, state in states_of(loss).items()}
    for k, batch in enumerate(batches):
        step_of = batch if given is None else given[k]
        value, gradient = (t.cpu() for t in top_step(loss, step_of))
        expected_value, expected = top_reference(loss, batch, truth if loss.training else {})
        labels = 1 if batch.scores.dim() == 1 else batch.scores.shape[1]
        if loss.reduction == "mean":
            expected_value, expected = expected_value.mean(), expected / labels
        close(f"value of step {k}", value, expected_value.reshape(value.shape), rtol)
        close(f"gradient of step {k}", gradient, expected, rtol)
        for name, state in states_of(loss).items():
            close(f"{name} of step {k}", state.cpu(), truth[name], rtol)


def close(what: str, actual: Tensor, expected: Tensor, rtol: float) -> None:
    finite = expected[expected.isfinite()].double()
    size = float(finite.abs().max()) if finite.numel() else 0.0
    least = rtol if rtol > 1e-6 else 1e-14
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=rtol, atol=rtol * size + least, equal_nan=True,
        msg=lambda text: f"{what}: {text}",
    )  # fmt: skip
