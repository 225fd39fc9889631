"""The losses without pairs on anything: against the reference, and against themselves."""

from typing import Any

import pytest
import torch
from fuzzing import drawn_simd, each_device, fuzz, threads
from helpers import computed_in
from hypothesis import strategies as st
from label_helpers import KINDS, parameters, step
from loss_helpers import bits_equal
from strategies import (
    TAME_KINDS,
    WEIGHT_KINDS,
    dtypes,
    generator_of,
    large,
    precisions,
    scores_of_kind,
    weights_of_kind,
    with_specials,
)
from torch import Tensor

each_kind = pytest.mark.parametrize("kind", KINDS)


def draw(data: st.DataObject, kind: str) -> tuple[Any, Tensor, Tensor, dict[str, Tensor]]:
    """A loss with numbers of its own, scores, labels, and item_weights or none."""
    generator = generator_of(data)
    labels = data.draw(st.integers(1, 3), label="labels")
    size = data.draw(large, label="batch")
    shape = (size,) if labels == 1 and data.draw(st.booleans(), label="flat") else (size, labels)
    chosen = data.draw(st.sampled_from(TAME_KINDS), label="kind of scores")
    scores = scores_of_kind(chosen, shape, data.draw(dtypes, label="dtype"), generator)
    share = data.draw(st.sampled_from((0.0, 0.05, 0.4, 1.0)), label="share of positives")
    positive = torch.rand(shape, generator=generator) < share
    options: dict[str, Tensor] = {}
    if data.draw(st.booleans(), label="weighted"):
        one = data.draw(st.booleans(), label="weight per entry")
        options["item_weights"] = weights_of_kind(
            data.draw(st.sampled_from(WEIGHT_KINDS), label="weights"),
            (size,) if one else shape,
            data.draw(precisions, label="dtype of weights"),
            generator,
        )
    reduction = data.draw(st.sampled_from(("mean", "none")), label="reduction")
    loss = KINDS[kind].make(labels, reduction=reduction)
    with torch.no_grad():
        for parameter in parameters(loss):
            parameter.copy_(torch.randn(labels, generator=generator))
    return loss, scores, positive, options


def truth_of(loss: Any, kind: str, scores: Tensor, labels: Tensor, weights: Tensor | None) -> Any:
    expected = list(KINDS[kind].truth(loss, scores, labels, weights))
    if loss.reduction == "mean":
        expected = [expected[0].mean(), *(g / loss.num_labels for g in expected[1:])]
    if KINDS[kind].margin_based:
        expected[4] = -expected[4]
    return expected


@each_device
@each_kind
@fuzz
def test_a_step_is_the_reference(data: st.DataObject, device: str, kind: str) -> None:
    loss, scores, labels, options = draw(data, kind)
    if data.draw(st.booleans(), label="special scores"):
        scores = with_specials(data, scores)
    expected = truth_of(loss, kind, scores, labels, options.get("item_weights"))
    with drawn_simd(data):
        moved = {name: value.to(device) for name, value in options.items()}
        actual = step(loss.eval().to(device), scores.to(device), labels.to(device), **moved)
    finite = scores.double().nan_to_num(0.0, 0.0, 0.0).abs()
    size = 30.0 * (1.0 + float(finite.max() if finite.numel() else 0.0)) ** 2
    tolerance = 1e-6 if computed_in(scores.dtype) == torch.float32 else 1e-12
    for name, a, e in zip(("value", "scores", "a", "b", "alpha"), actual, expected, strict=False):
        rounding = torch.finfo(a.dtype)
        torch.testing.assert_close(
            a.double().cpu(), e.double(), rtol=max(rounding.eps, 1e-5 * (tolerance > 1e-9)),
            atol=max(tolerance * size, 2 * rounding.smallest_normal * rounding.eps),
            equal_nan=True, msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip


@each_kind
@fuzz
def test_threads_and_weights_of_zero_change_nothing(data: st.DataObject, kind: str) -> None:
    loss, scores, labels, options = draw(data, kind)
    results = []
    for count in (1, 2):
        with threads(count):
            results.append(step(loss.eval(), scores, labels, **options))
    assert all(bits_equal(a, b) for a, b in zip(*results, strict=True))
    # entries of weight 0, whatever they are, are as good as none
    count = data.draw(st.integers(1, 20), label="entries added")
    extra = torch.full((count, *scores.shape[1:]), float("nan"), dtype=scores.dtype)
    weights = options.get("item_weights", torch.ones(scores.shape[:1]))
    zeros = torch.zeros((count, *weights.shape[1:]), dtype=weights.dtype)
    longer = step(
        loss, torch.cat([scores, extra]), torch.cat([labels, labels.new_ones(extra.shape)]),
        item_weights=torch.cat([weights, zeros]),
    )  # fmt: skip
    alone = step(loss, scores, labels, item_weights=weights)
    assert not longer[1][len(scores) :].any()
    for a, b in zip((longer[0], longer[1][: len(scores)]), alone[:2], strict=True):
        size = float(b.double().nan_to_num().abs().max()) if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * size + 1e-30, equal_nan=True)
