"""What the metrics accept and refuse, and what they give where nothing is defined."""

import itertools
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from helpers import INF, NAN, each_dtype, randn
from metric_helpers import (
    BINARY,
    LISTS,
    NAMES,
    close,
    each_binary,
    each_list,
    each_metric,
    tied,
)
from sklearn.metrics import roc_auc_score
from torch import Tensor

from xrisk_ext import metrics

LABEL_DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16,
    torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
)  # fmt: skip
UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)

# ---------------------------------------------------------------------------------- what is taken


@pytest.mark.parametrize("dtype", LABEL_DTYPES, ids=str)
@each_metric
def test_labels_of_any_dtype(metric: Callable[..., Tensor], dtype: torch.dtype) -> None:
    scores, labels = tied(30), (torch.arange(30) * 7 % 3 == 0)
    assert torch.equal(metric(scores, labels.to(dtype)), metric(scores, labels))
    if dtype != torch.bool and metric in BINARY:
        # positive is > 0, whatever the number
        other = labels * 200 if dtype in UNSIGNED else labels * 4 - 1
        assert torch.equal(metric(scores, other.to(dtype)), metric(scores, labels))


@each_dtype
@each_metric
def test_scores_of_any_dtype(metric: Callable[..., Tensor], dtype: torch.dtype) -> None:
    scores, labels = randn(500).to(dtype), torch.arange(500) % 3 == 0
    value = metric(scores.requires_grad_(), labels)
    assert value.dtype == torch.float64
    assert not value.requires_grad
    assert torch.equal(value, metric(scores.detach().double(), labels))


@each_binary
def test_shapes_of_samples(metric: Callable[..., Tensor]) -> None:
    scores, labels = tied(20, 3), tied(20, 3, seed=1) > 0
    each = torch.stack([metric(scores[:, c], labels[:, c]) for c in range(3)])
    assert each.shape == (3,)
    assert torch.equal(metric(scores, labels, reduction="none"), each)
    close(metric(scores, labels), each.mean())
    assert metric(scores[:, 0], labels[:, 0], reduction="none").shape == ()
    assert metric(scores[:, :1], labels[:, :1], reduction="none").shape == (1,)
    for s, y in itertools.product((scores[:, 0], scores[:, :1]), (labels[:, 0], labels[:, :1])):
        assert torch.equal(metric(s, y), each[0])
    weights = torch.rand(20, 3)
    apart = [metric(scores[:, c], labels[:, c], item_weights=weights[:, c]) for c in range(3)]
    close(metric(scores, labels, item_weights=weights, reduction="none"), torch.stack(apart))
    far = scores.t().contiguous().t(), labels.t().contiguous().t()
    assert torch.equal(metric(*far, reduction="none"), each)


@each_list
def test_shapes_of_lists(metric: Callable[..., Tensor]) -> None:
    scores, labels = tied(4, 9), (tied(4, 9, seed=1) > 0).long()
    each = torch.stack([metric(s, y) for s, y in zip(scores, labels, strict=True)])
    assert metric(scores[0], labels[0], reduction="none").shape == ()
    close(metric(scores, labels, reduction="none"), each)
    close(metric(scores, labels), each.mean())


def test_weights() -> None:
    scores, labels = tied(60), torch.arange(60) % 4 == 0
    weights = torch.tensor([0.0, 1.0, 2.0]).repeat(20)
    whole = weights.long()
    for metric in BINARY:
        value = metric(scores, labels, item_weights=weights)
        repeated = scores.repeat_interleave(whole), labels.repeat_interleave(whole)
        close(value, metric(*repeated))
        # no overflow, no underflow
        for scale in (1e-300, 1e300):
            close(metric(scores, labels, item_weights=weights.double() * scale), value)
        kept = metric(scores[weights > 0], labels[weights > 0])
        close(metric(scores, labels, item_weights=weights > 0), kept)


@each_metric
def test_infinite_scores_and_both_zeros(metric: Callable[..., Tensor]) -> None:
    scores = torch.tensor([INF, 1.0, 0.0, -0.0, -INF, -INF, INF, -1.0])
    labels = torch.tensor([1, 0, 1, 0, 1, 0, 0, 1])
    ranks = torch.tensor([4.0, 3.0, 2.0, 2.0, 0.0, 0.0, 4.0, 1.0])
    assert torch.equal(metric(scores, labels), metric(ranks, labels))


# ------------------------------------------------------------------------------------- degenerate


@each_metric
def test_no_positive_is_undefined_not_nan(metric: Callable[..., Tensor]) -> None:
    empty, none = torch.zeros(0), torch.zeros(5)
    for scores, labels in ((empty, empty), (tied(5), none), (tied(5), -torch.ones(5) * 0)):
        assert metric(scores, labels).item() == 0
        assert metric(scores, labels, undefined=0.5).item() == 0.5
        assert metric(scores, labels, undefined=NAN).isnan()
    for shape in ((0, 3), (3, 0), (0, 0)):
        value = metric(torch.zeros(shape), torch.zeros(shape))
        assert value.shape == ()
        assert value.item() == 0


