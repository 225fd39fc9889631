"""Log sums of exponentials of similarities (P4): the inner function of every contrastive loss.

Paper: Yuan, Wu, Qiu, Du, Zhang, Zhou and Yang, Provable stochastic optimization for global
contrastive learning: small batch does not harm performance (ICML 2022).
"""

import torch
from torch import Tensor


def contrastive_log_sums(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    exclude: Tensor | None = None,
) -> Tensor:
    """log mean_j exp(<q_i, k_j> / temperature_i) over the keys j that row i keeps, [B] float64.

    queries [B, D]; keys [M, D]; temperature one number or [B]; exclude [B] or [B, E], the keys that
    row i leaves out (-1: none). -inf where no key is kept. Differentiable by autograd.
    """
    if queries.dim() != 2 or keys.dim() != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(
            f"expected queries [B, D] and keys [M, D], got {queries.shape}, {keys.shape}"
        )
    tau = torch.as_tensor(temperature, dtype=torch.float64, device=queries.device)
    if not bool((tau > 0).all()):
        raise ValueError(f"expected temperature > 0, got {temperature}")
    similarities = queries.double() @ keys.double().T  # [B, M]
    exponents = similarities / (tau[:, None] if tau.dim() == 1 else tau)
    kept = kept_keys(exclude, exponents)
    count = kept.sum(dim=1)
    some = count > 0
    # A row without keys has no path for NaN gradients: its exponents are replaced before the sum.
    masked = exponents.masked_fill(~kept & some[:, None], -torch.inf)
    masked = masked.masked_fill(~some[:, None], 0.0)
    if keys.shape[0] == 0:
        return exponents.sum(dim=1) - torch.inf
    log_means = masked.logsumexp(dim=1) - count.clamp(min=1).double().log()
    return log_means.masked_fill(~some, -torch.inf)


def kept_keys(exclude: Tensor | None, like: Tensor) -> Tensor:
    """Which keys [M] each row [B] keeps, as a bool matrix of the shape of `like`."""
    kept = torch.ones_like(like, dtype=torch.bool)
    if exclude is None:
        return kept
    columns = exclude.long()[:, None] if exclude.dim() == 1 else exclude.long()
    if bool(((columns < -1) | (columns >= like.shape[1])).any()):
        raise IndexError(f"expected exclude in [-1, {like.shape[1]})")
    for row, excluded in enumerate(columns.tolist()):
        kept[row, [j for j in excluded if j >= 0]] = False
    return kept
