"""Partial AUC and push losses: their state, what they refuse, empty sets, threads and precision."""

import io
from typing import Any

import pytest
import torch
from helpers import INF, NAN, randn
from loss_helpers import NUM_SAMPLES, Batch, bits_equal
from top_loss_helpers import (
    RULES,
    batches,
    each_rule,
    each_stateful_rule,
    each_width,
    make_top_batch,
    make_top_loss,
    same_states,
    states_of,
    top_step,
)

from xrisk_ext import PNormPushLoss, TwoWayPartialAUCLoss


@each_stateful_rule
@each_width
def test_saved_and_loaded_goes_on_bitwise(rule: str, num_labels: int | None) -> None:
    steps = batches(rule, num_labels)
    loss = make_top_loss(rule, num_labels=num_labels)
    for batch in steps[:2]:
        top_step(loss, batch)
    for name in loss._schedule_names:
        setattr(loss, name, 0.4375)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    resumed = make_top_loss(rule, num_labels=num_labels)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for batch in steps[2:]:
        for a, b in zip(top_step(resumed, batch), top_step(loss, batch), strict=True):
            assert bits_equal(a, b)
        assert same_states(states_of(resumed), states_of(loss))
    loss.reset_state()
    assert same_states(states_of(loss), states_of(make_top_loss(rule, num_labels=num_labels)))


@each_stateful_rule
def test_when_the_state_is_written(rule: str) -> None:
    loss = make_top_loss(rule)
    top_step(loss, make_top_batch(rule))
    batch = make_top_batch(rule, seed=5)
    before = states_of(loss)
    dry = top_step(loss, batch, update_state=False)
    top_step(loss.eval(), batch)
    assert same_states(states_of(loss), before)
    with torch.no_grad():
        value = loss.train()(batch.scores, batch.labels, batch.index)
    assert bits_equal(value, dry[0])
    after = states_of(loss)
    assert not bits_equal(after["state"], before["state"])
    assert "outer" not in before or not bits_equal(after["outer"], before["outer"])


@each_rule
@pytest.mark.parametrize("labels", [0, 1])
def test_one_class_gives_zero_and_leaves_the_state(rule: str, labels: int) -> None:
    loss = make_top_loss(rule)
    top_step(loss, make_top_batch(rule))
    before = states_of(loss)
    one = Batch(randn(6), torch.full((6,), labels), torch.arange(6))
    two = make_top_batch(rule)
    absent = torch.where((two.labels > 0) == (labels > 0), 1.0, 0.0)
    for batch in (one, one._replace(scores=one.scores * NAN), two._replace(weights=absent)):
        value, gradient = top_step(loss, batch)
        assert float(value) == 0.0
        assert not gradient.any()
        assert same_states(states_of(loss), before)


@each_rule
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_bad_score_gives_nan_and_leaves_the_state(rule: str, bad: float) -> None:
    loss = make_top_loss(rule, num_labels=2, reduction="none")
    top_step(loss, make_top_batch(rule, 2))
    before = states_of(loss)
    batch = make_top_batch(rule, 2, seed=4)
    batch.scores[3, 1] = bad
    value, gradient = top_step(loss, batch)
    assert bool(value[0].isfinite())
    assert value[1].isnan()
    assert gradient[:, 1].isnan().all()
    assert bool(gradient[:, 0].isfinite().all())
    for name, state in states_of(loss).items():
        assert bits_equal(state[1], before[name][1])


