"""Losses: `torch.nn.Module`s whose state is in registered buffers. One file per family."""

from xrisk_ext.losses._contrastive_loss import cosine_gamma
from xrisk_ext.losses.auc import PairwiseAUCLoss
from xrisk_ext.losses.average_precision import AveragePrecisionLoss, MeanAveragePrecisionLoss
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

__all__ = [
    "AveragePrecisionLoss",
    "BimodalGlobalContrastiveLoss",
    "CLIPLoss",
    "CompositionalEntropicLoss",
    "EqCoLoss",
    "FlatNCELoss",
    "GlobalContrastiveLoss",
    "MeanAveragePrecisionLoss",
    "MoCoLoss",
    "NNCLRLoss",
    "NTXentLoss",
    "PairwiseAUCLoss",
    "SupConLoss",
    "cosine_gamma",
]
