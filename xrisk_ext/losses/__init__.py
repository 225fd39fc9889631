"""Losses: `torch.nn.Module`s whose state is in registered buffers. One file per family."""

from xrisk_ext.losses._contrastive_loss import cosine_gamma
from xrisk_ext.losses.auc import PairwiseAUCLoss
from xrisk_ext.losses.auc_margin import AUCMarginLoss, MinMaxAUCLoss
from xrisk_ext.losses.average_precision import AveragePrecisionLoss, MeanAveragePrecisionLoss
from xrisk_ext.losses.classification import ClassBalancedCrossEntropyLoss, FocalLoss, LDAMLoss
from xrisk_ext.losses.compositional_entropic import CompositionalEntropicLoss
from xrisk_ext.losses.contrastive import BimodalGlobalContrastiveLoss, GlobalContrastiveLoss
from xrisk_ext.losses.contrastive_baselines import (
    CLIPLoss,
    EqCoLoss,
    FlatNCELoss,
    NTXentLoss,
    SupConLoss,
)
from xrisk_ext.losses.contrastive_queues import MoCoLoss, NNCLRLoss
from xrisk_ext.losses.learning_to_rank import (
    ApproxNDCGLoss,
    LambdaRankLoss,
    ListMLELoss,
    ListNetLoss,
    NeuralNDCGLoss,
    RankNetLoss,
)
from xrisk_ext.losses.listwise import ListwiseCrossEntropyLoss
from xrisk_ext.losses.multi_instance import MultiInstancePooling
from xrisk_ext.losses.ndcg import NDCGLoss
from xrisk_ext.losses.partial_auc import PartialAUCLoss, TwoWayPartialAUCLoss
from xrisk_ext.losses.push import PNormPushLoss, TopPushLoss
from xrisk_ext.losses.retrieval import FastAPLoss, RecallAtKLoss, SmoothAPLoss

__all__ = [
    "AUCMarginLoss",
    "ApproxNDCGLoss",
    "AveragePrecisionLoss",
    "BimodalGlobalContrastiveLoss",
    "CLIPLoss",
    "ClassBalancedCrossEntropyLoss",
    "CompositionalEntropicLoss",
    "EqCoLoss",
    "FastAPLoss",
    "FlatNCELoss",
    "FocalLoss",
    "GlobalContrastiveLoss",
    "LDAMLoss",
    "LambdaRankLoss",
    "ListMLELoss",
    "ListNetLoss",
    "ListwiseCrossEntropyLoss",
    "MeanAveragePrecisionLoss",
    "MinMaxAUCLoss",
    "MoCoLoss",
    "MultiInstancePooling",
    "NDCGLoss",
    "NNCLRLoss",
    "NTXentLoss",
    "NeuralNDCGLoss",
    "PNormPushLoss",
    "PairwiseAUCLoss",
    "PartialAUCLoss",
    "RankNetLoss",
    "RecallAtKLoss",
    "SmoothAPLoss",
    "SupConLoss",
    "TopPushLoss",
    "TwoWayPartialAUCLoss",
    "cosine_gamma",
]
