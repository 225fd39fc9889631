"""Push losses: what stands above the positives is pushed down, the highest negatives most."""

from typing import Any

import torch
from torch import Tensor

from xrisk_ext.losses._score_loss import Reduction
from xrisk_ext.losses._top_loss import TopLoss
from xrisk_ext.ops.surrogates import Algorithm, Surrogate
from xrisk_ext.state import InitialState


class TopPushLoss(TopLoss):
    r"""Mean surrogate of every positive against the highest negative of the batch; no state.

    .. math:: F = \mathrm{mean}_i \, \phi(\max_j h_j - h_i)

    The limit of partial AUC as ``max_fpr`` goes to 0. Of negatives that tie the first counts; one
    of ``item_weights`` below 1 shares its place with the next.

    Args:
        num_labels: L, for scores and labels ``[B, L]``; None for one label.
        surrogate, margin, scale, algorithm: as in :func:`xrisk_ext.ops.pairwise_sums`. ``scale``
            may be assigned at any time.
        state_dtype: taken as by every score loss; there is no state here.
        reduction: ``"mean"`` over the labels, or ``"none"``: ``[L]``.

    A batch without positives or without negatives gives zero. If a score is NaN or infinite, value
    and gradient are NaN.

    Source: Li, Jin & Zhou, "Top rank optimization in linear time" (NeurIPS 2014).
    """

    def __init__(
        self,
        *,
        num_labels: int | None = None,
        surrogate: Surrogate = "squared_hinge",
        margin: float = 1.0,
        scale: float = 1.0,
        algorithm: Algorithm = "auto",
        state_dtype: torch.dtype = torch.float32,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(
            rule="top_push",
            num_samples=None,
            num_labels=num_labels,
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
        index: Tensor | None = None,
        *,
        item_weights: Tensor | None = None,
        update_state: bool = True,
    ) -> Tensor:
        """The loss of a batch; arguments and errors as :meth:`PartialAUCLoss.forward`.

        ``index`` is taken as by the other losses, and not used.
        """
        return self._step(scores, labels, index, item_weights, update_state)


class PNormPushLoss(TopLoss):
    r"""Mean over the negatives of the p-th power of how far they stand above the positives.

    .. math:: F = \mathrm{mean}_j \, u_j^p, \qquad
        u_j \leftarrow (1 - \gamma) u_j + \gamma \, \mathrm{mean}_i \, \phi(h_j - h_i)

    The anchors are the NEGATIVES: it is their ids that ``index`` must have, and that a moving
    average is kept for (as a logarithm; a power of it may still exceed the range of the scores'
    dtype, and the value is infinite then). p = 1 is pairwise AUC; the larger p, the more the
    highest negatives count.

    Args:
        num_samples: ids that may occur in ``index``; only negatives use theirs. ``None`` keeps no
            state and needs ``gamma=1``.
        p: the power, >= 1.
        gamma: weight of the new observation, in [0, 1]; may be assigned at any time.
        num_labels: L, for scores and labels ``[B, L]`` with a state per label; None for one label.
        surrogate, margin, scale, algorithm: as in :func:`xrisk_ext.ops.pairwise_sums`. ``scale``
            may be assigned at any time.
        state_dtype: float32 or float64.
        reduction: ``"mean"`` over the labels, or ``"none"``: ``[L]``.
        initial_state: ``"assign"``: the first observation of an id is taken as it is. ``"zero"``:
            it is averaged with zero.

    Eval mode, empty sets and bad scores: as :class:`PartialAUCLoss`.

    Source: Rudin, "The p-norm push" (JMLR 2009).
    """

    def __init__(
        self,
        num_samples: int | None = None,
        *,
        p: float = 4.0,
        gamma: float = 0.9,
        num_labels: int | None = None,
        surrogate: Surrogate = "squared_hinge",
        margin: float = 1.0,
        scale: float = 1.0,
        algorithm: Algorithm = "auto",
        state_dtype: torch.dtype = torch.float32,
        reduction: Reduction = "mean",
        initial_state: InitialState = "assign",
    ) -> None:
        super().__init__(
            rule="p_norm_push",
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
            power=p,
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
        """The loss of a batch; as :meth:`PartialAUCLoss.forward`, but the ids in range must be
        those of the negatives.
        """
        return self._step(scores, labels, index, item_weights, update_state)

    def _options(self) -> dict[str, Any]:
        return {"p": self.power}
