"""Listwise losses that carry state from batch to batch."""

from typing import Literal

import torch
from torch import Tensor

from xrisk_ext.losses._ranking_loss import RankingLoss, Reduction
from xrisk_ext.losses._top_k import check_choice
from xrisk_ext.ops.ranking_step import BATCH_SHIFT, IRRELEVANT_ITEMS, STALE_STATE
from xrisk_ext.state import InitialState


class ListwiseCrossEntropyLoss(RankingLoss):
    r"""Listwise cross entropy (ListNet's loss) whose normaliser is a moving average.

    .. math:: F = \mathrm{mean}_q \frac{N^+_q}{N_q} \mathrm{mean}_{i \in +} \;
        y_i \log (N_q u_i), \qquad
        u_i \leftarrow (1 - \gamma) u_i + \gamma \, \mathrm{mean}_j \exp(h_j - h_i),

    over the items j and the relevant items i of a query: with whole lists, the sum over i of
    :math:`-y_i \log \mathrm{softmax}(h)_i`, over N. The averages are kept as logarithms, so that no
    score is too large. The returned value is the current estimate of F; its gradient is the dynamic
    gradient, with u taken after the update.

    Args:
        num_pairs: ids of (query, relevant item) pairs that may occur in ``pair_index``. ``None``
            keeps no state and needs ``gamma=1``.
        gamma: weight of the new observation, in [0, 1]; may be assigned at any time.
        items: ``"all"``, or ``"irrelevant"``: the relevant items are contrasted with the irrelevant
            ones alone, as in LibAUC.
        shift: ``"none"``, or ``"batch"``: exponents relative to the largest difference of the
            batch, whatever it is, as in LibAUC; the averages then mix scales.
        stale_state: weights from the moving average before its update, instead of after.
        state_dtype: float32 or float64.
        reduction: ``"mean"`` over the queries, or ``"none"``: ``[Q]``.
        initial_state: ``"assign"``: the first observation of an id is taken as it is. ``"zero"``:
            it is averaged with zero, as LibAUC does.

    Evaluation, empty queries and scores that are not finite: as in :class:`NDCGLoss`.

    Source: Qiu et al., "Large-scale stochastic optimization of NDCG surrogates for deep learning
    with provable convergence" (ICML 2022); the loss: Cao et al., "Learning to rank: from pairwise
    approach to listwise approach" (ICML 2007).
    """

    def __init__(
        self,
        num_pairs: int | None = None,
        *,
        gamma: float = 0.9,
        items: Literal["all", "irrelevant"] = "all",
        shift: Literal["none", "batch"] = "none",
        stale_state: bool = False,
        state_dtype: torch.dtype = torch.float32,
        reduction: Reduction = "mean",
        initial_state: InitialState = "assign",
    ) -> None:
        check_choice("ListwiseCrossEntropyLoss", "items", items, ("all", "irrelevant"))
        check_choice("ListwiseCrossEntropyLoss", "shift", shift, ("none", "batch"))
        super().__init__(
            rule="listwise",
            num_pairs=num_pairs,
            gamma=gamma,
            surrogate="squared_hinge",  # not used, like margin, scale and algorithm
            margin=1.0,
            scale=1.0,
            algorithm="auto",
            state_dtype=state_dtype,
            reduction=reduction,
            initial_state=initial_state,
            log_state=True,
            options=STALE_STATE * bool(stale_state)
            + IRRELEVANT_ITEMS * (items == "irrelevant")
            + BATCH_SHIFT * (shift == "batch"),
        )
        self.items = items
        self.shift = shift
        self.stale_state = bool(stale_state)

    def forward(
        self,
        scores: Tensor,
        relevance: Tensor,
        pair_index: Tensor | None = None,
        query_index: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        offsets: Tensor | None = None,
        num_items: int | Tensor | None = None,
        num_relevant: int | Tensor | None = None,
        ideal_dcg: float | Tensor | None = None,
        item_weights: Tensor | None = None,
        update_state: bool = True,
    ) -> Tensor:
        """The loss of a batch of queries; arguments and errors as in :class:`xrisk_ext.NDCGLoss`.

        ``query_index`` and ``ideal_dcg`` are taken, as by every ranking loss, and not used.
        """
        return self._step(
            scores, relevance, pair_index, None, mask, offsets, item_weights, num_items,
            num_relevant, None, update_state,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"gamma={float(self.gamma)}, items={self.items!r}, shift={self.shift!r}, "
            f"reduction={self.reduction!r}"
        )
