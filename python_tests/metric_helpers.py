"""What the tests of the metrics share: the metrics by name, tasks with ties, a comparison."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import randn
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from xrisk_ext import metrics

BINARY: list[Callable[..., Tensor]] = [metrics.average_precision, metrics.auroc]
LISTS: list[Callable[..., Tensor]] = [
    metrics.ndcg_at_k,
    lambda s, y, **o: metrics.recall_at_k(s, y, 3, **o),
    lambda s, y, **o: metrics.precision_at_k(s, y, 3, **o),
]
NAMES = ["average_precision", "auroc", "ndcg_at_k", "recall_at_k", "precision_at_k"]
each_binary = pytest.mark.parametrize("metric", BINARY, ids=NAMES[:2])
each_list = pytest.mark.parametrize("metric", LISTS, ids=NAMES[2:])
each_metric = pytest.mark.parametrize("metric", BINARY + LISTS, ids=NAMES)
quick = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def binary_tasks(draw: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Scores with ties, both classes, weights of which some are 0."""
    n = draw(st.integers(2, 40))
    levels = draw(st.sampled_from((1, 2, 5, 1000)))
    pool = st.integers(-levels, levels).map(lambda k: k / 7)
    scores = draw(st.lists(pool, min_size=n, max_size=n))
    labels = draw(st.lists(st.booleans(), min_size=n - 2, max_size=n - 2))
    weights = draw(st.lists(st.sampled_from((0.0, 0.25, 1.0, 3.0)), min_size=n - 2, max_size=n - 2))
    return (
        torch.tensor(scores, dtype=torch.float64),
        torch.tensor([True, False, *labels]),
        torch.tensor([1.0, 0.5, *weights], dtype=torch.float64),
    )


def close(value: Tensor, expected: Any) -> None:
    assert value.dtype == torch.float64
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-12, atol=1e-14)


def tied(*shape: int, levels: int = 6, seed: int = 0) -> Tensor:
    return (randn(*shape, seed=seed) * levels / 2).round() / levels
