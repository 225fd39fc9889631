"""One-way and two-way partial AUC: value and dynamic gradient of one step, in every mode.

Papers: Zhu, Li, Wang, Wu and Yang, When AUC meets DRO (ICML 2022): SOPA, SOPA-s, SOTA-s; Zhou,
Wang, Thai and Yang, Stochastic primal-dual double block-coordinate for two-way partial AUC
maximization (TMLR 2025): STACO.
"""

import torch
from torch import Tensor

from ._pairs_of_labels import LabelPairs, blend_, rows_of, step_of_pairs


def partial_auc(
    scores: Tensor,
    labels: Tensor,
    index: Tensor | None = None,
    state: Tensor | None = None,
    *,
    mode: str = "kl",
    max_fpr: float = 0.2,
    kl_weight: float | Tensor = 1.0,
    gamma: float | Tensor = 1.0,
    eta: float | Tensor = 0.1,
    item_weights: Tensor | None = None,
    surrogate: str = "squared_hinge",
    margin: float | Tensor = 1.0,
    scale: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    """One-way partial AUC: false-positive rates in [0, max_fpr].

    Anchors i are the positives, items j the negatives, phi_ij = phi(h_j - h_i), a_i and c_j their
    weights as shares of 1, lambda = kl_weight::

        "kl"     u_i   = moving average of sum_j c_j exp(phi_ij / lambda), kept as a logarithm
                 value = sum_i a_i lambda log u_i;   pair weight a_i c_j exp(phi_ij / lambda) / u_i
        "cvar"   p_ij  = 1[phi_ij > s_i], with s before this step
                 value = sum_i a_i (s_i + sum_j c_j (phi_ij - s_i)_+ / max_fpr)
                 pair weight a_i c_j p_ij / max_fpr
                 s_i   <- s_i - eta (1 - sum_j c_j p_ij / max_fpr)
        "exact"  the c_j of the highest negatives, max_fpr of their total weight, and no others

    One label: scores, labels [B]; state [N]: log u ("kl") or s ("cvar"); value []. L labels:
    scores, labels [B, L]; state [L, N]; value [L]. index [B] is read at positives only. `state` is
    updated in place, duplicate ids by the mean of what each would write. Without state "kl" has
    u = the batch's own, and "cvar" the s that is best for the batch: it is "exact" then.
    """
    rows = rows_of(state, scores, "state")

    def step(pairs: LabelPairs) -> tuple[Tensor, Tensor]:
        own = None if rows is None else rows[pairs.label]
        if mode == "kl":
            return _kl(pairs, own, float(kl_weight), gamma)
        if mode == "cvar" and own is not None:
            return _cvar(pairs, own, max_fpr, float(eta))
        if mode not in ("cvar", "exact"):
            raise ValueError(f"expected mode 'kl', 'cvar' or 'exact', got {mode!r}")
        return exact(pairs, max_fpr * float(pairs.item_weights.sum()))

    num_rows = None if rows is None else rows.shape[1]
    return step_of_pairs(
        scores, labels, index, item_weights, num_rows, step,
        surrogate=surrogate, margin=margin, scale=scale,
    )  # fmt: skip


def two_way_partial_auc(
    scores: Tensor,
    labels: Tensor,
    index: Tensor | None = None,
    state: Tensor | None = None,
    dual: Tensor | None = None,
    outer: Tensor | None = None,
    *,
    mode: str = "kl",
    max_fpr: float = 0.5,
    min_tpr: float = 0.5,
    kl_weight: float | Tensor = 1.0,
    positive_kl_weight: float | Tensor = 1.0,
    gamma: float | Tensor = 1.0,
    outer_gamma: float | Tensor = 1.0,
    eta: float | Tensor = 0.1,
    dual_eta: float | Tensor = 0.1,
    outer_eta: float | Tensor = 0.1,
    item_weights: Tensor | None = None,
    surrogate: str = "squared_hinge",
    margin: float | Tensor = 1.0,
    scale: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    """Two-way partial AUC: false-positive rates to max_fpr, true-positive rates from min_tpr.

    As in `partial_auc`, with lambda' = positive_kl_weight, r = lambda / lambda' and
    theta = 1 - min_tpr, the share of the positives that counts::

        "kl"     u_i as there;  v = moving average of sum_i a_i u_i^r, kept as a logarithm
                 value = lambda' log v;   pair weight a_i c_j u_i^(r - 1) exp(phi_ij / lambda) / v
        "cvar"   g_i   = s_i + sum_j c_j (phi_ij - s_i)_+ / max_fpr
                 y_i   <- y_i + dual_eta (g_i - t) / theta, kept in [0, 1]
                 value = t + sum_i a_i y_i (g_i - t) / theta, with s and t before this step
                 pair weight a_i c_j y_i p_ij / (theta max_fpr)
                 s_i   <- s_i - eta (y_i / theta) (1 - sum_j c_j p_ij / max_fpr)
                 t     <- t - outer_eta (1 - sum_i a_i y_i / theta)
        "exact"  the lowest positives, theta of their weight, with the highest negatives

    state [N] or [L, N]: log u or s; dual of the same shape: y; outer [] or [L]: log v or t. All are
    updated in place. Without state as in `partial_auc`.
    """
    rows, duals = rows_of(state, scores, "state"), rows_of(dual, scores, "dual")
    scalars = outer[None] if outer is not None and outer.dim() == 0 else outer
    share = 1.0 - min_tpr

    def step(pairs: LabelPairs) -> tuple[Tensor, Tensor]:
        own = None if rows is None else rows[pairs.label]
        scalar = None if scalars is None else scalars[pairs.label : pairs.label + 1]
        if mode == "kl":
            weights = (float(kl_weight), float(positive_kl_weight))
            return _two_way_kl(pairs, own, scalar, weights, gamma, outer_gamma)
        if mode == "cvar" and own is not None:
            assert duals is not None
            assert scalar is not None
            etas = (float(eta), float(dual_eta), float(outer_eta))
            return _two_way_cvar(pairs, own, duals[pairs.label], scalar, max_fpr, share, etas)
        if mode not in ("cvar", "exact"):
            raise ValueError(f"expected mode 'kl', 'cvar' or 'exact', got {mode!r}")
        lowest = share * float(pairs.anchor_weights.sum())
        return exact(pairs, max_fpr * float(pairs.item_weights.sum()), lowest)

    num_rows = None if rows is None else rows.shape[1]
    return step_of_pairs(
        scores, labels, index, item_weights, num_rows, step,
        surrogate=surrogate, margin=margin, scale=scale,
    )  # fmt: skip


def exact(pairs: LabelPairs, highest: float, lowest: float | None = None) -> tuple[Tensor, Tensor]:
    """The mean over the pairs of the `lowest` anchors (a weight; None: all) and `highest` items."""
    items = _first(pairs.item_weights, pairs.item_scores, highest, descending=True)
    anchors = pairs.anchor_share
    if lowest is not None:
        anchors = _first(pairs.anchor_weights, pairs.anchor_scores, lowest, descending=False)
    weights = anchors[:, None] * items
    return (weights * pairs.losses).sum(), weights


def _first(weights: Tensor, scores: Tensor, amount: float, *, descending: bool) -> Tensor:
    """Shares of 1 of the first entries in order, as many as `amount` of the weight is; the last of
    them by its fraction, the first of a tie first.
    """
    order = torch.sort(scores, descending=descending, stable=True).indices
    sorted_weights = weights[order]
    before = sorted_weights.cumsum(0) - sorted_weights
    taken = torch.zeros_like(weights)
    taken[order] = torch.minimum(sorted_weights, (amount - before).clamp(min=0.0))
    return taken / taken.sum()


def _log_means(pairs: LabelPairs, kl_weight: float) -> tuple[Tensor, Tensor]:
    """log g_i, g_i = sum_j c_j exp(phi_ij / lambda) [A], and the terms as shares of g_i [A, M].

    Relative to the largest phi: in 1e18 + log(c) there is nothing left of the second summand.
    """
    peak = pairs.losses.amax(dim=1, keepdim=True)
    terms = ((pairs.losses - peak) / kl_weight).exp() * pairs.item_share
    mass = terms.sum(dim=1, keepdim=True)
    return (peak / kl_weight + mass.log())[:, 0], terms / mass


def _kl(
    pairs: LabelPairs, state: Tensor | None, kl_weight: float, gamma: float | Tensor
) -> tuple[Tensor, Tensor]:
    log_g, terms = _log_means(pairs, kl_weight)
    log_u = blend_(state, pairs.ids, log_g, gamma, log=True)
    value = kl_weight * (pairs.anchor_share * log_u).sum()
    return value, (pairs.anchor_share * (log_g - log_u).exp())[:, None] * terms


def _two_way_kl(
    pairs: LabelPairs,
    state: Tensor | None,
    outer: Tensor | None,
    kl_weights: tuple[float, float],
    gamma: float | Tensor,
    outer_gamma: float | Tensor,
) -> tuple[Tensor, Tensor]:
    kl_weight, positive_kl_weight = kl_weights
    ratio = kl_weight / positive_kl_weight
    log_g, terms = _log_means(pairs, kl_weight)
    log_u = blend_(state, pairs.ids, log_g, gamma, log=True)
    observed = torch.logsumexp(pairs.anchor_share.log() + ratio * log_u, dim=0)
    first = torch.zeros(1, dtype=torch.int64)
    log_v = blend_(outer, first, observed[None], outer_gamma, log=True)
    weights = pairs.anchor_share * ((log_g - log_u) + (ratio * log_u - log_v)).exp()
    return positive_kl_weight * log_v[0], weights[:, None] * terms


def _cvar(pairs: LabelPairs, state: Tensor, rate: float, eta: float) -> tuple[Tensor, Tensor]:
    s = state[pairs.ids].double()
    above = (pairs.losses > s[:, None]).double() * pairs.item_share  # c_j p_ij
    g = s + ((pairs.losses - s[:, None]) * above).sum(dim=1) / rate
    blend_(state, pairs.ids, s - eta * (1.0 - above.sum(dim=1) / rate), 1.0)
    return (pairs.anchor_share * g).sum(), pairs.anchor_share[:, None] * above / rate


def _two_way_cvar(
    pairs: LabelPairs,
    state: Tensor,
    dual: Tensor,
    outer: Tensor,
    rate: float,
    share: float,
    etas: tuple[float, float, float],
) -> tuple[Tensor, Tensor]:
    eta, dual_eta, outer_eta = etas
    s, t = state[pairs.ids].double(), outer.double().clone()
    above = (pairs.losses > s[:, None]).double() * pairs.item_share
    g = s + ((pairs.losses - s[:, None]) * above).sum(dim=1) / rate
    y = dual[pairs.ids].double() + dual_eta * (g - t) / share
    y = blend_(dual, pairs.ids, y.clamp(0.0, 1.0), 1.0)
    blend_(state, pairs.ids, s - eta * (y / share) * (1.0 - above.sum(dim=1) / rate), 1.0)
    mean_y = (pairs.anchor_share * y).sum()
    outer.copy_(t - outer_eta * (1.0 - mean_y / share))
    value = t[0] + (pairs.anchor_share * y * (g - t)).sum() / share
    return value, (pairs.anchor_share * y)[:, None] * above / (share * rate)
