"""AUC margin, its multi-label form, and the compositional AUC."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from xrisk_ext import losses
from xrisk_ext.libauc._arguments import chosen_labels, column, device_of
from xrisk_ext.libauc._attributes import OnDevice, another_name
from xrisk_ext.ops.moments import AUC_MARGINS

Device = torch.device | str | None


class AUCMLoss(OnDevice, losses.AUCMarginLoss):
    """LibAUC's ``AUCMLoss``, for its ``PESG`` and for any optimizer of PyTorch.

    Version 2 has its misplaced parenthesis: what alpha weighs has the negatives' sum over B.
    """

    p = another_name("class_prior")

    def __init__(
        self,
        margin: float = 1.0,
        imratio: float | None = None,
        version: str = "v1",
        device: Device = None,
    ) -> None:
        if version not in ("v1", "v2"):
            raise ValueError(f"AUCMLoss: expected version 'v1' or 'v2', got {version!r}")
        prior = None if version == "v2" else imratio
        super().__init__(margin=margin, version=version, class_prior=prior)  # type: ignore[arg-type]
        if version == "v2":
            self._kind = AUC_MARGINS["v2_over_all"]
        self.to(device_of(device))

    def forward(  # type: ignore[override]
        self, y_pred: Tensor, y_true: Tensor, auto: bool = True, **kwargs: Any
    ) -> Tensor:
        scores, labels = column(y_pred), column(y_true)
        prior = None if auto else self.class_prior
        return self._objective(scores, labels, None, True, prior)


class CompositionalAUCLoss(AUCMLoss):
    """LibAUC's ``CompositionalAUCLoss``, for its ``PDSCA``: of every 2k calls, the first k are the
    cross entropy of the probabilities ``y_pred``, the others :class:`AUCMLoss`.
    """

    def __init__(
        self,
        margin: float = 1.0,
        k: int = 1,
        version: str = "v1",
        imratio: float | None = None,
        backend: str = "ce",
        device: Device = None,
    ) -> None:
        if k < 1:
            raise ValueError(f"CompositionalAUCLoss: expected k >= 1, got {k!r}")
        super().__init__(margin, imratio, version, device)
        self.backend = backend
        self.k = k
        self.step = 0

    def forward(  # type: ignore[override]
        self,
        y_pred: Tensor,
        y_true: Tensor,
        k: int | None = None,
        auto: bool = True,
        **kwargs: Any,
    ) -> Tensor:
        if k is not None:
            self.k = k
        inner = self.step % (2 * self.k) < self.k
        self.step += 1
        if inner:
            scores = column(y_pred)
            return binary_cross_entropy(scores, column(y_true).to(scores.dtype))
        return super().forward(y_pred, y_true, auto=auto)


class MultiLabelAUCMLoss(OnDevice, losses.AUCMarginLoss):
    """LibAUC's ``mAUCMLoss``. Version 1 has a margin of 1, whatever is asked, as there.

    ``PESG`` steps alpha with the margin that was asked.
    """

    p = another_name("class_prior")

    def __init__(
        self,
        margin: float = 1.0,
        version: str = "v1",
        imratio: Sequence[float] | None = None,
        num_labels: int = 10,
        device: Device = None,
    ) -> None:
        if version not in ("v1", "v2"):
            raise ValueError(f"mAUCMLoss: expected version 'v1' or 'v2', got {version!r}")
        super().__init__(
            margin=margin,
            num_labels=num_labels,
            version=version,  # type: ignore[arg-type]
            class_prior=None if version == "v2" or not imratio else imratio,
            reduction="none",
        )
        self.to(device_of(device))

    @property
    def get_a(self) -> Tensor:
        return self.a.mean()

    @property
    def get_b(self) -> Tensor:
        return self.b.mean()

    @property
    def get_alpha(self) -> Tensor:
        return self.alpha.mean()

    def forward(  # type: ignore[override]
        self, y_pred: Tensor, y_true: Tensor, task_id: Any = (), auto: bool = True, **kwargs: Any
    ) -> Tensor:
        weights, count = chosen_labels(task_id, self.num_labels, y_pred)
        prior = None if auto else self.class_prior
        margin = 1.0 if self.version == "v1" else None
        return self._objective(y_pred, y_true, weights, True, prior, margin).sum() / count


mAUCMLoss = MultiLabelAUCMLoss
