"""Losses: `torch.nn.Module`s whose state is in registered buffers. One file per family."""

from xrisk_ext.losses.auc import PairwiseAUCLoss
from xrisk_ext.losses.average_precision import AveragePrecisionLoss, MeanAveragePrecisionLoss
from xrisk_ext.losses.listwise import ListwiseCrossEntropyLoss
from xrisk_ext.losses.ndcg import NDCGLoss

__all__ = [
    "AveragePrecisionLoss",
    "ListwiseCrossEntropyLoss",
    "MeanAveragePrecisionLoss",
    "NDCGLoss",
    "PairwiseAUCLoss",
]
