"""Multi-instance AUC: MIDAM, with smoothed-max and with attention pooling."""

from typing import Any

import torch
from torch import Tensor, nn

from xrisk_ext.libauc._arguments import column, device_of, ids_in, widened
from xrisk_ext.libauc._attributes import OnDevice, state_part
from xrisk_ext.losses._rows import blends
from xrisk_ext.ops.libauc_steps import pooled_margin_step
from xrisk_ext.ops.moments import AUC_MARGINS
from xrisk_ext.state import MovingAverage

Device = torch.device | str | None


class _Pooling(OnDevice, nn.Module):
    """a, b and alpha >= 0; the pooled score of every bag is a function of moving averages.

    One step on the CPU; elsewhere it is composed.
    """

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

    def _step(
        self,
        observed: tuple[Tensor, Tensor | None],
        averages: tuple[MovingAverage, MovingAverage | None],
        labels: Tensor,
        index: Tensor,
        tau: float,
    ) -> Tensor:
        first, second = averages if self.training else (None, None)
        return pooled_margin_step(
            *observed,
            labels,
            index.to(labels.device),
            None if first is None else first.value,
            None if second is None else second.value,
            (self.a, self.b, self.alpha),
            torch.tensor(self.gamma, dtype=torch.float64),
            tau,
        )

    def _update(self, average: MovingAverage, index: Tensor, values: Tensor) -> Tensor:
        if not self.training:
            return values.detach().double()
        state = average.value
        observed = values.detach().to(state.device).double()
        return blends(state, ids_in(index, state), observed, self.gamma).to(values.device)

    def _loss(self, pooled: Tensor, labels: Tensor, *parts: tuple[Tensor, Tensor]) -> Tensor:
        """AUC margin of the bags' pooled scores, which are constants, as LibAUC states it.

        ``parts``: what carries the gradient, and the slopes of the pooled scores by it. The value
        is the sum of both times the objective's slopes, and the spread of the classes.
        """
        half = 0.5 * self.alpha.detach()  # theirs has alpha where the objective has 2 alpha
        value, by_pooled, by_parameters = torch.ops.xrisk_ext.auc_margin_step(
            pooled, column(labels), None, self.a, self.b, half, None, 0.0, AUC_MARGINS["v2"],
            True, True,
        )  # fmt: skip
        # The objective less its terms with alpha; zero, as they are, in a batch of one class.
        by_alpha = by_parameters[2]
        terms = half * (by_alpha + half)
        total: Tensor = (
            value - torch.where((by_alpha != 0) | (value.detach() != 0), terms, 0.0).sum()
        )
        for part, slopes in parts:
            total = total + torch.dot(part.to(by_pooled.dtype), by_pooled * slopes)
        return total.to(parts[0][0].dtype)


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
        if y_pred.is_cpu and self.a.is_cpu:
            return self._step((y_pred, None), (self.average, None), y_true, index, self.tau)
        return self._composed(y_pred, y_true, index)

    def _composed(self, y_pred: Tensor, y_true: Tensor, index: Tensor) -> Tensor:
        values = column(widened(y_pred, "y_pred"))
        s = self._update(self.average, index, values)
        return self._loss(self.tau * s.log(), y_true, (values, self.tau / s))


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
        if y_pred[0].is_cpu and self.a.is_cpu:
            averages = self.numerators, self.denominators
            return self._step((y_pred[0], y_pred[1]), averages, y_true, index, 1.0)
        return self._composed(y_pred, y_true, index)

    def _composed(self, y_pred: tuple[Tensor, Tensor], y_true: Tensor, index: Tensor) -> Tensor:
        numerator, denominator = (column(widened(t, "y_pred")) for t in y_pred)
        n = self._update(self.numerators, index, numerator)
        d = self._update(self.denominators, index, denominator).clamp(min=1e-8)
        pooled = torch.sigmoid(n / d)
        by_numerator = pooled * (1 - pooled) / d
        by_denominator = -by_numerator * (n / d)
        return self._loss(pooled, y_true, (numerator, by_numerator), (denominator, by_denominator))


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
