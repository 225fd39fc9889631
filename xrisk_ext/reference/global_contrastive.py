"""Global contrastive losses: SogCLR, iSogCLR and their two-modality forms; one step of each.

Papers: Yuan et al., SogCLR (ICML 2022); Qiu et al., Not all semantics are created equal: iSogCLR
(ICML 2023); Wei et al., FastCLIP (2024).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .moving_average import moving_average_update_


class Individual(NamedTuple):
    """State and constants of individual temperatures; `tau` and `momentum` are updated in place.

    tau, momentum: [N] (one modality) or [2, N]. With second_beta > 0, the weight of a new square in
    Adam's second moment, momentum is [3, N] or [6, N]: first moments, second moments, steps taken.
    """

    tau: Tensor
    momentum: Tensor
    rho: float
    eta: float | Tensor = 0.01
    beta: float = 0.9
    lowest: float = 0.0
    highest: float = math.inf
    second_beta: float = 0.0
    max_slope: float = math.inf


def global_contrastive(
    view1: Tensor,
    view2: Tensor,
    index: Tensor | None = None,
    state: Tensor | None = None,
    gamma: float | Tensor = 1.0,
    *,
    temperature: float | Tensor = 0.1,
    individual: Individual | None = None,
    denominator: str = "shared",
    relative_to_positive: bool = True,
    normalize: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Value and the gradients for both views [B, D] of one step of SogCLR or iSogCLR.

    Anchors are the items of both views; the negatives of anchor i are both views of all other
    entries, n = 2 (B - 1). With e the normalised embeddings, s_ij = <e_i, e_j>, s_i the similarity
    of the two views of i, and per view::

        g_i   = mean_j exp(h_ij / tau_i)     h_ij = s_ij, or s_ij - s_i (individual temperatures)
        u_i   = moving average of the mean of g_i over the views (denominator "shared"), or of the
                view's own g_i, the average over the views being stored ("per_view")
        value = mean_i sum over views of tau_i log u_i - s_i             constant temperature
                mean_i sum over views of tau_i (log u_i + rho)           individual temperatures
        gradient = d/d view of mean_i sum over views of
                   mean_j w_ij h_ij [- s_i], constant w_ij = exp(h_ij / tau_i) / u_i

    Individual temperatures then take a step along G_i, the mean over the views of
    log u_i + rho - mean_j w_ij h_ij / tau_i: v <- (1 - beta) v + beta G, tau <- clip(tau - eta v).
    With relative_to_positive=False they use s_ij for h_ij there, too, and the value keeps - s_i.

    state [N] holds log u; None stands for u = g. Fewer than two entries: all zero, state untouched.
    An embedding that is not finite: NaN throughout, state untouched.
    """
    a, c = _leaf(view1), _leaf(view2)
    batch = len(a)
    if batch < 2:
        return a.new_zeros(()).detach(), torch.zeros_like(a), torch.zeros_like(c)
    z = torch.cat([_embedding(a, normalize), _embedding(c, normalize)])  # [2B, D]
    if not bool(z.detach().isfinite().all()):
        return _nan(a, c)
    s = z @ z.T
    positive = (z[:batch] * z[batch:]).sum(dim=1).repeat(2)  # [2B]
    item = torch.arange(2 * batch) % batch
    negative = item[:, None] != item[None, :]
    tau = _temperatures(temperature, individual, index, batch)[0].repeat(2)  # [2B]
    relative = individual is not None and relative_to_positive
    h = s - positive[:, None] if relative else s
    exponents = (h.detach() / tau[:, None]).masked_fill(~negative, -math.inf)
    log_g = exponents.logsumexp(dim=1) - math.log(2 * (batch - 1))
    log_g1, log_g2 = log_g[:batch], log_g[batch:]
    shared = torch.logaddexp(log_g1, log_g2) - math.log(2.0)
    if denominator == "shared":
        log_u = _blend(state, index, shared, gamma).repeat(2)
    elif denominator == "per_view":
        old = None if state is None else state.clone()
        log_u = torch.cat([_blend(_copy(old), index, x, gamma) for x in (log_g1, log_g2)])
        _blend(state, index, shared, gamma)
    else:
        raise ValueError(f"expected denominator 'shared' or 'per_view', got {denominator!r}")
    w = (exponents - log_u[:, None]).exp() / (2 * (batch - 1))  # [2B, 2B], 0 at the diagonal
    surrogate = (w * h).sum() / batch
    value = (tau * log_u).sum() / batch
    if not relative:
        surrogate = surrogate - positive.sum() / batch
        value = value - positive.detach().sum() / batch
    by_view1, by_view2 = torch.autograd.grad(surrogate, (a, c))
    if individual is not None:
        value = value + individual.rho * tau.sum() / batch
        mean_exponents = (w * exponents.masked_fill(~negative, 0.0)).sum(dim=1)
        g = (log_u + individual.rho - mean_exponents).view(2, batch).mean(dim=0, keepdim=True)
        _step_temperatures(individual, index, g)
    return value.detach(), by_view1, by_view2


