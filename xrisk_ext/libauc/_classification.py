"""Cross entropy, focal loss, and extreme classification."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from xrisk_ext import losses
from xrisk_ext.libauc._arguments import column, device_of, ids_in, widened
from xrisk_ext.losses._rows import blends
from xrisk_ext.ops.moments import cross_entropy_step
from xrisk_ext.ops.query_step import entropic_step
from xrisk_ext.state import MovingAverage

Device = torch.device | str | None


class CrossEntropyLoss(nn.Module):
    """LibAUC's ``CrossEntropyLoss``: PyTorch's, of logits. An empty batch gives zero."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        scores = column(y_pred)
        if not scores.is_floating_point():
            raise TypeError(f"CrossEntropyLoss: expected floating y_pred, got {scores.dtype}")
        if len(scores) == 0:
            return scores.sum()
        return binary_cross_entropy_with_logits(scores, column(y_true).to(scores.dtype))


class FocalLoss(losses.FocalLoss):
    """LibAUC's ``FocalLoss``: the losses of all entries share the mean of their class weights.

    There ``alpha`` is the weight of the negatives.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2, device: Device = None) -> None:
        super().__init__(alpha=0.5, gamma=gamma)
        self.alpha = float(alpha)
        self.device = device_of(device)

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:  # type: ignore[override]
        scores, labels = column(y_pred), column(y_true)
        self._check(scores, labels, None, self.class_weights)
        of_one = (1 - 2 * self.alpha) / max(len(scores), 1)
        share = (labels > 0).sum() * of_one + self.alpha  # the mean of the class weights
        weights = share.expand(2, 1)
        return cross_entropy_step(scores, labels, None, weights, None, 1.0, self.focus, True)


class EntLossClassification(nn.Module):
    """LibAUC's ``EntLossClassification`` (SCENT, or SOX), of logits less that of the true class."""

    def __init__(
        self,
        data_size: int,
        alpha: float = 10.0,
        gamma: float = 0.9,
        is_scent: bool = True,
        alpha_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.data_size = data_size
        self.alpha = alpha
        self.gamma_orig = gamma
        self.gamma: float = gamma
        self.is_scent = is_scent
        self.alpha_multiplier = alpha_multiplier
        self.state = MovingAverage((data_size,), log=True)

    @property
    def nu(self) -> Tensor:
        """The logarithms ``[data_size, 1]``, 0 where nothing was seen."""
        seen = self.state.value.isfinite()
        return torch.where(seen, self.state.value, 0.0).unsqueeze(-1)

    def adjust_gamma(self, epoch: int, max_epoch: int) -> None:
        """The cosine schedule of SOX, as published."""
        if not self.is_scent:
            share = 0.5 * (1.0 + math.cos(epoch / max_epoch * math.pi))
            self.gamma = self.gamma_orig + (1.0 - self.gamma_orig) * share

    def forward(self, logits: Tensor, indices: Tensor) -> dict[str, Tensor]:
        state = self.state.value
        index = indices.reshape(-1).to(state.device)
        if not (logits.is_cpu and state.is_cpu):
            return {"loss": self._composed(logits, index)}
        numbers = (self.alpha, self.alpha_multiplier) if self.is_scent else (self.gamma,)
        schedules = [torch.tensor(x, dtype=torch.float64) for x in numbers]
        kept = state if self.training else None
        return {"loss": entropic_step(logits, index, kept, schedules)}

    def _composed(self, logits: Tensor, index: Tensor) -> Tensor:
        """The same on CUDA, where the state may stay on the CPU."""
        state = self.state.value
        index = ids_in(index, state)
        sums = torch.logsumexp(widened(logits, "logits"), dim=-1)
        sums = sums - math.log(max(logits.shape[1] - 1, 1))
        observed = sums.detach().to(state.device).double()
        count = max(len(sums), 1)
        if not self.training:
            return torch.exp(sums - sums.detach()).sum() / count
        gamma: float | Tensor = self.gamma
        if self.is_scent:  # the step size of a proximal point method, an entry
            old = state.index_select(0, index).double()
            gamma = torch.sigmoid(self.alpha + self.alpha_multiplier * old)
        nu = blends(state, index, observed, gamma, log=True)
        weights = (observed - nu).exp().to(sums)
        return (weights * torch.exp(sums - sums.detach())).sum() / count
