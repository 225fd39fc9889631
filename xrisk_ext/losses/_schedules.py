"""Hyper-parameters that may change during training."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xrisk_ext.state import keep_precision

INF = float("inf")
Range = tuple[str, Callable[[float], bool]]


class ScheduledLoss(nn.Module):
    """Keeps schedules as 0-dim float64 buffers.

    Assigning a number to one at any time changes the buffer in place: nothing recompiles, and a
    captured graph sees the new value. A number out of range raises a ValueError, and the old one
    stays.
    """

    # name: which numbers it takes, in words and as a test
    _SCHEDULES: ClassVar[dict[str, Range]] = {}

    def _register_schedule(self, name: str, value: float) -> None:
        self.register_buffer(name, torch.ones((), dtype=torch.float64))
        setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._SCHEDULES and name in self.__dict__.get("_buffers", {}):
            self._set_schedule(name, value)
        else:
            super().__setattr__(name, value)

    def _set_schedule(self, name: str, value: float | Tensor) -> None:
        buffer = self._buffers[name]
        assert buffer is not None
        if isinstance(value, Tensor) and value.device.type != "cpu":
            buffer.copy_(value.detach())  # no sync
            return
        owner = type(self).__name__
        if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
            raise TypeError(
                f"{owner}: expected {name} to be a float or a tensor, got {type(value).__name__}"
            )
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"{owner}: expected {name} to be one number, got {value!r}")
        number = float(value)
        words, in_range = self._SCHEDULES[name]
        if not in_range(number):
            raise ValueError(f"{owner}: expected {name} {words}, got {value!r}")
        buffer.fill_(number)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ScheduledLoss":
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        schedules = {n: b for n, b in before.items() if n in self._SCHEDULES}
        keep_precision(self, schedules, fixed=True)  # they stay exact
        others = {n: b for n, b in before.items() if n not in schedules}
        keep_precision(self, others, fixed=False)
        return self


POSITIVE: Range = ("> 0 and finite", lambda number: 0 < number < INF)
FINITE: Range = ("to be finite", lambda number: -INF < number < INF)
NOT_NEGATIVE: Range = (">= 0 and finite", lambda number: 0 <= number < INF)
SHARE: Range = ("in [0, 1]", lambda number: 0 <= number <= 1)
