"""LibAUC's losses by their names and signatures, on the losses of this package.

Change ``from libauc.losses import ...`` to ``from xrisk_ext.libauc import ...``; the rest of a
training script, its optimizers too, stays. Gradients and states are LibAUC's wherever its behaviour
is a number and not an error or NaN; docs/from_libauc.md lists every difference.

Constructors take ``device`` and place the state there (None: CUDA if there is one), as LibAUC's do;
it is a buffer here, so ``.to()`` moves it, and ``state_dict()`` has it. An index may be on another
device than the scores, and where ids are those of positives it may list the positives alone.
"""

from xrisk_ext.libauc._auc import (
    APLoss,
    AveragePrecisionLoss,
    PairwiseAUCLoss,
    mAPLoss,
    meanAveragePrecisionLoss,
)
from xrisk_ext.libauc._auc_margin import (
    AUCMLoss,
    CompositionalAUCLoss,
    MultiLabelAUCMLoss,
    mAUCMLoss,
)
from xrisk_ext.libauc._classification import CrossEntropyLoss, EntLossClassification, FocalLoss
from xrisk_ext.libauc._contrastive import GCLoss, GCLoss_v1, GCLoss_v2
from xrisk_ext.libauc._multi_instance import (
    MIDAM_attention_pooling_loss,
    MIDAM_softmax_pooling_loss,
    MIDAMLoss,
)
from xrisk_ext.libauc._partial_auc import (
    MultiLabelpAUCLoss,
    mPAUCLoss,
    pAUC_CVaR_Loss,
    pAUC_DRO_Loss,
    pAUCLoss,
    tpAUC_CVaR_loss,
    tpAUC_KL_Loss,
)
from xrisk_ext.libauc._ranking import ListwiseCELoss, NDCGLoss

__all__ = [
    "APLoss",
    "AUCMLoss",
    "AveragePrecisionLoss",
    "CompositionalAUCLoss",
    "CrossEntropyLoss",
    "EntLossClassification",
    "FocalLoss",
    "GCLoss",
    "GCLoss_v1",
    "GCLoss_v2",
    "ListwiseCELoss",
    "MIDAMLoss",
    "MIDAM_attention_pooling_loss",
    "MIDAM_softmax_pooling_loss",
    "MultiLabelAUCMLoss",
    "MultiLabelpAUCLoss",
    "NDCGLoss",
    "PairwiseAUCLoss",
    "mAPLoss",
    "mAUCMLoss",
    "mPAUCLoss",
    "meanAveragePrecisionLoss",
    "pAUCLoss",
    "pAUC_CVaR_Loss",
    "pAUC_DRO_Loss",
    "tpAUC_CVaR_loss",
    "tpAUC_KL_Loss",
]
