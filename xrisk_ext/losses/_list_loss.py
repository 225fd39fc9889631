"""What the stateless losses of ranked lists share: temperatures, reduction, the call of the op."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from xrisk_ext.losses._schedules import Schedules
from xrisk_ext.ops.listwise import LIST_LOSSES, REDUCTIONS, listwise_step
from xrisk_ext.ops.surrogates import check_devices, check_tensor

ListReduction = Literal["mean", "sum", "none"]
_TEMPERATURES = ("temperature", "rank_temperature")


class ListLoss(Schedules):
    """Base of the losses over lists of scored items; a subclass names its kernel and its numbers.

    ``temperature`` (and ``rank_temperature`` where there is one) may be assigned at any time.
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
            self._add_schedule(name, value, persistent=not fixed)

    @property
    def _owner(self) -> str:
        return type(self).__name__

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

    def reset_state(self) -> None:
        """Taken as by every score loss; there is no state here."""

    def _described(self) -> dict[str, Any]:
        """What extra_repr shows besides the reduction."""
        return {}

    def extra_repr(self) -> str:
        shown = {**self._described(), "reduction": self.reduction}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())
