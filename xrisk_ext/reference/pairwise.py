"""Sums and log-sums of a surrogate over all (anchor, item) pairs, P x M dense.

d_ij = items_j - anchors_i. `pairwise_sums` is the inner function of SOAP, SONG and pairwise AUC;
`pairwise_log_sums` is that of SOPA-s and SOTA-s (Zhu et al., When AUC meets DRO, ICML 2022).
An item of weight 0 is left out: its score may even be NaN, and its gradient is 0.
"""

import torch
from torch import Tensor

from .surrogates import check_surrogate
from .surrogates import surrogate as pair_term


def pairwise_sums(
    anchors: Tensor,
    items: Tensor,
    *,
    item_weights: Tensor | None = None,
    surrogate: str = "squared_hinge",
    margin: float | Tensor = 1.0,
    scale: float | Tensor = 1.0,
    algorithm: str = "auto",
) -> Tensor:
    """R_i = sum_j w_j phi(items_j - anchors_i), float64.

    anchors [P], items [M], item_weights None (all 1), [M] or [C, M], of any sign.
    Returns [P], or [C, P] for weights [C, M]. Differentiable in anchors and items; weights are
    constants. `algorithm` only mirrors the op's signature: there is one way here.
    """
    check_surrogate(surrogate, margin, scale)
    _check_vectors(anchors, items)
    weights = _weights_or_ones(items, item_weights, most_dims=2)
    sums: list[Tensor] = []
    for class_weights in weights if weights.dim() == 2 else weights[None]:  # [M]
        kept = class_weights != 0
        d = items[kept].double()[None, :] - anchors.double()[:, None]  # [P, kept]
        phi = pair_term(surrogate, d, margin, scale)
        sums.append((phi * class_weights[kept]).sum(dim=1))
    if weights.dim() == 1:
        return sums[0]
    return torch.stack(sums) if sums else anchors.new_zeros((0, anchors.shape[0])).double()


def pairwise_log_sums(
    anchors: Tensor,
    items: Tensor,
    *,
    item_weights: Tensor | None = None,
    surrogate: str = "squared_hinge",
    margin: float | Tensor = 1.0,
    scale: float | Tensor = 1.0,
    temperature: float | Tensor = 1.0,
    algorithm: str = "auto",
) -> Tensor:
    """log sum_j w_j exp(phi(items_j - anchors_i) / temperature), float64.

    anchors [P], items [M], item_weights None (all 1) or [M] >= 0. Returns [P]; without items (or
    with weights that are all 0) it is -inf with zero gradient. Differentiable in anchors and items.
    `algorithm` only mirrors the op's signature.
    """
    check_surrogate(surrogate, margin, scale)
    _check_vectors(anchors, items)
    if not float(temperature) > 0.0:
        raise ValueError(f"expected temperature > 0, got {float(temperature)}")
    weights = _weights_or_ones(items, item_weights, most_dims=1)
    if not bool((weights >= 0).all()):
        raise ValueError("expected item_weights >= 0")
    kept = weights > 0
    d = items[kept].double()[None, :] - anchors.double()[:, None]  # [P, kept]
    if d.shape[1] == 0:
        return d.sum(dim=1) - torch.inf  # still a function of the anchors, of zero gradient
    exponents = pair_term(surrogate, d, margin, scale) / float(temperature)  # [P, kept]
    exponents = exponents + weights[kept].log()
    # torch.logsumexp shifts too, but its gradient exp(x - result) inherits the result's rounding
    peak = exponents.detach().amax(dim=1, keepdim=True)
    peak = torch.where(peak.isfinite(), peak, 0.0)  # an exponent of inf gives inf, not inf - inf
    return (exponents - peak).exp().sum(dim=1).log() + peak[:, 0]


def _check_vectors(anchors: Tensor, items: Tensor) -> None:
    if anchors.dim() != 1:
        raise ValueError(f"expected anchors of shape [P], got {list(anchors.shape)}")
    if items.dim() != 1:
        raise ValueError(f"expected items of shape [M], got {list(items.shape)}")


def _weights_or_ones(items: Tensor, item_weights: Tensor | None, most_dims: int) -> Tensor:
    if item_weights is None:
        return torch.ones_like(items, dtype=torch.float64)
    if not 1 <= item_weights.dim() <= most_dims or item_weights.shape[-1] != items.shape[0]:
        shapes = "[M]" if most_dims == 1 else "[M] or [C, M]"
        raise ValueError(
            f"expected item_weights of shape {shapes} with M = {items.shape[0]}, "
            f"got {list(item_weights.shape)}"
        )
    return item_weights.detach().double()
