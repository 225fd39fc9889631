"""The float64 truth of every op and loss, stated once more in plain PyTorch.

This package is the oracle of the tests. It stands alone (imports torch only), computes everything
densely in float64 whatever the dtype of its inputs, and prefers obviousness to speed.
"""

from .average_precision import average_precision
from .moving_average import moving_average_update_
from .multi_instance import attention_pooling, softmax_pooling
from .pairwise import pairwise_log_sums, pairwise_sums
from .pairwise_auc import pairwise_auc
from .partial_auc import partial_auc, two_way_partial_auc
from .push import p_norm_push, top_push
from .surrogates import SURROGATES, surrogate, surrogate_slope

__all__ = [
    "SURROGATES",
    "attention_pooling",
    "average_precision",
    "moving_average_update_",
    "p_norm_push",
    "pairwise_auc",
    "pairwise_log_sums",
    "pairwise_sums",
    "partial_auc",
    "softmax_pooling",
    "surrogate",
    "surrogate_slope",
    "top_push",
    "two_way_partial_auc",
]
