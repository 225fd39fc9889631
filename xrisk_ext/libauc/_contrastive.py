"""Global contrastive losses of one and of two modalities."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from xrisk_ext import losses
from xrisk_ext.libauc._arguments import column, device_of
from xrisk_ext.libauc._attributes import OnDevice, another_name, option, state_part
from xrisk_ext.libauc._processes import own_rows

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


class GCLoss_v1(OnDevice, _Schedule, losses.GlobalContrastiveLoss):
    """LibAUC's ``GCLoss_v1`` (SogCLR, iSogCLR)."""

    N, tau = another_name("num_samples"), another_name("temperature")
    enable_isogclr = another_name("individual_temperature")
    rho, beta, tau_min, tau_max = map(option, ("rho", "beta", "lowest", "highest"))
    u = state_part("state", 0, log=True)
    learnable_tau = state_part("temperatures", 0)

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
        self.distributed = distributed
        self.to(device_of(device))

    def forward(  # type: ignore[override]
        self, hidden1: Tensor, hidden2: Tensor, index: Tensor
    ) -> Tensor:
        index = column(index).to(hidden1.device)
        if not self.distributed:
            return super().forward(hidden1, hidden2, index)
        rows = own_rows(hidden1=hidden1, hidden2=hidden2, index=index)
        return self.forward_rows(rows, hidden1=hidden1, hidden2=hidden2, index=index)


class GCLoss_v2(OnDevice, _Schedule, losses.BimodalGlobalContrastiveLoss):
    """LibAUC's ``GCLoss_v2`` (bimodal SogCLR, iSogCLR); embeddings come normalised.

    ``rank`` and ``world_size`` are those of the process group, whatever is passed.
    """

    tau = another_name("temperature")
    rho, beta, tau_min, tau_max = map(option, ("rho", "beta", "lowest", "highest"))
    learnable_tau_img, learnable_tau_txt = (state_part("temperatures", k) for k in (0, 1))

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
        if world_size > 1 and not distributed:
            raise ValueError(
                f"GCLoss_v2: expected distributed=True for several processes, got world_size="
                f"{world_size!r} alone"
            )
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
        self.distributed = distributed
        self._set_schedule_of_gamma(gamma, gamma_schedule, gamma_decay_epochs)

    def forward(  # type: ignore[override]
        self, image_features: Tensor, text_features: Tensor, index: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        index = column(index).to(image_features.device)
        before = None
        if self.temperature_mode == "individual":
            assert self.temperatures is not None
            image_mean, text_mean = self.temperatures.value[:, index].mean(1)
            before = (image_mean, text_mean)
        count = len(index)
        if self.distributed:
            rows = own_rows(image_features=image_features, text_features=text_features, index=index)
            value = self.forward_rows(
                rows, image_features=image_features, text_features=text_features, index=index
            )
            count = rows.count(count)
        else:
            value = super().forward(image_features, text_features, index)
        if self.temperature_mode != "global":
            # its features get the sum over the negatives, where the objective has their mean
            value = value * (count - 1)
        return value, before

    # The averages are logarithms here; there, they are relative to a shift. As there:
    @property
    def b1(self) -> Tensor:
        """The shift that ``u1`` is relative to, of the images ``[N, 1]``."""
        return self._shift(0)

    @property
    def b2(self) -> Tensor:
        """The shift that ``u2`` is relative to, of the texts ``[N, 1]``."""
        return self._shift(1)

    @property
    def u1(self) -> Tensor:
        """The averages of the images ``[N, 1]`` over exp(b1)."""
        return (self._logs(0) - self.b1).exp()

    @property
    def u2(self) -> Tensor:
        """The averages of the texts ``[N, 1]`` over exp(b2)."""
        return (self._logs(1) - self.b2).exp()

    def _logs(self, side: int) -> Tensor:
        assert self.state is not None
        return self.state.value[side, :, None]

    def _shift(self, side: int) -> Tensor:
        return self._logs(side).clamp(min=0)


class GCLoss(OnDevice, nn.Module):
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
