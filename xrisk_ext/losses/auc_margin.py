"""The AUC as a min-max problem in the moments of each class: AUC margin, and its predecessor."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from xrisk_ext.losses._label_loss import LabelLoss, check_number
from xrisk_ext.losses._score_loss import Reduction
from xrisk_ext.ops.moments import AUC_MARGINS, auc_margin_step


class _MomentAUCLoss(LabelLoss):
    """Parameters a, b and alpha ``[num_labels]``; alpha ascends where an optimizer descends."""

    class_prior: Tensor | None

    def __init__(
        self,
        kind: str,
        num_labels: int,
        margin: float,
        class_prior: float | Sequence[float] | Tensor | None,
        reduction: Reduction,
    ) -> None:
        super().__init__(num_labels, reduction)
        name = type(self).__name__
        self.margin = check_number(name, "margin", margin, 0.0)
        self._kind = AUC_MARGINS[kind]
        self._clamps = kind != "min_max"
        prior = None if class_prior is None else self._numbers("class_prior", class_prior)
        if prior is not None and not bool(((prior > 0) & (prior < 1)).all()):
            raise ValueError(f"{name}: expected class_prior in (0, 1), got {class_prior!r}")
        self.register_buffer("class_prior", prior, persistent=False)  # no state
        self.a = nn.Parameter(torch.zeros(num_labels))
        self.b = nn.Parameter(torch.zeros(num_labels))
        self.alpha = nn.Parameter(torch.zeros(num_labels))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_MomentAUCLoss":
        before = self.class_prior
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if before is not None and self.class_prior is not None:
            self.class_prior = before.to(self.class_prior.device)  # stays exact
        return self

    def reset_state(self) -> None:
        """a, b and alpha back to 0."""
        with torch.no_grad():
            for parameter in (self.a, self.b, self.alpha):
                parameter.zero_()

    def ascend_alpha_(self, learning_rate: float) -> None:
        r"""PESG's own step for alpha, for training loops that leave alpha out of the optimizer.

        .. math:: \alpha \leftarrow \mathrm{clip}(\alpha + \eta (2 (m + b - a) - 2 \alpha), 0, 999)

        It takes a and b for the class means that they converge to, where the gradient takes the
        means of the batch. The released PESG does this.
        """
        with torch.no_grad():
            gradient = 2 * (self.margin + self.b - self.a) - 2 * self.alpha
            self.alpha.add_(gradient, alpha=learning_rate).clamp_(0, 999)

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        *,
        item_weights: Tensor | None = None,
        update_state: bool = True,
    ) -> Tensor:
        """The objective of a batch.

        Args:
            scores: ``[B]`` or ``[B, 1]``, or ``[B, num_labels]``; float32, float64, float16 or
                bfloat16.
            labels: the scores' shape, any integer, bool or floating dtype; positive where > 0.
            item_weights: ``[B]`` or the scores' shape, >= 0. An entry of weight w counts as w
                entries; weight 0 removes it (a missing label).
            update_state: False leaves an alpha below 0 as it is (it counts as 0 all the same).

        Raises:
            ValueError: a shape, device or weight that is not as above.
            TypeError: an argument that is not a tensor, or of a dtype that is not as above.
        """
        return self._objective(scores, labels, item_weights, update_state, self.class_prior)

    def _objective(
        self,
        scores: Tensor,
        labels: Tensor,
        item_weights: Tensor | None,
        update_state: bool,
        class_prior: Tensor | None,
        margin: float | None = None,
    ) -> Tensor:
        alpha = self.alpha
        self._check(scores, labels, item_weights, alpha)
        if self._clamps and self.training and update_state:
            alpha.detach().clamp_(min=0)
        return auc_margin_step(
            scores, labels, item_weights, self.a, self.b, alpha, class_prior,
            self.margin if margin is None else margin, self._kind, self.reduction == "mean",
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"num_labels={self.num_labels}, margin={self.margin}, reduction={self.reduction!r}"


class AUCMarginLoss(_MomentAUCLoss):
    r"""The AUC-margin objective: a min-max form of the AUC whose cost is linear in the batch.

    With a and b for the mean scores of the two classes, and m the margin, version 2 is

    .. math:: F = \mathrm{mean}_+ (h - a)^2 + \mathrm{mean}_- (h - b)^2
        + 2 \alpha (m + \mathrm{mean}_- h - \mathrm{mean}_+ h) - \alpha^2, \qquad \alpha \ge 0,

    minimised over scores, a and b, maximised over alpha. At the optimum of the three it is the sum
    of the variances of the classes and of the squared positive part of
    :math:`m + \mathrm{mean}_- h - \mathrm{mean}_+ h`. Version 1 weighs the classes by the
    prior p of the positives; with the batch's p it is p (1 - p) times
    version 2.

    ``a``, ``b`` and ``alpha`` are parameters ``[num_labels]``: give ``loss.parameters()`` to the
    optimizer along with the model's, without weight decay. The gradient that flows to alpha is
    reversed, so that any optimizer makes it ascend, and an alpha that a step took below 0 is set
    back to 0 in the next training-mode forward.

    Args:
        margin: m, in the units of the scores: 1 suits scores in [0, 1].
        num_labels: columns of the scores; each is a task of its own.
        version: ``"v2"``, which needs no prior and batches that have both classes; or ``"v1"``.
            Default: ``"v1"`` if a class prior is given, else ``"v2"``.
        class_prior: for version 1: p, the share of positives in the data, in (0, 1), one for all
            labels or ``[num_labels]``. Given, batches of one class count, too: a small batch stays
            an unbiased sample. Default: the share in each batch.
        reduction: ``"mean"`` over the labels, or ``"none"``: ``[num_labels]``.

    Otherwise a batch without positives or without negatives gives zero and no gradients. If a score
    is NaN or infinite, value and gradients are NaN.

    Source: Yuan et al., "Large-scale robust deep AUC maximization" (ICCV 2021).
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        num_labels: int = 1,
        version: Literal["v1", "v2"] | None = None,
        class_prior: float | Sequence[float] | Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        if version is None:
            version = "v2" if class_prior is None else "v1"
        if version not in ("v1", "v2"):
            raise ValueError(f"AUCMarginLoss: expected version 'v1' or 'v2', got {version!r}")
        if version == "v2" and class_prior is not None:
            raise ValueError("AUCMarginLoss: version 'v2' has no class_prior, got one")
        super().__init__(version, num_labels, margin, class_prior, reduction)
        self.version = version

    def extra_repr(self) -> str:
        return f"version={self.version!r}, {super().extra_repr()}"


class MinMaxAUCLoss(_MomentAUCLoss):
    r"""The min-max form of the pairwise squared loss (SOLAM), of which AUC margin is the successor.

    .. math:: F = (1 - p) E[(h - a)^2 1_+] + p E[(h - b)^2 1_-]
        + 2 (m + \alpha) E[p h 1_- - (1 - p) h 1_+] - p (1 - p) \alpha^2

    with expectations over the batch, p its share of positives or ``class_prior``, and alpha free of
    sign. Maximised over alpha, with a and b the class means, it is p (1 - p) times the mean
    pairwise squared loss, less m^2: scores that are further apart than the margin are pulled back.

    Parameters, their use and the arguments are those of :class:`AUCMarginLoss`; alpha is not
    clamped.

    Sources: Ying et al., "Stochastic online AUC maximization" (NIPS 2016); Liu et al., "Stochastic
    AUC maximization with deep neural networks" (ICLR 2020).
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        num_labels: int = 1,
        class_prior: float | Sequence[float] | Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__("min_max", num_labels, margin, class_prior, reduction)
