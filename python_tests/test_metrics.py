"""The exact metrics against scikit-learn, pair counts and hand-worked cases."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from helpers import INF, NAN, randn
from hypothesis import given
from hypothesis import strategies as st
from metric_helpers import (
    binary_tasks,
    close,
    each_list,
    quick,
    tied,
)
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score
from torch import Tensor

from xrisk_ext import metrics

# ------------------------------------------------------------------------------------ scikit-learn


@quick
@given(binary_tasks(), st.booleans())
def test_average_precision_is_scikit_learns(task: Any, weighted: bool) -> None:
    scores, labels, weights = task
    w = weights if weighted else None
    expected = average_precision_score(labels, scores, sample_weight=w)
    close(metrics.average_precision(scores, labels, item_weights=w), expected)


@quick
@given(binary_tasks(), st.booleans(), st.sampled_from((None, 0.01, 0.3, 0.5, 0.77, 1.0)))
def test_auroc_is_scikit_learns(task: Any, weighted: bool, max_fpr: float | None) -> None:
    scores, labels, weights = task
    w = weights if weighted else None
    expected = roc_auc_score(labels, scores, sample_weight=w, max_fpr=max_fpr)
    close(metrics.auroc(scores, labels, item_weights=w, max_fpr=max_fpr), expected)


@quick
@given(binary_tasks(), st.integers(0, 10**6), st.sampled_from((None, 1, 2, 5, 100)))
def test_ndcg_is_scikit_learns(task: Any, seed: int, k: int | None) -> None:
    scores = task[0][None].repeat(2, 1)
    generator = torch.Generator().manual_seed(seed)
    relevance = torch.randint(0, 5, scores.shape, generator=generator)
    gains = 2.0**relevance - 1
    linear = [ndcg_score(r[None], s[None], k=k) for r, s in zip(relevance, scores, strict=True)]
    exponential = [ndcg_score(g[None], s[None], k=k) for g, s in zip(gains, scores, strict=True)]
    close(metrics.ndcg_at_k(scores, relevance, k, gain="linear", reduction="none"), linear)
    close(metrics.ndcg_at_k(scores, relevance, k, reduction="none"), exponential)
    close(metrics.ndcg_at_k(scores, relevance, k), np.mean(exponential))


@pytest.mark.parametrize("ties", [False, True])
def test_many_labels_many_samples(ties: bool) -> None:
    # more samples than a chunk of the kernel, several rows, tie groups across the chunks
    n, num_labels = 150_001, 3
    scores = randn(n, num_labels)
    scores = (scores * 2).round() if ties else scores
    labels = randn(n, num_labels, seed=1) + 0.3 * scores > 1
    weights = randn(n, seed=2).abs()
    for w in (None, weights):
        expected = [
            average_precision_score(labels, scores, average=None, sample_weight=w),
            roc_auc_score(labels, scores, average=None, sample_weight=w),
            [
                roc_auc_score(labels[:, c], scores[:, c], max_fpr=0.1, sample_weight=w)
                for c in range(num_labels)
            ],
        ]
        options: dict[str, Any] = {"item_weights": w, "reduction": "none"}
        close(metrics.average_precision(scores, labels, **options), expected[0])
        close(metrics.auroc(scores, labels, **options), expected[1])
        close(metrics.auroc(scores, labels, max_fpr=0.1, **options), expected[2])
    close(metrics.average_precision(scores, labels, item_weights=weights), np.mean(
        average_precision_score(labels, scores, average=None, sample_weight=weights)))  # fmt: skip


def test_a_long_list_and_many_short_ones() -> None:
    scores, relevance = tied(1, 80_000, levels=20_000), torch.arange(80_000)[None] % 5
    for k in (None, 10, 5000):
        expected = ndcg_score(relevance, scores, k=k)
        close(metrics.ndcg_at_k(scores, relevance, k, gain="linear"), expected)
    scores, relevance = tied(900, 41), torch.arange(900 * 41).reshape(900, 41) % 4
    expected = ndcg_score(relevance, scores, k=7)
    close(metrics.ndcg_at_k(scores, relevance, 7, gain="linear"), expected)


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


@quick
@given(
    st.integers(2, 30),
    st.integers(0, 10**6),
    st.sampled_from((1.0, 0.3, 0.5, 0.77)),
    st.sampled_from((0.0, 0.2, 0.5, 0.9)),
)
def test_two_way_partial_auc_counts_pairs(
    n: int, seed: int, max_fpr: float, min_tpr: float
) -> None:
    scores = randn(n, seed=seed)  # no ties
    labels = randn(n, seed=seed + 1) + scores > 0.3
    labels[0], labels[1] = True, False
    value = metrics.auroc(scores, labels, max_fpr=max_fpr, min_tpr=min_tpr, normalization="area")
    close(value, pair_area(scores, labels, max_fpr, min_tpr))
    if min_tpr > 0:
        close(metrics.auroc(scores, labels, max_fpr=max_fpr, min_tpr=min_tpr), value)


@quick
@given(binary_tasks(), st.sampled_from((1.0, 0.3, 0.5)), st.sampled_from((0.0, 0.25, 0.6)))
def test_two_way_partial_auc_with_ties_is_the_area_of_the_plane(
    task: Any, max_fpr: float, min_tpr: float
) -> None:
    scores, labels, weights = task
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


def test_normalizations_at_their_ends() -> None:
    labels = torch.tensor([1, 1, 1, 0, 0, 0, 0])
    perfect, same = labels.double(), torch.zeros(7)
    for limits in ({}, {"max_fpr": 0.3}, {"max_fpr": 0.3, "min_tpr": 0.4}, {"min_tpr": 0.4}):
        for normalization in ("auto", "mcclish", "area"):
            options: dict[str, Any] = {"normalization": normalization, **limits}
            close(metrics.auroc(perfect, labels, **options), 1.0)
        close(metrics.auroc(same, labels, normalization="mcclish", **limits), 0.5)
        close(metrics.auroc(-perfect, labels, normalization="area", **limits), 0.0)


# ------------------------------------------------------------------------------- lists by hand


def test_recall_and_precision_are_means_over_the_orders_of_ties() -> None:
    scores = torch.tensor([2.0, 1.0, 1.0, 1.0, 0.0])
    labels = torch.tensor([0, 1, 0, 1, 1])
    orders = [[0, *order, 4] for order in itertools.permutations((1, 2, 3))]
    for k in range(1, 8):
        hits = float(np.mean([labels[order[:k]].sum().item() for order in orders]))
        close(metrics.recall_at_k(scores, labels, k), hits / 3)
        close(metrics.precision_at_k(scores, labels, k), hits / k)


@each_list
def test_padding_takes_no_part(metric: Callable[..., Tensor]) -> None:
    lengths = (7, 1, 4, 0, 12)
    scores, relevance = tied(5, 12), (tied(5, 12, seed=1).abs() * 4).round()
    scores[0, 2] = scores[2, 1] = -INF  # ties with what padding is filled with
    relevance[0, 2] = relevance[2, 1] = 3
    mask = torch.arange(12) < torch.tensor(lengths)[:, None]
    mask = mask.gather(1, torch.argsort(randn(5, 12, seed=3)))  # not all at the end
    expected = [metric(s[m], r[m]).item() for s, r, m in zip(scores, relevance, mask, strict=True)]
    for junk in (NAN, INF, -INF, 5.0):
        padded, graded = scores.masked_fill(~mask, junk), relevance.masked_fill(~mask, junk)
        close(metric(padded, graded, mask=mask, reduction="none"), expected)
        close(metric(padded, graded, mask=mask), np.mean(expected))
    close(metric(scores, relevance, mask=torch.ones_like(mask)), metric(scores, relevance))


def test_gains_of_any_size() -> None:
    scores = torch.tensor([3.0, 2.0, 1.0])
    # 2^y far past the largest double: the first gain is all that counts
    close(metrics.ndcg_at_k(scores, torch.tensor([0, 5000, 1])), 1 / math.log2(3))
    huge = torch.tensor([0.0, 1e308, 1e308], dtype=torch.float64)
    second = 1 / math.log2(3)
    close(metrics.ndcg_at_k(scores, huge, gain="linear"), (second + 0.5) / (1 + second))
    close(metrics.ndcg_at_k(scores, torch.tensor([0.0, 1e-30, 0.0])), 1 / math.log2(3))
