"""One batch shared by several processes: the losses on `torch.distributed`.

Every process of a group has some rows of a batch. With :class:`DistributedLoss` the loss, its
gradients and its state are those of one process that has the whole batch, up to rounding, where
gradients of parameters are **averaged** over the processes, as DistributedDataParallel and FSDP do.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xrisk_ext._exchange import Exchange, Group, ShardOfBatch, gather_with_gradient
from xrisk_ext._state_shard import StateShard
from xrisk_ext.state import row_dimension

__all__ = ["DistributedLoss", "gather_batch"]


def gather_batch(
    *tensors: Tensor,
    process_group: dist.ProcessGroup | None = None,
    equal_batches: bool = False,
) -> tuple[Tensor, ...]:
    """The rows of all processes, in the order of their ranks, for a loss that each computes whole.

    To be followed by the **same** computation on every process. The gradient of the own rows comes
    back multiplied by the number of processes, so that averaging the gradients of parameters over
    them gives the gradient of the loss of the whole batch. The backward communicates nothing.

    Args:
        tensors: ``[B, ...]`` each, of any dtype; the same shapes beyond B and the same dtypes on
            every process. B may differ from process to process, and be 0.
        process_group: who shares the batch; the default group if None.
        equal_batches: B is the same on all processes: sizes are not exchanged, and on CUDA the
            host does not wait for the device.

    Returns:
        A tensor of the rows of all, for each of ``tensors``.

    Raises:
        RuntimeError: no process group was initialised.
        ValueError: rows that differ between processes, tensors of different lengths, or a group
            that this process is not in.
    """
    group = Group(process_group)
    if group.size == 1:
        return tensors
    exchange = Exchange(group, tensors, equal_batches)
    return gather_with_gradient(exchange, tensors, summed=False)


class DistributedLoss(nn.Module):
    """A loss of the batch that the processes of a group hold together.

    ``DistributedLoss(loss)(...)`` takes this process's rows and returns, on every process, the
    value for the rows of all. Gradients and state are those of one process with the whole batch,
    up to rounding, if the gradients of parameters are averaged over the group afterwards: wrap the
    model in DistributedDataParallel as usual, and call the loss on its output.

    * Losses over scores: scores, labels, ids and weights are gathered, a few bytes a row in one
      collective, and each process takes the same step on all of them. Nothing is communicated in
      the backward.
    * Losses over embeddings (contrastive): each process computes its own rows against the gathered
      embeddings of all; the backward sums the embeddings' gradients over the processes. With
      ``reduction="none"`` they return the own rows' values, and the gradient is that of their mean
      over the batch if every process averages its own.

    The first ``forward`` takes parameters and buffers of the loss from the group's first process.

    Every process has to call ``forward`` and ``backward`` the same number of times, also with an
    empty batch. Arguments are refused before anything is communicated or on all processes alike,
    except where only one of them got a bad one: then the others wait for it.

    Args:
        loss: any loss of this package.
        process_group: who shares the batch; the default group if None. With several groups under
            one DistributedDataParallel the objective is the mean of the groups' losses.
        state: ``"replicated"``: every process keeps all rows of the state, and writes the same.
            ``"sharded"``: each keeps a block of the ids, and the rows of a batch are fetched from
            their keepers and written back. A shard is no buffer, so DistributedDataParallel cannot
            broadcast over it. It is in this process's ``state_dict``, which loads into the same
            rank of as many processes; :meth:`full_state_dict` is for everything else.
        equal_batches: as in :func:`gather_batch`.

    Raises:
        RuntimeError: no process group was initialised.
        ValueError: a loss whose state cannot be sharded, one that gathers by itself (of
            ``xrisk_ext.libauc``), a group that this process is not in.
    """

    def __init__(
        self,
        loss: nn.Module,
        process_group: dist.ProcessGroup | None = None,
        *,
        state: Literal["replicated", "sharded"] = "replicated",
        equal_batches: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(loss, nn.Module):
            raise TypeError(f"expected loss to be a torch.nn.Module, got {type(loss).__name__}")
        if any(getattr(module, "distributed", False) for module in loss.modules()):
            raise ValueError(
                f"expected a loss of one process, {type(loss).__name__} gathers by itself"
            )
        if state not in ("replicated", "sharded"):
            raise ValueError(f"expected state to be 'replicated' or 'sharded', got {state!r}")
        self._group = Group(process_group)
        self._signature = inspect.signature(loss.forward)
        self.loss = loss
        self.equal_batches = equal_batches
        self._alike = False
        self.shards = nn.ModuleList()
        if state == "sharded":
            self.shards.extend(StateShard(m, n, self._group) for m, n in self._states())

    def _states(self) -> list[tuple[nn.Module, str]]:
        """The buffers to be sharded: those that the ids of ``index`` count."""
        name = type(self.loss).__name__
        num_samples = getattr(self.loss, "num_samples", None)
        if num_samples is None or "index" not in self._signature.parameters:
            raise ValueError(f"{name} keeps no state by the ids of an index: nothing to shard")
        states = []
        for module_name, module in self.loss.named_modules():
            for buffer_name, buffer in module.named_buffers(recurse=False):
                if num_samples not in buffer.shape:
                    continue
                if buffer.dim() > 3 or buffer.shape[row_dimension(buffer)] != num_samples:
                    raise ValueError(
                        f"{name} keeps {module_name}.{buffer_name} {tuple(buffer.shape)}, which "
                        "cannot be sharded: use state='replicated'"
                    )
                states.append((module, buffer_name))
        if not states:
            raise ValueError(f"{name} keeps no state by the ids of an index: nothing to shard")
        return states

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The loss of the rows of all processes; arguments as those of the loss.

        Tensors have this process's rows, ``[B, ...]``, or no dimension.
        """
        if self._group.size == 1 and not self.shards:
            return self.loss(*args, **kwargs)  # type: ignore[no-any-return]
        if not self._alike:
            self._make_alike()
        bound = self._signature.bind(*args, **kwargs).arguments
        by_row = getattr(self.loss, "forward_rows", None)
        whole = getattr(self.loss, "not_by_row", ())
        rows = {n: v for n, v in bound.items() if isinstance(v, Tensor) and v.dim()}
        names = [n for n in rows if n not in whole]
        tensors = [rows[n] for n in names]
        exchange = Exchange(self._group, tensors, self.equal_batches, names)
        if by_row is not None:
            shards = {id(s.owner._buffers[s.name]): s for s in self._shards()}
            return by_row(ShardOfBatch(exchange, shards), **bound)  # type: ignore[no-any-return]
        gathered = gather_with_gradient(exchange, tensors, summed=False)
        bound.update(zip(names, gathered, strict=True))
        write = bool(bound.get("update_state", True))
        with self._rows_of_batch(bound, write):
            return self.loss(**bound)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _make_alike(self) -> None:
        """What was drawn at random (a queue) is that of the first process."""
        for tensor in (*self.loss.buffers(), *self.loss.parameters()):
            if tensor.numel() > 0:
                self._group.broadcast(tensor)
        self._alike = True

    def _shards(self) -> Iterator[StateShard]:
        for shard in self.shards:
            assert isinstance(shard, StateShard)
            yield shard

    @contextmanager
    def _rows_of_batch(self, bound: dict[str, Any], write: bool) -> Iterator[None]:
        """While the loss runs, its states are the rows of the batch's ids."""
        index = bound.get("index")
        if not self.shards or index is None or not self.training:
            yield
            return
        tables = []
        for shard in self._shards():
            table, bound["index"] = shard.fetch(index)
            shard.lend(table)
            tables.append((shard, table))
        try:
            yield
            if write:
                for shard, table in tables:
                    shard.store(table, index)
        except IndexError as error:
            raise IndexError(
                f"expected index in [0, {self.loss.num_samples}) on every process"
            ) from error
        finally:
            for shard, _ in tables:
                shard.lend(None)

    def reset_state(self) -> None:
        """Forgets moving averages and queues, as if no batch had been seen."""
        self._alike = False
        for shard in self._shards():
            shard.lend_one_row()
        reset = getattr(self.loss, "reset_state", None)
        if callable(reset):
            reset()
        for shard in self._shards():
            shard.take_initial()

    def full_state_dict(self) -> dict[str, Any]:
        """The ``state_dict`` of the loss as if one process kept all of it: a collective call.

        It loads into the loss alone, and by :meth:`load_full_state_dict` into any number of
        processes.
        """
        state = dict(self.loss.state_dict())
        for name, shard in self._named_shards():
            state[name] = shard.whole()
        return state

    def load_full_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what :meth:`full_state_dict` gave, or the ``state_dict`` of the loss alone."""
        state = dict(state_dict)
        for name, shard in self._named_shards():
            if name not in state:
                raise KeyError(f"expected {name!r} in the state_dict")
            shard.keep(state[name])
            state[name] = shard.placeholder()
        self.loss.load_state_dict(state)

    def _named_shards(self) -> Sequence[tuple[str, StateShard]]:
        prefixes = {id(module): name for name, module in self.loss.named_modules()}
        return [(f"{prefixes[id(s.owner)]}.{s.name}".lstrip("."), s) for s in self._shards()]

    def extra_repr(self) -> str:
        state = "sharded" if len(self.shards) else "replicated"
        return f"rank={self._group.rank}, processes={self._group.size}, state={state!r}"
