"""The float64 truth of every op and loss, stated once more in plain PyTorch.

This package is the oracle of the tests. It stands alone (imports torch only), computes everything
densely in float64 whatever the dtype of its inputs, and prefers obviousness to speed.
"""

from ._threshold import TopK
from .average_precision import average_precision
from .average_precision_at_k import average_precision_at_k
from .listwise_ce import listwise_cross_entropy
from .moving_average import moving_average_update_
from .ndcg import ndcg
from .pairwise import pairwise_log_sums, pairwise_sums
from .pairwise_auc import pairwise_auc
from .surrogates import SURROGATES, surrogate, surrogate_slope

__all__ = [
    "SURROGATES",
    "TopK",
    "average_precision",
    "average_precision_at_k",
    "listwise_cross_entropy",
    "moving_average_update_",
    "ndcg",
    "pairwise_auc",
    "pairwise_log_sums",
    "pairwise_sums",
    "surrogate",
    "surrogate_slope",
]
