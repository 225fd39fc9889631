"""Surrogate losses phi(d) of a score difference d = item - anchor, and their slopes phi'(d).

phi is large when the item outranks the anchor. With margin m and scale s::

    squared         (m + d)^2                                2 (m + d)
    squared_hinge   max(m + d, 0)^2                          2 max(m + d, 0)
    hinge           max(m + d, 0)                            1[d > -m]
    barrier_hinge   max(s (d - m) + m, m + d, -s (d + m))    s, 1 or -s; needs s >= 1
    logistic        log(1 + exp(s d))                        s sigma(s d)
    sigmoid         sigma(s d)                               s sigma(s d) sigma(-s d)
    exponential     exp(s d)                                 s exp(s d)
    zero_one        1[d > 0] + 1[d = 0] / 2                  0

At a kink the slope is the one on its left: a breakpoint is passed only when d is strictly greater.

Papers: Gao and Zhou, On the consistency of AUC pairwise optimization (IJCAI 2015); barrier hinge:
Charoenphakdee, Lee and Sugiyama, On symmetric losses for learning from corrupted labels
(ICML 2019), whose argument is t = anchor - item = -d.
"""

import math
from typing import Any

import torch
from torch import Tensor

SURROGATES = (
    "squared",
    "squared_hinge",
    "hinge",
    "barrier_hinge",
    "logistic",
    "sigmoid",
    "exponential",
    "zero_one",
)


def check_surrogate(
    name: str, margin: float | Tensor = 1.0, scale: float | Tensor = 1.0
) -> tuple[float, float]:
    """Return (margin, scale) as floats, or raise a ValueError that names the bad argument."""
    if name not in SURROGATES:
        raise ValueError(f"expected surrogate to be one of {SURROGATES}, got {name!r}")
    m, s = float(margin), float(scale)
    if not (m >= 0.0 and math.isfinite(m)):
        raise ValueError(f"expected a finite margin >= 0, got {m}")
    if not (s > 0.0 and math.isfinite(s)):
        raise ValueError(f"expected a finite scale > 0, got {s}")
    if name == "barrier_hinge" and s < 1.0:
        raise ValueError(f"expected scale >= 1 for barrier_hinge, got {s}")
    return m, s


def _value(name: str, d: Tensor, m: float, s: float) -> Tensor:
    if name == "squared":
        return (m + d) ** 2
    if name == "squared_hinge":
        return (m + d).clamp(min=0.0) ** 2
    if name == "hinge":
        return (m + d).clamp(min=0.0)
    if name == "barrier_hinge":
        return torch.maximum(torch.maximum(s * (d - m) + m, m + d), -s * (d + m))
    if name == "logistic":
        # softplus, exact on both sides (torch's own softplus drops exp(-x) beyond x = 20)
        return (s * d).clamp(min=0.0) + torch.log1p(torch.exp(-(s * d).abs()))
    if name == "sigmoid":
        return torch.sigmoid(s * d)
    if name == "exponential":
        return torch.exp(s * d)
    zero_one = (d > 0).double() + 0.5 * (d == 0).double()
    return torch.where(d.isnan(), d, zero_one)


def _slope(name: str, d: Tensor, m: float, s: float) -> Tensor:
    if name == "squared":
        return 2.0 * (m + d)
    if name == "squared_hinge":
        return 2.0 * (m + d).clamp(min=0.0)
    if name == "hinge":
        return (d > -m).double()
    if name == "barrier_hinge":
        # s (d - m) + m overtakes m + d at d = s m / (s - 1), which is never at s = 1
        upper = s * m / (s - 1.0) if s > 1.0 else math.inf
        slope = torch.full_like(d, -s)
        slope[d > -m] = 1.0
        slope[d > upper] = s
        return slope
    if name == "logistic":
        return s * torch.sigmoid(s * d)
    if name == "sigmoid":
        # sigma(-x), not 1 - sigma(x): no cancellation in the right tail
        return s * torch.sigmoid(s * d) * torch.sigmoid(-s * d)
    if name == "exponential":
        return s * torch.exp(s * d)
    return torch.zeros_like(d)  # zero_one


class _PairTerm(torch.autograd.Function):
    """phi with phi' as its derivative, so that autograd keeps the kink convention too."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, name: str, m: float, s: float) -> Tensor:
        ctx.save_for_backward(d)
        ctx.pair_term = (name, m, s)
        return _value(name, d, m, s)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (d,) = ctx.saved_tensors
        name, m, s = ctx.pair_term
        return gradient * _slope(name, d, m, s), None, None, None


def surrogate(
    name: str,
    differences: Tensor,
    margin: float | Tensor = 1.0,
    scale: float | Tensor = 1.0,
) -> Tensor:
    """phi(d), elementwise; float64, the shape of `differences`; autograd yields `surrogate_slope`.

    `margin` matters to squared, squared_hinge, hinge and barrier_hinge only, `scale` to
    barrier_hinge, logistic, sigmoid and exponential only; both are constants for autograd.
    """
    m, s = check_surrogate(name, margin, scale)
    phi: Tensor = _PairTerm.apply(  # type: ignore[no-untyped-call]
        differences.double(), name, m, s
    )
    return phi


def surrogate_slope(
    name: str,
    differences: Tensor,
    margin: float | Tensor = 1.0,
    scale: float | Tensor = 1.0,
) -> Tensor:
    """phi'(d), elementwise; float64, the shape of `differences`; a constant for autograd."""
    m, s = check_surrogate(name, margin, scale)
    return _slope(name, differences.detach().double(), m, s)
