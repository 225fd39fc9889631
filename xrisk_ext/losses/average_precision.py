"""Average precision: SOAP for one label, and its mean over the labels of a multi-label task."""

import torch
from torch import Tensor

from xrisk_ext.losses._score_loss import Reduction, ScoreLoss, check_num_labels, check_single_label
from xrisk_ext.losses._top_k import PsiSlope, Threshold, TopKLoss, TopKVersion
from xrisk_ext.ops.ranking_step import RULES, ranking_step
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


class MeanAveragePrecisionLoss(ScoreLoss, TopKLoss):
    r"""Mean average precision over the labels of a multi-label task, all in one call.

    :class:`AveragePrecisionLoss` for every label, with its own state. With ``top_k`` that of the
    top K items of each label (mAP@K), in its bilevel form: a positive's share is weighted by
    :math:`\psi(h_i - \lambda)`, where the threshold :math:`\lambda` of the label follows the
    (K+1)-th largest score, as in :class:`NDCGLoss`. Arguments as in these two, and

    Args:
        num_labels: L, the columns of scores and labels.
        top_k: K, as a number of the ``num_items`` items, or None.
        num_items: how many items a label ranks; ``None``: those of the batch.
        reduction: ``"mean"`` over the L labels (a label without positives counts as 0), or
            ``"none"``: ``[L]``.

    Source of the bilevel form: Qiu et al., ICML 2022.
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
        num_items: int | None = None,
        gamma1: float = 0.9,
        eta0: float = 0.01,
        tau1: float = 0.01,
        tau2: float = 1e-4,
        sigmoid_alpha: float = 2.0,
        epsilon: float = 0.5,
        top_k_version: TopKVersion = "theoretical",
        threshold: Threshold = "step",
        psi_slope: PsiSlope = "derivative",
        state_dtype: torch.dtype = torch.float32,
        reduction: Reduction = "mean",
        initial_state: InitialState = "assign",
    ) -> None:
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
        self._add_top_k(
            top_k,
            None if num_samples is None else num_labels,
            version=top_k_version,
            threshold=threshold,
            psi_slope=psi_slope,
            epsilon=epsilon,
            state_dtype=state_dtype,
            initial_state=initial_state,
            schedules={
                "gamma1": gamma1,
                "eta0": eta0,
                "tau1": tau1,
                "tau2": tau2,
                "sigmoid_alpha": sigmoid_alpha,
            },
        )
        whole = isinstance(num_items, int) and not isinstance(num_items, bool)
        if num_items is not None and (not whole or num_items < 1):
            raise ValueError(
                "MeanAveragePrecisionLoss: expected num_items to be a positive integer, got "
                f"{num_items!r}"
            )
        items = None if num_items is None else torch.tensor(float(num_items), dtype=torch.float64)
        self.register_buffer("_num_items", items, persistent=False)

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
        if self.top_k is None:
            return self._step(scores, labels, index, item_weights, update_state)
        state = self._state_of_call(scores, labels, index, item_weights)
        thresholds, curvatures = self._top_k_state()
        return ranking_step(
            scores,
            labels,
            index if state is not None else None,
            None,
            None,
            None,
            item_weights,
            self._buffers["_num_items"],
            None,
            None,
            state,
            thresholds,
            curvatures,
            self.gamma,
            self.scale,
            self._top_k_schedules(),
            self.margin,
            self.epsilon,
            self.top_k,
            RULES["average_precision"],
            self._top_k_options,
            self._surrogate,
            self._algorithm,
            update_state,
            self.reduction == "mean",
        )

    def reset_state(self) -> None:
        """Forgets the moving averages and the thresholds, as if no batch had been seen."""
        super().reset_state()
        self._reset_top_k()

    def extra_repr(self) -> str:
        return super().extra_repr() + self._top_k_repr()
