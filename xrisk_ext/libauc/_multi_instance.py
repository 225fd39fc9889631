"""Multi-instance AUC: MIDAM, with smoothed-max and with attention pooling."""

from typing import Any

import torch
from torch import Tensor, nn

from xrisk_ext.libauc._arguments import column, device_of
from xrisk_ext.libauc._attributes import OnDevice, state_part
from xrisk_ext.ops import moving_average_update_
from xrisk_ext.state import MovingAverage

Device = torch.device | str | None


class _Pooling(OnDevice, nn.Module):
    """a, b and alpha; the pooled score of every bag is a function of moving averages."""

    def __init__(self, margin: float, gamma: float) -> None:
        super().__init__()
        self.margin = margin
        self.gamma = gamma
        self.a = nn.Parameter(torch.zeros(1))
        self.b = nn.Parameter(torch.zeros(1))
        self.alpha = nn.Parameter(torch.zeros(1), requires_grad=False)

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

    s = state_part("average", slice(None))

    def __init__(
        self,
        data_len: int,
        margin: float = 1.0,
        tau: float = 0.1,
        gamma: float = 0.9,
        device: Device = None,
    ) -> None:
        super().__init__(margin, gamma)
        self.tau = tau
        self.data_len = data_len
        self.average = MovingAverage((data_len,), initial="zero")
        self.to(device_of(device))

    def forward(self, y_pred: Tensor, y_true: Tensor, index: Tensor) -> Tensor:
        values = column(y_pred)
        s = self._update(self.average, index, values)
        return self._loss(self.tau * s.log(), self.tau * values / s, y_true)


class MIDAM_attention_pooling_loss(_Pooling):
    """LibAUC's ``MIDAM_attention_pooling_loss``; ``y_pred``: (numerator, denominator) of a bag."""

    sn, sd = state_part("numerators", slice(None)), state_part("denominators", slice(None))

    def __init__(
        self, data_len: int, margin: float = 1.0, gamma: float = 0.9, device: Device = None
    ) -> None:
        super().__init__(margin, gamma)
        self.data_len = data_len
        self.numerators = MovingAverage((data_len,), initial=1.0)
        self.denominators = MovingAverage((data_len,), initial=1.0)
        self.to(device_of(device))

    def forward(self, y_pred: tuple[Tensor, Tensor], y_true: Tensor, index: Tensor) -> Tensor:
        numerator, denominator = (column(t) for t in y_pred)
        n = self._update(self.numerators, index, numerator)
        d = self._update(self.denominators, index, denominator).clamp(min=1e-8)
        pooled = torch.sigmoid(n / d)
        moved = pooled * (1 - pooled) * (numerator / d - n / d**2 * denominator)
        return self._loss(pooled, moved, y_true)


class MIDAMLoss(OnDevice, nn.Module):
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
