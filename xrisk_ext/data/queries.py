"""Batches of queries with their items, in the form that the ranking losses take."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xrisk_ext.data._epochs import EpochBatchSampler, check_positive, cycle, per_rank


class QueryBatch(NamedTuple):
    """The inputs of a ranking loss but the scores; Q queries with up to S items each.

    Padded: all are ``[Q, S]``, and ``mask`` is False at the padding (None if there is none).
    Ragged: they are flat, ``[entries]``, query by query, and ``offsets`` says where each begins.
    """

    relevance: Tensor  # float32 [Q, S], 0 at the padding; or [entries]
    pair_index: Tensor  # int64, the id of the (query, item) pair; -1 where relevance <= 0
    query_index: Tensor  # int64 [Q]
    mask: Tensor | None  # bool [Q, S]
    offsets: Tensor | None  # int64 [Q + 1]
    num_items: Tensor  # int64 [Q], items of the query in the whole table
    num_relevant: Tensor  # int64 [Q], relevant items of it there
    ideal_dcg: Tensor  # float32 [Q], DCG of the query's best order of the whole table

    def layout(self, entries: Tensor) -> Tensor:
        """A flat tensor ``[entries, ...]`` in the order of the sampled rows, laid out as the rest.

        Differentiable: for what the model makes of the rows, first of all the scores. Padding is
        filled with zeros.
        """
        if self.offsets is not None:
            return entries
        if self.mask is None:
            return entries.view(*self.relevance.shape, *entries.shape[1:])
        out = entries.new_zeros(*self.mask.shape, *entries.shape[1:])
        return out.masked_scatter(self._wide(out), entries)

    def _wide(self, like: Tensor) -> Tensor:
        assert self.mask is not None
        return self.mask.view(*self.mask.shape, *(1,) * (like.dim() - 2)).expand_as(like)

    def to(self, device: torch.device | str) -> "QueryBatch":
        """The same on another device."""
        return QueryBatch(*(None if t is None else t.to(device) for t in self))  # type: ignore[arg-type]


class QueryBatchSampler(EpochBatchSampler):
    """Batches of queries, each with up to so many relevant and irrelevant items of its own.

    Over a table of (query, item) rows: row r says how relevant an item is to query ``query[r]``.
    For ``DataLoader(..., batch_sampler=...)``: a batch is a flat list of rows, query by query,
    relevant items first. :meth:`inputs` turns the rows of a batch into what a ranking loss takes.
    An epoch is one pass over the queries that have a relevant item; each draws its items without
    replacement, all of them where it has no more. The last batch of the pass is filled up with
    queries seen before, or left out with ``drop_last``.

    Args:
        query: ``[n]`` integers from 0 up without large gaps, in any order.
        relevance: ``[n]``, relevant where > 0.
        queries_per_batch: queries of a batch (on every rank).
        num_positives: relevant items drawn of each; None for all.
        num_negatives: irrelevant items drawn of each; None for all.
        padded: whether :meth:`inputs` pads queries to the same number of items, or leaves them
            ragged.
        num_batches, drop_last, seed, num_replicas, rank: as in
            :class:`~xrisk_ext.data.PositiveBatchSampler`; the default of ``num_batches`` is one
            pass over the queries.

    ``num_queries`` (largest query id, plus 1) and ``num_pairs`` (relevant rows, which are numbered
    in the order of the table) size the state of a loss.

    Raises:
        ValueError: a shape or number is not as above, or no query has a relevant item.
        TypeError: ``query`` does not hold integers.
    """

    def __init__(
        self,
        query: Tensor | Sequence[int],
        relevance: Tensor | Sequence[float],
        queries_per_batch: int,
        *,
        num_positives: int | None = None,
        num_negatives: int | None = None,
        padded: bool = True,
        num_batches: int | None = None,
        drop_last: bool = False,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(seed=seed, num_replicas=num_replicas, rank=rank)
        name = type(self).__name__
        check_positive(name, queries_per_batch=queries_per_batch)
        given = torch.as_tensor(query).cpu()
        self._relevance = torch.as_tensor(relevance).cpu().to(torch.float32)
        if given.dtype.is_floating_point or given.dtype == torch.bool:
            raise TypeError(f"{name}: expected query to hold integers, got {given.dtype}")
        if given.dim() != 1 or self._relevance.shape != given.shape:
            raise ValueError(
                f"{name}: expected query and relevance of one shape [n], got {tuple(given.shape)} "
                f"and {tuple(self._relevance.shape)}"
            )
        if given.numel() and int(given.min()) < 0:
            raise ValueError(f"{name}: expected query >= 0, got {int(given.min())}")
        self._query = given.to(torch.int64)
        relevant = self._relevance > 0
        self.num_queries = int(self._query.max()) + 1 if given.numel() else 0
        self.num_pairs = int(relevant.sum())
        if self.num_pairs == 0:
            raise ValueError(f"{name}: expected a row with relevance > 0, got none")
        # Every query has two segments: its relevant rows, then its others.
        self._segment = 2 * self._query + ~relevant
        sizes = torch.bincount(self._segment, minlength=2 * self.num_queries)
        self._starts = (sizes.cumsum(0) - sizes).view(-1, 2)
        self._sizes = sizes.view(-1, 2)
        self._eligible = (self._sizes[:, 0] > 0).nonzero()[:, 0]
        self._pair = torch.where(relevant, relevant.cumsum(0) - 1, -1)
        self._ideal_dcg = self._best_dcg()
        self.queries_per_batch = queries_per_batch
        self.padded = padded
        self._wanted = []
        for column, (what, number) in enumerate(
            {"num_positives": num_positives, "num_negatives": num_negatives}.items()
        ):
            if number is None:
                number = int(self._sizes[self._eligible, column].max())
            elif what == "num_negatives" and number == 0:
                pass  # relevant items alone: graded relevance can be ranked, too
            else:
                check_positive(name, **{what: number})
            self._wanted.append(number)
        if num_batches is None:
            queries = len(self._eligible)
            whole = queries // queries_per_batch if drop_last else -(-queries // queries_per_batch)
            num_batches = per_rank(whole, num_replicas, drop_last)
            if num_batches == 0:
                raise ValueError(
                    f"{name}: with drop_last, {queries} queries do not fill a batch of "
                    f"{queries_per_batch} on each of {num_replicas} ranks"
                )
        check_positive(name, num_batches=num_batches)
        self.num_batches = num_batches

    def __len__(self) -> int:
        return self.num_batches

    def _best_dcg(self) -> Tensor:
        """[num_queries]: DCG of the rows of each query in the order of relevance."""
        # by query, and in it by falling relevance
        by_relevance = self._relevance.argsort(descending=True, stable=True)
        order = by_relevance[self._query[by_relevance].argsort(stable=True)]
        query = self._query[order]
        rank = torch.arange(len(order)) - self._starts[query, 0]
        gains = torch.exp2(self._relevance[order].double().clamp(min=0)) - 1
        discounted = gains / torch.log2(rank + 2.0)
        best = torch.zeros(self.num_queries, dtype=torch.float64)
        return best.index_add_(0, query, discounted).float()

    def _draw(self, batches: int, generator: torch.Generator) -> Tensor:
        chosen = self._eligible[
            cycle(len(self._eligible), batches, self.queries_per_batch, generator)
        ].view(-1)
        # All rows, segment by segment, each segment in an order of its own.
        keys = self._segment + torch.rand(
            len(self._query), generator=generator, dtype=torch.float64
        )
        order = keys.argsort()
        drawn = []
        for column, wanted in enumerate(self._wanted):
            place = torch.arange(wanted)
            starts, sizes = self._starts[chosen, column], self._sizes[chosen, column]
            rows = order[(starts[:, None] + place).clamp(max=len(order) - 1)]
            drawn.append(rows.where(place < sizes[:, None], -1))
        return torch.cat(drawn, dim=1).view(batches, -1)

    def inputs(self, rows: Tensor | Sequence[int], *, padded: bool | None = None) -> QueryBatch:
        """What a ranking loss takes besides the scores, for the rows of a batch.

        Args:
            rows: ``[entries]``, as a batch lists them: the rows of a query next to each other.
            padded: overrides the constructor's choice.

        Returns:
            The batch on the CPU (``.to(device)`` moves it).
        """
        at = torch.as_tensor(rows, dtype=torch.int64).cpu().view(-1)
        query, counts = torch.unique_consecutive(self._query[at], return_counts=True)
        relevance, pair = self._relevance[at].clamp(min=0), self._pair[at]
        mask = offsets = None
        if not (self.padded if padded is None else padded):
            offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        else:
            width = int(counts.max()) if len(counts) else 0
            if bool((counts == width).all()):
                relevance, pair = relevance.view(-1, width), pair.view(-1, width)
            else:
                mask = torch.arange(width) < counts[:, None]
                shape = tuple(mask.shape)
                relevance = torch.zeros(shape).masked_scatter(mask, relevance)
                pair = torch.full(shape, -1).masked_scatter(mask, pair)
        return QueryBatch(
            relevance=relevance,
            pair_index=pair,
            query_index=query,
            mask=mask,
            offsets=offsets,
            num_items=self._sizes[query].sum(1),
            num_relevant=self._sizes[query, 0],
            ideal_dcg=self._ideal_dcg[query],
        )
