"""A block of the rows of a state, kept by one process of a group."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xrisk_ext._exchange import Group
from xrisk_ext.state import first_occurrences, row_dimension


class StateShard(nn.Module):
    """The rows ``[rank * block, (rank + 1) * block)`` of a buffer ``name`` of ``owner``.

    The rows are an attribute and not a buffer: DistributedDataParallel broadcasts buffers from
    rank 0, which would overwrite every other shard. They follow the module to a device and are in
    its state_dict all the same.
    """

    owner: nn.Module

    def __init__(self, owner: nn.Module, name: str, group: Group) -> None:
        super().__init__()
        self._group = group
        self.name = name
        # by the side door: the owner stays a module of its loss alone
        object.__setattr__(self, "owner", owner)
        whole = owner._buffers[name]
        assert whole is not None
        self.num_rows = whole.shape[row_dimension(whole)]
        block = -(-self.num_rows // group.size)
        self.start = min(group.rank * block, self.num_rows)
        self.stop = min(self.start + block, self.num_rows)
        self.block = block
        self.value: Tensor
        self.keep(whole)
        self.lend(None)

    @property
    def _dim(self) -> int:
        return row_dimension(self.value)

    def keep(self, whole: Tensor) -> None:
        """Takes the own rows of a whole state."""
        like = getattr(self, "value", whole)
        dim = row_dimension(whole)
        if whole.shape[dim] != self.num_rows:
            raise ValueError(f"expected a state of {self.num_rows} rows, got {whole.shape[dim]}")
        own = whole.narrow(dim, self.start, self.stop - self.start).to(like)
        # one row more, where writes go that belong to other processes
        self.value = torch.cat((own, torch.zeros_like(whole.narrow(dim, 0, 1)).to(like)), dim)

    def placeholder(self) -> Tensor:
        """What the owner holds between steps: no rows."""
        return self.value.narrow(self._dim, 0, 0).clone()

    def lend(self, table: Tensor | None) -> None:
        """The owner's buffer is ``table``, or empty."""
        self.owner._buffers[self.name] = self.placeholder() if table is None else table

    def lend_one_row(self) -> None:
        """For the loss to reset: see `take_initial`."""
        self.lend(self.value.narrow(self._dim, 0, 1).clone())

    def take_initial(self) -> None:
        """All rows are what the owner made of the row it was lent."""
        row = self.owner._buffers[self.name]
        assert row is not None
        self.value.copy_(row.expand_as(self.value))
        self.lend(None)

    def _local(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Which ids are kept here, and their rows here."""
        own = (index >= self.start) & (index < self.stop)
        return own, torch.where(own, index - self.start, self.stop - self.start)

    def fetch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of the ids of the whole batch as a state of their own, and the ids in it."""
        own, local = self._local(index)
        table = self.value.index_select(self._dim, local)
        mask = own.view(-1, *[1] * (table.dim() - 1 - self._dim))
        # one process has the row, the others add zero: NaN and -inf arrive as they are
        table = self._group.sum(torch.where(mask, table, 0.0))
        return table, first_occurrences(index, self.num_rows)

    def store(self, table: Tensor, index: Tensor) -> None:
        """Writes back what was fetched."""
        own, local = self._local(index)
        first = first_occurrences(index, self.num_rows) == torch.arange(
            len(index), device=index.device
        )
        target = torch.where(own & first, local, self.stop - self.start)
        self.value.index_copy_(self._dim, target, table)

    def whole(self) -> Tensor:
        """The rows of all processes."""
        padded = self.value.new_zeros(
            [self.block if d == self._dim else n for d, n in enumerate(self.value.shape)]
        )
        rows = self.stop - self.start
        padded.narrow(self._dim, 0, rows).copy_(self.value.narrow(self._dim, 0, rows))
        blocks = self._group.gather(padded.transpose(0, self._dim).contiguous())
        return blocks.narrow(0, 0, self.num_rows).transpose(0, self._dim).contiguous()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "StateShard":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved = fn(self.value)
        half = moved.dtype in (torch.float16, torch.bfloat16)
        self.value = self.value.to(moved.device) if half else moved
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[prefix + "value"] = self.value.narrow(self._dim, 0, self.stop - self.start)
        destination[prefix + "range"] = torch.tensor([self.start, self.stop, self.num_rows])

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for name in ("value", "range"):
            if prefix + name not in state_dict:
                missing_keys.append(prefix + name)
                return
        expected = [self.start, self.stop, self.num_rows]
        saved = state_dict[prefix + "range"].tolist()
        if saved != expected:
            error_msgs.append(
                f"a shard of the state with rows [{saved[0]}, {saved[1]}) of {saved[2]} was saved, "
                f"but this process keeps [{expected[0]}, {expected[1]}) of {expected[2]}: load the "
                "state_dict of the same rank of as many processes, or a full_state_dict()"
            )
            return
        own = self.value.narrow(self._dim, 0, self.stop - self.start)
        own.copy_(state_dict[prefix + "value"])
