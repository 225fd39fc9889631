"""Partial AUC and the push losses on anything: against the reference, and never a bad state."""

from typing import Any

import torch
from fuzzing import drawn_simd, each_device, fuzz, threads
from helpers import INF, SURROGATE_ALGORITHMS
from hypothesis import strategies as st
from loss_helpers import NUM_SAMPLES, Batch, bits_equal
from strategies import (
    KINDS,
    TAME_KINDS,
    WEIGHT_KINDS,
    dtypes,
    generator_of,
    large,
    precisions,
    relaid,
    scores_of_kind,
    small,
    weights_of_kind,
    with_specials,
)
from top_loss_helpers import (
    LOG,
    RULES,
    WITH_STATE,
    each_rule,
    follow,
    make_top_loss,
    states_of,
    top_step,
)

from xrisk_ext import PNormPushLoss

FLOAT32 = 2e-5  # of float32 scores, relative to the largest
label_dtypes = st.sampled_from((torch.int64, torch.bool, torch.float32, torch.int8))


def draw_loss(data: st.DataObject, rule: str, state_dtype: torch.dtype, **own: Any) -> Any:
    names = SURROGATE_ALGORITHMS
    if rule in ("kl", "two_way_kl"):
        names = [
            (name, a) for name, a in names if a in ("direct", "auto") and name != "exponential"
        ]
    if "cvar" in rule:  # losses that are all 0, 1/2 or 1 tie with thresholds
        names = [(name, a) for name, a in names if name != "zero_one"]
    name, algorithm = data.draw(st.sampled_from(names), label="surrogate and algorithm")
    options: dict[str, Any] = {
        "surrogate": name,
        "algorithm": algorithm,
        "margin": data.draw(st.sampled_from((0.0, 0.7, 1.0)), label="margin"),
        "scale": data.draw(st.sampled_from((1.0, 1.3)), label="scale"),
        "reduction": data.draw(st.sampled_from(("mean", "none")), label="reduction"),
        "num_labels": data.draw(st.sampled_from((None, 1, 3)), label="labels"),
        "state_dtype": state_dtype,
    }
    if rule in LOG:
        options["initial_state"] = data.draw(st.sampled_from(("assign", "zero")), label="start")
        options["gamma"] = data.draw(st.sampled_from((0.1, 0.9, 1.0)), label="gamma")
    if "max_fpr" in RULES[rule][1]:
        options["max_fpr"] = data.draw(st.sampled_from((0.013, 0.31, 1.0)), label="max_fpr")
    return make_top_loss(rule, **options, **own)


def draw_top_batch(
    data: st.DataObject, loss: Any, kinds: tuple[str, ...], dtype: torch.dtype, sizes: Any = small
) -> Batch:
    generator = generator_of(data)
    size = data.draw(sizes, label="batch")
    shape = (size,) if loss.num_labels is None else (size, loss.num_labels)
    kind = data.draw(st.sampled_from(kinds), label="kind of scores")
    scores = scores_of_kind(kind, shape, dtype, generator)
    share = data.draw(st.sampled_from((0.0, 0.1, 0.5, 1.0)), label="share of positives")
    labels = (torch.rand(shape, generator=generator) < share).long()
    index = torch.randint(NUM_SAMPLES, (size,), generator=generator)
    if data.draw(st.booleans(), label="ids of anchors alone"):
        anchors = (labels > 0) != isinstance(loss, PNormPushLoss)
        index = torch.where(anchors.reshape(size, -1).any(dim=1) if size else index > 0, index, -1)
    labels = labels.to(data.draw(label_dtypes, label="label dtype"))
    weights = None
    if data.draw(st.booleans(), label="weighted"):
        chosen = data.draw(st.sampled_from(WEIGHT_KINDS[:-1]), label="weights")
        weights = weights_of_kind(chosen, shape, torch.float64, generator)
    return Batch(scores, labels, index, weights)


def on(device: str, data: st.DataObject, batch: Batch) -> Batch:
    """The same numbers in any layout."""
    moved = [None if t is None else relaid(data, t.to(device)) for t in batch]
    return Batch(*moved)  # type: ignore[arg-type]


@each_device
@each_rule
@fuzz
def test_steps_follow_the_reference(data: st.DataObject, rule: str, device: str) -> None:
    loss = draw_loss(data, rule, torch.float64).to(device)
    # a square of subnormals is 0, which ties with a threshold of 0
    untold = ("tiny_gaps", "subnormal") if "cvar" in rule else ("tiny_gaps",)
    kinds = tuple(kind for kind in TAME_KINDS if kind not in untold)
    dtype = data.draw(precisions, label="dtype")
    # a threshold that rounding moves past a score takes another one
    exact = "cvar" not in rule and "exact" not in rule
    dtype = dtype if exact else torch.float64
    with drawn_simd(data):
        for _ in range(data.draw(st.integers(1, 3), label="steps")):
            batch = draw_top_batch(data, loss, kinds, dtype)
            given = on(device, data, batch)
            follow(loss, [batch], 1e-7 if dtype == torch.float64 else FLOAT32, [given])


@each_device
@each_rule
@fuzz
def test_no_score_leaves_a_bad_state(data: st.DataObject, rule: str, device: str) -> None:
    loss = draw_loss(data, rule, data.draw(precisions, label="state dtype")).to(device)
    with drawn_simd(data):
        for _ in range(3):
            batch = draw_top_batch(data, loss, KINDS, data.draw(dtypes, label="dtype"))
            batch = batch._replace(scores=with_specials(data, batch.scores))
            finite = bool(batch.scores.isfinite().all())
            value, gradient = top_step(loss, on(device, data, batch))
            if finite and loss.surrogate != "exponential":
                assert not value.isnan().any()
                assert not gradient.isnan().any()
            for state in states_of(loss).values():
                assert not state.isnan().any()
                assert not (state == INF).any()
                assert rule in LOG or bool(state.isfinite().all())


@each_rule
@fuzz
def test_threads_change_no_bit(data: st.DataObject, rule: str) -> None:
    options = {"num_samples": 5000} if rule in WITH_STATE else {}
    loss_of = lambda: make_top_loss(rule, **options)  # noqa: E731
    loss = loss_of()
    batch = draw_top_batch(data, loss, ("normal",), torch.float32, large)
    results = []
    for count in (1, 2):
        with threads(count):
            loss = loss_of()
            results.append((*top_step(loss, batch), *states_of(loss).values()))
    assert all(bits_equal(a, b) for a, b in zip(*results, strict=True))
