"""Samplers that fix the number of positives in every batch."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from xrisk_ext.data._epochs import EpochBatchSampler, check_positive, cycle, per_rank
from xrisk_ext.data.weights import stratified_weights


class PositiveBatchSampler(EpochBatchSampler):
    """Batches of ``batch_size`` samples, exactly ``num_positives`` of them positive.

    For ``DataLoader(..., batch_sampler=...)``. The positives come first in a batch. An epoch is one
    pass over the negatives; the positives are gone through as often as it takes, in passes of their
    own, so that each is drawn equally often (up to one extra draw in a pass). A batch holds no
    sample twice unless there are fewer positives than ``num_positives``. The last batch of the
    pass is filled up with negatives seen before, or left out with ``drop_last``.

    Positives are over-represented on purpose; :meth:`item_weights` undoes it.

    Args:
        labels: ``[N]`` or ``[N, 1]``, tensor, array or list; positive where > 0.
        batch_size: samples of a batch (on every rank).
        num_positives: positives of them, in [1, batch_size - 1].
        num_batches: batches of an epoch on every rank; default: one pass over the negatives.
        drop_last: leave out what does not fill a batch on every rank.
        seed: with the epoch it determines the order; the same on all ranks.
        num_replicas, rank: the ranks share the batches of an epoch out, and all get equally many.

    Raises:
        ValueError: a number is out of range, there is no positive or no negative sample, or
            ``drop_last`` leaves nothing.
    """

    def __init__(
        self,
        labels: Tensor | Sequence[Any],
        batch_size: int,
        num_positives: int,
        *,
        num_batches: int | None = None,
        drop_last: bool = False,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(seed=seed, num_replicas=num_replicas, rank=rank)
        name = type(self).__name__
        check_positive(name, batch_size=batch_size, num_positives=num_positives)
        if num_positives >= batch_size:
            raise ValueError(
                f"{name}: expected num_positives < batch_size, got {num_positives} of {batch_size}"
            )
        given = torch.as_tensor(labels)
        if given.dim() == 2 and given.shape[1] == 1:
            given = given[:, 0]
        if given.dim() != 1:
            raise ValueError(f"{name}: expected labels of shape [N], got {tuple(given.shape)}")
        positive = given.cpu() > 0
        self._positives = positive.nonzero()[:, 0]
        self._negatives = (~positive).nonzero()[:, 0]
        if len(self._positives) == 0 or len(self._negatives) == 0:
            raise ValueError(
                f"{name}: expected positive and negative labels, got {len(self._positives)} and "
                f"{len(self._negatives)}"
            )
        self.batch_size = batch_size
        self.num_positives = num_positives
        self.positive_rate = len(self._positives) / len(positive)
        if num_batches is None:
            negatives, a_batch = len(self._negatives), batch_size - num_positives
            whole = negatives // a_batch if drop_last else -(-negatives // a_batch)
            num_batches = per_rank(whole, num_replicas, drop_last)
            if num_batches == 0:
                raise ValueError(
                    f"{name}: with drop_last, {negatives} negatives do not fill a batch of "
                    f"{a_batch} on each of {num_replicas} ranks"
                )
        else:
            check_positive(name, num_batches=num_batches)
        self.num_batches = num_batches

    def __len__(self) -> int:
        return self.num_batches

    def _draw(self, batches: int, generator: torch.Generator) -> Tensor:
        parts = (
            (self._positives, self.num_positives),
            (
                self._negatives,
                self.batch_size - self.num_positives,
            ),
        )
        return torch.cat(
            [p[cycle(len(p), batches, per_batch, generator)] for p, per_batch in parts], dim=1
        )

    def item_weights(self, labels: Tensor, *, observed: Tensor | None = None) -> Tensor:
        """:func:`stratified_weights` of a batch, for the data that this sampler draws from."""
        return stratified_weights(labels, self.positive_rate, observed=observed)


class PositiveSampler(Sampler[int]):
    """The batches of a batch sampler as one stream of positions.

    For what takes ``sampler=`` and cuts the batches itself: ``DataLoader(..., sampler=...,
    batch_size=...)`` with the sampler's own batch size. Resuming and ranks are the batch sampler's.

    Args:
        batches: a :class:`PositiveBatchSampler` or :class:`MultiLabelBatchSampler`.
    """

    def __init__(self, batches: "PositiveBatchSampler | MultiLabelBatchSampler") -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches) * self.batches.batch_size

    def __iter__(self) -> Iterator[int]:
        for batch in self.batches:
            yield from batch

    def set_epoch(self, epoch: int) -> None:
        """As :meth:`PositiveBatchSampler.set_epoch`."""
        self.batches.set_epoch(epoch)

    def state_dict(self, *, batches_taken: int | None = None) -> dict[str, Any]:
        """As :meth:`PositiveBatchSampler.state_dict`: whole batches are counted."""
        return self.batches.state_dict(batches_taken=batches_taken)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As :meth:`PositiveBatchSampler.load_state_dict`."""
        self.batches.load_state_dict(state)