@each_stateful_rule
def test_a_bad_id_is_refused_before_anything_is_written(rule: str) -> None:
    loss, batch = make_top_loss(rule), make_top_batch(rule)
    before = states_of(loss)
    for bad in (NUM_SAMPLES, -2, 2**40):
        index = torch.where(batch.index < 0, batch.index, bad)
        index[: len(index) // 2] = batch.index[: len(index) // 2]
        with pytest.raises(IndexError, match="index"):
            top_step(loss, batch._replace(index=index))
    with pytest.raises(ValueError, match="index"):
        loss(batch.scores, batch.labels)
    assert same_states(states_of(loss), before)


BAD_OPTIONS: list[tuple[str, dict[str, Any], str]] = [
    *(("exact", {"max_fpr": bad}, "max_fpr") for bad in (0.0, 1.5, -0.1, NAN, "all")),
    *(("two_way_exact", {"min_tpr": bad}, "min_tpr") for bad in (1.0, -0.1, NAN, None)),
    *(("kl", {"kl_weight": bad}, "kl_weight") for bad in (0.0, -1.0, NAN, INF, "much")),
    *(("two_way_kl", {"positive_kl_weight": bad}, "positive_kl_weight") for bad in (0.0, NAN)),
    *(("two_way_kl", {"outer_gamma": bad}, "outer_gamma") for bad in (-0.1, 1.1)),
    *(("cvar", {"eta": bad}, "eta") for bad in (-0.1, NAN, INF)),
    *(("two_way_cvar", {name: -1.0}, name) for name in ("dual_eta", "outer_eta")),
    *(("p_norm_push", {"p": bad}, "p") for bad in (0.5, NAN, INF, None)),
    *(("kl", {"mode": bad}, "mode") for bad in ("sopa", None)),
    *(("two_way_kl", {"mode": bad}, "mode") for bad in ("staco", 1)),
    *((rule, {"num_labels": bad}, "num_labels") for rule in RULES for bad in (0, 2.5)),
    *((rule, {"num_samples": 0}, "num_samples") for rule in ("kl", "cvar", "p_norm_push")),
    *((rule, {"num_samples": None}, "num_samples") for rule in ("kl", "cvar", "two_way_cvar")),
    ("kl", {"initial_state": "one"}, "initial_state"),
]


@pytest.mark.parametrize(("rule", "options", "named"), BAD_OPTIONS, ids=str)
def test_a_bad_hyper_parameter_is_named(rule: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises((ValueError, TypeError), match=named):
        make_top_loss(rule, **options)


@each_width
def test_a_bad_schedule_is_refused_by_both(num_labels: int | None) -> None:
    loss = make_top_loss("two_way_kl", num_labels=num_labels)
    batch = make_top_batch("two_way_kl", num_labels)
    before = states_of(loss)
    for name, bad in [("kl_weight", 0.0), ("gamma", 2.0), ("outer_gamma", NAN)]:
        good = float(getattr(loss, name))
        with pytest.raises(ValueError, match=name):
            setattr(loss, name, bad)
        getattr(loss, name).fill_(bad)  # past the setter
        with pytest.raises(ValueError, match=name):
            top_step(loss, batch)
        getattr(loss, name).fill_(good)
    assert same_states(states_of(loss), before)


@each_rule
@pytest.mark.usefixtures("restore_threads")
def test_threads_change_nothing(rule: str) -> None:
    size = 30_000
    labels = (torch.arange(size) % 50 == 0).long()
    batch = Batch(randn(size).float(), labels, torch.arange(size) * 7 % 10_007)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        loss = make_top_loss(rule, 10_007)
        top_step(loss, batch)
        results.append((*top_step(loss, batch), *states_of(loss).values()))
    assert results[0][1].any()
    assert all(bits_equal(a, b) for a, b in zip(*results, strict=True))


@each_rule
def test_halves(rule: str) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        half, single = make_top_loss(rule), make_top_loss(rule)
        for batch in batches(rule):
            value, gradient = top_step(half, batch._replace(scores=batch.scores.to(dtype)))
            rounded = batch.scores.to(dtype).float()
            expected_value, expected = top_step(single, batch._replace(scores=rounded))
            assert bits_equal(value, expected_value)
            assert bits_equal(gradient, expected.to(dtype))
        assert same_states(states_of(half), states_of(single))


def test_repr_and_schedules() -> None:
    text = repr(TwoWayPartialAUCLoss(5, mode="cvar", dual_eta=0.25))
    for part in ("mode='cvar'", "max_fpr=0.5", "min_tpr=0.5", "dual_eta=0.25", "margin=1.0"):
        assert part in text
    assert "p=4.0" in repr(PNormPushLoss(5))
