"""Stochastic pooling of the instances of bags (MIDAM): pooled scores and their dynamic slopes.

Paper: Zhu, Wang, Chen, Wang, Sonka, Wu and Yang, Provable multi-instance deep AUC maximization with
stochastic pooling (ICML 2023).
"""

import torch
from torch import Tensor

from .moving_average import moving_average_update_


def softmax_pooling(
    scores: Tensor,
    index: Tensor | None = None,
    state: Tensor | None = None,
    gamma: float | Tensor = 1.0,
    *,
    temperature: float | Tensor = 0.1,
) -> tuple[Tensor, Tensor]:
    """Of the sampled instances' scores [B, K] of bags `index` [B]::

        v_i      = mean_j exp(scores_ij / tau);   s_i = moving average of v_i, kept as a logarithm
        pooled_i = tau log s_i
        slope_ij = (d pooled_i / d s_i) (d v_i / d scores_ij) = exp(scores_ij / tau) / (K s_i)

    state [N] of log s, updated in place; None: s = v. Returns pooled [B] and slopes [B, K].
    """
    z = scores.detach().double() / float(temperature)
    count = torch.tensor(float(scores.shape[1]), dtype=torch.float64)
    log_s = torch.logsumexp(z, dim=1) - count.log()
    if state is not None:
        assert index is not None
        exact = moving_average_update_(state.double().clone(), index, log_s, gamma, log=True)
        moving_average_update_(state, index, log_s, gamma, log=True)
        log_s = exact
    return float(temperature) * log_s, (z - log_s[:, None]).exp() / count


def attention_pooling(
    scores: Tensor,
    attention: Tensor,
    index: Tensor | None = None,
    state: Tensor | None = None,
    gamma: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of scores and attention logits [B, K], with sigma the logistic function::

        n_i, q_i = moving averages of mean_j exp(attention_ij) scores_ij, mean_j exp(attention_ij)
        pooled_i = sigma(n_i / q_i)

    state [N, 2] = (n, q), linear, updated in place. Returns pooled [B] and its slopes by scores and
    by attention [B, K]: those of n and q times d pooled / d n and d pooled / d q.
    """
    e = attention.detach().double().exp()
    delta = scores.detach().double()
    averages = torch.stack([(e * delta).mean(dim=1), e.mean(dim=1)], dim=1)
    if state is not None:
        assert index is not None
        averages = moving_average_update_(state, index, averages, gamma)
    n, q = averages[:, :1], averages[:, 1:]
    pooled = torch.sigmoid(n / q)
    by_n = pooled * (1.0 - pooled) / q
    by_q = -by_n * n / q
    e = e / scores.shape[1]
    return pooled[:, 0], by_n * e, by_n * e * delta + by_q * e
