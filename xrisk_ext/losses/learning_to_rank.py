"""The learning-to-rank losses of the literature, stateless: the baselines of SONG and K-SONG.

All take scores ``[Q, S]``, relevance of that shape and an optional mask, and keep no state. See
``RankedListLoss`` for what a list is.
"""

from typing import Literal

import torch
from torch import Tensor

from xrisk_ext.losses._list_loss import ListLoss, ListReduction
from xrisk_ext.ops.listwise import PAIR_WEIGHTS

PairWeights = Literal["none", "difference", "squared_difference"]


class RankedListLoss(ListLoss):
    """Base of the losses over scores and graded relevance.

    A list is a row of the scores; its items are the entries whose mask is true and whose relevance
    is not negative (a relevance of -1 marks padding, as elsewhere in the field). Padding gets a
    gradient of zero and changes nothing else.

    A list that has no order to learn is worth zero, with zero gradient: no item, no relevant item,
    or (but for the losses of NDCG) items of one relevance only. It counts in the mean over the
    lists unless it has no item at all. If a score of an item is NaN or infinite, so is the value of
    its list NaN, and the gradient of the list's items.
    """

    def forward(
        self,
        scores: Tensor,
        relevance: Tensor,
        mask: Tensor | None = None,
        *,
        update_state: bool = True,
    ) -> Tensor:
        """The loss of a batch of lists.

        Args:
            scores: ``[Q, S]``, or ``[S]`` for one list; float32, float64, float16 or bfloat16.
            relevance: the scores' shape, any integer, bool or floating dtype; finite, and negative
                for padding.
            mask: bool, the scores' shape; False for padding, whose contents are ignored.
            update_state: taken as by every score loss; there is no state here.

        Returns:
            A scalar, or ``[Q]`` (``[1]`` for one list) with ``reduction="none"``; float64 for
            float64 scores and float32 otherwise.

        Raises:
            ValueError: a shape, device or relevance that is not as above.
            TypeError: an argument that is not a tensor, or of a dtype that is not as above.
        """
        return self._step(scores, relevance, mask)


class RankNetLoss(RankedListLoss):
    r"""Logistic loss of the pairs of a list that stand in an order.

    .. math:: \frac{1}{|\{y_i > y_j\}|} \sum_{y_i > y_j} w_{ij}
        \log(1 + \exp(-(h_i - h_j) / T))

    Args:
        temperature: T. May be assigned at any time.
        pair_weights: w: ``"none"`` (1), ``"difference"`` (:math:`y_i - y_j`) or
            ``"squared_difference"`` (:math:`y_i^2 - y_j^2`).
        pool_pairs: False: the mean over the pairs of a list, then over the lists. True: the mean
            over the pairs of all lists of the batch (of ``reduction="mean"``).
        state_dtype: taken as by every score loss; there is no state here.
        reduction: ``"mean"`` over the lists, ``"sum"``, or ``"none"`` (one value per list).

    Source: Burges et al., "Learning to rank using gradient descent" (ICML 2005).
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        pair_weights: PairWeights = "none",
        pool_pairs: bool = False,
        state_dtype: torch.dtype = torch.float32,
        reduction: ListReduction = "mean",
    ) -> None:
        if pair_weights not in PAIR_WEIGHTS:
            known = ", ".join(repr(name) for name in PAIR_WEIGHTS)
            raise ValueError(
                f"RankNetLoss: expected pair_weights to be one of {known}, got {pair_weights!r}"
            )
        super().__init__(
            loss="rank_net",
            reduction=reduction,
            temperature=temperature,
            counts=(PAIR_WEIGHTS[pair_weights], int(pool_pairs)),
        )
        self.pair_weights, self.pool_pairs = pair_weights, pool_pairs

    def _described(self) -> dict[str, object]:
        return {
            "temperature": float(self.temperature),
            "pair_weights": self.pair_weights,
            "pool_pairs": self.pool_pairs,
        }


class LambdaRankLoss(RankedListLoss):
    r"""RankNet with every pair weighted by what exchanging it would change of NDCG.

    .. math:: \sum_{y_i > y_j} |G_i - G_j| \left| \frac{1}{D_i} - \frac{1}{D_j} \right|
        \log_2(1 + \exp(-(h_i - h_j) / T))

    over the pairs of which both are among the ``top_k`` highest scores, with
    :math:`G = (2^y - 1) / \mathrm{IDCG@k}`, :math:`D = \log_2(1 + r)` and r the rank by score (ties
    in the order in which they stand). The weights are constants for differentiation. The pairs of
    a long list are not visited one by one.

    Args:
        temperature: T. May be assigned at any time.
        top_k: None means the whole list.
        state_dtype: taken as by every score loss; there is no state here.
        reduction: ``"mean"`` over the lists, ``"sum"``, or ``"none"`` (one value per list).

    Source: Burges, "From RankNet to LambdaRank to LambdaMART" (2010), in the form of Wang et al.,
    "The LambdaLoss framework for ranking metric optimization" (CIKM 2018).
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        state_dtype: torch.dtype = torch.float32,
        reduction: ListReduction = "mean",
    ) -> None:
        super().__init__(
            loss="lambda_rank",
            reduction=reduction,
            temperature=temperature,
            counts=(0 if top_k is None else self._count("top_k", top_k),),
        )
        self.top_k = top_k

    def _described(self) -> dict[str, object]:
        return {"temperature": float(self.temperature), "top_k": self.top_k}


