"""Global contrastive losses of one and of two modalities."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from xrisk_ext import losses
from xrisk_ext.libauc._arguments import column, device_of

Device = torch.device | str | None


class _Schedule:
    """LibAUC's schedules of gamma; ``adjust_gamma`` is called at the start of an epoch."""

    gamma: Any

    def _set_schedule_of_gamma(self, lowest: float, schedule: str, epochs: int) -> None:
        name = type(self).__name__
        if schedule not in ("constant", "cosine"):
            raise ValueError(
                f"{name}: expected gamma_schedule 'constant' or 'cosine', got {schedule!r}"
            )
        if schedule == "cosine" and epochs <= 0:
            raise ValueError(f"{name}: expected gamma_decay_epochs > 0, got {epochs!r}")
        self.gamma_min, self.gamma_schedule, self.gamma_decay_epochs = lowest, schedule, epochs
        # Constant: a first touch counts in full by itself, and then there is nothing to schedule.
        self.gamma = lowest if schedule == "constant" else 1.0

    def adjust_gamma(self, epoch: int) -> None:
        """gamma of this epoch."""
        if self.gamma_schedule == "cosine":
            share = 0.5 * (1 + math.cos(math.pi * min(epoch / self.gamma_decay_epochs, 1.0)))
            self.gamma = self.gamma_min + (1 - self.gamma_min) * share


def _refuse_distributed(name: str, distributed: bool) -> None:
    if distributed:
        raise ValueError(
            f"{name}: expected distributed=False; several processes are a matter of "
            "xrisk_ext.distributed"
        )


class GCLoss_v1(_Schedule, losses.GlobalContrastiveLoss):
    """LibAUC's ``GCLoss_v1`` (SogCLR, iSogCLR)."""

    def __init__(
        self,
        N: int = 100000,
        tau: float = 0.1,
        gamma: float = 0.9,
        eps: float = 1e-8,
        device: Device = None,
        distributed: bool = False,
        enable_isogclr: bool = False,
        tau_min: float = 0.05,
        tau_max: float = 0.7,
        rho: float = 0.3,
        eta: float = 0.01,
        beta: float = 0.9,
        gamma_schedule: str = "constant",
        gamma_decay_epochs: int = -1,
    ) -> None:
        _refuse_distributed("GCLoss_v1", distributed)
        losses.GlobalContrastiveLoss.__init__(
            self,
            N,
            temperature=tau,
            gamma=gamma,
            individual_temperature=enable_isogclr,
            denominator="per_view",
            relative_to_positive=False,
            rho=rho,
            eta=eta,
            beta=beta,
            min_temperature=tau_min,
            max_temperature=tau_max,
        )
        self._set_schedule_of_gamma(gamma, gamma_schedule, gamma_decay_epochs)
        self.to(device_of(device))

    def forward(  # type: ignore[override]
        self, hidden1: Tensor, hidden2: Tensor, index: Tensor
    ) -> Tensor:
        return super().forward(hidden1, hidden2, column(index).to(hidden1.device))


class GCLoss_v2(_Schedule, losses.BimodalGlobalContrastiveLoss):
    """LibAUC's ``GCLoss_v2`` (bimodal SogCLR, iSogCLR); embeddings come normalised."""

    def __init__(
        self,
        N: int = 1000000,
        tau: float = 0.01,
        gamma: float = 0.9,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        distributed: bool = False,
        temperature_scheme: str = "global_constant",
        tau_min: float = 0.005,
        tau_max: float = 0.05,
        rho: float = 6.0,
        eta: float = 0.01,
        beta: float = 0.9,
        gamma_schedule: str = "constant",
        gamma_decay_epochs: int = -1,
        **kwargs: Any,
    ) -> None:
        _refuse_distributed("GCLoss_v2", distributed or world_size > 1)
        if kwargs.get("enable_isogclr"):
            temperature_scheme = "individual_learnable"
        modes = {
            "global_constant": "constant",
            "individual_learnable": "individual",
            "global_learnable": "global",
        }
        if temperature_scheme not in modes:
            raise ValueError(
                f"GCLoss_v2: expected temperature_scheme to be one of {[*modes]}, got "
                f"{temperature_scheme!r}"
            )
        mode: Any = modes[temperature_scheme]
        losses.BimodalGlobalContrastiveLoss.__init__(
            self,
            N,
            temperature=tau,
            gamma=gamma,
            temperature_mode=mode,
            normalize=False,
            rho=None if mode == "constant" else rho,
            eta=eta,
            beta=beta,
            min_temperature=tau_min,
            max_temperature=tau_max,
        )
        self.temperature_scheme = temperature_scheme
        self._set_schedule_of_gamma(gamma, gamma_schedule, gamma_decay_epochs)

    def forward(  # type: ignore[override]
        self, image_features: Tensor, text_features: Tensor, index: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        index = column(index).to(image_features.device)
        before = None
        if self.temperature_mode == "individual":
            assert self.temperatures is not None
            before = self.temperatures.value[:, index].mean(1).unbind()
        value = super().forward(image_features, text_features, index)
        if self.temperature_mode != "global":
            # its features get the sum over the negatives, where the objective has their mean
            value = value * (len(index) - 1)
        return value, before


class GCLoss(nn.Module):
    """LibAUC's ``GCLoss``: ``mode`` "unimodal" or "bimodal", and the arguments of that loss."""

    def __init__(self, mode: str = "unimodal", **kwargs: Any) -> None:
        super().__init__()
        if mode not in ("unimodal", "bimodal"):
            raise ValueError(f"GCLoss: expected mode 'unimodal' or 'bimodal', got {mode!r}")
        self.mode = mode
        self.loss_fn = GCLoss_v1(**kwargs) if mode == "unimodal" else GCLoss_v2(**kwargs)

    def forward(self, hidden1: Tensor, hidden2: Tensor, index: Tensor, **kwargs: Any) -> Any:
        return self.loss_fn(hidden1, hidden2, index)

    def adjust_gamma(self, epoch: int) -> None:
        """gamma of this epoch."""
        self.loss_fn.adjust_gamma(epoch)
