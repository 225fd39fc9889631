"""The float64 truth of every op and loss, stated once more in plain PyTorch.

This package is the oracle of the tests. It stands alone (imports torch only), computes everything
densely in float64 whatever the dtype of its inputs, and prefers obviousness to speed.
"""

from ._threshold import TopK
from .auc_margin import auc_margin
from .average_precision import average_precision
from .average_precision_at_k import average_precision_at_k
from .classification import class_balanced_cross_entropy, focal, ldam
from .compositional_entropic import compositional_entropic
from .contrastive import contrastive_log_sums
from .contrastive_baselines import clip, eqco, flat_nce, moco, nnclr, nt_xent, sup_con
from .global_contrastive import Individual, bimodal_global_contrastive, global_contrastive
from .listwise import approx_ndcg, lambda_rank, list_mle, list_net, neural_ndcg, rank_net
from .listwise_ce import listwise_cross_entropy
from .moving_average import moving_average_update_
from .multi_instance import attention_pooling, softmax_pooling
from .ndcg import ndcg
from .pairwise import pairwise_log_sums, pairwise_sums
from .pairwise_auc import pairwise_auc
from .partial_auc import partial_auc, two_way_partial_auc
from .push import p_norm_push, top_push
from .retrieval import fast_ap, recall_at_k, smooth_ap
from .surrogates import SURROGATES, surrogate, surrogate_slope
from .topk import topk_threshold, topk_threshold_step

__all__ = [
    "SURROGATES",
    "Individual",
    "TopK",
    "approx_ndcg",
    "attention_pooling",
    "auc_margin",
    "average_precision",
    "average_precision_at_k",
    "bimodal_global_contrastive",
    "class_balanced_cross_entropy",
    "clip",
    "compositional_entropic",
    "contrastive_log_sums",
    "eqco",
    "fast_ap",
    "flat_nce",
    "focal",
    "global_contrastive",
    "lambda_rank",
    "ldam",
    "list_mle",
    "list_net",
    "listwise_cross_entropy",
    "moco",
    "moving_average_update_",
    "ndcg",
    "neural_ndcg",
    "nnclr",
    "nt_xent",
    "p_norm_push",
    "pairwise_auc",
    "pairwise_log_sums",
    "pairwise_sums",
    "partial_auc",
    "rank_net",
    "recall_at_k",
    "smooth_ap",
    "softmax_pooling",
    "sup_con",
    "surrogate",
    "surrogate_slope",
    "top_push",
    "topk_threshold",
    "topk_threshold_step",
    "two_way_partial_auc",
]
