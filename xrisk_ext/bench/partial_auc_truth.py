"""Float64 errors of the partial AUC races, against `xrisk_ext.reference`; see truth.py."""

from __future__ import annotations

import torch
from torch import Tensor

from xrisk_ext import reference
from xrisk_ext.bench.truth import on_cpu, once_for, relative_error
from xrisk_ext.testing.partial_auc_cases import MAX_FPR, PartialAUCInputs

LOWEST = -1e300  # the logarithm of a zero that is averaged, and not assigned


def partial_auc_error(
    inputs: PartialAUCInputs, gradient: Tensor | None, *, zero_start: bool = False
) -> float:
    """Of the gradient of one step from the first state."""
    inputs = on_cpu(inputs)
    truth = once_for(
        "partial_auc",
        (inputs.scores, inputs.labels),
        (inputs.rule, zero_start),
        lambda: _gradient(inputs, zero_start),
    )
    return relative_error(gradient, truth)


def _gradient(inputs: PartialAUCInputs, zero_start: bool) -> Tensor:
    scores, labels, index, rows, rule, gamma, margin = inputs
    log = torch.full((rows,), LOWEST if zero_start else -torch.inf, dtype=torch.float64)
    state = log if "kl" in rule else torch.zeros(rows, dtype=torch.float64)
    if rule == "p_norm_push":
        return reference.p_norm_push(scores, labels, index, log, gamma, margin=margin)[1]
    if not rule.startswith("two_way"):
        return reference.partial_auc(
            scores, labels, index, None if rule == "exact" else state,
            mode=rule, max_fpr=MAX_FPR, gamma=gamma, margin=margin,
        )[1]  # fmt: skip
    dual, outer = torch.ones(rows, dtype=torch.float64), state[0].clone()
    return reference.two_way_partial_auc(
        scores, labels, index, state, dual, outer,
        mode=rule.removeprefix("two_way_"), gamma=gamma, outer_gamma=gamma, margin=margin,
    )[1]  # fmt: skip
