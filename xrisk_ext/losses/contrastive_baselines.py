"""The contrastive losses of the literature that keep no state per sample.

Each is a few lines on :func:`~xrisk_ext.ops.contrastive_log_sums`: no matrix of similarities is
stored, forward or backward, and positives are products of rows. `forward_rows` computes a process's
own rows against the keys of all (xrisk_ext.distributed). The mean of a whole batch is a fused step,
which multiplies similarities once for both directions.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from xrisk_ext.losses._class_positives import PairsLessPositives, class_sums
from xrisk_ext.losses._embeddings import (
    EmbeddingLoss,
    Reduction,
    accumulated,
    check_embeddings,
    row_products,
)
from xrisk_ext.losses._rows import WHOLE_BATCH, WholeBatch
from xrisk_ext.ops.contrastive import contrastive_log_sums
from xrisk_ext.ops.info_nce import info_nce_step
from xrisk_ext.ops.surrogates import check_devices, check_tensor


def _keys(queries: Tensor, own: Tensor, view1: Tensor, view2: Tensor) -> Tensor:
    """The rows of both views; the queries themselves where all rows are the own ones."""
    # a view, since the compiler takes no tensor for two arguments of a Function
    return queries.view_as(queries) if view1 is own else torch.cat((view1, view2))


class _TwoViewLoss(EmbeddingLoss, ABC):
    """Anchors are the 2B rows of two views, keys the other rows."""

    def forward(self, view1: Tensor, view2: Tensor, *, update_state: bool = True) -> Tensor:
        """The loss of a batch.

        Args:
            view1, view2: embeddings ``[B, D]`` of two views of the same samples, row by row;
                float32, float64, float16 or bfloat16.
            update_state: taken as by every loss; there is no state here.

        Raises:
            ValueError: a shape or device that is not as above.
            TypeError: an argument that is not a tensor, or of a dtype that is not as above.
        """
        return self.forward_rows(WHOLE_BATCH, view1, view2)

    def forward_rows(
        self, rows: WholeBatch, view1: Tensor, view2: Tensor, *, update_state: bool = True
    ) -> Tensor:
        """As ``forward``, for the own rows of a batch."""
        check_embeddings("view1", view1=view1, view2=view2)
        if self._is_fused(rows):
            return self._fused(view1, view2)
        a, b = self._unit(view1), self._unit(view2)
        all_a, all_b = rows.gather(a, b)
        queries, count = torch.cat((a, b)), len(all_a)
        keys = _keys(queries, a, all_a, all_b)
        own = torch.arange(len(a), device=a.device) + rows.offset
        own, positive = torch.cat((own, own + count)), torch.cat((own + count, own))
        similarity = row_products(a, b) / self.temperature
        values = self._values(queries, keys, own, positive, similarity.repeat(2))
        return self._reduce(rows, values, 2 * count)

    def _fused(
        self, view1: Tensor, view2: Tensor, alpha: Tensor | None = None, flat: bool = False
    ) -> Tensor:
        """The mean over the whole batch, by the fused step."""
        return info_nce_step(
            view1,
            view2,
            self.temperature,
            alpha,
            bimodal=False,
            flat=flat,
            normalize=self.normalize,
        )

    @abstractmethod
    def _values(
        self, queries: Tensor, keys: Tensor, own: Tensor, positive: Tensor, similarity: Tensor
    ) -> Tensor:
        """One value per query, whose keys number `own` and `positive` are itself and its pair."""

    def _negatives(self, queries: Tensor, keys: Tensor, own: Tensor, positive: Tensor) -> Tensor:
        """Log of the mean over the negatives; -inf without any."""
        exclude = torch.stack((own, positive), 1)
        return contrastive_log_sums(queries, keys, temperature=self.temperature, exclude=exclude)


class NTXentLoss(_TwoViewLoss):
    r"""SimCLR's loss: the cross entropy of finding a row's other view among all other rows.

    .. math:: F = \frac{1}{2B} \sum_i \Big( \log \sum_{k \ne i} e^{s_{ik} / \tau}
        - s_{i,i^+} / \tau \Big)

    over the 2B rows of both views, with s the similarity of two embeddings.

    Args:
        temperature: tau; 0.1 to 0.5 in the paper. A 0-dim buffer, may be assigned at any time.
        normalize: similarities are cosines. Otherwise inner products of what is passed.
        reduction: ``"mean"`` or ``"none"`` (``[2B]``: view 1, then view 2).

    Source: Chen et al., "A simple framework for contrastive learning of visual representations"
    (ICML 2020).
    """

    def __init__(
        self, *, temperature: float = 0.5, normalize: bool = True, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(temperature=temperature, normalize=normalize, reduction=reduction)

    def _values(
        self, queries: Tensor, keys: Tensor, own: Tensor, positive: Tensor, similarity: Tensor
    ) -> Tensor:
        log_mean = contrastive_log_sums(queries, keys, temperature=self.temperature, exclude=own)
        return log_mean + math.log(max(len(keys) - 1, 1)) - similarity


class FlatNCELoss(_TwoViewLoss):
    r"""FlatNCE: a gradient that does not vanish where the positive wins.

    With :math:`v_i = \log \sum_{j \in -} e^{(s_{ij} - s_{i,i^+}) / \tau}`, over the 2B - 2
    negatives, the paper's loss is the mean of :math:`\exp(v_i - \mathrm{stopgrad}(v_i))`, which
    always equals 1 and has the gradient of the mean of :math:`v_i`. The value returned is that
    mean. A batch of one sample has no negatives and gives zero.

    Args:
        temperature, normalize, reduction: as in :class:`NTXentLoss`.

    Source: Chen et al., "Simpler, faster, stronger: breaking the log-K curse on contrastive
    learners with FlatNCE" (2021).
    """

    def __init__(
        self, *, temperature: float = 0.5, normalize: bool = True, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(temperature=temperature, normalize=normalize, reduction=reduction)

    def _fused(
        self, view1: Tensor, view2: Tensor, alpha: Tensor | None = None, flat: bool = True
    ) -> Tensor:
        return super()._fused(view1, view2, alpha, flat)

    def _values(
        self, queries: Tensor, keys: Tensor, own: Tensor, positive: Tensor, similarity: Tensor
    ) -> Tensor:
        negatives = len(keys) - 2
        if negatives <= 0:
            return 0.0 * similarity
        log_mean = self._negatives(queries, keys, own, positive)
        return log_mean + math.log(negatives) - similarity


class EqCoLoss(_TwoViewLoss):
    r"""EqCo (SiMo): InfoNCE with a margin that makes the number of negatives not matter.

    .. math:: F = \frac{1}{2B} \sum_i \log \Big( 1 + \frac{\alpha}{K} \sum_{j \in -}
        e^{(s_{ij} - s_{i,i^+}) / \tau} \Big), \qquad K = 2B - 2,

    which is InfoNCE if alpha = K. A batch of one sample has no negatives and gives zero.

    Args:
        temperature, normalize, reduction: as in :class:`NTXentLoss`.
        alpha: the number of negatives to be equivalent to; a 0-dim buffer, may be assigned at any
            time.

    Source: Zhu et al., "EqCo: equivalent rules for self-supervised contrastive learning" (2020).
    """

    alpha: Tensor

    def __init__(
        self,
        *,
        temperature: float = 0.5,
        alpha: float = 256.0,
        normalize: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(temperature=temperature, normalize=normalize, reduction=reduction)
        self._add_schedules(alpha=alpha)

    def _check_schedule(self, name: str, number: float) -> None:
        if name == "alpha" and number <= 0:
            raise ValueError(f"EqCoLoss: expected alpha > 0 and finite, got {number!r}")

    def _fused(
        self, view1: Tensor, view2: Tensor, alpha: Tensor | None = None, flat: bool = False
    ) -> Tensor:
        return super()._fused(view1, view2, self.alpha, flat)

    def _values(
        self, queries: Tensor, keys: Tensor, own: Tensor, positive: Tensor, similarity: Tensor
    ) -> Tensor:
        if len(keys) <= 2:
            return 0.0 * similarity
        log_mean = self._negatives(queries, keys, own, positive)
        return nn.functional.softplus(log_mean + self.alpha.log() - similarity)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={float(self.alpha):g}"


class SupConLoss(EmbeddingLoss):
    r"""Supervised contrastive loss: all rows of a sample's class are positives.

    .. math:: F = \frac{1}{2B} \sum_i \Big( \log \sum_{k \ne i} e^{s_{ik} / \tau}
        - \frac{1}{|P_i|} \sum_{p \in P_i} s_{ip} / \tau \Big)

    over the 2B rows of both views; :math:`P_i` are the other rows of the same label (with two views
    at least one). The second sum is a product with the sum of the class's embeddings. Without
    labels every sample is a class of its own, which is :class:`NTXentLoss`.

    Args:
        temperature: tau; a 0-dim buffer, may be assigned at any time.
        normalize, reduction: as in :class:`NTXentLoss`.

    Source: Khosla et al., "Supervised contrastive learning" (NeurIPS 2020).
    """

    def __init__(
        self, *, temperature: float = 0.1, normalize: bool = True, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(temperature=temperature, normalize=normalize, reduction=reduction)

    def forward(
        self,
        view1: Tensor,
        view2: Tensor,
        labels: Tensor | None = None,
        *,
        update_state: bool = True,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            view1, view2: as for :class:`NTXentLoss`.
            labels: the samples' classes ``[B]``: any numbers, equal where the class is.
            update_state: taken as by every loss; there is no state here.

        Raises:
            ValueError: a shape or device that is not as above.
            TypeError: an argument that is not a tensor, or of a dtype that is not as above.
        """
        return self.forward_rows(WHOLE_BATCH, view1, view2, labels)

    def forward_rows(
        self,
        rows: WholeBatch,
        view1: Tensor,
        view2: Tensor,
        labels: Tensor | None = None,
        *,
        update_state: bool = True,
    ) -> Tensor:
        """As ``forward``, for the own rows of a batch."""
        check_embeddings("view1", view1=view1, view2=view2)
        if labels is not None:
            check_tensor(labels, "labels")
            check_devices(view1, "view1", labels=labels)
            if labels.shape != view1.shape[:1]:
                raise ValueError(
                    f"expected labels of shape [{len(view1)}], got {tuple(labels.shape)}"
                )
        if self._is_fused(rows):  # NT-Xent, and what the positives differ by
            of_step = labels if view1.is_cpu else None
            fused = info_nce_step(
                view1, view2, self.temperature, None, labels=of_step, bimodal=False,
                normalize=self.normalize,
            )  # fmt: skip
            if labels is of_step:
                return fused
            arguments = (view1, view2, labels, self.temperature, self.normalize)
            return fused + PairsLessPositives.apply(*arguments)  # type: ignore[no-any-return,no-untyped-call]
        a, b = self._unit(view1), self._unit(view2)
        all_a, all_b = rows.gather(a, b)
        queries, count = torch.cat((a, b)), len(all_a)
        own = torch.arange(len(a), device=a.device) + rows.offset
        if labels is None:
            labels = own
        (all_labels,) = rows.gather_constants(labels)
        sums, sizes, number = class_sums(accumulated(all_a) + accumulated(all_b), all_labels)
        number = number.narrow(0, rows.offset, len(a))
        sums, sizes = sums[number], sizes[number]  # of own rows
        positives = row_products(queries, sums.repeat(2, 1)) - row_products(queries, queries)
        means = positives / ((2 * sizes - 1).repeat(2) * self.temperature)
        keys = _keys(queries, a, all_a, all_b)
        log_mean = contrastive_log_sums(
            queries, keys, temperature=self.temperature, exclude=torch.cat((own, own + count))
        )
        values = log_mean + math.log(max(2 * count - 1, 1)) - means
        return self._reduce(rows, values, 2 * count)


