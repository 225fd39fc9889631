"""Average precision (SOAP) and mean average precision: value and dynamic gradient of one step.

Paper: Qi, Luo, Xu, Ji and Yang, Stochastic optimization of areas under precision-recall curves
with provable convergence (NeurIPS 2021); per label: Yuan et al., LibAUC (KDD 2023).
"""

import math

import torch
from torch import Tensor

from ._columns import as_columns
from .moving_average import moving_average_update_
from .surrogates import check_surrogate, surrogate_slope
from .surrogates import surrogate as pair_term

U_ALL_FLOOR = 1e-30


def average_precision(
    scores: Tensor,
    labels: Tensor,
    index: Tensor | None = None,
    state: Tensor | None = None,
    gamma: float | Tensor = 1.0,
    *,
    item_weights: Tensor | None = None,
    surrogate: str = "squared_hinge",
    margin: float | Tensor = 1.0,
    scale: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    """-AP estimated through the moving averages, and the gradient SOAP descends along.

    Anchors i are the positives, items j all entries (i itself included), c_j = 1[j positive], and
    an entry of weight w_j counts as if it occurred w_j times (weight 0: not at all). W and W_P are
    the total weights of all entries and of the positives::

        g_all_i  = sum_j w_j phi(h_j - h_i) / W
        g_pos_i  = sum_j w_j c_j phi(h_j - h_i) / W
        u_i      = moving average of g_i, at the positive's id
        value    = - sum_i (w_i / W_P) u_pos_i / u_all_i
        gradient = d/dh of sum_ij p_ij phi(h_j - h_i) with constant
                   p_ij = (w_i / W_P) (w_j / W) (u_pos_i - u_all_i c_j) / u_all_i^2

    One label: scores, labels [B]; state [N, 2] with columns (u_all, u_pos); value [].
    L labels: scores, labels [B, L]; state [L, N, 2]; value [L], one objective per column.
    item_weights [B] or the scores' shape; index [B], read at positives only. `state` is updated in
    place; None stands for u = g (gamma is then not used). gradient has the scores' shape, its
    column l being that of value_l. Everything returned is float64.

    A label without positives: value 0, gradient 0, state left alone. Otherwise a non-finite score
    of positive weight: value NaN, gradient NaN throughout the label, state left alone.
    """
    m, s = check_surrogate(surrogate, margin, scale)
    columns = as_columns(scores, labels, item_weights)
    num_labels = columns.scores.shape[1]
    anchors = columns.positive & (columns.weights > 0)  # [B, L]
    ids = torch.zeros(scores.shape[0], dtype=torch.int64, device=scores.device)
    if state is not None:
        state = _state_per_label(state, scores)  # [L, N, 2], a view
        ids = _checked_ids(index, anchors.any(dim=1), state.shape[1])

    value = columns.scores.new_zeros(num_labels)
    gradient = torch.zeros_like(columns.scores)
    for label in range(num_labels):
        anchor = anchors[:, label]
        present = columns.weights[:, label] > 0
        if not bool(anchor.any()):
            continue
        if not bool(columns.scores[present, label].isfinite().all()):
            value[label] = math.nan
            gradient[:, label] = math.nan
            continue
        value[label], gradient[present, label] = _one_label(
            columns.scores[present, label],
            anchor[present],
            columns.weights[present, label],
            ids[present],
            None if state is None else state[label],
            gamma,
            (surrogate, m, s),
        )
    return (value[0], gradient[:, 0]) if scores.dim() == 1 else (value, gradient)


def _one_label(
    h: Tensor,  # [M] finite
    positive: Tensor,  # [M] bool, P of them
    w: Tensor,  # [M] > 0
    ids: Tensor,  # [M]
    state: Tensor | None,  # [N, 2]
    gamma: float | Tensor,
    phi: tuple[str, float, float],
) -> tuple[Tensor, Tensor]:
    name, margin, scale = phi
    d = h[None, :] - h[positive][:, None]  # [P, M]
    item_share = w / w.sum()  # [M]
    anchor_share = w[positive] / w[positive].sum()  # [P]
    c = positive.double()  # [M]

    losses = pair_term(name, d, margin, scale) * item_share
    g = torch.stack([losses.sum(dim=1), (losses * c).sum(dim=1)], dim=1)  # [P, 2]
    u = g if state is None else moving_average_update_(state, ids[positive], g, gamma)
    u_all, u_pos = u[:, 0], u[:, 1]
    without_loss = u_all <= U_ALL_FLOOR  # no value, no gradient
    u_all, u_pos = u_all.where(~without_loss, 1.0), u_pos.where(~without_loss, 0.0)

    value = -(anchor_share * u_pos / u_all).sum()
    # not over u_all^2, which leaves the range where u_all does not
    p = ((u_pos / u_all)[:, None] - c) / u_all[:, None]  # [P, M]
    p = p * (anchor_share * ~without_loss)[:, None] * item_share
    pull = p * surrogate_slope(name, d, margin, scale)
    gradient = pull.sum(dim=0)  # as an item
    gradient[positive] -= pull.sum(dim=1)  # as an anchor
    return value, gradient


def _state_per_label(state: Tensor, scores: Tensor) -> Tensor:
    per_label = state[None] if scores.dim() == 1 else state
    num_labels = 1 if scores.dim() == 1 else scores.shape[1]
    if per_label.dim() != 3 or per_label.shape[0] != num_labels or per_label.shape[2] != 2:
        expected = "[N, 2]" if scores.dim() == 1 else f"[{num_labels}, N, 2]"
        raise ValueError(f"expected state of shape {expected}, got {list(state.shape)}")
    return per_label


def _checked_ids(index: Tensor | None, used: Tensor, num_rows: int) -> Tensor:
    """Refuse a bad id of any label before the state of the first label is written."""
    if index is None:
        raise ValueError("expected index, which is needed where there is state, got None")
    if index.shape != used.shape:
        raise ValueError(f"expected index of shape {list(used.shape)}, got {list(index.shape)}")
    if bool((used & ((index < 0) | (index >= num_rows))).any()):
        raise IndexError(f"expected index in [0, {num_rows}) at every positive")
    return index
