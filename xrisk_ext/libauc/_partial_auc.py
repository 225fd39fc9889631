"""One-way and two-way partial AUC."""

from typing import Any

import torch
from torch import Tensor, nn

from xrisk_ext import losses
from xrisk_ext.libauc._arguments import (
    chosen_labels,
    column,
    device_of,
    ids_of,
    surrogate_options,
)

Device = torch.device | str | None


def _rename(options: dict[str, Any], **names: str) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in options.items()}


class _OneWay(losses.PartialAUCLoss):
    """Options by our names; forward as in LibAUC, for one label or several."""

    def forward(  # type: ignore[override]
        self, y_pred: Tensor, y_true: Tensor, index: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        labels = column(y_true)
        return super().forward(column(y_pred), labels, ids_of(index, labels))


class _TwoWay(losses.TwoWayPartialAUCLoss):
    """The same."""

    def forward(  # type: ignore[override]
        self, y_pred: Tensor, y_true: Tensor, index: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        labels = column(y_true)
        return super().forward(column(y_pred), labels, ids_of(index, labels))


def _cvar_options(
    data_len: int,
    pos_len: int,
    num_neg: int | None = None,
    margin: Any = 1.0,
    beta: float = 0.2,
    eta: float = 0.1,
    surr_loss: str = "squared_hinge",
) -> dict[str, Any]:
    options = {"num_samples": data_len, "mode": "cvar", "max_fpr": beta, "eta": eta}
    return options | surrogate_options(surr_loss, margin)


def _dro_options(
    data_len: int,
    gamma: float = 0.9,
    margin: Any = 1.0,
    Lambda: float = 1.0,
    surr_loss: str = "squared_hinge",
) -> dict[str, Any]:
    options = {"num_samples": data_len, "mode": "kl", "gamma": gamma, "kl_weight": Lambda}
    return options | {"initial_state": "zero"} | surrogate_options(surr_loss, margin)


def _kl_options(
    data_len: int,
    tau: float = 1.0,
    Lambda: float = 1.0,
    gammas: tuple[float, float] = (0.9, 0.9),
    margin: Any = 1.0,
    surr_loss: str = "squared_hinge",
) -> dict[str, Any]:
    options = {
        "num_samples": data_len,
        "mode": "kl",
        "gamma": gammas[0],
        "outer_gamma": gammas[1],
        "kl_weight": Lambda,
        "positive_kl_weight": tau,
        "initial_state": "zero",
    }
    return options | surrogate_options(surr_loss, margin)


class pAUC_CVaR_Loss(_OneWay):
    """LibAUC's ``pAUC_CVaR_Loss`` (SOPA). ``pos_len`` and ``num_neg`` are taken and not needed."""

    def __init__(self, *args: Any, device: Device = None, **kwargs: Any) -> None:
        options = _cvar_options(*args, **kwargs)
        super().__init__(options.pop("num_samples"), **options)
        self.to(device_of(device))


class pAUC_DRO_Loss(_OneWay):
    """LibAUC's ``pAUC_DRO_Loss`` (SOPA-s)."""

    def __init__(self, *args: Any, device: Device = None, **kwargs: Any) -> None:
        options = _dro_options(*args, **kwargs)
        super().__init__(options.pop("num_samples"), **options)
        self.to(device_of(device))


class tpAUC_KL_Loss(_TwoWay):
    """LibAUC's ``tpAUC_KL_Loss`` (SOTA-s)."""

    def __init__(self, *args: Any, device: Device = None, **kwargs: Any) -> None:
        options = _kl_options(*args, **kwargs)
        super().__init__(options.pop("num_samples"), **options)
        self.to(device_of(device))


class tpAUC_CVaR_loss(_TwoWay):
    """LibAUC's ``tpAUC_CVaR_loss`` (STACO). ``threshold`` is the surrogate's hyper-parameter."""

    def __init__(
        self,
        data_length: int,
        threshold: Any = 0.5,
        alpha: float = 0.1,
        beta_0: float = 0.1,
        beta_1: float = 0.1,
        theta_0: float = 0.5,
        theta_1: float = 0.5,
        surr_loss: str = "squared_hinge",
        device: Device = None,
    ) -> None:
        super().__init__(
            data_length,
            mode="cvar",
            min_tpr=1 - theta_0,
            max_fpr=theta_1,
            dual_eta=alpha,
            eta=beta_0,
            outer_eta=beta_1,
            **surrogate_options(surr_loss, threshold),
        )
        self.to(device_of(device))


_MODES: dict[str, Any] = {
    "SOPA": pAUC_CVaR_Loss,
    "SOPAs": pAUC_DRO_Loss,
    "1w": pAUC_DRO_Loss,
    "SOTAs": tpAUC_KL_Loss,
    "2w": tpAUC_KL_Loss,
    "STACO": tpAUC_CVaR_loss,
}


class pAUCLoss(nn.Module):
    """LibAUC's ``pAUCLoss``: ``mode`` "1w" (or "SOPAs"), "2w" (or "SOTAs"), "SOPA" or "STACO".

    The other arguments are those of the loss behind; STACO takes ``data_len``, too.
    """

    def __init__(self, mode: str = "1w", **kwargs: Any) -> None:
        super().__init__()
        if mode not in _MODES:
            raise ValueError(f"pAUCLoss: expected mode to be one of {[*_MODES]}, got {mode!r}")
        self.mode = mode
        if mode == "STACO":
            kwargs = _rename(kwargs, data_len="data_length")
        self.loss_fn = _MODES[mode](**kwargs)

    def forward(self, y_pred: Tensor, y_true: Tensor, index: Tensor, **kwargs: Any) -> Tensor:
        loss: Tensor = self.loss_fn(y_pred, y_true, index)
        return loss


class MultiLabelpAUCLoss(nn.Module):
    """LibAUC's ``mPAUCLoss``: ``mode`` "1w" (or "SOPAs"), "2w" (or "SOTAs") or "SOPA"."""

    def __init__(
        self, mode: str = "1w", num_labels: int = 10, device: Device = None, **kwargs: Any
    ) -> None:
        super().__init__()
        options_of = {
            "SOPA": _cvar_options,
            "SOPAs": _dro_options,
            "1w": _dro_options,
            "SOTAs": _kl_options,
            "2w": _kl_options,
        }
        if mode not in options_of:
            raise ValueError(f"mPAUCLoss: expected mode to be one of {[*options_of]}, got {mode!r}")
        self.mode = mode
        self.num_labels = num_labels
        options = options_of[mode](**kwargs)
        one_way = mode in ("SOPA", "SOPAs", "1w")
        make: Any = losses.PartialAUCLoss if one_way else losses.TwoWayPartialAUCLoss
        self.loss_fn = make(
            options.pop("num_samples"), num_labels=num_labels, reduction="none", **options
        )
        self.to(device_of(device))

    def forward(
        self, y_pred: Tensor, y_true: Tensor, index: Tensor, task_id: Any = (), **kwargs: Any
    ) -> Tensor:
        weights, count = chosen_labels(task_id, self.num_labels, y_pred)
        ids = ids_of(index, y_true)
        values: Tensor = self.loss_fn(y_pred, y_true, ids, item_weights=weights)
        return values.sum() / count


mPAUCLoss = MultiLabelpAUCLoss
