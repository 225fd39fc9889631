"""The area under the ROC curve."""

import torch
from torch import Tensor

from xrisk_ext.losses._score_loss import Reduction, ScoreLoss, check_single_label
from xrisk_ext.ops.surrogates import Algorithm, Surrogate


class PairwiseAUCLoss(ScoreLoss):
    r"""Mean surrogate over all (positive, negative) pairs of the batch; no state.

    .. math:: F = \frac{1}{P M} \sum_{i \in +} \sum_{j \in -} \phi(h_j - h_i)

    Args:
        surrogate, margin, scale, algorithm: as in :func:`xrisk_ext.ops.pairwise_sums`. ``scale``
            may be assigned at any time.
        state_dtype: taken as by every score loss; there is no state here.
        reduction: ``"mean"`` (a scalar) or ``"none"`` (``[1]``: one value per label).

    A batch without positives or without negatives gives zero. If a score is NaN or infinite, value
    and gradient are NaN.
    """

    def __init__(
        self,
        *,
        surrogate: Surrogate = "squared_hinge",
        margin: float = 1.0,
        scale: float = 1.0,
        algorithm: Algorithm = "auto",
        state_dtype: torch.dtype = torch.float32,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(
            rule="pairwise_auc",
            num_samples=None,
            num_labels=1,
            gamma=1.0,
            surrogate=surrogate,
            margin=margin,
            scale=scale,
            algorithm=algorithm,
            state_dtype=state_dtype,
            reduction=reduction,
        )

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        *,
        item_weights: Tensor | None = None,
        update_state: bool = True,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            scores: ``[B]`` or ``[B, 1]``, float32, float64, float16 or bfloat16.
            labels: the scores' shape, any integer, bool or floating dtype; positive where > 0.
            item_weights: ``[B]``, >= 0. An entry of weight w counts as w entries, as an item and as
                an anchor; weight 0 removes it.
            update_state: taken as by every score loss; there is no state here.

        Raises:
            ValueError: a shape, device or weight that is not as above.
            TypeError: an argument that is not a tensor, or of a dtype that is not as above.
        """
        check_single_label(scores, "PairwiseAUCLoss")
        return self._step(scores, labels, None, item_weights, update_state)
