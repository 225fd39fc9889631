"""Every loss on anything: several steps against the reference, and against the loss itself."""

from typing import Any

import pytest
import torch
from fuzzing import drawn_simd, each_device, fuzz, threads
from helpers import SURROGATE_ALGORITHMS
from hypothesis import strategies as st
from loss_helpers import (
    Batch,
    bits_equal,
    make_loss,
    reference_step,
    state_of,
    step,
)
from pairs import Pairs, pieces_of
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
    surrogate_hyper_parameters,
    weights_of_kind,
    with_specials,
)
from torch import Tensor

from xrisk_ext import AveragePrecisionLoss, reference
from xrisk_ext.losses._score_loss import ScoreLoss

NUM_LABELS = 3  # of make_loss
LOSSES = ("ap", "map", "auc")  # losses of the top of the list: test_fuzz_partial_auc.py
each_loss = pytest.mark.parametrize("kind", LOSSES)
label_dtypes = st.sampled_from(
    (torch.int64, torch.int32, torch.int8, torch.bool, torch.float32, torch.float64, torch.float16)
)


def draw_batch(
    data: st.DataObject,
    kind: str,
    rows: int,
    generator: torch.Generator,
    kinds: tuple[str, ...] = KINDS,
    sizes: st.SearchStrategy[int] = small,
) -> Batch:
    """Ids that repeat, -1 where no label is positive; weights None, [B] or the scores' shape."""
    size = data.draw(sizes, label="batch")
    shape = (size, NUM_LABELS) if kind == "map" else (size,)
    chosen = data.draw(st.sampled_from(kinds), label="kind of scores")
    scores = scores_of_kind(chosen, shape, data.draw(dtypes, label="dtype"), generator)
    share = data.draw(st.sampled_from((0.0, 0.02, 0.3, 1.0)), label="share of positives")
    positive = torch.rand(shape, generator=generator) < share
    if len(positive.flatten()) and data.draw(st.booleans(), label="one positive at least"):
        positive.view(-1)[0] = True
    positive[200:] = False  # the dense truth has a row for each of them
    index = torch.randint(rows, (size,), generator=generator)
    index[~positive.reshape(size, -1).any(dim=1) if size else slice(0)] = -1
    weights = None
    if data.draw(st.booleans(), label="weighted"):
        one = data.draw(st.booleans(), label="weight per entry")
        weights = weights_of_kind(
            data.draw(st.sampled_from(WEIGHT_KINDS), label="weights"),
            (size,) if one else shape,
            data.draw(precisions, label="dtype of weights"),
            generator,
        )
    return Batch(scores, positive.to(data.draw(label_dtypes, label="label dtype")), index, weights)


def draw_options(
    data: st.DataObject, names: tuple[str, ...] = reference.SURROGATES
) -> dict[str, Any]:
    pairs = [(n, a) for n, a in SURROGATE_ALGORITHMS if n in names]
    name, algorithm = data.draw(st.sampled_from(pairs), label="surrogate and algorithm")
    margin, scale = data.draw(surrogate_hyper_parameters, label="margin and scale")
    return {
        "surrogate": name,
        "algorithm": algorithm,
        "margin": margin,
        "scale": scale,
        "gamma": data.draw(st.sampled_from((0.0, 0.1, 0.9, 1.0)), label="gamma"),
        "reduction": data.draw(st.sampled_from(("mean", "none")), label="reduction"),
        "state_dtype": torch.float64,
        "initial_state": data.draw(st.sampled_from(("assign", "zero")), label="initial state"),
    }


def on(device: str, data: st.DataObject, batch: Batch) -> Batch:
    """The same numbers in any layout."""
    moved = [None if t is None else relaid(data, t.to(device)) for t in batch]
    return Batch(*moved)  # type: ignore[arg-type]


