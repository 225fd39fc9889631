"""AP, mAP and the pairwise AUC."""

from typing import Any

import torch
from torch import Tensor

from xrisk_ext import losses
from xrisk_ext.libauc._arguments import (
    chosen_labels,
    column,
    device_of,
    ids_of,
    surrogate_options,
)
from xrisk_ext.libauc._attributes import OnDevice, state_part
from xrisk_ext.libauc._processes import is_distributed, rows_of_all
from xrisk_ext.losses._score_loss import ScoreLoss, check_num_labels
from xrisk_ext.ops import pairwise_sums
from xrisk_ext.ops.libauc_steps import ranked_precision_step

Device = torch.device | str | None


class AveragePrecisionLoss(OnDevice, losses.AveragePrecisionLoss):
    """LibAUC's ``APLoss``."""

    u_all = state_part("state", 0, slice(None), 0)
    u_pos = state_part("state", 0, slice(None), 1)

    def __init__(
        self,
        data_len: int,
        gamma: float = 0.9,
        margin: Any = 1.0,
        surr_loss: str = "squared_hinge",
        device: Device = None,
    ) -> None:
        options = surrogate_options(surr_loss, margin)
        super().__init__(data_len, gamma=gamma, initial_state="zero", **options)
        self.distributed = is_distributed()
        self.to(device_of(device))

    def forward(  # type: ignore[override]
        self, y_pred: Tensor, y_true: Tensor, index: Tensor, **kwargs: Any
    ) -> Tensor:
        labels = column(y_true)
        rows = rows_of_all(self, column(y_pred), labels, ids_of(index, labels))
        return super().forward(*rows)


class meanAveragePrecisionLoss(OnDevice, losses.MeanAveragePrecisionLoss):
    """LibAUC's ``mAPLoss``.

    With ``top_k`` >= 0 an item j weighs ``sigmoid(top_k - sum_i phi(h_j - h_i))`` in the gradient,
    i over the positives of the label: a rank of the item that counts pairs by their surrogate. The
    state is that of average precision. ``top_k`` of the loss behind is another objective.
    """

    u_all = state_part("state", slice(None), slice(None), 0)
    u_pos = state_part("state", slice(None), slice(None), 1)

    def __init__(
        self,
        data_len: int,
        num_labels: int,
        margin: Any = 1.0,
        gamma: float = 0.9,
        top_k: int = -1,
        surr_loss: str = "squared_hinge",
        device: Device = None,
    ) -> None:
        options = surrogate_options(surr_loss, margin)
        super().__init__(
            data_len, num_labels, gamma=gamma, initial_state="zero", reduction="none", **options
        )
        self.top_k = top_k
        self.to(device_of(device))

    def forward(  # type: ignore[override]
        self, y_pred: Tensor, y_true: Tensor, index: Tensor, task_id: Any = (), **kwargs: Any
    ) -> Tensor:
        check_num_labels(y_pred, self.num_labels, "mAPLoss")
        weights, count = chosen_labels(task_id, self.num_labels, y_pred)
        ids = ids_of(index, y_true)
        if self.top_k is None or self.top_k < 0:
            return self._step(y_pred, y_true, ids, weights, True).sum() / count
        values = self._step(y_pred.detach(), y_true, ids, weights, True)
        chosen = None if weights is None else (weights > 0).any(0)
        if not y_pred.is_cpu:
            return self._composed(y_pred, y_true, values, chosen, ids, count)
        state = self.state.value if self.state is not None and self.training else None
        return ranked_precision_step(
            y_pred, y_true, values, chosen, None if state is None else ids, state, self.scale,
            self.margin, float(self.top_k), count, self._surrogate, self._algorithm,
        )  # fmt: skip

    def _composed(
        self,
        y_pred: Tensor,
        y_true: Tensor,
        values: Tensor,
        chosen: Tensor | None,
        ids: Tensor,
        count: int,
    ) -> Tensor:
        """What has the gradient is stacked label by label, as on CUDA."""
        value = values.sum() / count
        if not y_pred.requires_grad or not torch.is_grad_enabled():
            return value
        numbers = range(self.num_labels) if chosen is None else chosen.nonzero()[:, 0].tolist()
        moved = torch.stack([self._moved(y_pred, y_true, ids, label) for label in numbers])
        return value + (moved - moved.detach()).sum() / count

    def _moved(self, y_pred: Tensor, y_true: Tensor, ids: Tensor, label: int) -> Tensor:
        """What has the gradient of a label: its weighted pairs, by state as it is now."""
        scores = y_pred[:, label]
        wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
        positive = (y_true[:, label] > 0).to(wide)
        options: dict[str, Any] = {
            "surrogate": self.surrogate, "margin": self.margin, "scale": self.scale,
        }  # fmt: skip
        with torch.no_grad():
            if self.training:
                assert self.state is not None
                u_all, u_pos = self.state.value[label, ids.clamp(min=0)].to(wide).unbind(1)
            else:
                both = torch.stack((torch.ones_like(positive), positive))
                u_all, u_pos = pairwise_sums(scores, scores, item_weights=both, **options) / len(
                    scores
                )
            outranked = pairwise_sums(-scores, -scores, item_weights=positive, **options)
            assert self.top_k is not None
            selector = torch.sigmoid(self.top_k - outranked)
            selected = torch.stack((selector, selector * positive))
            share = positive / (positive.sum().clamp(min=1) * len(scores))
            some = (share > 0) & (u_all > 0)
            u_all = torch.where(some, u_all, 1.0)
            of_all = torch.where(some, share * u_pos / u_all**2, 0.0)
            of_positives = torch.where(some, share / u_all, 0.0)
        sums = pairwise_sums(scores, scores, item_weights=selected, **options)
        return (of_all * sums[0] - of_positives * sums[1]).sum()

    def extra_repr(self) -> str:
        return f"{ScoreLoss.extra_repr(self)}, top_k={self.top_k}"


class PairwiseAUCLoss(OnDevice, losses.PairwiseAUCLoss):
    """LibAUC's ``PairwiseAUCLoss``."""

    def __init__(self, surr_loss: str = "logistic", hparam: Any = 1.0) -> None:
        super().__init__(**surrogate_options(surr_loss, hparam))
        self.to(device_of(None))

    def forward(  # type: ignore[override]
        self, y_pred: Tensor, y_true: Tensor, index: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        return super().forward(column(y_pred), column(y_true))


APLoss = AveragePrecisionLoss
mAPLoss = meanAveragePrecisionLoss