def test_no_negative() -> None:
    scores, ones = tied(5), torch.ones(5)
    assert metrics.auroc(scores, ones).item() == 0
    assert metrics.auroc(scores, ones, undefined=0.5, max_fpr=0.3, min_tpr=0.2).item() == 0.5
    assert metrics.average_precision(scores, ones).item() == 1
    assert metrics.auroc(scores, ones, item_weights=torch.zeros(5)).item() == 0
    assert metrics.average_precision(scores, ones, item_weights=torch.zeros(5)).item() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one class only
        assert math.isnan(roc_auc_score(ones, scores))


def test_undefined_rows_take_part_in_the_mean_unless_they_are_nan() -> None:
    scores, labels = tied(9, 2), torch.arange(18).reshape(9, 2) % 4 == 0
    labels[:, 1] = False
    for metric in BINARY:
        first = metric(scores[:, 0], labels[:, 0])
        close(metric(scores, labels), first / 2)
        close(metric(scores, labels, reduction="none", undefined=NAN).nanmean(), first)


# ---------------------------------------------------------------------------------------- refused


@each_metric
def test_bad_scores_and_labels(metric: Callable[..., Tensor]) -> None:
    name = NAMES[(BINARY + LISTS).index(metric)]
    other = "relevance" if name == "ndcg_at_k" else "labels"
    scores, labels = tied(6), torch.tensor([1, 0, 1, 0, 0, 1])
    for bad in (scores.tolist(), scores.long(), scores.to(torch.complex64)):
        with pytest.raises(TypeError, match=f"{name}: expected scores"):
            metric(bad, labels)
    for bad in (labels.tolist(), labels.to(torch.complex64)):
        with pytest.raises(TypeError, match=f"{name}: expected {other}"):
            metric(scores, bad)
    for bad in (labels[:5], labels[None], labels.reshape(2, 3)):
        with pytest.raises(ValueError, match=f"{name}: expected {other} of shape"):
            metric(scores, bad)
    for bad in (scores.reshape(1, 2, 3), scores[0]):
        with pytest.raises(ValueError, match=f"{name}: expected scores of shape"):
            metric(bad, labels)
    with pytest.raises(ValueError, match=f"{name}: expected {other} on the device"):
        metric(scores, labels.to("meta"))
    for k in range(6):
        broken = scores.clone()
        broken[k] = NAN
        with pytest.raises(ValueError, match=f"{name}: expected scores without NaN"):
            metric(broken, labels)
    with pytest.raises(ValueError, match=f"{name}: expected reduction"):
        metric(scores, labels, reduction="sum")


@each_binary
def test_bad_weights(metric: Callable[..., Tensor]) -> None:
    scores, labels = tied(6), torch.arange(6) % 2
    with pytest.raises(TypeError, match="item_weights"):
        metric(scores, labels, item_weights=[1.0] * 6)
    for bad in (torch.ones(5), torch.ones(6, 2), -torch.ones(6), torch.full((6,), NAN)):
        with pytest.raises(ValueError, match="item_weights"):
            metric(scores, labels, item_weights=bad)


@each_list
def test_bad_masks(metric: Callable[..., Tensor]) -> None:
    scores, labels = tied(2, 6), torch.ones(2, 6)
    with pytest.raises(TypeError, match="mask to be bool"):
        metric(scores, labels, mask=torch.ones(2, 6))
    with pytest.raises(ValueError, match="mask of shape"):
        metric(scores, labels, mask=torch.ones(6, dtype=torch.bool))


def test_bad_numbers() -> None:
    scores, labels = tied(6), torch.arange(6) % 2
    for bad in (0, -0.1, 1.5, NAN):
        with pytest.raises(ValueError, match="max_fpr"):
            metrics.auroc(scores, labels, max_fpr=bad)
    for bad in (1, -0.1, NAN):
        with pytest.raises(ValueError, match="min_tpr"):
            metrics.auroc(scores, labels, min_tpr=bad)
    with pytest.raises(TypeError, match="max_fpr"):
        metrics.auroc(scores, labels, max_fpr="0.3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="normalization"):
        metrics.auroc(scores, labels, normalization="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gain"):
        metrics.ndcg_at_k(scores, labels, gain="cubic")  # type: ignore[arg-type]
    for bad_relevance in (-1.0, NAN, INF):
        with pytest.raises(ValueError, match="relevance to be finite and >= 0"):
            metrics.ndcg_at_k(scores, torch.full((6,), bad_relevance))
    for metric in (metrics.ndcg_at_k, metrics.recall_at_k, metrics.precision_at_k):
        with pytest.raises(ValueError, match="k >= 1"):
            metric(scores, labels, 0)
        for bad_k in (True, 1.0):
            with pytest.raises(TypeError, match="k to be an int"):
                metric(scores, labels, bad_k)
