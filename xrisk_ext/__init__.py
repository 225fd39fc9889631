"""Fast X-risk objectives for PyTorch: fused C++ kernels behind thin autograd Functions."""

from xrisk_ext._build import load_extension
from xrisk_ext._version import __version__

_C = load_extension()

from xrisk_ext import losses, metrics, ops, reference  # noqa: E402
from xrisk_ext.losses import (  # noqa: E402
    AveragePrecisionLoss,
    MeanAveragePrecisionLoss,
    MultiInstancePooling,
    PairwiseAUCLoss,
    PartialAUCLoss,
    PNormPushLoss,
    TopPushLoss,
    TwoWayPartialAUCLoss,
)
from xrisk_ext.state import MovingAverage  # noqa: E402

__all__ = [
    "AveragePrecisionLoss",
    "MeanAveragePrecisionLoss",
    "MovingAverage",
    "MultiInstancePooling",
    "PNormPushLoss",
    "PairwiseAUCLoss",
    "PartialAUCLoss",
    "TopPushLoss",
    "TwoWayPartialAUCLoss",
    "__version__",
    "losses",
    "metrics",
    "ops",
    "reference",
]
