"""One-way and two-way partial AUC."""

from collections.abc import Callable
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
from xrisk_ext.libauc._attributes import OnDevice, another_name, state_part
from xrisk_ext.libauc._processes import is_distributed, rows_of_all

Device = torch.device | str | None


def _rename(options: dict[str, Any], **names: str) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in options.items()}


class _Gathering(OnDevice):
    """``forward`` as in LibAUC, for one label, on one process or several."""

    num_samples: int | None
    distributed: bool
    data_len = another_name("num_samples")

    def _finish(self: Any, device: Device) -> None:
        self.distributed = is_distributed()
        self.to(device_of(device))

    def forward(
        self, y_pred: Tensor, y_true: Tensor, index: Tensor, auto: bool = True, **kwargs: Any
    ) -> Tensor:
        labels = column(y_true)
        rows = rows_of_all(self, column(y_pred), labels, ids_of(index, labels))
        return super().forward(*rows)  # type: ignore[misc,no-any-return]


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


class pAUC_CVaR_Loss(_Gathering, losses.PartialAUCLoss):  # type: ignore[misc]
    """LibAUC's ``pAUC_CVaR_Loss`` (SOPA). ``pos_len`` and ``num_neg`` are taken and not needed."""

    beta = another_name("max_fpr")
    u_pos = state_part("state", 0)

    def __init__(
        self,
        data_len: int,
        pos_len: int,
        num_neg: int | None = None,
        margin: Any = 1.0,
        beta: float = 0.2,
        eta: float = 0.1,
        surr_loss: str = "squared_hinge",
        device: Device = None,
    ) -> None:
        options = _cvar_options(data_len, pos_len, num_neg, margin, beta, eta, surr_loss)
        super().__init__(**options)
        self.pos_len, self.num_neg = pos_len, num_neg
        self._finish(device)


class pAUC_DRO_Loss(_Gathering, losses.PartialAUCLoss):  # type: ignore[misc]
    """LibAUC's ``pAUC_DRO_Loss`` (SOPA-s)."""

    Lambda = another_name("kl_weight")
    u_pos = state_part("state", 0, log=True)

    def __init__(
        self,
        data_len: int,
        gamma: float = 0.9,
        margin: Any = 1.0,
        Lambda: float = 1.0,
        surr_loss: str = "squared_hinge",
        device: Device = None,
    ) -> None:
        super().__init__(**_dro_options(data_len, gamma, margin, Lambda, surr_loss))
        self._finish(device)


class tpAUC_KL_Loss(_Gathering, losses.TwoWayPartialAUCLoss):  # type: ignore[misc]
    """LibAUC's ``tpAUC_KL_Loss`` (SOTA-s)."""

    Lambda, tau = another_name("kl_weight"), another_name("positive_kl_weight")
    gamma0, gamma1 = another_name("gamma"), another_name("outer_gamma")
    u_pos = state_part("state", 0, log=True)
    w = state_part("outer", 0, log=True, column=False)

    def __init__(
        self,
        data_len: int,
        tau: float = 1.0,
        Lambda: float = 1.0,
        gammas: tuple[float, float] = (0.9, 0.9),
        margin: Any = 1.0,
        surr_loss: str = "squared_hinge",
        device: Device = None,
    ) -> None:
        super().__init__(**_kl_options(data_len, tau, Lambda, gammas, margin, surr_loss))
        self._finish(device)


class tpAUC_CVaR_loss(_Gathering, losses.TwoWayPartialAUCLoss):  # type: ignore[misc]
    """LibAUC's ``tpAUC_CVaR_loss`` (STACO). ``threshold`` is the surrogate's hyper-parameter."""

    alpha = another_name("dual_eta")
    beta_0, beta_1 = another_name("eta"), another_name("outer_eta")
    s1, dual_var = state_part("state", 0), state_part("dual", 0)
    s2 = state_part("outer", slice(None))

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
        self._finish(device)

    @property
    def theta_0(self) -> float:
        """The share of the positives."""
        return 1 - self.min_tpr

    @property
    def theta_1(self) -> float:
        """The share of the negatives."""
        return self.max_fpr


_MODES: dict[str, Any] = {
    "SOPA": pAUC_CVaR_Loss,
    "SOPAs": pAUC_DRO_Loss,
    "1w": pAUC_DRO_Loss,
    "SOTAs": tpAUC_KL_Loss,
    "2w": tpAUC_KL_Loss,
    "STACO": tpAUC_CVaR_loss,
}


class pAUCLoss(OnDevice, nn.Module):
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


class MultiLabelpAUCLoss(OnDevice, nn.Module):
    """LibAUC's ``mPAUCLoss``: ``mode`` "1w" (or "SOPAs"), "2w" (or "SOTAs") or "SOPA"."""

    def __init__(
        self, mode: str = "1w", num_labels: int = 10, device: Device = None, **kwargs: Any
    ) -> None:
        super().__init__()
        options_of: dict[str, Callable[..., dict[str, Any]]] = {
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
        self.loss_fn = make(num_labels=num_labels, reduction="none", **options)
        self.distributed = is_distributed()
        self.to(device_of(device))

    @property
    def u_pos_all(self) -> Tensor:
        """The state of all labels, ``[num_labels, data_len, 1]``."""
        state = self.loss_fn.state.value
        return (state if self.mode == "SOPA" else state.exp()).unsqueeze(-1)  # type: ignore[no-any-return]

    def forward(
        self, y_pred: Tensor, y_true: Tensor, index: Tensor, task_id: Any = (), **kwargs: Any
    ) -> Tensor:
        scores, labels, ids = rows_of_all(self, y_pred, y_true, ids_of(index, y_true))
        weights, count = chosen_labels(task_id, self.num_labels, scores)
        values: Tensor = self.loss_fn(scores, labels, ids, item_weights=weights)
        return values.sum() / count


mPAUCLoss = MultiLabelpAUCLoss
