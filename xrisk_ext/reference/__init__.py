"""The float64 truth of every op and loss, stated once more in plain PyTorch.

This package is the oracle of the tests. It stands alone (imports torch only), computes everything
densely in float64 whatever the dtype of its inputs, and prefers obviousness to speed.
"""

from .average_precision import average_precision
from .contrastive import contrastive_log_sums
from .moving_average import moving_average_update_
from .pairwise import pairwise_log_sums, pairwise_sums
from .pairwise_auc import pairwise_auc
from .surrogates import SURROGATES, surrogate, surrogate_slope

__all__ = [
    "SURROGATES",
    "average_precision",
    "contrastive_log_sums",
    "moving_average_update_",
    "pairwise_auc",
    "pairwise_log_sums",
    "pairwise_sums",
    "surrogate",
    "surrogate_slope",
]
