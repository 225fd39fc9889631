"""The top-K threshold: exact by a sort, smoothed by bisection, and K-SONG's single step.

Paper: Qiu et al., Large-scale stochastic optimization of NDCG surrogates (K-SONG, ICML 2022).
"""

import math
from itertools import pairwise

import torch
from torch import Tensor


def topk_threshold(
    scores: Tensor,
    k: int,
    *,
    method: str = "exact",
    epsilon: float = 0.5,
    tau1: float = 0.01,
    tau2: float = 1e-4,
    offsets: Tensor | None = None,
) -> Tensor:
    """The (k+1)-th largest of each row, or the root of the smoothed problem; in float64.

    scores [..., M] -> [...], or flat with offsets [R + 1] -> [R]. With kappa = (k + epsilon) / n::

        L'(t) = kappa + tau2 t - mean_j sigma((h_j - t) / tau1) = 0

    A row of at most k scores: -inf. NaN stand above inf (smoothed: they count as inf). Autograd
    differentiates it: exact through the first score that equals the threshold; smoothed through one
    Newton step from the root, which leaves the value and has the derivative of the implicit
    function theorem.
    """
    if method not in ("exact", "smooth"):
        raise ValueError(f"unknown method {method!r}")
    h = scores.double()
    if offsets is not None:
        bounds = offsets.tolist()
        rows = [h[a:b] for a, b in pairwise(bounds)]
    else:
        rows = list(h.reshape(h.shape[:-1].numel(), h.shape[-1]).unbind())
    thresholds = []
    for row in rows:
        if len(row) <= k:
            thresholds.append(row.new_full((), -math.inf))
        elif method == "exact":
            thresholds.append(row[_place(row.detach(), k)])
        else:
            thresholds.append(_smooth(row, (k + epsilon) / len(row), tau1, tau2))
    result = torch.stack(thresholds) if thresholds else h.new_empty(0)
    return result if offsets is not None else result.reshape(h.shape[:-1])


def _place(row: Tensor, k: int) -> int:
    value = row.sort(descending=True).values[k]  # NaN first
    same = row.isnan() if value.isnan() else row == value
    return int(same.nonzero()[0])


def _derivatives(
    h: Tensor, t: Tensor, kappa: float, tau1: float, tau2: float, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """L', H and t_j at t; means weighted by ``weights``, whose scale does not matter."""
    above = torch.sigmoid((torch.where(h.isnan(), math.inf, h) - t) / tau1)
    slopes = above * (1.0 - above) / tau1
    w = torch.ones_like(h) if weights is None else weights.double()
    w = w / w.sum()
    return kappa + tau2 * t - (w * above).sum(), tau2 + (w * slopes).sum(), slopes


def _smooth(row: Tensor, kappa: float, tau1: float, tau2: float) -> Tensor:
    h = row.detach()
    start = h[_place(h, min(int(kappa * len(h)), len(h) - 1))]
    start = torch.where(start.isfinite(), start, 0.0)

    def slope(t: Tensor) -> float:
        return float(_derivatives(h, t, kappa, tau1, tau2)[0])

    width = tau1 + start.abs() * 1e-15
    while slope(start - width) > 0 or slope(start + width) < 0:
        width = width * 2
    low, high = start - width, start + width
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    root = (low + high) / 2
    curvature = _derivatives(h, root, kappa, tau1, tau2)[1]
    return root - _derivatives(row, root, kappa, tau1, tau2)[0] / curvature


def topk_threshold_step(
    scores: Tensor,
    threshold: float,
    curvature: float,
    *,
    kappa: float,
    eta: float = 0.01,
    gamma: float = 0.9,
    tau1: float = 0.01,
    tau2: float = 1e-4,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """K-SONG's update of one query's (lambda, s): the new two, and the weights of the gradient.

    scores [S], weights [S] or None (ones), ``curvature`` NaN where untouched. With L' and H at the
    OLD threshold::

        lambda <- lambda - eta L'(lambda),   s <- (1 - gamma) s + gamma H(lambda)

    d lambda / d h_j is then taken as ``w_j t_j / (sum w  s)``, with the new s.
    """
    h = scores.detach().double()
    old = torch.tensor(threshold, dtype=torch.float64)
    derivative, bend, slopes = _derivatives(h, old, kappa, tau1, tau2, weights)
    average = bend if math.isnan(curvature) else (1.0 - gamma) * curvature + gamma * bend
    w = torch.ones_like(h) if weights is None else weights.double()
    return old - eta * derivative, average, w * slopes / (w.sum() * average)
