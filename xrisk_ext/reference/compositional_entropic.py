"""Compositional entropic risk of extreme classification (SOX, SCENT): one step.

Papers: Wang and Yang, Finite-sum coupled compositional stochastic optimization (ICML 2022); Wei et
al., A geometry-aware efficient algorithm for compositional entropic risk minimization (2026).
"""

import math

import torch
from torch import Tensor

from .moving_average import moving_average_update_


def compositional_entropic(
    features: Tensor,
    class_weights: Tensor,
    targets: Tensor,
    index: Tensor | None = None,
    state: Tensor | None = None,
    gamma: float | Tensor = 1.0,
    *,
    alpha: float | Tensor | None = None,
    kappa: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Value [B], gradients of their mean with respect to features [B, D] and class_weights [K, D].

    With logits s_ik = <x_i, w_k> and nu the logarithm of the moving average::

        g_i      = sum_k exp(s_ik - s_iy) / (K - 1)          (the true class y included)
        nu_i     = log((1 - gamma_i) exp(nu_i) + gamma_i g_i), log g_i on first touch
        value_i  = nu_i + log(K - 1)
        gradient = d of sum_ik p_ik (s_ik - s_iy), p_ik = exp(s_ik - s_iy - nu_i) / ((K - 1) B)

    SOX: gamma_i = gamma. SCENT (`alpha` given): gamma_i = sigmoid(alpha + kappa nu_i), of the nu
    before. `state` [N] is updated in place; None stands for nu = log g.
    """
    x, w = features.double(), class_weights.double()
    batch, classes = len(x), len(w)
    others = max(classes - 1, 1)
    s = x @ w.T
    h = s - s.gather(1, targets.long()[:, None])
    log_g = h.logsumexp(1) - math.log(others)
    nu = log_g
    if state is not None:
        if index is None:
            raise ValueError("expected index, which is needed where there is state, got None")
        if alpha is not None:
            gamma = torch.sigmoid(alpha + kappa * state[index].double())
        nu = moving_average_update_(state, index, log_g, gamma, log=True)
    p = torch.exp(h - nu[:, None]) / (others * max(batch, 1))
    p = p.scatter_add(1, targets.long()[:, None], -p.sum(1, keepdim=True))
    return nu + math.log(others), p @ w, p.T @ x
