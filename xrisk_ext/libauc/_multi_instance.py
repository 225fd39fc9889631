"""Multi-instance AUC: MIDAM, with smoothed-max and with attention pooling."""

from typing import Any

import torch
from torch import Tensor, nn

from xrisk_ext.libauc._arguments import column, device_of
from xrisk_ext.ops import moving_average_update_
from xrisk_ext.state import MovingAverage

Device = torch.device | str | None


class _Pooling(nn.Module):
    """a, b and alpha; the pooled score of every bag is a function of moving averages."""

    def __init__(self, margin: float, gamma: float, device: Device) -> None:
        super().__init__()
        self.margin = margin
        self.gamma = gamma
        self.a = nn.Parameter(torch.zeros(1))
        self.b = nn.Parameter(torch.zeros(1))
        self.alpha = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.device = device_of(device)

    def update_smoothing(self, decay_factor: float) -> None:
        """gamma divided by a factor."""
        self.gamma = self.gamma / decay_factor

    def _update(self, average: MovingAverage, index: Tensor, values: Tensor) -> Tensor:
        state = average.value
        index = column(index).to(state.device)
        stored = moving_average_update_(state, index, values.detach().to(state.dtype), self.gamma)
        return stored.to(values.dtype)

    def _loss(self, pooled: Tensor, moved: Tensor, labels: Tensor) -> Tensor:
        """``pooled``: scores of the bags, constants; ``moved``: what carries their gradient."""
        positive = (column(labels) > 0).to(pooled.dtype)
        up = positive / positive.sum().clamp(min=1)
        down = (1 - positive) / (1 - positive).sum().clamp(min=1)
        pull = up * (pooled - self.a.detach()) + down * (pooled - self.b.detach())
        gap = (down * moved).sum() - (up * moved).sum()
        spread = (up * (pooled - self.a) ** 2 + down * (pooled - self.b) ** 2).sum()
        return (2 * pull * moved).sum() + (self.alpha.detach() * gap).sum() + spread


class MIDAM_softmax_pooling_loss(_Pooling):
    """LibAUC's ``MIDAM_softmax_pooling_loss``; ``y_pred``: mean exp(score / tau) of a bag."""

    def __init__(
        self,
        data_len: int,
        margin: float = 1.0,
        tau: float = 0.1,
        gamma: float = 0.9,
        device: Device = None,
    ) -> None:
        super().__init__(margin, gamma, device)
        self.tau = tau
        self.data_len = data_len
        self.s = MovingAverage((data_len,), initial="zero")
        self.to(self.device)

    def forward(self, y_pred: Tensor, y_true: Tensor, index: Tensor) -> Tensor:
        values = column(y_pred)
        s = self._update(self.s, index, values)
        return self._loss(self.tau * s.log(), self.tau * values / s, y_true)


class MIDAM_attention_pooling_loss(_Pooling):
    """LibAUC's ``MIDAM_attention_pooling_loss``; ``y_pred``: (numerator, denominator) of a bag."""

    def __init__(
        self, data_len: int, margin: float = 1.0, gamma: float = 0.9, device: Device = None
    ) -> None:
        super().__init__(margin, gamma, device)
        self.data_len = data_len
        self.sn = MovingAverage((data_len,), initial="zero")
        self.sd = MovingAverage((data_len,), initial="zero")
        for average in (self.sn, self.sd):
            average.value.fill_(1.0)
        self.to(self.device)

    def forward(self, y_pred: tuple[Tensor, Tensor], y_true: Tensor, index: Tensor) -> Tensor:
        numerator, denominator = (column(t) for t in y_pred)
        n = self._update(self.sn, index, numerator)
        d = self._update(self.sd, index, denominator).clamp(min=1e-8)
        pooled = torch.sigmoid(n / d)
        moved = pooled * (1 - pooled) * (numerator / d - n / d**2 * denominator)
        return self._loss(pooled, moved, y_true)


class MIDAMLoss(nn.Module):
    """LibAUC's ``MIDAMLoss``: ``mode`` "attention" or "softmax", and the arguments of that loss."""

    def __init__(self, mode: str = "attention", **kwargs: Any) -> None:
        super().__init__()
        pooling = {
            "attention": MIDAM_attention_pooling_loss,
            "softmax": MIDAM_softmax_pooling_loss,
        }
        if mode not in pooling:
            raise ValueError(f"MIDAMLoss: expected mode 'attention' or 'softmax', got {mode!r}")
        self.mode = mode
        self.loss_fn = pooling[mode](**kwargs)
        self.a, self.b, self.alpha = self.loss_fn.a, self.loss_fn.b, self.loss_fn.alpha
        self.margin = self.loss_fn.margin

    def update_smoothing(self, decay_factor: float) -> None:
        """gamma divided by a factor."""
        self.loss_fn.update_smoothing(decay_factor)

    def forward(self, **kwargs: Any) -> Tensor:
        loss: Tensor = self.loss_fn(**kwargs)
        return loss
