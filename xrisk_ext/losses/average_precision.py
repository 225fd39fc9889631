"""Average precision: SOAP for one label, and its mean over the labels of a multi-label task."""

import torch
from torch import Tensor

from xrisk_ext.losses._score_loss import Reduction, ScoreLoss, check_num_labels, check_single_label
from xrisk_ext.ops.surrogates import Algorithm, Surrogate
from xrisk_ext.state import InitialState


class AveragePrecisionLoss(ScoreLoss):
    r"""Maximises average precision (the area under the precision-recall curve).

    With :math:`\phi` a surrogate of "item j outranks anchor i" and the means taken over the batch,

    .. math:: F = -\frac{1}{n_+} \sum_{i \in +} \frac{u^{pos}_i}{u^{all}_i}, \qquad
        u_i \leftarrow (1 - \gamma) u_i + \gamma \, \mathrm{mean}_j \, \phi(h_j - h_i),

    where ``u_all`` averages over all items of the batch and ``u_pos`` over its positive ones. The
    returned value is the current estimate of F (between -1 and 0); its gradient is the dynamic
    gradient of SOAP, with u taken after the update.

    Args:
        num_samples: ids that may occur in ``index``. Only positives use theirs, so it may count the
            positives alone. ``None`` keeps no state and needs ``gamma=1``.
        surrogate, margin, scale: as in :func:`xrisk_ext.ops.pairwise_sums`. ``scale`` may be
            assigned at any time. The margin is in the units of the scores: for scores in [0, 1]
            (a sigmoid) values from 0.2 to 1 are worth trying.
        gamma: weight of the new observation, in [0, 1]; may be assigned at any time.
        algorithm: ``"auto"``, ``"direct"``, ``"sort"`` or ``"smooth"``, as in ``pairwise_sums``.
        state_dtype: float32 or float64.
        reduction: ``"mean"`` (a scalar) or ``"none"`` (``[1]``: one value per label).
        initial_state: ``"assign"``: the first observation of an id is taken as it is. ``"zero"``:
            it is averaged with zero, as LibAUC does.

    In ``eval()`` the state is neither read nor written: value and gradient are those of the batch
    alone. A batch without positives gives zero and leaves the state alone. If a score is NaN or
    infinite, value and gradient are NaN and the state is left alone.

    Source: Qi et al., "Stochastic optimization of areas under precision-recall curves with provable
    convergence" (NeurIPS 2021).
    """

    def __init__(
        self,
        num_samples: int | None = None,
        *,
        surrogate: Surrogate = "squared_hinge",
        margin: float = 1.0,
        scale: float = 1.0,
        gamma: float = 0.9,
        algorithm: Algorithm = "auto",
        state_dtype: torch.dtype = torch.float32,
        reduction: Reduction = "mean",
        initial_state: InitialState = "assign",
    ) -> None:
        super().__init__(
            rule="average_precision",
            num_samples=num_samples,
            num_labels=1,
            gamma=gamma,
            surrogate=surrogate,
            margin=margin,
            scale=scale,
            algorithm=algorithm,
            state_dtype=state_dtype,
            reduction=reduction,
            initial_state=initial_state,
        )

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        index: Tensor | None = None,
        *,
        item_weights: Tensor | None = None,
        update_state: bool = True,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            scores: ``[B]`` or ``[B, 1]``, float32, float64, float16 or bfloat16.
            labels: the scores' shape, any integer, bool or floating dtype; positive where > 0.
            index: the samples' ids ``[B]``, int64 or int32, in [0, num_samples) where the label is
                positive; the others are ignored and may be -1.
            item_weights: ``[B]``, >= 0. An entry of weight w counts as w entries, as an item and as
                an anchor; weight 0 removes it (a missing label).
            update_state: False blends with the state but writes nothing (for closures, SAM,
                recomputation under activation checkpointing).

        Raises:
            IndexError: an id of a positive is out of range.
            ValueError: a shape, device or weight that is not as above, or no index where there is
                state.
            TypeError: an argument that is not a tensor, or of a dtype that is not as above.

        Where it raises, nothing has been written.
        """
        check_single_label(scores, "AveragePrecisionLoss")
        return self._step(scores, labels, index, item_weights, update_state)


class MeanAveragePrecisionLoss(ScoreLoss):
    """Mean average precision over the labels of a multi-label task, all in one call.

    :class:`AveragePrecisionLoss` for every label, with its own state; arguments as there, and

    Args:
        num_labels: L, the columns of scores and labels.
        top_k: mAP@K is not part of this version; only None is taken.
        reduction: ``"mean"`` over the L labels (a label without positives counts as 0), or
            ``"none"``: ``[L]``.
    """

    def __init__(
        self,
        num_samples: int | None,
        num_labels: int,
        *,
        surrogate: Surrogate = "squared_hinge",
        margin: float = 1.0,
        scale: float = 1.0,
        gamma: float = 0.9,
        algorithm: Algorithm = "auto",
        top_k: int | None = None,
        state_dtype: torch.dtype = torch.float32,
        reduction: Reduction = "mean",
        initial_state: InitialState = "assign",
    ) -> None:
        if top_k is not None:
            raise ValueError(
                "MeanAveragePrecisionLoss: mAP@K is not built in this version, expected "
                f"top_k=None, got {top_k!r}"
            )
        super().__init__(
            rule="average_precision",
            num_samples=num_samples,
            num_labels=num_labels,
            gamma=gamma,
            surrogate=surrogate,
            margin=margin,
            scale=scale,
            algorithm=algorithm,
            state_dtype=state_dtype,
            reduction=reduction,
            initial_state=initial_state,
        )
        self.num_labels = num_labels

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        index: Tensor | None = None,
        *,
        item_weights: Tensor | None = None,
        update_state: bool = True,
    ) -> Tensor:
        """As :meth:`AveragePrecisionLoss.forward`, with scores and labels ``[B, L]``.

        ``item_weights`` may be ``[B]`` or ``[B, L]``; weight 0 at (b, l) is a missing label. A
        sample needs an id if any of its labels is positive.
        """
        check_num_labels(scores, self.num_labels, "MeanAveragePrecisionLoss")
        return self._step(scores, labels, index, item_weights, update_state)
