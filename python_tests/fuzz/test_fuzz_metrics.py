"""The exact metrics on anything, against scikit-learn, pair counts and the definition."""

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import each_device, fuzz, fuzz_less
from helpers import randn
from hypothesis import strategies as st
from metric_helpers import close
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score
from strategies import (
    dtypes,
    generator_of,
    large,
    relaid,
    scores_of_kind,
    seeds,
    weights_of_kind,
)
from torch import Tensor

from xrisk_ext import metrics

# -0 is 0 and infinities are scores, but what scikit-learn takes is finite
KINDS = ("grid", "few", "equal", "normal", "tiny_gaps", "huge", "spread", "extreme", "wide_grid")
label_dtypes = st.sampled_from((torch.bool, torch.int64, torch.uint8, torch.float32))


def draw_scores(data: st.DataObject, *shape: int) -> Tensor:
    kind, dtype = data.draw(st.sampled_from(KINDS), label="kind"), data.draw(dtypes, label="dtype")
    return scores_of_kind(kind, shape, dtype, generator_of(data))


def draw_task(data: st.DataObject, least: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Scores with ties, both classes, weights of which some are 0."""
    size = max(data.draw(large, label="size"), least)
    scores = draw_scores(data, size)
    generator = generator_of(data)
    share = data.draw(st.sampled_from((0.5, 0.02, 0.9)), label="share of positives")
    labels = torch.rand(size, generator=generator) < share
    labels[0], labels[1] = True, False
    kind = data.draw(st.sampled_from(("half zeros", "integers", "positive")), label="weights")
    weights = weights_of_kind(kind, (size,), torch.float64, generator)
    weights[:2] = torch.tensor([1.0, 0.5])
    return scores, labels, weights


def given_to(device: str, data: st.DataObject, *tensors: Tensor) -> list[Tensor]:
    return [relaid(data, t.to(device)) for t in tensors]


def near(value: Tensor, expected: Any) -> None:
    assert value.dtype == torch.float64
    np.testing.assert_allclose(value.cpu().numpy(), expected, rtol=1e-10, atol=1e-12)


@each_device
@fuzz
def test_average_precision_and_auroc_are_scikit_learns(data: st.DataObject, device: str) -> None:
    scores, labels, weights = draw_task(data)
    max_fpr = data.draw(st.sampled_from((None, 0.01, 0.3, 0.5, 0.77, 1.0)), label="max_fpr")
    weighted = data.draw(st.booleans(), label="weighted")
    kind = data.draw(label_dtypes, label="label dtype")
    given = given_to(device, data, scores, labels.to(kind), weights)
    w = given[2] if weighted else None
    theirs = scores.double().numpy(), labels.numpy(), weights.numpy() if weighted else None
    expected = average_precision_score(theirs[1], theirs[0], sample_weight=theirs[2])
    near(metrics.average_precision(*given[:2], item_weights=w), expected)
    expected = roc_auc_score(theirs[1], theirs[0], sample_weight=theirs[2], max_fpr=max_fpr)
    near(metrics.auroc(*given[:2], item_weights=w, max_fpr=max_fpr), expected)


@each_device
@fuzz
def test_ndcg_is_scikit_learns(data: st.DataObject, device: str) -> None:
    size = max(data.draw(large, label="items"), 2)
    scores = draw_scores(data, 2, size)
    relevance = torch.randint(0, 5, scores.shape, generator=generator_of(data))
    k = data.draw(st.sampled_from((None, 1, 2, 5, 100)), label="k")
    theirs = scores.double()
    linear = [ndcg_score(r[None], s[None], k=k) for r, s in zip(relevance, theirs, strict=True)]
    gains = 2.0**relevance - 1
    exponential = [ndcg_score(g[None], s[None], k=k) for g, s in zip(gains, theirs, strict=True)]
    given = given_to(device, data, scores, relevance)
    near(metrics.ndcg_at_k(*given, k, gain="linear", reduction="none"), linear)
    near(metrics.ndcg_at_k(*given, k, reduction="none"), exponential)
    near(metrics.ndcg_at_k(*given, k), np.mean(exponential))


@each_device
@fuzz
def test_recall_and_precision_count_by_the_cut(data: st.DataObject, device: str) -> None:
    """Those above the k-th score, and of those that tie with it their share of what is left."""
    size = data.draw(large, label="items")
    scores = draw_scores(data, 2, size)
    generator = generator_of(data)
    labels = torch.rand(scores.shape, generator=generator) < 0.3
    mask = torch.rand(scores.shape, generator=generator) < 0.8
    k = data.draw(st.sampled_from((1, 2, 5, 100)), label="k")
    hits = []
    for s, y, m in zip(scores.double(), labels, mask, strict=True):
        s, y = s[m], y[m]
        if len(s) <= k:
            hits.append(float(y.sum()))
            continue
        cut = s.topk(k).values[-1]
        above, tied = s > cut, s == cut
        share = (k - int(above.sum())) / int(tied.sum())
        hits.append(float(y[above].sum()) + share * float(y[tied].sum()))
    positives = (labels & mask).sum(1)
    recall = np.array(hits) / positives.clamp(min=1).numpy()
    precision = np.where(positives > 0, np.array(hits) / k, 0.0)
    s, y, m = given_to(device, data, scores, labels, mask)
    near(metrics.recall_at_k(s, y, k, mask=m, reduction="none"), recall)
    near(metrics.precision_at_k(s, y, k, mask=m, reduction="none"), precision)


# --------------------------------------------------------------------------- partial areas by pairs


def pair_area(scores: Tensor, labels: Tensor, max_fpr: float, min_tpr: float) -> float:
    """Pairs of the lowest positives and the highest negatives, the last by its fraction."""
    positives = sorted(scores[labels].tolist())
    negatives = sorted(scores[~labels].tolist(), reverse=True)
    row = (1 - Fraction(min_tpr)) * len(positives)
    column = Fraction(max_fpr) * len(negatives)
    total = Fraction(0)
    for (i, p), (j, q) in itertools.product(enumerate(positives), enumerate(negatives)):
        share = max(min(row - i, 1), 0) * max(min(column - j, 1), 0)
        total += share * (p > q)
    return float(total / (row * column))


@fuzz
def test_two_way_partial_auc_counts_pairs(data: st.DataObject) -> None:
    n, seed = data.draw(st.integers(2, 30), label="size"), data.draw(seeds, label="seed")
    max_fpr = data.draw(st.sampled_from((1.0, 0.3, 0.5, 0.77)), label="max_fpr")
    min_tpr = data.draw(st.sampled_from((0.0, 0.2, 0.5, 0.9)), label="min_tpr")
    scores = randn(n, seed=seed)  # no ties
    labels = randn(n, seed=seed + 1) + scores > 0.3
    labels[0], labels[1] = True, False
    value = metrics.auroc(scores, labels, max_fpr=max_fpr, min_tpr=min_tpr, normalization="area")
    close(value, pair_area(scores, labels, max_fpr, min_tpr))
    if min_tpr > 0:
        close(metrics.auroc(scores, labels, max_fpr=max_fpr, min_tpr=min_tpr), value)


@fuzz_less
def test_two_way_partial_auc_with_ties_is_the_area_of_the_plane(data: st.DataObject) -> None:
    scores, labels, weights = draw_task(data)
    scores, labels, weights = scores[:300], labels[:300], weights[:300]
    max_fpr = data.draw(st.sampled_from((1.0, 0.3, 0.5)), label="max_fpr")
    min_tpr = data.draw(st.sampled_from((0.0, 0.25, 0.6)), label="min_tpr")
    # the ROC curve by definition, then the trapezoid rule on a grid that has every corner
    false, true = [0.0], [0.0]
    for t in sorted(set(scores.tolist()), reverse=True):
        false.append(float(weights[(scores >= t) & ~labels].sum() / weights[~labels].sum()))
        true.append(float(weights[(scores >= t) & labels].sum() / weights[labels].sum()))
    area = 0.0
    for f0, f1, t0, t1 in zip(false, false[1:], true, true[1:], strict=False):
        if f0 < min(f1, max_fpr):
            slope = (t1 - t0) / (f1 - f0)
            crossing = [f0 + (min_tpr - t0) / slope] if slope > 0 else []
            end = min(f1, max_fpr)
            grid = sorted([f0, end, *(f for f in crossing if f0 < f < end)])
            height = [max(t0 + slope * (f - f0) - min_tpr, 0.0) for f in grid]
            area += float(np.trapezoid(height, grid))
    options: dict[str, Any] = {"max_fpr": max_fpr, "min_tpr": min_tpr, "item_weights": weights}
    whole, chance = max_fpr * (1 - min_tpr), max(max_fpr - min_tpr, 0.0) ** 2 / 2
    value = metrics.auroc(scores, labels, normalization="area", **options)
    assert value.item() == pytest.approx(area / whole, abs=1e-9)
    value = metrics.auroc(scores, labels, normalization="mcclish", **options)
    assert value.item() == pytest.approx((1 + (area - chance) / (whole - chance)) / 2, abs=1e-9)
