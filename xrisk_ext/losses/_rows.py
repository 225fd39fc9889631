"""The rows of a batch that a process computes: all, or its own where processes share the batch.

A loss over embeddings is written once, for its own rows against the keys of all, in
``forward_rows(rows, ...)``. ``forward`` passes `WHOLE_BATCH`; `xrisk_ext.distributed` passes what
gathers and sums over processes.
"""

from torch import Tensor

from xrisk_ext.ops import moving_average_update_
from xrisk_ext.state import MovingAverage, copy_of_rows


class WholeBatch:
    """One process: its rows are the batch."""

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
        state: MovingAverage,
        index: Tensor,
        values: Tensor,
        gamma: Tensor,
        *,
        write: bool,
    ) -> Tensor:
        """What the log-domain state stores for the own rows, duplicate ids of all averaged.

        `gamma` is 0-dim or one per row. With ``write=False`` the state is read only.
        """
        table = state.value
        if not write:
            table, index = copy_of_rows(table, index)
        return moving_average_update_(table, index, values, gamma, log=True)

    def read(self, state: MovingAverage, index: Tensor) -> Tensor:
        """The state's rows of the own ids."""
        return state.value.index_select(0, index)


WHOLE_BATCH = WholeBatch()