def bimodal_global_contrastive(
    image: Tensor,
    text: Tensor,
    index: Tensor | None = None,
    state: Tensor | None = None,
    gamma: float | Tensor = 1.0,
    *,
    temperature: float | Tensor = 0.01,
    individual: Individual | None = None,
    rho: float = 0.0,
    temperature_weighted: bool = True,
    epsilon: float = 0.0,
    normalize: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value, the gradients for image and text [B, D] and for the temperature, of one step.

    With S = E T^T: anchor image i has h_ij = S_ij - S_ii over the texts j != i, anchor text i has
    h_ij = S_ji - S_ii over the images j != i; each side has its state, row of `state` [2, N]::

        value = 1/2 mean_i sum over sides of  tau_i (log(epsilon + u_i) + rho)
        gradient = d of 1/2 mean_i sum over sides of mean_j w_ij h_ij
                   with constant w_ij = exp(h_ij / tau_i) / (epsilon + u_i)

    temperature_weighted=False (FastCLIP-v0): the value is 1/2 mean_i sum log(epsilon + u_i), and
    the gradient has a factor 1 / tau. The last result is the derivative of the value for one global
    temperature, u being a constant average of which g = mean_j exp(h_ij / tau) is the new part.
    Individual temperatures step per side as in `global_contrastive`, or by Adam per sample
    (FastCLIP-v2; the published code differs: no square root, steps counted in epochs).
    """
    e, t = _leaf(image), _leaf(text)
    batch = len(e)
    if batch < 2:
        zero = e.new_zeros(()).detach()
        return zero, torch.zeros_like(e), torch.zeros_like(t), zero
    x, y = _embedding(e, normalize), _embedding(t, normalize)
    if not bool(x.detach().isfinite().all() and y.detach().isfinite().all()):
        return *_nan(e, t), torch.tensor(math.nan, dtype=torch.float64)
    s = x @ y.T
    negative = ~torch.eye(batch, dtype=torch.bool)
    tau = _temperatures(temperature, individual, index, batch)  # [1 or 2, B]
    tau = tau.expand(2, batch)
    h = torch.stack([s, s.T]) - torch.diagonal(s)[None, :, None]  # [2, B, B]
    exponents = (h.detach() / tau[:, :, None]).masked_fill(~negative, -math.inf)
    log_g = exponents.logsumexp(dim=2) - math.log(batch - 1)  # [2, B]
    log_u = torch.stack(
        [
            _blend(None if state is None else state[side], index, log_g[side], gamma)
            for side in (0, 1)
        ]
    )
    if epsilon > 0:
        log_u = torch.logaddexp(log_u, torch.tensor(math.log(epsilon), dtype=torch.float64))
    w = (exponents - log_u[:, :, None]).exp() / (batch - 1)
    mean_exponents = (w * exponents.masked_fill(~negative, 0.0)).sum(dim=2)  # [2, B]
    share = torch.ones_like(tau) if temperature_weighted else 1.0 / tau
    surrogate = (share[:, :, None] * w * h).sum() / (2 * batch)
    by_image, by_text = torch.autograd.grad(surrogate, (e, t))
    rho = rho if individual is None else individual.rho
    if temperature_weighted:
        value = (tau * (log_u + rho)).sum() / (2 * batch)
        slope = (log_u + rho - mean_exponents).sum() / (2 * batch)
    else:
        value = log_u.sum() / (2 * batch)
        slope = -(mean_exponents / tau).sum() / (2 * batch)
    if individual is not None:
        _step_temperatures(individual, index, log_u + rho - mean_exponents)
    return value.detach(), by_image, by_text, slope


def _leaf(view: Tensor) -> Tensor:
    return view.detach().double().requires_grad_()


def _embedding(x: Tensor, normalize: bool) -> Tensor:
    """x / |x|; a row of zeros stays zero and has no gradient."""
    if not normalize:
        return x
    size = x.detach().abs().amax(dim=1, keepdim=True)
    empty = size == 0
    scaled = x / size.masked_fill(empty, 1.0)  # squares of large entries overflow
    norm = scaled.square().sum(dim=1, keepdim=True).masked_fill(empty, 1.0).sqrt()
    return (scaled / norm).masked_fill(empty, 0.0)


def _nan(a: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    nan = torch.full((), math.nan, dtype=torch.float64)
    return nan, torch.full_like(a, math.nan).detach(), torch.full_like(c, math.nan).detach()


def _copy(state: Tensor | None) -> Tensor | None:
    return None if state is None else state.clone()


def _blend(
    state: Tensor | None, index: Tensor | None, observed: Tensor, gamma: float | Tensor
) -> Tensor:
    if state is None:
        return observed
    if index is None:
        raise ValueError("expected index, which is needed where there is state, got None")
    return moving_average_update_(state, index, observed, gamma, log=True)


def _temperatures(
    temperature: float | Tensor, individual: Individual | None, index: Tensor | None, batch: int
) -> Tensor:
    """[sides, B]"""
    if individual is None:
        tau = torch.as_tensor(temperature, dtype=torch.float64).detach().reshape(1, 1)
        return tau.expand(1, batch)
    if index is None:
        raise ValueError("expected index, which individual temperatures need, got None")
    return individual.tau.reshape(-1, individual.tau.shape[-1])[:, index.long()].double()


def _step_temperatures(individual: Individual, index: Tensor | None, g: Tensor) -> None:
    """One momentum step per side; entries of one id share the mean of their G."""
    assert index is not None
    taus = individual.tau.view(-1, individual.tau.shape[-1])
    momenta = individual.momentum.view(-1, len(taus), individual.tau.shape[-1])
    for side, slopes in enumerate(g.clamp(-individual.max_slope, individual.max_slope)):
        old = taus[side, index.long()].double()
        v = moving_average_update_(momenta[0, side], index, slopes, individual.beta)
        if individual.second_beta > 0:
            square = moving_average_update_(
                momenta[1, side], index, slopes**2, individual.second_beta
            )
            momenta[2, side, torch.unique(index.long())] += 1
            t = momenta[2, side, index.long()].double()
            v = v / (1 - (1 - individual.beta) ** t)
            v = v / ((square / (1 - (1 - individual.second_beta) ** t)).sqrt() + 1e-8)
        new = (old - float(individual.eta) * v).clamp(individual.lowest, individual.highest)
        taus[side, index.long()] = new.to(taus.dtype)
