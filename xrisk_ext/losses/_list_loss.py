"""What the stateless losses of ranked lists share: temperatures, reduction, the call of the op."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xrisk_ext.ops.listwise import LIST_LOSSES, REDUCTIONS, listwise_step
from xrisk_ext.ops.surrogates import check_devices, check_tensor
from xrisk_ext.state import keep_precision

ListReduction = Literal["mean", "sum", "none"]
_TEMPERATURES = ("temperature", "rank_temperature")


class ListLoss(nn.Module):
    """Base of the losses over lists of scored items; a subclass names its kernel and its numbers.

    ``temperature`` (and ``rank_temperature`` where there is one) are 0-dim float64 buffers.
    Assigning a number to them at any time changes the buffer in place: nothing recompiles, and a
    captured graph sees the new value. A number out of range raises a ValueError, and the old one
    stays.
    """

    temperature: Tensor
    rank_temperature: Tensor

    def __init__(
        self,
        *,
        loss: str,
        reduction: ListReduction,
        temperature: float = 1.0,
        rank_temperature: float = 1.0,
        counts: Sequence[int] = (),
        numbers: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"{self._owner}: expected reduction 'mean', 'sum' or 'none', got {reduction!r}"
            )
        self.reduction = reduction
        self._loss = LIST_LOSSES[loss]
        self._reduction = REDUCTIONS[reduction]
        self._counts, self._numbers = list(counts), list(numbers)
        for name, value in zip(_TEMPERATURES, (temperature, rank_temperature), strict=True):
            # constants of the losses that have no temperature are no part of their state_dict
            fixed = loss in ("list_net", "list_mle", "fast_ap") or (
                name == "rank_temperature" and loss != "recall_at_k"
            )
            self.register_buffer(name, torch.ones((), dtype=torch.float64), persistent=not fixed)
            setattr(self, name, value)

    @property
    def _owner(self) -> str:
        return type(self).__name__

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _TEMPERATURES and name in self.__dict__.get("_buffers", {}):
            self._set_temperature(name, value)
        else:
            super().__setattr__(name, value)

    def _set_temperature(self, name: str, value: float | Tensor) -> None:
        if isinstance(value, Tensor) and value.device.type != "cpu":
            self._buffers[name].copy_(value.detach())  # type: ignore[union-attr]  # no sync
            return
        if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
            raise TypeError(
                f"{self._owner}: expected {name} to be a float or a tensor, got "
                f"{type(value).__name__}"
            )
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"{self._owner}: expected {name} to be one number, got {value!r}")
        number = float(value)
        if not 1e-30 <= number < float("inf"):
            raise ValueError(f"{self._owner}: expected {name} >= 1e-30 and finite, got {value!r}")
        self._buffers[name].fill_(number)  # type: ignore[union-attr]

    def _count(self, name: str, value: Any) -> int:
        """A positive integer among the hyper-parameters."""
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"{self._owner}: expected {name} to be a positive integer, got {value!r}"
            )
        return value

    def _step(
        self,
        scores: Tensor,
        relevance: Tensor,
        mask: Tensor | None,
        item_weights: Tensor | None = None,
        *,
        name: str = "relevance",
    ) -> Tensor:
        check_tensor(scores, "scores")
        check_tensor(relevance, name)
        if mask is not None:
            check_tensor(mask, "mask")
        if item_weights is not None:
            check_tensor(item_weights, "item_weights")
            if item_weights.requires_grad:
                raise ValueError("expected item_weights to be constants, got requires_grad=True")
        temperature, rank_temperature = (self._buffers[name] for name in _TEMPERATURES)
        assert temperature is not None
        assert rank_temperature is not None
        all_on_cpu = (
            (scores.is_cpu and relevance.is_cpu and temperature.is_cpu)
            and (mask is None or mask.is_cpu)
            and (item_weights is None or item_weights.is_cpu)
        )
        if not all_on_cpu:
            check_devices(scores, "scores", temperature=temperature, mask=mask)
            check_devices(scores, "scores", item_weights=item_weights, **{name: relevance})
        return listwise_step(
            scores, relevance, mask, item_weights, temperature, rank_temperature, self._loss,
            self._counts, self._numbers, self._reduction,
        )  # fmt: skip

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ListLoss":
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        keep_precision(self, before, fixed=True)  # the temperatures stay exact
        return self

    def reset_state(self) -> None:
        """Taken as by every score loss; there is no state here."""

    def _described(self) -> dict[str, Any]:
        """What extra_repr shows besides the reduction."""
        return {}

    def extra_repr(self) -> str:
        shown = {**self._described(), "reduction": self.reduction}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())
