"""Fast X-risk objectives for PyTorch: fused C++ kernels behind thin autograd Functions."""

from xrisk_ext._build import load_extension
from xrisk_ext._version import __version__

_C = load_extension()

from xrisk_ext import losses, metrics, ops, reference  # noqa: E402
from xrisk_ext.losses import (  # noqa: E402
    AveragePrecisionLoss,
    BimodalGlobalContrastiveLoss,
    GlobalContrastiveLoss,
    MeanAveragePrecisionLoss,
    PairwiseAUCLoss,
)
from xrisk_ext.state import MovingAverage  # noqa: E402

__all__ = [
    "AveragePrecisionLoss",
    "BimodalGlobalContrastiveLoss",
    "GlobalContrastiveLoss",
    "MeanAveragePrecisionLoss",
    "MovingAverage",
    "PairwiseAUCLoss",
    "__version__",
    "losses",
    "metrics",
    "ops",
    "reference",
]
