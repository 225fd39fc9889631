"""Losses: `torch.nn.Module`s whose state is in registered buffers. One file per family."""

from xrisk_ext.losses.auc import PairwiseAUCLoss
from xrisk_ext.losses.average_precision import AveragePrecisionLoss, MeanAveragePrecisionLoss

__all__ = ["AveragePrecisionLoss", "MeanAveragePrecisionLoss", "PairwiseAUCLoss"]