def columns_of(loss: ScoreLoss, batch: Batch) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Scores, labels and weights of every label, in float64, without what has no weight."""
    scores = batch.scores.double()
    scores = scores if scores.dim() == 2 else scores[:, None]
    labels = (batch.labels > 0).reshape(scores.shape)
    weights = torch.ones_like(scores)
    if batch.weights is not None:
        w = batch.weights.double()
        weights = w[:, None].expand(scores.shape) if w.dim() == 1 else w.reshape(scores.shape)
    return [(scores[:, c], labels[:, c], weights[:, c]) for c in range(scores.shape[1])]


def gradient_size(loss: ScoreLoss, batch: Batch, state: Tensor | None) -> tuple[float, float]:
    """(the largest sum of absolute terms in a gradient, whether kinks leave a side in doubt).

    From the averages after the step: the gradient of an anchor is a sum of terms of both signs, and
    the roundings are relative to their absolute values.
    """
    largest, doubt = 0.0, 0.0
    for label, (h, positive, w) in enumerate(columns_of(loss, batch)):
        anchor, item = positive & (w > 0), w > 0
        if loss._rule == 1:
            item = item & ~positive
        if not anchor.any() or not item.any() or not h[w > 0].isfinite().all():
            continue
        computed = torch.float64 if batch.scores.dtype == torch.float64 else torch.float32
        pairs = Pairs(
            h[anchor].to(computed), h[item].to(computed), None, torch.ones(0),
            loss.surrogate, float(loss.margin), float(loss.scale),
        )  # fmt: skip
        pieces = pieces_of(pairs)
        share = (w[anchor] / w[anchor].sum())[:, None] * (w[item] / w[item].sum())  # [P, M]
        if loss._rule == 0:
            u = ((pieces.phi + 0.0) * (w[item] / w[item].sum())).sum(dim=1)  # u_all of the batch
            if state is not None:
                u = state[label if state.dim() == 3 else 0][batch.index[anchor], 0].double()
            share = share * torch.where(u > 1e-30, 1.0 / u, 0.0)[:, None]
            # the error of u_all and u_pos, relative to them, times the pull
            own = (pieces.phi_error * (w[item] / w[item].sum())).sum(dim=1, keepdim=True)
            share = share * (1.0 + own * torch.where(u > 1e-30, 1.0 / u, 0.0)[:, None])
        pull, jump = share * pieces.slope_error, share * pieces.jump
        largest = max(largest, float(pull.sum(dim=0).max()), float(pull.sum(dim=1).max()))
        doubt = max(doubt, float(jump.sum(dim=0).max()), float(jump.sum(dim=1).max()))
    return largest, doubt


def value_size(loss: ScoreLoss, batch: Batch, value: Tensor) -> float:
    """An average precision is a mean of ratios; an AUC is relative to its own terms."""
    if loss._rule == 0:
        return 1.0
    largest = float(value.abs().max()) if value.numel() else 0.0
    return largest + gradient_size(loss, batch, None)[0] * 2.0 * float(
        batch.scores[batch.scores.isfinite()].abs().max().double() + loss.margin
        if batch.scores.isfinite().any()
        else 0.0
    )


def assert_within(what: str, actual: Tensor, expected: Tensor, allowed: float) -> None:
    assert actual.shape == expected.shape
    info = torch.finfo(actual.dtype)
    error = (actual.double() - expected.double()).abs()
    rounding = (info.eps * expected.double().abs()).clamp(min=info.smallest_normal * info.eps)
    same = (actual.isnan() & expected.isnan()) | (error <= allowed + rounding)
    same |= (expected.abs() > 0.25 * info.max) & (actual.abs() > 0.2 * info.max)
    assert bool(same.all()), f"{what}: {actual[~same]}, expected {expected[~same]} +- {allowed:.3g}"


def follow(loss: ScoreLoss, batch: Batch, given: Batch, truth: Tensor | None) -> None:
    """One step: value, gradient and state are those of the reference."""
    value, gradient = step(loss, given)
    expected_value, expected = reference_step(loss, batch, truth)
    computed = torch.float64 if batch.scores.dtype == torch.float64 else torch.float32
    roundings = 64.0 * torch.finfo(computed).eps * (1.0 if computed == torch.float32 else 8.0)
    size, doubt = gradient_size(loss, batch, truth)
    assert value.dtype == computed
    assert gradient.dtype == batch.scores.dtype
    # Direct logistic and sigmoid sums take terms below the normal range for zero.
    peaked = loss.surrogate in ("logistic", "sigmoid")
    flushed = 4.0 * torch.finfo(computed).smallest_normal if peaked else 0.0
    assert_within("gradient", gradient.cpu(), expected, roundings * size + doubt + flushed)
    bound = roundings * value_size(loss, batch, expected_value) + flushed
    assert_within("value", value.cpu(), expected_value, bound)
    if truth is not None:
        state = state_of(loss).cpu()
        assert bool((state.isnan() == truth.isnan()).all())
        touched = ~truth.isnan()
        # float32 sums in a float64 state: what is rounded is a mean of pair terms
        reach = float(truth[touched].abs().max()) if touched.any() else 0.0
        torch.testing.assert_close(
            state[touched], truth[touched], rtol=1e-4, atol=roundings * reach
        )
        truth.copy_(state)


@each_device
@each_loss
@fuzz
def test_steps_follow_the_reference(data: st.DataObject, kind: str, device: str) -> None:
    options = draw_options(data)
    kinds = TAME_KINDS if options["surrogate"] == "exponential" else KINDS
    if options["surrogate"] == "exponential":
        options["scale"] = min(options["scale"], 2.0)
    rows = data.draw(st.sampled_from((1, 8, 300)), label="num_samples")
    loss = make_loss(kind, rows, **options).to(device)
    generator = generator_of(data)
    truth = state_of(loss)
    truth = None if truth is None else truth.cpu()
    with drawn_simd(data):
        for _ in range(data.draw(st.integers(1, 4), label="steps")):
            if kind != "auc" and data.draw(st.booleans(), label="new gamma"):
                loss.gamma = data.draw(st.sampled_from((0.0, 0.3, 1.0)))
            batch = draw_batch(data, kind, rows, generator, kinds, large)
            loss.train(data.draw(st.integers(0, 4), label="eval") > 0)
            follow(loss, batch, on(device, data, batch), truth if loss.training else None)


@each_device
@each_loss
@fuzz
def test_steps_with_scores_that_are_not_finite(data: st.DataObject, kind: str, device: str) -> None:
    # float32 state too: whatever comes, no infinity stays in it and later steps are numbers
    options = draw_options(data) | {"state_dtype": data.draw(precisions, label="state dtype")}
    loss = make_loss(kind, 8, **options).to(device)
    generator = generator_of(data)
    with drawn_simd(data):
        for _ in range(3):
            batch = draw_batch(data, kind, 8, generator)
            batch = batch._replace(scores=with_specials(data, batch.scores))
            before = state_of(loss)
            value, gradient = step(loss, on(device, data, batch))
            for (h, positive, w), out in zip(
                columns_of(loss, batch), gradient.cpu().reshape(*batch.scores.shape[:1], -1).T
                if len(batch.scores) else [], strict=False,
            ):  # fmt: skip
                anchors = positive & (w > 0)
                others = (w > 0) if loss._rule == 0 else (w > 0) & ~positive
                if not anchors.any() or not others.any():
                    assert not out.any()
                elif not h[w > 0].isfinite().all():
                    assert bool(out.isnan().all())
            after = state_of(loss)
            if after is not None and before is not None:
                assert not after.isinf().any()
                assert bool((before.isnan() | ~after.isnan()).all())  # what was written stays
        calm = Batch(
            torch.tensor([0.2, -0.1, 0.4]), torch.tensor([1, 0, 1]), torch.tensor([0, -1, 3])
        )
        if kind == "map":
            calm = Batch(*(t[:, None].expand(3, 3) for t in calm[:2]), calm.index)
        loss.train()
        value, gradient = step(loss, Batch(*(None if t is None else t.to(device) for t in calm)))
        if options["surrogate"] != "exponential" and options["margin"] < 10.0:
            assert bool(value.isfinite().all())


@each_device
@each_loss
@fuzz
def test_losses_are_invariant(data: st.DataObject, kind: str, device: str) -> None:
    # Order of the batch; weight w is w copies; weight zero is removal; scores moved by a constant.
    # No id twice: the duplicates of an id share a plain mean, whatever their weights.
    options = draw_options(data)
    generator = generator_of(data)
    batch = draw_batch(data, kind, 8, generator, ("grid", "few"))
    size = len(batch.scores)
    ids = torch.randperm(600, generator=generator)[:size]
    batch = batch._replace(scores=batch.scores.float().mul(8).round().div(8), index=ids)
    batch = batch._replace(weights=weights_of_kind("integers", (size,), torch.float32, generator))
    counts = batch.weights.long()
    order = torch.randperm(size, generator=generator)
    copies = torch.arange(size).repeat_interleave(counts)
    kept = counts > 0
    each_copy = torch.where(kept, 1.0 / counts.clamp(min=1), 0.0)
    take = lambda rows: Batch(*(t[rows] for t in batch))  # noqa: E731
    others = {
        "permuted": (take(order), order, 1.0),
        "copied": (take(copies)._replace(weights=None), copies, each_copy[copies]),
        "removed": (take(kept), kept, 1.0),
        "moved": (batch._replace(scores=batch.scores + 64.0), slice(None), 1.0),
    }
    options["scale"] = min(options["scale"], 2.0)
    losses = {what: make_loss(kind, 600, **options).to(device) for what in ("base", *others)}
    for _ in range(2):
        moved = Batch(*(t.to(device) for t in batch))
        value, gradient = (t.cpu() for t in step(losses["base"], moved))
        state = state_of(losses["base"])
        largest, doubt = gradient_size(
            losses["base"], batch, None if state is None else state.cpu()
        )
        for what, (other, rows, factor) in others.items():
            other = Batch(*(None if t is None else t.to(device) for t in other))
            a, b = (t.cpu() for t in step(losses[what], other))
            share = factor[:, None] if isinstance(factor, Tensor) and b.dim() == 2 else factor
            allowed = 2e-5 * largest + 2.0 * doubt
            assert_within(what, b, gradient[rows] * share, allowed)
            assert_within(what, a, value, 2e-5 * (1.0 + float(value.abs().max())))
            if state is not None:
                assert_same_state(what, state_of(losses[what]), state)


def assert_same_state(what: str, actual: Tensor | None, expected: Tensor) -> None:
    assert actual is not None
    torch.testing.assert_close(
        actual, expected, rtol=1e-4, atol=1e-6, equal_nan=True, msg=lambda m: f"{what}: {m}"
    )


@each_device
@fuzz
def test_a_label_of_several_is_a_loss_of_its_own(data: st.DataObject, device: str) -> None:
    options = draw_options(data) | {"reduction": "none"}
    generator = generator_of(data)
    together = make_loss("map", 8, **options).to(device)
    apart = [AveragePrecisionLoss(8, **options).to(device) for _ in range(NUM_LABELS)]
    for _ in range(2):
        batch = draw_batch(data, "map", 8, generator)
        weights = batch.weights
        value, gradient = step(together, on(device, data, batch))
        for label, loss in enumerate(apart):
            labels = batch.labels[:, label]
            one = Batch(
                batch.scores[:, label], labels, torch.where(labels > 0, batch.index, -1),
                weights if weights is None or weights.dim() == 1 else weights[:, label],
            )  # fmt: skip
            a, b = step(loss, on(device, data, one))
            assert bits_equal(a, value[label : label + 1].clone())
            assert bits_equal(b, gradient[:, label].clone())
            assert bits_equal(loss.state.value[0].clone(), together.state.value[label].clone())


@pytest.mark.parametrize("kind", LOSSES)
@fuzz
def test_threads_change_no_bit_of_a_step(data: st.DataObject, kind: str) -> None:
    options = draw_options(data)
    generator = generator_of(data)
    size = data.draw(st.integers(1, 40_000), label="batch")
    every = data.draw(st.sampled_from((1000, 37, 2)), label="one positive in")
    if options["algorithm"] == "direct" or options["surrogate"] in ("logistic", "sigmoid"):
        every = 1000
    shape = (size, NUM_LABELS) if kind == "map" else (size,)
    scores = scores_of_kind("normal", shape, torch.float32, generator)
    labels = torch.arange(size * (NUM_LABELS if kind == "map" else 1)).view(shape) % every == 0
    batch = Batch(scores, labels, torch.randint(50_000, (size,), generator=generator))
    if data.draw(st.booleans(), label="weighted"):
        weights = weights_of_kind("half zeros", (size,), torch.float32, generator)
        batch = batch._replace(weights=weights)
    results: list[tuple[Tensor | None, ...]] = []
    for count in (1, 2):
        with threads(count):
            loss = make_loss(kind, 50_000, **options)
            results.append((*step(loss, batch), *step(loss, batch), state_of(loss)))
    assert all(bits_equal(a, b) for a, b in zip(*results, strict=True))
