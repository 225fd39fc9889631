"""What the processes of a group tell each other about a batch, and the gradients of that."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from xrisk_ext.losses._rows import WholeBatch, update_sides

if TYPE_CHECKING:
    from xrisk_ext._state_shard import StateShard

# torch 2.13 renamed the collectives of one tensor.
_all_gather = getattr(dist, "all_gather_single", None) or getattr(
    dist, "all_gather_into_tensor", None
)
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or getattr(
    dist, "reduce_scatter_tensor", None
)


class Group:
    """A process group: who this process is in it, and its collectives."""

    def __init__(self, process_group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError(
                "xrisk_ext.distributed: expected torch.distributed to be initialised, call "
                "torch.distributed.init_process_group first"
            )
        self.process_group = process_group
        self.rank = dist.get_rank(process_group)
        self.size = dist.get_world_size(process_group)
        if self.rank < 0:
            raise ValueError("expected this process to be in process_group")

    def gather(self, tensor: Tensor) -> Tensor:
        """[B, ...] of every process, the same shape on all, one after the other."""
        out = tensor.new_empty(self.size * tensor.shape[0], *tensor.shape[1:])
        assert _all_gather is not None
        _all_gather(out, tensor, group=self.process_group)
        return out

    def broadcast(self, tensor: Tensor) -> None:
        """Everyone gets the tensor of the group's first process, in place."""
        group = self.process_group or dist.group.WORLD
        assert group is not None
        first = dist.get_global_rank(group, 0)
        dist.broadcast(tensor, first, group=self.process_group)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        dist.all_reduce(tensor, group=self.process_group)
        return tensor

    def sum_and_scatter(self, tensor: Tensor) -> Tensor:
        """The own block of the sum over the processes, whose blocks are of one size."""
        out = tensor.new_empty(tensor.shape[0] // self.size, *tensor.shape[1:])
        assert _reduce_scatter is not None
        _reduce_scatter(out, tensor, group=self.process_group)
        return out


class Exchange:
    """The rows of one batch: how many each process has, to gather them and to sum gradients."""

    def __init__(
        self,
        group: Group,
        tensors: Sequence[Tensor],
        equal_batches: bool,
        names: Sequence[str] | None = None,
    ) -> None:
        if not tensors:
            raise ValueError("expected at least one tensor with this process's rows")
        names = names or [f"tensor {k}" for k in range(len(tensors))]
        own, device = tensors[0].shape[0], tensors[0].device
        for name, tensor in zip(names, tensors, strict=True):
            if tensor.shape[0] != own:
                raise ValueError(
                    f"expected {name} to have a row for each of the {own} rows of {names[0]}, got "
                    f"shape {tuple(tensor.shape)}"
                )
            if tensor.device != device:
                raise ValueError(
                    f"expected {name} on the device of {names[0]} ({device}), got {tensor.device}"
                )
        self.group = group
        self.equal = equal_batches
        self.sizes = [own] * group.size
        if not equal_batches:
            width = sum(_row_bytes(t) for t in tensors)
            told = group.gather(torch.tensor([[own, width]], device=device)).tolist()
            self.sizes = [size for size, _ in told]
            widths = [width for _, width in told]
            if len(set(widths)) > 1:
                raise ValueError(
                    "expected rows of the same shapes and dtypes on every process, got rows of "
                    f"{widths} bytes ({', '.join(names)})"
                )
            self.equal = len(set(self.sizes)) == 1
        self.offset = sum(self.sizes[: group.rank])
        self.own, self.count = own, sum(self.sizes)

    def gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The rows of all processes, bit for bit, in one collective."""
        bytes_of = [_as_bytes(t) for t in tensors]
        packed = torch.cat(bytes_of, 1) if len(bytes_of) > 1 else bytes_of[0]
        longest = max(self.sizes)
        if self.own < longest:
            packed = torch.cat((packed, packed.new_zeros(longest - self.own, packed.shape[1])))
        everything = self.group.gather(packed)
        if not self.equal:
            blocks = everything.view(self.group.size, longest, -1)
            everything = torch.cat([blocks[r, :n] for r, n in enumerate(self.sizes)])
        parts = torch.split(everything, [b.shape[1] for b in bytes_of], 1)
        return [
            part.contiguous().flatten().view(t.dtype).view(self.count, *t.shape[1:])
            for part, t in zip(parts, tensors, strict=True)
        ]

    def own_rows(self, rows: Tensor) -> Tensor:
        return rows.narrow(0, self.offset, self.own)

    def sum_of_gradients(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """The own rows of the sums over the processes, in float32 or better."""
        flat = [g.reshape(self.count, -1) for g in gradients]
        packed = torch.cat(flat, 1)  # in the widest of their dtypes
        if packed.dtype in (torch.float16, torch.bfloat16):
            packed = packed.float()
        if self.equal:
            own = self.group.sum_and_scatter(packed.contiguous())
        else:
            own = self.own_rows(self.group.sum(packed))
        parts = torch.split(own, [f.shape[1] for f in flat], 1)
        return [
            part.reshape(self.own, *g.shape[1:]).to(g.dtype)
            for part, g in zip(parts, gradients, strict=True)
        ]


def _row_bytes(tensor: Tensor) -> int:
    return tensor.shape[1:].numel() * tensor.element_size()


def _as_bytes(tensor: Tensor) -> Tensor:
    """[B, ...] as the bytes of its rows [B, W]."""
    # flat: a row of one element may have any stride, and then has no bytes to view
    flat = tensor.detach().contiguous().flatten()
    return flat.view(torch.uint8).view(tensor.shape[0], _row_bytes(tensor))


class _Gather(torch.autograd.Function):
    """Rows of all processes. Backward: see `gather_with_gradient`."""

    @staticmethod
    def forward(ctx: Any, exchange: Exchange, summed: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.exchange, ctx.summed = exchange, summed
        ctx.wanted = ctx.needs_input_grad[2:]
        everything = tuple(exchange.gather(tensors))
        ctx.mark_non_differentiable(
            *(e for e, wanted in zip(everything, ctx.wanted, strict=True) if not wanted)
        )
        return everything

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        exchange: Exchange = ctx.exchange
        gradients = [g for g, wanted in zip(upstream, ctx.wanted, strict=True) if wanted]
        if ctx.summed:
            own = iter(exchange.sum_of_gradients(gradients))
        else:
            own = iter([exchange.own_rows(g) * exchange.group.size for g in gradients])
        return (None, None, *(next(own) if wanted else None for wanted in ctx.wanted))


def gather_with_gradient(
    exchange: Exchange, tensors: Sequence[Tensor], *, summed: bool
) -> tuple[Tensor, ...]:
    """The rows of all processes, differentiably.

    `summed`: each process computes something of its own with them, and the gradients are summed.
    Otherwise all compute the same, and the own rows' gradient is complete; it is multiplied by the
    number of processes, since parameters' gradients are averaged.
    """
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors):
        return tuple(exchange.gather(tensors))
    return _Gather.apply(exchange, summed, *tensors)  # type: ignore[no-any-return,no-untyped-call]


class _Total(torch.autograd.Function):
    """The sum over processes; backward multiplies by their number, against the averaging."""

    @staticmethod
    def forward(ctx: Any, group: Group, value: Tensor) -> Tensor:
        ctx.size = group.size
        return group.sum(value.clone())

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, Tensor]:
        return None, upstream[0] * ctx.size


class _Shared(torch.autograd.Function):
    """A parameter; backward sums its gradient, so that every process has all of it."""

    @staticmethod
    def forward(ctx: Any, group: Group, parameter: Tensor) -> Tensor:
        ctx.group = group
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, Tensor]:
        return None, ctx.group.sum(upstream[0].clone()) / ctx.group.size


class ShardOfBatch(WholeBatch):
    """The own rows of a batch that the processes of a group share."""

    is_whole = False

    def __init__(self, exchange: Exchange, shards: "dict[int, StateShard]") -> None:
        self._exchange = exchange
        self._shards = shards
        self.offset = exchange.offset

    def count(self, own: int) -> int:
        return self._exchange.count

    def gather(self, *embeddings: Tensor) -> tuple[Tensor, ...]:
        return gather_with_gradient(self._exchange, embeddings, summed=True)

    def gather_constants(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._exchange.gather([t.detach() for t in tensors]))

    def total(self, value: Tensor) -> Tensor:
        return _Total.apply(self._exchange.group, value)  # type: ignore[no-any-return,no-untyped-call]

    def shared(self, parameter: Tensor) -> Tensor:
        return _Shared.apply(self._exchange.group, parameter)  # type: ignore[no-any-return,no-untyped-call]

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
        by_row = values.detach().movedim(-1, 0).contiguous()  # [B] or [B, S]
        if isinstance(gamma, Tensor) and gamma.dim() > 0:
            index, by_row, gamma = self.gather_constants(index, by_row, gamma)
        else:
            index, by_row = self.gather_constants(index, by_row)
        values = by_row.movedim(0, -1).contiguous()
        shard = self._shards.get(id(state))
        # what was fetched is a copy, which is stored below or not
        table, ids = (state, index) if shard is None else shard.fetch(index)
        stored = update_sides(table, ids, values, gamma, log, write or shard is not None)
        if shard is not None and write:
            shard.store(table, index)
        return self._own(stored)

    def read(self, state: Tensor, index: Tensor) -> Tensor:
        shard = self._shards.get(id(state))
        if shard is None:
            return super().read(state, index)
        (index,) = self.gather_constants(index)
        return self._own(shard.fetch(index)[0])

    def _own(self, rows: Tensor) -> Tensor:
        """Of [B] or [S, B]."""
        return rows.narrow(-1, self.offset, self._exchange.own)