class ListNetLoss(RankedListLoss):
    r"""Cross entropy between the top-one distributions of the relevance and of the scores.

    .. math:: -\sum_j \mathrm{softmax}(y)_j \, \log \mathrm{softmax}(h)_j

    Args:
        state_dtype: taken as by every score loss; there is no state here.
        reduction: ``"mean"`` over the lists, ``"sum"``, or ``"none"`` (one value per list).

    Source: Cao et al., "Learning to rank: from pairwise approach to listwise approach" (ICML 2007).
    """

    def __init__(
        self,
        *,
        state_dtype: torch.dtype = torch.float32,
        reduction: ListReduction = "mean",
    ) -> None:
        super().__init__(loss="list_net", reduction=reduction)


class ListMLELoss(RankedListLoss):
    r"""Negative log-likelihood of the order by relevance under the Plackett-Luce model.

    .. math:: \sum_k \Big[ \log \sum_{l \ge k} \exp(h_{(l)}) - h_{(k)} \Big]

    with :math:`h_{(1)}, h_{(2)}, ...` the scores in descending order of relevance.

    Args:
        shuffle_ties: True: items of equal relevance are put into a random order in every call.
            False: they stay in the order in which they stand.
        generator: for that order; None means the default one of the scores' device.
        state_dtype: taken as by every score loss; there is no state here.
        reduction: ``"mean"`` over the lists, ``"sum"``, or ``"none"`` (one value per list).

    Source: Xia et al., "Listwise approach to learning to rank: theory and algorithm" (ICML 2008).
    """

    def __init__(
        self,
        *,
        shuffle_ties: bool = False,
        generator: torch.Generator | None = None,
        state_dtype: torch.dtype = torch.float32,
        reduction: ListReduction = "mean",
    ) -> None:
        super().__init__(loss="list_mle", reduction=reduction)
        self.shuffle_ties, self.generator = shuffle_ties, generator

    def _step(
        self,
        scores: Tensor,
        relevance: Tensor,
        mask: Tensor | None,
        item_weights: Tensor | None = None,
        *,
        name: str = "relevance",
    ) -> Tensor:
        if self.shuffle_ties and relevance.shape == scores.shape:
            keys = torch.rand(scores.shape, generator=self.generator, device=scores.device)
            order = keys.argsort(dim=-1)
            scores, relevance = scores.gather(-1, order), relevance.gather(-1, order)
            mask = None if mask is None else mask.gather(-1, order)
        return super()._step(scores, relevance, mask, item_weights, name=name)

    def _described(self) -> dict[str, object]:
        return {"shuffle_ties": self.shuffle_ties}


class ApproxNDCGLoss(RankedListLoss):
    r"""Negative NDCG with ranks made of sigmoids.

    .. math:: -\sum_i \frac{G_i}{\log_2(1 + r_i)}, \qquad
        r_i = 1 + \sum_{j \ne i} \sigma((h_j - h_i) / T), \qquad G = (2^y - 1) / \mathrm{IDCG}

    Args:
        temperature: T; ranks become exact, and gradients vanish, as it goes to 0. May be assigned
            at any time.
        state_dtype: taken as by every score loss; there is no state here.
        reduction: ``"mean"`` over the lists, ``"sum"``, or ``"none"`` (one value per list).

    Source: Qin et al., "A general approximation framework for direct optimization of information
    retrieval measures" (Information Retrieval 13, 2010).
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        state_dtype: torch.dtype = torch.float32,
        reduction: ListReduction = "mean",
    ) -> None:
        super().__init__(loss="approx_ndcg", reduction=reduction, temperature=temperature)

    def _described(self) -> dict[str, object]:
        return {"temperature": float(self.temperature)}


class NeuralNDCGLoss(RankedListLoss):
    r"""Negative NDCG of the relaxed sorting of NeuralSort.

    With :math:`\hat P` of rows
    :math:`\mathrm{softmax}_j(((n + 1 - 2 k) h_j - \sum_l |h_l - h_j|) / T)`, scaled to be doubly
    stochastic (Sinkhorn),

    .. math:: -\sum_{k \le K} \frac{(\hat P g)_k}{\log_2(1 + k)} \Big/ \mathrm{IDCG@K},
        \qquad g = 2^y - 1.

    The gradient passes through every iteration. A list needs the memory of its matrix, n^2; at most
    one matrix per thread exists at a time.

    Args:
        temperature: T. May be assigned at any time.
        top_k: K; None means the whole list.
        max_iterations: of Sinkhorn, at most.
        tolerance: Sinkhorn stops when every column sums to 1 within this.
        state_dtype: taken as by every score loss; there is no state here.
        reduction: ``"mean"`` over the lists, ``"sum"``, or ``"none"`` (one value per list).

    Source: Pobrotyn and Bialobrzeski, "NeuralNDCG: direct optimisation of a ranking metric via
    differentiable relaxation of sorting" (2021).
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        max_iterations: int = 50,
        tolerance: float = 1e-6,
        state_dtype: torch.dtype = torch.float32,
        reduction: ListReduction = "mean",
    ) -> None:
        if not 0 <= tolerance < 1:
            raise ValueError(f"NeuralNDCGLoss: expected tolerance in [0, 1), got {tolerance!r}")
        super().__init__(
            loss="neural_ndcg",
            reduction=reduction,
            temperature=temperature,
            counts=(
                0 if top_k is None else self._count("top_k", top_k),
                self._count("max_iterations", max_iterations),
            ),
            numbers=(float(tolerance),),
        )
        self.top_k, self.max_iterations, self.tolerance = top_k, max_iterations, tolerance

    def _described(self) -> dict[str, object]:
        return {
            "temperature": float(self.temperature),
            "top_k": self.top_k,
            "max_iterations": self.max_iterations,
            "tolerance": self.tolerance,
        }
