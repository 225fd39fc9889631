"""LibAUC's names of what a loss carries: its hyper-parameters, its state, its device."""

from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn


def another_name(name: str) -> Any:
    """What this package calls ``name``; may be assigned."""

    def get(loss: nn.Module) -> Any:
        return getattr(loss, name)

    def put(loss: nn.Module, value: Any) -> None:
        setattr(loss, name, value)

    return property(get, put, doc=f"``{name}``.")


def state_part(path: str, *where: Any, log: bool = False, column: bool = True) -> Any:
    """A part of a :class:`~xrisk_ext.MovingAverage`, ``[N, 1]`` as LibAUC has it; may be assigned.

    Of logarithms it is a copy, else a view: what is written into it in place is written there.
    """

    def get(loss: nn.Module) -> Tensor:
        part: Tensor = attrgetter(path)(loss).value[where]
        part = part.exp() if log else part
        return part.unsqueeze(-1) if column else part

    def put(loss: nn.Module, value: Tensor) -> None:
        average = attrgetter(path)(loss)
        part = average.value[where]
        new = torch.as_tensor(value, device=part.device).detach().to(part.dtype).reshape(part.shape)
        if log:  # zero is what was never touched
            new = torch.where(new > 0, new.log(), average._initial)
        part.copy_(new)

    return property(get, put, doc=f"Of ``{path}``.")


def option(name: str) -> Any:
    """One of the constant options of a fused step."""
    return property(lambda loss: getattr(loss._options, name), doc=f"``{name}``.")


class OnDevice:
    """``device``: where parameters and state are."""

    @property
    def device(self: Any) -> torch.device:
        return next(chain(self.parameters(), self.buffers())).device  # type: ignore[no-any-return]
