"""What the samplers share: epochs, ranks, resuming, and draws without replacement."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

_LISTED_AT_ONCE = 1 << 16  # entries made Python integers at a time


def cycle(items: int, batches: int, per_batch: int, generator: torch.Generator) -> Tensor:
    """Positions ``[batches, per_batch]`` in 0 .. items-1, in passes over all of them.

    Every pass is a fresh permutation, cut into batches; the last one of a pass is filled up from
    the permutation's own head. So no batch holds an item twice unless it is larger than the whole,
    and over a pass every item is drawn once or twice.
    """
    cuts = max(1, -(-items // per_batch))  # batches in a pass
    passes = -(-batches // cuts)
    if passes * items <= 1 << 14 or passes > 64:
        orders = torch.rand(passes, items, generator=generator, dtype=torch.float64).argsort(1)
    else:
        permutations = [torch.randperm(items, generator=generator) for _ in range(passes)]
        orders = torch.stack(permutations) if permutations else torch.empty(0, items).long()
    filled = orders[:, torch.arange(cuts * per_batch) % items]
    return filled.reshape(passes * cuts, per_batch)[:batches]


def per_rank(batches: int, num_replicas: int, drop_last: bool) -> int:
    """Batches that each rank gets of so many: what is over is dropped, or filled up."""
    return batches // num_replicas if drop_last else -(-batches // num_replicas)


def check_positive(owner: str, **numbers: int) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{owner}: expected {name} to be a positive integer, got {number!r}")


class EpochBatchSampler(Sampler[list[int]], ABC):
    """A batch sampler whose every epoch is a function of (seed, epoch), the same on all ranks.

    A subclass draws a whole epoch, for all ranks, in :meth:`_draw`: rows ``[batches, entries]`` of
    positions, -1 for none. Batch t of rank r is row ``t * num_replicas + r``.

    The random numbers are its own: neither torch's global generator nor that of a DataLoader's
    workers is read or moved on. After the last batch the next epoch begins by itself, with another
    order; ``set_epoch`` chooses one.
    """

    def __init__(self, *, seed: int, num_replicas: int, rank: int) -> None:
        name = type(self).__name__
        check_positive(name, num_replicas=num_replicas)
        if not isinstance(rank, int) or not 0 <= rank < num_replicas:
            raise ValueError(f"{name}: expected rank in [0, {num_replicas}), got {rank!r}")
        self.seed = int(seed)
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0
        self._start = 0  # the batch that the next iteration begins with
        self._taken = 0  # batches handed out since this epoch's beginning

    @abstractmethod
    def _draw(self, batches: int, generator: torch.Generator) -> Tensor:
        """An epoch of all ranks."""

    @abstractmethod
    def __len__(self) -> int:
        """Batches of an epoch, on every rank."""

    def draw_epoch(self, epoch: int) -> Tensor:
        """This rank's batches of an epoch, ``[len(self), entries]``, -1 for no entry."""
        generator = torch.Generator()
        generator.manual_seed((self.seed * 0x9E3779B97F4A7C15 + epoch) % (1 << 63))
        rows = self._draw(len(self) * self.num_replicas, generator)
        return rows[self.rank :: self.num_replicas]

    def __iter__(self) -> Iterator[list[int]]:
        rows = self.draw_epoch(self.epoch)
        start, self._start = self._start, 0
        self._taken = start
        block = max(1, _LISTED_AT_ONCE // max(1, rows.shape[1]))
        for begin in range(start, len(rows), block):
            for row in rows[begin : begin + block].tolist():
                self._taken += 1
                yield [position for position in row if position >= 0]
        self.epoch += 1
        self._taken = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration runs.

        The epoch that a loaded state is in the middle of is resumed there, not begun again.
        """
        if epoch != self.epoch:
            self.epoch, self._start, self._taken = int(epoch), 0, 0

    def state_dict(self, *, batches_taken: int | None = None) -> dict[str, Any]:
        """Where the sampler is: seed, epoch, and batches handed out in it.

        A DataLoader with workers asks for batches ahead of the training loop: give the number that
        the loop has seen in this epoch as ``batches_taken``.
        """
        taken = self._taken or self._start  # loaded and not iterated since
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "batches_taken": taken if batches_taken is None else int(batches_taken),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration goes on where ``state_dict`` was taken.

        Raises:
            KeyError: an entry is missing.
        """
        seed, epoch, taken = state["seed"], state["epoch"], state["batches_taken"]
        if taken >= len(self):  # the epoch was over
            epoch, taken = epoch + 1, 0
        self.seed, self.epoch, self._start, self._taken = seed, epoch, taken, 0
