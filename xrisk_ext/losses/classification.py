"""Pointwise losses for imbalanced data: the baselines of the published comparisons."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from xrisk_ext.losses._label_loss import LabelLoss, check_number
from xrisk_ext.losses._score_loss import Reduction
from xrisk_ext.ops.moments import cross_entropy_step

Counts = Sequence[float] | Sequence[Sequence[float]] | Tensor


class _CrossEntropyLoss(LabelLoss):
    """Cross entropy with class weights and margins ``[2, num_labels]``, negatives first."""

    class_weights: Tensor | None
    class_margins: Tensor | None
    scale = 1.0
    focus = 0.0

    def __init__(
        self,
        num_labels: int,
        reduction: Reduction,
        class_weights: Tensor | None,
        class_margins: Tensor | None,
    ) -> None:
        super().__init__(num_labels, reduction)
        self.register_buffer("class_weights", class_weights)
        self.register_buffer("class_margins", class_margins)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_CrossEntropyLoss":
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():  # they stay exact
            new = self._buffers[name]
            if old is not None and new is not None:
                self._buffers[name] = old.to(new.device)
        return self

    def _class_counts(self, given: Counts) -> Tensor:
        counts = self._numbers("class_counts", given, 2)
        if not bool(((counts >= 1) & counts.isfinite()).all()):
            raise ValueError(f"{type(self).__name__}: expected class_counts >= 1, got {given!r}")
        return counts

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
            scores: logits ``[B]`` or ``[B, 1]``, or ``[B, num_labels]``; float32, float64, float16
                or bfloat16.
            labels: the scores' shape, any integer, bool or floating dtype; positive where > 0.
            item_weights: ``[B]`` or the scores' shape, >= 0; the loss of a label is the weighted
                mean. Weight 0 removes an entry (a missing label).
            update_state: taken as by every score loss; there is no state here.

        Raises:
            ValueError: a shape, device or weight that is not as above.
            TypeError: an argument that is not a tensor, or of a dtype that is not as above.
        """
        self._check(scores, labels, item_weights, self.class_weights)
        return cross_entropy_step(
            scores, labels, item_weights, self.class_weights, self.class_margins, self.scale,
            self.focus, self.reduction == "mean",
        )  # fmt: skip


class FocalLoss(_CrossEntropyLoss):
    r"""Focal loss: cross entropy that looks away from what is classified well already.

    .. math:: -\alpha_t (1 - p_t)^\gamma \log p_t, \qquad
        p_t = \sigma(h) \text{ for a positive}, \; 1 - \sigma(h) \text{ for a negative}

    Args:
        alpha: weight of the positives, in [0, 1]; that of the negatives is 1 - alpha.
        gamma: how strongly well classified entries are discounted, >= 0; 0 is cross entropy.
        num_labels: columns of the scores.
        reduction: ``"mean"`` over the labels, or ``"none"``: ``[num_labels]``.

    An empty batch gives zero; if a score is NaN or infinite, value and gradient are NaN.

    Source: Lin et al., "Focal loss for dense object detection" (ICCV 2017).
    """

    def __init__(
        self,
        *,
        alpha: float = 0.25,
        gamma: float = 2.0,
        num_labels: int = 1,
        reduction: Reduction = "mean",
    ) -> None:
        if check_number("FocalLoss", "alpha", alpha, 0.0) > 1:
            raise ValueError(f"FocalLoss: expected alpha <= 1, got {alpha!r}")
        weights = torch.tensor([[1.0 - alpha], [alpha]], dtype=torch.float64)
        super().__init__(num_labels, reduction, weights.repeat(1, num_labels), None)
        self.alpha = float(alpha)
        self.gamma = self.focus = check_number("FocalLoss", "gamma", gamma, 0.0)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, gamma={self.gamma}, reduction={self.reduction!r}"


class ClassBalancedCrossEntropyLoss(_CrossEntropyLoss):
    r"""Cross entropy, each class weighed by the inverse of its effective number of samples.

    .. math:: w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}, \qquad w_- + w_+ = 2

    Args:
        class_counts: samples in the training data, (negatives, positives): ``[2]``, or
            ``[2, num_labels]``; >= 1.
        beta: in [0, 1): 0 weighs the classes alike, towards 1 by their inverse frequency.
        num_labels, reduction: as in :class:`FocalLoss`.

    An empty batch gives zero; if a score is NaN or infinite, value and gradient are NaN.

    Source: Cui et al., "Class-balanced loss based on effective number of samples" (CVPR 2019).
    """

    def __init__(
        self,
        class_counts: Counts,
        *,
        beta: float = 0.9999,
        num_labels: int = 1,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(num_labels, reduction, None, None)
        if check_number("ClassBalancedCrossEntropyLoss", "beta", beta, 0.0) >= 1:
            raise ValueError(f"ClassBalancedCrossEntropyLoss: expected beta < 1, got {beta!r}")
        self.beta = float(beta)
        self.class_weights = balanced_weights(self._class_counts(class_counts), self.beta)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, num_labels={self.num_labels}, reduction={self.reduction!r}"


def balanced_weights(counts: Tensor, beta: float) -> Tensor:
    """Class weights ``[2, L]`` from class counts ``[2, L]``; those of a label sum to 2."""
    weights = 1 / (1 - beta**counts)  # the factor 1 - beta cancels
    return 2 * weights / weights.sum(0)


class LDAMLoss(_CrossEntropyLoss):
    r"""Label-distribution-aware margins: the rarer class has to be right by more.

    .. math:: \mathrm{softplus}(-s ((2 y - 1) h - \Delta_y)), \qquad
        \Delta_c = \Delta_{max} \left( \frac{\min(n)}{n_c} \right)^{1/4}

    The one-logit form; the paper's h are logits of normalised features and weights, in [-1, 1].

    Args:
        class_counts: as in :class:`ClassBalancedCrossEntropyLoss`.
        max_margin: of the rarer class, >= 0.
        scale: s, > 0.
        beta: 0 for no class weights; otherwise they are those of
            :class:`ClassBalancedCrossEntropyLoss`. The paper turns them on late in training:
            ``loss.reweight(0.9999)``.
        num_labels, reduction: as in :class:`FocalLoss`.

    An empty batch gives zero; if a score is NaN or infinite, value and gradient are NaN.

    Source: Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss"
    (NeurIPS 2019).
    """

    class_counts: Tensor

    def __init__(
        self,
        class_counts: Counts,
        *,
        max_margin: float = 0.5,
        scale: float = 30.0,
        beta: float = 0.0,
        num_labels: int = 1,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(num_labels, reduction, None, None)
        counts = self._class_counts(class_counts)
        self.max_margin = check_number("LDAMLoss", "max_margin", max_margin, 0.0)
        self.scale = check_number("LDAMLoss", "scale", scale, 0.0, strict=True)
        self.class_margins = self.max_margin * (counts.min(0).values / counts) ** 0.25
        self.register_buffer("class_counts", counts)
        self.reweight(beta)

    def reweight(self, beta: float) -> None:
        """Class weights from now on: the deferred re-weighting of the paper. 0 for none."""
        if check_number("LDAMLoss", "beta", beta, 0.0) >= 1:
            raise ValueError(f"LDAMLoss: expected beta < 1, got {beta!r}")
        self.beta = float(beta)
        self.class_weights = balanced_weights(self.class_counts, self.beta)

    def extra_repr(self) -> str:
        return (
            f"max_margin={self.max_margin}, scale={self.scale}, beta={self.beta}, "
            f"num_labels={self.num_labels}, reduction={self.reduction!r}"
        )
