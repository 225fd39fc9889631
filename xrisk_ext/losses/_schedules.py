"""Hyper-parameters that may change from step to step: 0-dim buffers, set like numbers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xrisk_ext.state import keep_precision


class _Range(NamedTuple):
    expected: str
    holds: Callable[[float], bool]


_UNIT = _Range("in [0, 1]", lambda x: 0 <= x <= 1)
_POSITIVE = _Range("> 0 and finite", lambda x: 0 < x < float("inf"))
_STEP = _Range(">= 0 and finite", lambda x: 0 <= x < float("inf"))
_FINITE = _Range("to be finite", lambda x: -float("inf") < x < float("inf"))
_TEMPERATURE = _Range(">= 1e-30 and finite", lambda x: 1e-30 <= x < float("inf"))
# What may change from step to step, by the name of its buffer.
SCHEDULES: dict[str, _Range] = {
    "gamma": _UNIT,
    "outer_gamma": _UNIT,
    "scale": _POSITIVE,
    "kl_weight": _TEMPERATURE,
    "positive_kl_weight": _TEMPERATURE,
    "temperature": _TEMPERATURE,
    "rank_temperature": _TEMPERATURE,
    "eta": _STEP,
    "dual_eta": _STEP,
    "outer_eta": _STEP,
    "gamma1": _UNIT,
    "eta0": _STEP,
    "tau1": _POSITIVE,
    "tau2": _STEP,
    "sigmoid_alpha": _POSITIVE,
    "alpha": _FINITE,
    "kappa": _STEP,
}


class Schedules(nn.Module):
    """A module whose SCHEDULES are 0-dim float64 buffers.

    Assigning a number to one at any time changes the buffer in place: nothing recompiles, and a
    captured graph sees the new value. A number out of range raises a ValueError, and the old one
    stays.
    """

    def _add_schedules(self, **values: float) -> None:
        for name, value in values.items():
            self._add_schedule(name, value)

    def _add_schedule(self, name: str, value: float, persistent: bool = True) -> None:
        one = torch.ones((), dtype=torch.float64)
        self.register_buffer(name, one, persistent=persistent)
        setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SCHEDULES and name in self.__dict__.get("_buffers", {}):
            self._set_schedule(name, value)
        else:
            super().__setattr__(name, value)

    def _set_schedule(self, name: str, value: float | Tensor) -> None:
        if isinstance(value, Tensor) and value.device.type != "cpu":
            self._buffers[name].copy_(value.detach())  # type: ignore[union-attr]  # no sync
            return
        owner = type(self).__name__
        if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
            raise TypeError(
                f"{owner}: expected {name} to be a float or a tensor, got {type(value).__name__}"
            )
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"{owner}: expected {name} to be one number, got {value!r}")
        number = float(value)
        allowed = SCHEDULES[name]
        if not allowed.holds(number):
            raise ValueError(f"{owner}: expected {name} {allowed.expected}, got {value!r}")
        self._check_schedule(name, number)
        self._buffers[name].fill_(number)  # type: ignore[union-attr]

    def _check_schedule(self, name: str, number: float) -> None:
        """Refuses what is in range, but does not suit this module."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Schedules":
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        schedules = {name: buffer for name, buffer in before.items() if name in SCHEDULES}
        keep_precision(self, schedules, fixed=True)  # they stay exact
        others = {name: buffer for name, buffer in before.items() if name not in SCHEDULES}
        keep_precision(self, others, fixed=False)
        return self
