"""The float64 truth of every op and loss, stated once more in plain PyTorch.

This package is the oracle of the tests. It stands alone (imports torch only), computes everything
densely in float64 whatever the dtype of its inputs, and prefers obviousness to speed.
"""

from .average_precision import average_precision
from .compositional_entropic import compositional_entropic
from .contrastive import contrastive_log_sums
from .contrastive_baselines import clip, eqco, flat_nce, moco, nnclr, nt_xent, sup_con
from .global_contrastive import Individual, bimodal_global_contrastive, global_contrastive
from .moving_average import moving_average_update_
from .pairwise import pairwise_log_sums, pairwise_sums
from .pairwise_auc import pairwise_auc
from .surrogates import SURROGATES, surrogate, surrogate_slope

__all__ = [
    "SURROGATES",
    "Individual",
    "average_precision",
    "bimodal_global_contrastive",
    "clip",
    "compositional_entropic",
    "contrastive_log_sums",
    "eqco",
    "flat_nce",
    "global_contrastive",
    "moco",
    "moving_average_update_",
    "nnclr",
    "nt_xent",
    "pairwise_auc",
    "pairwise_log_sums",
    "pairwise_sums",
    "sup_con",
    "surrogate",
    "surrogate_slope",
]
