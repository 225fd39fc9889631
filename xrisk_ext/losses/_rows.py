"""The rows of a batch that a process computes: all, or its own where processes share the batch.

A loss over embeddings is written once, for its own rows against the keys of all, in
``forward_rows(rows, ...)``. ``forward`` passes `WHOLE_BATCH`; `xrisk_ext.distributed` passes what
gathers and sums over processes.
"""

import torch
from torch import Tensor

from xrisk_ext.ops import moving_average_update_
from xrisk_ext.state import copy_of_rows, row_dimension


class WholeBatch:
    """One process: its rows are the batch."""

    is_whole = True
    offset = 0
    """Where the own rows begin among those of all processes."""

    def count(self, own: int) -> int:
        """How many rows all processes have, of whom this one has `own`."""
        return own

    def gather(self, *embeddings: Tensor) -> tuple[Tensor, ...]:
        """The rows of all processes. What each does with them adds up in the gradient."""
        return embeddings

    def gather_constants(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The rows of all processes, without a gradient."""
        return tuple(t.detach() for t in tensors)

    def total(self, value: Tensor) -> Tensor:
        """The sum of what every process found for its own rows."""
        return value

    def shared(self, parameter: Tensor) -> Tensor:
        """A parameter of the loss, whose gradient every process has a part of."""
        return parameter

    def update(
        self,
        state: Tensor,
        index: Tensor,
        values: Tensor,
        gamma: float | Tensor,
        *,
        log: bool = True,
        write: bool,
    ) -> Tensor:
        """What the state stores for the own rows, duplicate ids of all averaged; of logarithms
        the blends before they are rounded to it.

        Shapes: state ``[N]`` or ``[S, N]``, index ``[B]``, values and result ``[B]`` or ``[S, B]``,
        gamma a number or one per row. With ``write=False`` the state is read only.
        """
        return update_sides(state, index, values, gamma, log, write)

    def read(self, state: Tensor, index: Tensor) -> Tensor:
        """The state's rows of the own ids."""
        return state.index_select(row_dimension(state), index)


def update_sides(
    state: Tensor, index: Tensor, values: Tensor, gamma: float | Tensor, log: bool, write: bool
) -> Tensor:
    """The update of a state ``[N]`` or, side by side, ``[S, N]``; logarithms as `blends` are."""
    if not log and not write:
        state, index = copy_of_rows(state, index)

    def update(side: Tensor, of_side: Tensor) -> Tensor:
        if log:
            return blends(side, index, of_side, gamma, log=True, write=write)
        return moving_average_update_(side, index, of_side, gamma)

    if state.dim() == 1:
        return update(state, values)
    return torch.stack([update(*sides) for sides in zip(state, values, strict=True)])


def blends(
    state: Tensor,
    index: Tensor,
    values: Tensor,
    gamma: float | Tensor,
    *,
    log: bool = False,
    write: bool = True,
) -> Tensor:
    """The update of a state ``[N]``; the blends in float64, as they are before they are stored.

    A logarithm that float32 has rounded does not bound exp(x - log u).
    """
    rows, places = copy_of_rows(state, index)
    if write:
        moving_average_update_(state, index, values, gamma, log=log)
    return moving_average_update_(rows.double(), places, values, gamma, log=log)


WHOLE_BATCH = WholeBatch()
