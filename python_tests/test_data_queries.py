"""The query sampler, and the form in which it hands a batch to the ranking losses."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from xrisk_ext.data import QueryBatch, QueryBatchSampler


def table(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Queries 0 .. 11 of 2 to 13 items in a shuffled table; query 5 has nothing relevant."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.repeat_interleave(torch.arange(12), torch.arange(12) + 2)
    relevance = torch.randint(-1, 4, (len(query),), generator=generator)
    first = torch.cat([query.new_ones(1), query[1:] - query[:-1]]) > 0
    relevance[first] = 2
    relevance[query == 5] = 0
    order = torch.randperm(len(query), generator=generator)
    return query[order], relevance[order]


QUERY, RELEVANCE = table()


def make(queries: int = 4, **options: Any) -> QueryBatchSampler:
    options = {"num_positives": 2, "num_negatives": 3, **options}
    return QueryBatchSampler(QUERY, RELEVANCE, queries, **options)


def test_a_batch_holds_queries_with_their_items() -> None:
    sampler = make()
    assert len(sampler) == 3  # 11 queries with something relevant
    seen: list[int] = []
    for rows in sampler:
        assert len(set(rows)) == len(rows)
        query, counts = QUERY[rows].unique_consecutive(return_counts=True)
        assert len(query) == len(set(query.tolist())) == 4
        seen += query.tolist()
        for q, part in zip(query, torch.tensor(rows).split(counts.tolist()), strict=True):
            relevant = RELEVANCE[part] > 0
            whole = RELEVANCE[q == QUERY] > 0
            assert int(relevant.sum()) == min(2, int(whole.sum()))
            assert int((~relevant).sum()) == min(3, int((~whole).sum()))
            assert relevant.tolist() == sorted(relevant.tolist(), reverse=True)
    assert set(seen) == set(range(12)) - {5}


def test_every_item_is_drawn_equally_often() -> None:
    sampler = make(queries=11, num_positives=1, num_negatives=1)
    drawn = torch.zeros(len(QUERY))
    for epoch in range(600):
        rows = sampler.draw_epoch(epoch)[0]
        drawn[rows[rows >= 0]] += 1
    of = QUERY == 11
    for relevant in (True, False):
        counts = drawn[of & ((RELEVANCE > 0) == relevant)]
        expected = 600 / len(counts)
        assert float((counts - expected).abs().max()) < 6 * math.sqrt(expected)


def check_against_the_table(batch: QueryBatch, sampler: QueryBatchSampler) -> None:
    for slot, q in enumerate(batch.query_index):
        of = q == QUERY
        assert int(batch.num_items[slot]) == int(of.sum())
        assert int(batch.num_relevant[slot]) == int((RELEVANCE[of] > 0).sum())
        gains = sorted((2.0 ** float(y) - 1 for y in RELEVANCE[of] if y > 0), reverse=True)
        best = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))
        assert float(batch.ideal_dcg[slot]) == pytest.approx(best, rel=1e-6)
    pairs = batch.pair_index
    assert torch.equal(pairs >= 0, batch.relevance > 0)
    assert int(pairs.max()) < sampler.num_pairs == int((RELEVANCE > 0).sum())


def test_padded_and_ragged_inputs_are_the_same_entries() -> None:
    sampler = make()
    for rows in sampler:
        padded, ragged = sampler.inputs(rows), sampler.inputs(rows, padded=False)
        for batch in (padded, ragged):
            check_against_the_table(batch, sampler)
        assert torch.equal(ragged.relevance, RELEVANCE[rows].clamp(min=0).float())
        assert ragged.offsets is not None
        assert ragged.offsets[-1] == len(rows)
        assert ragged.mask is None
        assert padded.offsets is None
        if padded.mask is None:
            assert padded.relevance.shape == (4, 5)
            continue
        assert padded.mask.sum() == len(rows)
        assert torch.equal(padded.mask.sum(1), ragged.offsets.diff())
        for name in ("relevance", "pair_index"):
            assert torch.equal(getattr(padded, name)[padded.mask], getattr(ragged, name))
        assert not padded.relevance[~padded.mask].any()
        assert bool((padded.pair_index[~padded.mask] == -1).all())


def test_pair_ids_are_those_of_the_relevant_rows() -> None:
    sampler = make()
    every_pair = {}
    for epoch in range(80):
        sampler.set_epoch(epoch)
        for rows in sampler:
            pairs = sampler.inputs(rows, padded=False).pair_index
            every_pair.update((int(p), r) for p, r in zip(pairs, rows, strict=True) if int(p) >= 0)
    relevant = [int(r) for r in (RELEVANCE > 0).nonzero()]
    assert [every_pair[pair] for pair in range(sampler.num_pairs)] == relevant


def test_scores_are_laid_out_differentiably() -> None:
    rows = next(iter(make()))
    scores = torch.randn(len(rows), dtype=torch.float64, requires_grad=True)
    for padded in (True, False):
        batch = make().inputs(rows, padded=padded)
        laid = batch.layout(scores)
        assert laid.shape == batch.relevance.shape
        (gradient,) = torch.autograd.grad((laid * laid).sum(), scores)
        torch.testing.assert_close(gradient, 2 * scores.detach())
    wide = make().inputs(rows).layout(scores[:, None].expand(-1, 2))
    assert wide.shape == (*make().inputs(rows).relevance.shape, 2)
    equal = QueryBatchSampler([0, 0, 1, 1], [1, 0, 2, 0], 2)
    rows = next(iter(equal))
    batch = equal.inputs(rows)
    assert batch.mask is None
    assert torch.equal(batch.layout(torch.tensor(rows)), torch.tensor(rows).view(2, 2))
    assert batch.to("meta").relevance.device.type == "meta"


def test_with_a_data_loader() -> None:
    sampler = make()
    features = torch.arange(len(QUERY), dtype=torch.float32)
    data = TensorDataset(features, torch.arange(len(QUERY)))
    for x, rows in DataLoader(data, batch_sampler=sampler):
        batch = sampler.inputs(rows)
        assert batch.layout(x).shape == batch.relevance.shape


def test_all_items_and_no_negatives() -> None:
    whole = make(num_positives=None, num_negatives=None, queries=11)
    (rows,) = whole
    assert len(rows) == int((QUERY != 5).sum())
    relevant_alone = make(num_negatives=0)
    assert all(bool((RELEVANCE[rows] > 0).all()) for rows in relevant_alone)


def test_ranks_share_the_queries() -> None:
    rounds = [rows for rank in range(2) for rows in make(2, num_replicas=2, rank=rank)]
    assert len(rounds) == 6
    assert len({int(q) for rows in rounds for q in QUERY[rows]}) == 11


def test_bad_arguments() -> None:
    for bad in ({"num_positives": 0}, {"num_negatives": -1}, {"num_batches": 0}, {"rank": 3}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            make(**bad)
    with pytest.raises(TypeError, match="integers"):
        QueryBatchSampler(QUERY.float(), RELEVANCE, 2)
    with pytest.raises(ValueError, match="one shape"):
        QueryBatchSampler(QUERY, RELEVANCE[:-1], 2)
    with pytest.raises(ValueError, match="relevance > 0"):
        QueryBatchSampler(QUERY, torch.zeros(len(QUERY)), 2)
    with pytest.raises(ValueError, match="query >= 0"):
        QueryBatchSampler([-1, 0], [1, 1], 1)
    with pytest.raises(ValueError, match="drop_last"):
        make(queries=12, drop_last=True)
