"""The stateless losses of image retrieval: Smooth-AP, FastAP and the recall@k surrogate.

All take scores ``[B]`` (one list) or ``[Q, S]`` (one query a row) and 0/1 labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from xrisk_ext.losses._list_loss import ListLoss, ListReduction


class RetrievalLoss(ListLoss):
    """Base of the losses over scores and labels, one query a list.

    A list without positives is worth zero, with zero gradient, and is left out of the mean over the
    lists. If a score is NaN or infinite, so is the value of its list NaN, and the gradient of the
    list's items.
    """

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        *,
        mask: Tensor | None = None,
        item_weights: Tensor | None = None,
        update_state: bool = True,
    ) -> Tensor:
        """The loss of a batch of lists.

        Args:
            scores: ``[B]`` or ``[B, 1]``: one list; ``[Q, S]``: Q lists. float32, float64, float16
                or bfloat16.
            labels: the scores' shape, any integer, bool or floating dtype; positive where > 0.
            mask: bool, the scores' shape; False for padding, whose contents are ignored.
            item_weights: the scores' shape, >= 0. An entry of weight w counts as w entries; weight
                0 removes it.
            update_state: taken as by every score loss; there is no state here.

        Returns:
            A scalar, or ``[Q]`` (``[1]`` for one list) with ``reduction="none"``; float64 for
            float64 scores and float32 otherwise.

        Raises:
            ValueError: a shape, device or weight that is not as above.
            TypeError: an argument that is not a tensor, or of a dtype that is not as above.
        """
        if isinstance(scores, Tensor) and scores.dim() == 2 and scores.shape[1] == 1:
            scores, labels = scores[:, 0], _flat(labels)
            mask = None if mask is None else _flat(mask)
            item_weights = None if item_weights is None else _flat(item_weights)
        return self._step(scores, labels, mask, item_weights, name="labels")


def _flat(tensor: Tensor) -> Tensor:
    """[B, 1] as [B]; anything else as it is."""
    column = isinstance(tensor, Tensor) and tensor.dim() == 2 and tensor.shape[1] == 1
    return tensor[:, 0] if column else tensor


class SmoothAPLoss(RetrievalLoss):
    r"""One minus average precision with ranks made of sigmoids.

    .. math:: 1 - \frac{1}{P} \sum_{i \in +} \frac{r^+_i}{r_i}, \qquad
        r_i = 1 + \sum_{j \ne i} \sigma((h_j - h_i) / T)

    over all items, and :math:`r^+_i` the same over the positives.

    Args:
        temperature: T, in the units of the scores. May be assigned at any time.
        state_dtype: taken as by every score loss; there is no state here.
        reduction: ``"mean"`` over the lists, ``"sum"``, or ``"none"`` (one value per list).

    The query itself is no item of its list: leave it out by ``mask`` or by a weight of 0.

    Source: Brown et al., "Smooth-AP: smoothing the path towards large-scale image retrieval" (ECCV
    2020).
    """

    def __init__(
        self,
        *,
        temperature: float = 0.01,
        state_dtype: torch.dtype = torch.float32,
        reduction: ListReduction = "mean",
    ) -> None:
        super().__init__(loss="smooth_ap", reduction=reduction, temperature=temperature)

    def _described(self) -> dict[str, object]:
        return {"temperature": float(self.temperature)}


class FastAPLoss(RetrievalLoss):
    r"""One minus average precision of a soft histogram of the scores.

    .. math:: 1 - \frac{1}{P} \sum_l \frac{h^+_l H^+_l}{H_l}

    with h the histogram over ``num_bins + 1`` edges from the highest score to the lowest, each
    score shared between its two edges, :math:`h^+` that of the positives and H, :math:`H^+` their
    cumulative sums.

    Args:
        num_bins: intervals between the edges, at most 1024.
        score_range: the lowest and highest score; scores beyond stand at the ends and have no
            gradient. The default suits cosine similarities.
        state_dtype: taken as by every score loss; there is no state here.
        reduction: ``"mean"`` over the lists, ``"sum"``, or ``"none"`` (one value per list).

    Source: Cakir et al., "Deep metric learning to rank" (CVPR 2019).
    """

    def __init__(
        self,
        *,
        num_bins: int = 10,
        score_range: tuple[float, float] = (-1.0, 1.0),
        state_dtype: torch.dtype = torch.float32,
        reduction: ListReduction = "mean",
    ) -> None:
        low, high = (float(end) for end in score_range)
        if not (low < high and high - low < float("inf")):
            raise ValueError(
                f"FastAPLoss: expected score_range to be finite and ascending, got {score_range!r}"
            )
        if self._count("num_bins", num_bins) > 1024:
            raise ValueError(f"FastAPLoss: expected num_bins <= 1024, got {num_bins!r}")
        super().__init__(
            loss="fast_ap", reduction=reduction, counts=(num_bins,), numbers=(low, high)
        )
        self.num_bins, self.score_range = num_bins, (low, high)

    def _described(self) -> dict[str, object]:
        return {"num_bins": self.num_bins, "score_range": self.score_range}


class RecallAtKLoss(RetrievalLoss):
    r"""One minus recall@k with ranks and their comparison with k made of sigmoids.

    .. math:: 1 - \frac{1}{|\mathcal{K}|} \sum_{k \in \mathcal{K}} \frac{1}{\min(k, P)}
        \sum_{i \in +} \sigma((k - r_i) / T_2), \qquad
        r_i = 1 + \sum_{j \ne i} \sigma((h_j - h_i) / T)

    Args:
        k: one k or several, at most 16; their recalls are averaged.
        temperature: T, in the units of the scores. May be assigned at any time.
        rank_temperature: :math:`T_2`, in ranks. May be assigned at any time.
        state_dtype: taken as by every score loss; there is no state here.
        reduction: ``"mean"`` over the lists, ``"sum"``, or ``"none"`` (one value per list).

    The query itself is no item of its list: leave it out by ``mask`` or by a weight of 0.

    Source: Patel et al., "Recall@k surrogate loss with large batches and similarity mixup" (CVPR
    2022).
    """

    def __init__(
        self,
        *,
        k: int | Sequence[int] = (1, 2, 4, 8, 16),
        temperature: float = 0.01,
        rank_temperature: float = 1.0,
        state_dtype: torch.dtype = torch.float32,
        reduction: ListReduction = "mean",
    ) -> None:
        cutoffs = tuple(self._count("k", each) for each in ((k,) if isinstance(k, int) else k))
        if not 1 <= len(cutoffs) <= 16:
            raise ValueError(f"RecallAtKLoss: expected 1 to 16 values of k, got {k!r}")
        super().__init__(
            loss="recall_at_k",
            reduction=reduction,
            temperature=temperature,
            rank_temperature=rank_temperature,
            counts=cutoffs,
        )
        self.k = cutoffs

    def _described(self) -> dict[str, object]:
        return {
            "k": self.k,
            "temperature": float(self.temperature),
            "rank_temperature": float(self.rank_temperature),
        }
