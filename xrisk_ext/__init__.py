"""Fast X-risk objectives for PyTorch: fused C++ kernels behind thin autograd Functions."""

from xrisk_ext._build import load_extension
from xrisk_ext._version import __version__

_C = load_extension()

from xrisk_ext import data, losses, metrics, ops, reference  # noqa: E402
from xrisk_ext.losses import (  # noqa: E402
    ApproxNDCGLoss,
    AUCMarginLoss,
    AveragePrecisionLoss,
    BimodalGlobalContrastiveLoss,
    ClassBalancedCrossEntropyLoss,
    FastAPLoss,
    FocalLoss,
    GlobalContrastiveLoss,
    LambdaRankLoss,
    LDAMLoss,
    ListMLELoss,
    ListNetLoss,
    ListwiseCrossEntropyLoss,
    MeanAveragePrecisionLoss,
    MinMaxAUCLoss,
    MultiInstancePooling,
    NDCGLoss,
    NeuralNDCGLoss,
    PairwiseAUCLoss,
    PartialAUCLoss,
    PNormPushLoss,
    RankNetLoss,
    RecallAtKLoss,
    SmoothAPLoss,
    TopPushLoss,
    TwoWayPartialAUCLoss,
)
from xrisk_ext.state import MovingAverage  # noqa: E402

__all__ = [
    "AUCMarginLoss",
    "ApproxNDCGLoss",
    "AveragePrecisionLoss",
    "BimodalGlobalContrastiveLoss",
    "ClassBalancedCrossEntropyLoss",
    "FastAPLoss",
    "FocalLoss",
    "GlobalContrastiveLoss",
    "LDAMLoss",
    "LambdaRankLoss",
    "ListMLELoss",
    "ListNetLoss",
    "ListwiseCrossEntropyLoss",
    "MeanAveragePrecisionLoss",
    "MinMaxAUCLoss",
    "MovingAverage",
    "MultiInstancePooling",
    "NDCGLoss",
    "NeuralNDCGLoss",
    "PNormPushLoss",
    "PairwiseAUCLoss",
    "PartialAUCLoss",
    "RankNetLoss",
    "RecallAtKLoss",
    "SmoothAPLoss",
    "TopPushLoss",
    "TwoWayPartialAUCLoss",
    "__version__",
    "data",
    "losses",
    "metrics",
    "ops",
    "reference",
]
