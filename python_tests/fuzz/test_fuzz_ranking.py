"""The ranking losses with state on anything, against the reference: sizes, ties, masks, ids."""

from typing import Any

import pytest
import torch
from fuzzing import drawn_simd, each_device, fuzz
from helpers import computed_in
from hypothesis import strategies as st
from loss_subjects import LISTWISE_FLOAT32_STATE
from ranking_helpers import (
    ITEMS,
    KINDS,
    PAIRS,
    USERS,
    RankingBatch,
    make_loss,
    reference_step,
    states_of,
    step,
)
from strategies import dtypes, generator_of, relaid
from torch import Tensor

# how wide the scores of a kind are spread
SCORES = {"normal": 1.0, "ties": 1.0, "all ties": 0.0, "far apart": 30.0, "huge": 1e12}


def draw_scores(data: st.DataObject, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    normal = torch.randn(shape, generator=generator_of(data), dtype=torch.float64)
    name = data.draw(st.sampled_from([*SCORES]), label="scores")
    if name == "ties":
        normal = (2.0 * normal).round() / 2.0
    scores = 0.25 + SCORES[name] * normal
    return scores.clamp(-1e4, 1e4).to(dtype) if dtype == torch.float16 else scores.to(dtype)


def draw_batch(data: st.DataObject, kind: str, ragged: bool, dtype: torch.dtype) -> RankingBatch:
    queries = data.draw(st.integers(0, 5), label="queries")
    items = ITEMS if kind == "map_at_k" else data.draw(st.integers(0, 40), label="items")
    scores = draw_scores(data, (queries, items), dtype)
    generator = generator_of(data)
    levels = data.draw(st.integers(1, 5), label="levels")
    relevance = (torch.randint(0, 2 + levels, scores.shape, generator=generator) - 2).clamp(min=0)
    pairs = torch.randint(PAIRS, scores.shape, generator=generator)
    pairs = torch.where(relevance > 0, pairs, -1)
    users = torch.randint(USERS, (queries,), generator=generator)
    kept = torch.rand(scores.shape, generator=generator) < 0.7
    if kind == "map_at_k":  # columns are lists, and rows are samples
        pairs = torch.randint(PAIRS, (queries,), generator=generator)
    elif ragged:
        offsets = torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))
        return RankingBatch(scores[kept], relevance[kept], pairs[kept], users, offsets=offsets)
    batch = RankingBatch(relaid(data, scores), relaid(data, relevance), relaid(data, pairs), users)
    if kind != "map_at_k" and data.draw(st.booleans(), label="masked"):
        batch = batch._replace(mask=relaid(data, kept))
    if data.draw(st.booleans(), label="weighted"):
        weights = torch.randint(3, scores.shape, generator=generator).double()
        batch = batch._replace(weights=relaid(data, weights))
    return batch


def on(device: str, batch: RankingBatch) -> RankingBatch:
    return RankingBatch(*(t.to(device) if isinstance(t, Tensor) else t for t in batch))


def largest(x: Tensor) -> float:
    finite = x[x.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0


def near(what: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Relative to the largest, or to 1, which may cancel; only what fits the dtype."""
    info = torch.finfo(actual.dtype)
    actual, reached = actual.cpu().double(), ~(expected.abs() > 0.25 * info.max)
    size = max(largest(expected[reached]), 1.0)
    torch.testing.assert_close(
        actual[reached], expected.double()[reached], rtol=info.eps,
        atol=tolerance * size, equal_nan=True, msg=lambda text: f"{what}: {text}",
    )  # fmt: skip


@each_device
@pytest.mark.parametrize("kind", KINDS)
@fuzz
def test_steps_follow_the_reference(kind: str, device: str, data: st.DataObject) -> None:
    dtype = data.draw(dtypes, label="dtype")
    kept_in = torch.float64 if data.draw(st.booleans(), label="float64 state") else torch.float32
    options: dict[str, Any] = {"state_dtype": kept_in}
    options["reduction"] = data.draw(st.sampled_from(("mean", "none")), label="reduction")
    loss = make_loss(kind, **options).to(device)
    truth = {name: t.cpu().double() for name, t in states_of(loss).items()}
    ragged = data.draw(st.booleans(), label="ragged")
    single = torch.float32 in (computed_in(dtype), kept_in)
    reach = 0.0
    for number in range(2):
        batch = draw_batch(data, kind, ragged, dtype)
        with drawn_simd(data):
            value, gradient = step(loss, on(device, batch))
        assert value.dtype == computed_in(dtype)
        assert gradient.dtype == dtype
        reach = max(reach, largest(batch.scores.double()))
        assert not value.isnan().any()
        assert not gradient.isnan().any()
        if kind == "listwise" and kept_in == torch.float32 and reach > LISTWISE_FLOAT32_STATE:
            return
        expected = reference_step(loss.cpu(), batch, truth)
        loss.to(device)
        # a logarithm is as large as the scores, and a sigmoid of the top sees them in tau1
        rough = 3e-6 if single else 1e-12
        if kind != "song":
            rough *= 1.0 + reach / (1.0 if kind == "listwise" else 0.2)
        if rough > 0.01:
            return
        for what, a, e in zip(("value", "gradient"), (value, gradient), expected, strict=True):
            near(f"{what} of step {number}", a, e, rough)
        for name, state in states_of(loss).items():
            near(f"{name} of step {number}", state, truth[name], rough)