class CLIPLoss(EmbeddingLoss):
    r"""CLIP's loss: the cross entropies of a pair among its row and its column, exact.

    .. math:: F = \frac{1}{2B} \sum_i \Big( \log \sum_k e^{s_{ik} / \tau}
        + \log \sum_k e^{s_{ki} / \tau} - 2 s_{ii} / \tau \Big)

    Args:
        temperature: tau, or where it starts.
        learnable_temperature: tau is ``exp(-logit_scale)`` with the parameter ``logit_scale``,
            which training keeps where tau >= 0.01, as CLIP does: give ``loss.parameters()`` to the
            optimizer. False: tau is a constant.
        normalize: similarities are cosines. Otherwise inner products of what is passed.
        reduction: ``"mean"`` or ``"none"`` (``[B]``).

    ``temperature`` is a 0-dim buffer: what the last forward used. It may be assigned at any time.

    Source: Radford et al., "Learning transferable visual models from natural language supervision"
    (ICML 2021).
    """

    SMALLEST = 0.01
    logit_scale: Tensor | None

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        learnable_temperature: bool = True,
        normalize: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(temperature=temperature, normalize=normalize, reduction=reduction)
        self.register_parameter("logit_scale", None)
        if learnable_temperature:
            self.logit_scale = nn.Parameter(-self.temperature.log().float())

    def _set_schedule(self, name: str, value: float | Tensor) -> None:
        super()._set_schedule(name, value)
        if name == "temperature" and self._parameters.get("logit_scale") is not None:
            with torch.no_grad():
                self.logit_scale.copy_(-self.temperature.log())  # type: ignore[union-attr]

    def _current_temperature(self) -> Tensor:
        """The parameter's, kept where CLIP keeps it; noted in the buffer."""
        if self.logit_scale is None:
            return self.temperature
        if self.training:
            with torch.no_grad():
                self.logit_scale.clamp_(max=-math.log(self.SMALLEST))
        temperature = self.logit_scale.neg().exp()
        self.temperature.copy_(temperature.detach())
        return temperature

    def forward(self, view1: Tensor, view2: Tensor, *, update_state: bool = True) -> Tensor:
        """The loss of a batch.

        Args:
            view1, view2: embeddings ``[B, D]`` of images and their texts, row by row; float32,
                float64, float16 or bfloat16.
            update_state: taken as by every loss; there is no state here.

        Raises:
            ValueError: a shape or device that is not as above.
            TypeError: an argument that is not a tensor, or of a dtype that is not as above.
        """
        return self.forward_rows(WHOLE_BATCH, view1, view2)

    def forward_rows(
        self, rows: WholeBatch, view1: Tensor, view2: Tensor, *, update_state: bool = True
    ) -> Tensor:
        """As ``forward``, for the own rows of a batch."""
        check_embeddings("view1", view1=view1, view2=view2)
        temperature = rows.shared(self._current_temperature())
        if self._is_fused(rows):
            return info_nce_step(
                view1, view2, temperature, None, bimodal=True, normalize=self.normalize
            )
        a, b = self._unit(view1), self._unit(view2)
        all_a, all_b = rows.gather(a, b)
        by_row = contrastive_log_sums(a, all_b, temperature=temperature)
        by_column = contrastive_log_sums(b, all_a, temperature=temperature)
        count = len(all_a)
        values = (by_row + by_column) / 2 + math.log(max(count, 1))
        return self._reduce(rows, values - row_products(a, b) / temperature, count)
