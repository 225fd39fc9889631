"""The exact metrics against scikit-learn and hand-worked cases; the rest: test_fuzz_metrics.py."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import INF, NAN, randn
from metric_helpers import close, each_list, tied
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score
from torch import Tensor

from xrisk_ext import metrics

# ------------------------------------------------------------------------------------ scikit-learn


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
