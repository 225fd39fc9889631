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

Device = torch.device | str | None


class AveragePrecisionLoss(losses.AveragePrecisionLoss):
    """LibAUC's ``APLoss``."""

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
        self.to(device_of(device))

    def forward(  # type: ignore[override]
        self, y_pred: Tensor, y_true: Tensor, index: Tensor, **kwargs: Any
    ) -> Tensor:
        labels = column(y_true)
        return super().forward(column(y_pred), labels, ids_of(index, labels))


class meanAveragePrecisionLoss(losses.MeanAveragePrecisionLoss):
    """LibAUC's ``mAPLoss``; ``top_k`` is refused: its selector is not a rank of the anchor."""

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
        if top_k > -1:
            raise ValueError(f"mAPLoss: expected top_k=-1, the only one taken here, got {top_k!r}")
        options = surrogate_options(surr_loss, margin)
        super().__init__(
            data_len, num_labels, gamma=gamma, initial_state="zero", reduction="none", **options
        )
        self.to(device_of(device))

    def forward(  # type: ignore[override]
        self, y_pred: Tensor, y_true: Tensor, index: Tensor, task_id: Any = (), **kwargs: Any
    ) -> Tensor:
        weights, count = chosen_labels(task_id, self.num_labels, y_pred)
        values = super().forward(y_pred, y_true, ids_of(index, y_true), item_weights=weights)
        return values.sum() / count


class PairwiseAUCLoss(losses.PairwiseAUCLoss):
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