class MultiLabelBatchSampler(EpochBatchSampler):
    """Batches with at least ``num_positives`` positives of each of ``labels_per_batch`` labels.

    For ``DataLoader(..., batch_sampler=...)``. A batch takes its turn of the labels, draws
    positives of each, then fills up with samples of any labels; an epoch is one pass over all
    samples as such fill. A sample that is drawn for two labels counts for both and is in the batch
    once; another takes the free place. Labels without any positive are never chosen.

    Args:
        labels: ``[N, L]``; positive where > 0, missing where NaN.
        batch_size: samples of a batch (on every rank), more than ``labels_per_batch *
            num_positives``.
        num_positives: positives drawn for each chosen label.
        labels_per_batch: labels that a batch chooses; default: all that have positives.
        num_batches, drop_last, seed, num_replicas, rank: as in :class:`PositiveBatchSampler`; the
            default of ``num_batches`` is one pass over all samples.

    Raises:
        ValueError: a number is out of range, or no label has a positive.
    """

    def __init__(
        self,
        labels: Tensor | Sequence[Any],
        batch_size: int,
        num_positives: int = 1,
        *,
        labels_per_batch: int | None = None,
        num_batches: int | None = None,
        drop_last: bool = False,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(seed=seed, num_replicas=num_replicas, rank=rank)
        name = type(self).__name__
        check_positive(name, batch_size=batch_size, num_positives=num_positives)
        given = torch.as_tensor(labels)
        if given.dim() != 2:
            raise ValueError(f"{name}: expected labels of shape [N, L], got {tuple(given.shape)}")
        positive = given.cpu() > 0
        self._samples = len(positive)
        # by label: the positions of its positives
        found = (positive[:, label].nonzero()[:, 0] for label in range(positive.shape[1]))
        self._positives = [positions for positions in found if len(positions) > 0]
        if not self._positives:
            raise ValueError(f"{name}: expected a label with a positive, got none")
        if labels_per_batch is None:
            labels_per_batch = len(self._positives)
        check_positive(name, labels_per_batch=labels_per_batch)
        if labels_per_batch > len(self._positives):
            raise ValueError(
                f"{name}: expected labels_per_batch <= {len(self._positives)}, the labels that "
                f"have a positive, got {labels_per_batch}"
            )
        if labels_per_batch * num_positives >= batch_size:
            raise ValueError(
                f"{name}: expected batch_size > labels_per_batch * num_positives = "
                f"{labels_per_batch * num_positives}, got {batch_size}"
            )
        self.batch_size = batch_size
        self.num_positives = num_positives
        self.labels_per_batch = labels_per_batch
        observed = (~given.isnan()).sum(0).cpu().clamp(min=1)
        self.positive_rate = positive.sum(0) / observed
        if num_batches is None:
            fill = batch_size - labels_per_batch * num_positives
            whole = self._samples // fill if drop_last else -(-self._samples // fill)
            num_batches = max(1, per_rank(whole, num_replicas, drop_last))
        check_positive(name, num_batches=num_batches)
        self.num_batches = num_batches

    def __len__(self) -> int:
        return self.num_batches

    def _draw(self, batches: int, generator: torch.Generator) -> Tensor:
        k = self.num_positives
        chosen = cycle(len(self._positives), batches, self.labels_per_batch, generator)
        drawn = torch.empty(batches, self.labels_per_batch, k, dtype=torch.int64)
        for label, positions in enumerate(self._positives):
            places = chosen == label
            times = int(places.sum())
            drawn[places] = positions[cycle(len(positions), times, k, generator)]
        fill = self.batch_size - self.labels_per_batch * k
        others = cycle(self._samples, batches, fill, generator)
        rows = torch.cat([drawn.view(batches, -1), others], dim=1)
        return self._without_repeats(rows, generator)

    def _without_repeats(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Replaces later copies of a sample in a batch; the first, drawn for a label, stays."""
        if self._samples < 2 * self.batch_size:
            return rows  # too few others: repeats are defined everywhere, only wasteful
        while True:
            # a stable sort keeps the first copy in front of the others
            ordered, places = rows.sort(dim=1, stable=True)
            again = torch.zeros_like(rows, dtype=torch.bool)
            again.scatter_(1, places[:, 1:], ordered[:, 1:] == ordered[:, :-1])
            count = int(again.sum())
            if count == 0:
                return rows
            rows[again] = torch.randint(self._samples, (count,), generator=generator)

    def item_weights(self, labels: Tensor, *, observed: Tensor | None = None) -> Tensor:
        """:func:`stratified_weights` ``[B, L]`` of a batch, for the data that this sampler draws
        from: what the positives drawn for one label do to the others is undone, too.
        """
        return stratified_weights(labels, self.positive_rate, observed=observed)
