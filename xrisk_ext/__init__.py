"""Fast X-risk objectives for PyTorch: fused C++ kernels behind thin autograd Functions."""

from xrisk_ext._build import load_extension
from xrisk_ext._version import __version__

_C = load_extension()

from xrisk_ext import data, losses, metrics, ops, reference  # noqa: E402
from xrisk_ext.losses import (  # noqa: E402
    AUCMarginLoss,
    AveragePrecisionLoss,
    ClassBalancedCrossEntropyLoss,
    FocalLoss,
    LDAMLoss,
    MeanAveragePrecisionLoss,
    MinMaxAUCLoss,
    PairwiseAUCLoss,
    PartialAUCLoss,
    PNormPushLoss,
    TopPushLoss,
    TwoWayPartialAUCLoss,
)
from xrisk_ext.state import MovingAverage  # noqa: E402

__all__ = [
    "AUCMarginLoss",
    "AveragePrecisionLoss",
    "ClassBalancedCrossEntropyLoss",
    "FocalLoss",
    "LDAMLoss",
    "MeanAveragePrecisionLoss",
    "MinMaxAUCLoss",
    "MovingAverage",
    "PNormPushLoss",
    "PairwiseAUCLoss",
    "PartialAUCLoss",
    "TopPushLoss",
    "TwoWayPartialAUCLoss",
    "__version__",
    "data",
    "losses",
    "metrics",
    "ops",
    "reference",
]
