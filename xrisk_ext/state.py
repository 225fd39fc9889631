"""State that a loss carries from batch to batch, as registered buffers."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

InitialState = Literal["assign", "zero"]


def keep_precision(module: nn.Module, before: dict[str, Tensor | None], *, fixed: bool) -> None:
    """After ``module._apply``: buffers follow to the device, but not to a half precision.

    ``fixed`` buffers keep their dtype whatever was asked; others may change between float32 and
    float64.
    """
    for name, old in before.items():
        new = module._buffers[name]
        if old is None or new is None or new.dtype == old.dtype:
            continue
        if fixed or new.dtype in (torch.float16, torch.bfloat16):
            module._buffers[name] = old.to(new.device)


def row_dimension(state: Tensor) -> int:
    """The dimension of a loss's state that ids count: of [N], [L, N] and [L, N, C]."""
    return 0 if state.dim() == 1 else 1


def first_occurrences(index: Tensor, num_rows: int) -> Tensor:
    """For each entry of index [B] the first position of its id; -1 if not in [0, num_rows).

    All shapes are known beforehand: nothing waits for a device.
    """
    ids, order = index.sort(stable=True)
    here = torch.arange(len(ids), device=ids.device)
    new = torch.ones_like(ids, dtype=torch.bool)
    new[1:] = ids[1:] != ids[:-1]
    start = torch.where(new, here, 0).cummax(0).values if len(ids) else here
    first = torch.empty_like(order).scatter_(0, order, order[start])
    return torch.where((index >= 0) & (index < num_rows), first, -1)


def copy_of_rows(state: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of a batch's ids as a state of B rows, and the batch's ids in it."""
    size = state.shape[row_dimension(state)]
    rows = state.index_select(row_dimension(state), index.clamp(0, size - 1))
    return rows, first_occurrences(index, size)


class MovingAverage(nn.Module):
    """Moving averages ``u`` of an X-risk: one buffer ``value`` of the given shape.

    An entry that was never written holds NaN (-inf if ``log``) and is assigned on first touch.
    ``initial="zero"`` starts at zero and simply averages, as LibAUC does: its first ``u`` is
    ``gamma`` times the observation. (If ``log``, that zero is the logarithm of a number too small
    to matter, the lowest that the dtype has.) A number starts there: for dual variables, which
    are stepped instead of averaged.

    Saved and restored by ``state_dict``; ``.half()`` and ``.bfloat16()`` leave it alone,
    ``.double()`` promotes it.

    Args:
        shape: ``[N]`` or ``[N, C]`` for
            :func:`~xrisk_ext.ops.moving_average_update_`, which the caller applies to ``value``.
        dtype: float32 or float64.
        log: whether the averages are kept as logarithms.
        initial: ``"assign"``, ``"zero"`` or a number, as above.
    """

    value: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        dtype: torch.dtype = torch.float32,
        log: bool = False,
        initial: InitialState | float = "assign",
    ) -> None:
        super().__init__()
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"expected state_dtype to be float32 or float64, got {dtype}")
        if not isinstance(initial, (int, float)) and initial not in ("assign", "zero"):
            raise ValueError(f"expected initial_state to be 'assign' or 'zero', got {initial!r}")
        if initial == "assign":
            self._initial = float("-inf") if log else float("nan")
        elif initial == "zero":
            self._initial = torch.finfo(dtype).min if log else 0.0
        else:
            self._initial = float(initial)
        self.register_buffer("value", torch.full(shape, self._initial, dtype=dtype))

    def reset(self) -> None:
        """Back to the state before the first batch, in place."""
        self.value.fill_(self._initial)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MovingAverage":
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        keep_precision(self, before, fixed=False)
        return self

    def extra_repr(self) -> str:
        return f"{tuple(self.value.shape)}, dtype={self.value.dtype}"
