"""Losses: `torch.nn.Module`s whose state is in registered buffers. One file per family."""

from xrisk_ext.losses.auc import PairwiseAUCLoss
from xrisk_ext.losses.average_precision import AveragePrecisionLoss, MeanAveragePrecisionLoss
from xrisk_ext.losses.multi_instance import MultiInstancePooling
from xrisk_ext.losses.partial_auc import PartialAUCLoss, TwoWayPartialAUCLoss
from xrisk_ext.losses.push import PNormPushLoss, TopPushLoss

__all__ = [
    "AveragePrecisionLoss",
    "MeanAveragePrecisionLoss",
    "MultiInstancePooling",
    "PNormPushLoss",
    "PairwiseAUCLoss",
    "PartialAUCLoss",
    "TopPushLoss",
    "TwoWayPartialAUCLoss",
]
