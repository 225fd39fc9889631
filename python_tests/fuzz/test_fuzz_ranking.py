"""The ranking losses with state on anything, against the reference: sizes, ties, masks, ids."""

import pytest
import torch
from fuzzing import drawn_simd, fuzz
from hypothesis import strategies as st
from ranking_helpers import KINDS, PAIRS, USERS, RankingBatch, follow_reference, make_loss
from strategies import generator_of, relaid

SCORES = ("normal", "ties", "all ties", "far apart")
LISTS = tuple(kind for kind in KINDS if kind != "map_at_k")  # its labels are columns


def draw_scores(data: st.DataObject, shape: tuple[int, ...]) -> torch.Tensor:
    normal = torch.randn(shape, generator=generator_of(data), dtype=torch.float64)
    name = data.draw(st.sampled_from(SCORES), label="scores")
    if name == "normal":
        return normal
    if name == "ties":
        return (2.0 * normal).round() / 2.0
    if name == "all ties":
        return torch.full(shape, 0.25, dtype=torch.float64)
    return 30.0 * normal


def draw_batch(data: st.DataObject, ragged: bool) -> RankingBatch:
    queries = data.draw(st.integers(1, 5), label="queries")
    items = data.draw(st.integers(0, 40), label="items")
    scores = draw_scores(data, (queries, items))
    generator = generator_of(data)
    levels = data.draw(st.integers(1, 5), label="levels")
    relevance = (torch.randint(0, 2 + levels, scores.shape, generator=generator) - 2).clamp(min=0)
    pairs = torch.randint(PAIRS, scores.shape, generator=generator)
    pairs = torch.where(relevance > 0, pairs, -1)
    users = torch.randint(USERS, (queries,), generator=generator)
    kept = torch.rand(scores.shape, generator=generator) < 0.7
    if ragged:
        offsets = torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))
        return RankingBatch(scores[kept], relevance[kept], pairs[kept], users, offsets=offsets)
    batch = RankingBatch(relaid(data, scores), relaid(data, relevance), pairs, users)
    if data.draw(st.booleans(), label="masked"):
        batch = batch._replace(mask=kept)
    if data.draw(st.booleans(), label="weighted"):
        weights = torch.randint(3, scores.shape, generator=generator).double()
        batch = batch._replace(weights=weights)
    return batch


@pytest.mark.parametrize("kind", LISTS)
@fuzz
def test_steps_follow_the_reference(kind: str, data: st.DataObject) -> None:
    loss = make_loss(kind, state_dtype=torch.float64)
    ragged = data.draw(st.booleans(), label="ragged")
    with drawn_simd(data):
        follow_reference(loss, [draw_batch(data, ragged) for _ in range(2)])
