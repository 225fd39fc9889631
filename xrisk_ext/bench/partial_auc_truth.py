"""Float64 errors of the partial AUC races, against `xrisk_ext.reference`; see truth.py."""

from __future__ import annotations

from typing import Any

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
    given: Any = (scores, labels, index)
    if rule == "p_norm_push":
        return reference.p_norm_push(*given, log, gamma, margin=margin)[1]
    one = {"margin": margin, "gamma": gamma}
    if rule.startswith("two_way"):
        mode = rule.removeprefix("two_way_")
        state = log if mode == "kl" else torch.zeros(rows, dtype=torch.float64)
        outer = torch.full((), float(log[0]) if mode == "kl" else 0.0, dtype=torch.float64)
        dual = torch.ones(rows, dtype=torch.float64)
        return reference.two_way_partial_auc(
            *given, state, dual, outer, mode=mode, outer_gamma=gamma, **one
        )[1]
    state = log if rule == "kl" else torch.zeros(rows, dtype=torch.float64)
    if rule == "exact":
        state = None  # type: ignore[assignment]
    return reference.partial_auc(*given, state, mode=rule, max_fpr=MAX_FPR, **one)[1]
