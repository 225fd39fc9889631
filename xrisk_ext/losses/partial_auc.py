"""Partial AUC: the part of the ROC curve that a system can afford, one-way or two-way."""

from typing import Any, Literal

import torch
from torch import Tensor

from xrisk_ext.losses._score_loss import Reduction
from xrisk_ext.losses._top_loss import TopLoss
from xrisk_ext.ops.surrogates import Algorithm, Surrogate
from xrisk_ext.state import InitialState

Mode = Literal["kl", "cvar", "exact"]


def _check_mode(mode: str, name: str) -> None:
    if mode not in ("kl", "cvar", "exact"):
        raise ValueError(f"{name}: expected mode 'kl', 'cvar' or 'exact', got {mode!r}")


class PartialAUCLoss(TopLoss):
    r"""Maximises the area under the ROC curve over false-positive rates in [0, max_fpr].

    With :math:`\phi_{ij} = \phi(h_j - h_i)` the loss of a positive i and a negative j,
    :math:`\lambda` the ``kl_weight`` and :math:`\beta` the ``max_fpr``, the three modes minimise

    .. math::
        \text{kl:}\quad & \mathrm{mean}_i \, \lambda \log \mathrm{mean}_j \, e^{\phi_{ij} / \lambda}
        \\ \text{cvar:}\quad & \mathrm{mean}_i \min_{s_i}
        \left[ s_i + \mathrm{mean}_j \, (\phi_{ij} - s_i)_+ / \beta \right]
        \\ \text{exact:}\quad & \mathrm{mean}_i \,
        \mathrm{mean}_{j \text{ among the highest } \beta M} \phi_{ij}

    * ``"kl"`` (SOPA-s): a smooth emphasis on the highest negatives, the stronger the smaller
      ``kl_weight``; ``max_fpr`` has no part. Per positive the logarithm of a moving average is
      kept, with weight ``gamma`` of the new observation: no score gap can overflow it.
    * ``"cvar"`` (SOPA): negatives whose loss exceeds a threshold s_i count, and s_i moves by steps
      of ``eta`` until a share ``max_fpr`` of them does. The thresholds are kept per positive, and
      start at 0.
    * ``"exact"``: what "cvar" is at its best thresholds, in the batch, for a surrogate that grows
      with the gap: the highest ``max_fpr`` M negatives by selection, the last by its fraction. No
      state: ``num_samples`` and ``index`` may be left out. A small batch knows little of a small
      ``max_fpr``.

    Args:
        num_samples: ids that may occur in ``index``. Only positives use theirs. ``None`` keeps no
            state: for ``"exact"``, or ``"kl"`` with ``gamma=1``.
        mode: ``"kl"``, ``"cvar"`` or ``"exact"``.
        max_fpr: in (0, 1].
        kl_weight: > 0, in the units of the surrogate; may be assigned at any time.
        gamma: in [0, 1], mode "kl"; may be assigned at any time.
        eta: step of the thresholds, >= 0, mode "cvar"; may be assigned at any time.
        num_labels: L, for scores and labels ``[B, L]`` with a state per label; None for one label.
        surrogate, margin, scale, algorithm: as in :func:`xrisk_ext.ops.pairwise_sums`. ``scale``
            may be assigned at any time. Mode "kl" takes ``"auto"`` or
            ``"direct"``; "auto" sums large batches as :func:`xrisk_ext.ops.pairwise_log_sums` does.
        state_dtype: float32 or float64.
        reduction: ``"mean"`` over the labels (one without positives or negatives counts as 0), or
            ``"none"``: ``[L]``.
        initial_state: of mode "kl": ``"assign"``: the first observation of an id is taken as it
            is. ``"zero"``: it is averaged with zero, as LibAUC does.

    The value is the current estimate of the objective. In ``eval()`` the state is neither read nor
    written: value and gradient are those of the batch alone ("cvar" is then "exact"). A batch
    without positives or without negatives gives zero and leaves the state alone. If a score is NaN
    or infinite, value and gradient are NaN and the state is left alone. An id that occurs several
    times in a batch is moved by the mean of its entries.

    Source: Zhu et al., "When AUC meets DRO: optimizing partial AUC for deep learning with
    non-convex convergence guarantee" (ICML 2022).
    """

    def __init__(
        self,
        num_samples: int | None = None,
        *,
        mode: Mode = "kl",
        max_fpr: float = 0.2,
        kl_weight: float = 1.0,
        gamma: float = 0.9,
        eta: float = 0.1,
        num_labels: int | None = None,
        surrogate: Surrogate = "squared_hinge",
        margin: float = 1.0,
        scale: float = 1.0,
        algorithm: Algorithm = "auto",
        state_dtype: torch.dtype = torch.float32,
        reduction: Reduction = "mean",
        initial_state: InitialState = "assign",
    ) -> None:
        _check_mode(mode, "PartialAUCLoss")
        super().__init__(
            rule=mode,
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
            max_fpr=max_fpr,
            kl_weight=kl_weight,
            eta=eta,
        )
        self.mode = mode

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
            scores: ``[B]`` or ``[B, 1]``, or ``[B, num_labels]``; float32, float64, float16 or
                bfloat16.
            labels: the scores' shape, any integer, bool or floating dtype; positive where > 0.
            index: the samples' ids ``[B]``, int64 or int32, in [0, num_samples) where a label is
                positive; the others are ignored and may be -1.
            item_weights: ``[B]`` or the scores' shape, >= 0. An entry of weight w counts as w
                entries; weight 0 removes it (a missing label).
            update_state: False blends with the state but writes nothing (for closures, SAM,
                recomputation under activation checkpointing).

        Raises:
            IndexError: an id of a positive is out of range.
            ValueError: a shape, device or weight that is not as above, or no index where there is
                state.
            TypeError: an argument that is not a tensor, or of a dtype that is not as above.

        Where it raises, nothing has been written.
        """
        return self._step(scores, labels, index, item_weights, update_state)

    def _options(self) -> dict[str, Any]:
        return {"mode": self.mode, "max_fpr": self.max_fpr}


class TwoWayPartialAUCLoss(TopLoss):
    r"""Maximises the area under the ROC curve where FPR <= max_fpr and TPR >= min_tpr.

    The lowest positives count, as the highest negatives do. With :math:`\lambda` the ``kl_weight``,
    :math:`\lambda'` the ``positive_kl_weight``, :math:`\beta` the ``max_fpr`` and
    :math:`\theta = 1 -` ``min_tpr``, the modes minimise

    .. math::
        \text{kl:}\quad & \lambda' \log \mathrm{mean}_i
        \left( \mathrm{mean}_j \, e^{\phi_{ij} / \lambda} \right)^{\lambda / \lambda'}
        \\ \text{cvar:}\quad & \min_t \left[ t + \mathrm{mean}_i \, (g_i - t)_+ / \theta \right],
        \quad g_i = \min_{s_i} \left[ s_i + \mathrm{mean}_j \, (\phi_{ij} - s_i)_+ / \beta \right]
        \\ \text{exact:}\quad & \text{the mean of } \phi_{ij} \text{ over the lowest } \theta P
        \text{ positives and the highest } \beta M \text{ negatives}

    * ``"kl"`` (SOTA-s): moving averages per positive (``gamma``) and one per label
      (``outer_gamma``), all as logarithms; ``max_fpr`` and ``min_tpr`` have no part.
    * ``"cvar"`` (STACO): per positive a threshold s_i (step ``eta``) and a dual variable y_i in
      [0, 1] (step ``dual_eta``) that says how much it counts; per label the threshold t (step
      ``outer_eta``). They start at 0, 1 and 0.
    * ``"exact"``: by selection in the batch; no state.

    Args:
        min_tpr: in [0, 1).
        positive_kl_weight, outer_gamma, dual_eta, outer_eta: as above; may be assigned at any time.

    The others, shapes, errors and the rest: :class:`PartialAUCLoss`.

    Source: mode "kl" Zhu et al. (ICML 2022); mode "cvar" Zhou et al., "Stochastic primal-dual
    double block-coordinate for two-way partial AUC maximization" (TMLR 2025).
    """

    def __init__(
        self,
        num_samples: int | None = None,
        *,
        mode: Mode = "kl",
        max_fpr: float = 0.5,
        min_tpr: float = 0.5,
        kl_weight: float = 1.0,
        positive_kl_weight: float = 1.0,
        gamma: float = 0.9,
        outer_gamma: float = 0.9,
        eta: float = 0.1,
        dual_eta: float = 0.1,
        outer_eta: float = 0.1,
        num_labels: int | None = None,
        surrogate: Surrogate = "squared_hinge",
        margin: float = 1.0,
        scale: float = 1.0,
        algorithm: Algorithm = "auto",
        state_dtype: torch.dtype = torch.float32,
        reduction: Reduction = "mean",
        initial_state: InitialState = "assign",
    ) -> None:
        _check_mode(mode, "TwoWayPartialAUCLoss")
        super().__init__(
            rule="exact" if mode == "exact" else f"two_way_{mode}",
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
            max_fpr=max_fpr,
            min_tpr=min_tpr,
            kl_weight=kl_weight,
            positive_kl_weight=positive_kl_weight,
            outer_gamma=outer_gamma,
            eta=eta,
            dual_eta=dual_eta,
            outer_eta=outer_eta,
        )
        self.mode = mode

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        index: Tensor | None = None,
        *,
        item_weights: Tensor | None = None,
        update_state: bool = True,
    ) -> Tensor:
        """As :meth:`PartialAUCLoss.forward`."""
        return self._step(scores, labels, index, item_weights, update_state)

    def _options(self) -> dict[str, Any]:
        return {"mode": self.mode, "max_fpr": self.max_fpr, "min_tpr": self.min_tpr}
