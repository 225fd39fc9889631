"""Fast X-risk objectives for PyTorch: fused C++ kernels behind thin autograd Functions."""

from xrisk_ext._build import load_extension
from xrisk_ext._version import __version__

_C = load_extension()

from xrisk_ext import distributed, losses, metrics, ops, reference  # noqa: E402
from xrisk_ext.losses import (  # noqa: E402
    AveragePrecisionLoss,
    BimodalGlobalContrastiveLoss,
    CLIPLoss,
    CompositionalEntropicLoss,
    EqCoLoss,
    FlatNCELoss,
    GlobalContrastiveLoss,
    MeanAveragePrecisionLoss,
    MoCoLoss,
    NNCLRLoss,
    NTXentLoss,
    PairwiseAUCLoss,
    SupConLoss,
)
from xrisk_ext.state import MovingAverage  # noqa: E402

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
    "MovingAverage",
    "NNCLRLoss",
    "NTXentLoss",
    "PairwiseAUCLoss",
    "SupConLoss",
    "__version__",
    "distributed",
    "losses",
    "metrics",
    "ops",
    "reference",
]
