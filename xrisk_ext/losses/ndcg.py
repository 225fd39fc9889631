"""NDCG over whole lists (SONG) and over their top K (K-SONG)."""

import torch
from torch import Tensor

from xrisk_ext.losses._ranking_loss import RankingLoss, Reduction
from xrisk_ext.losses._top_k import PsiSlope, Threshold, TopKVersion
from xrisk_ext.ops.ranking_step import STALE_STATE
from xrisk_ext.ops.surrogates import Algorithm, Surrogate
from xrisk_ext.state import InitialState


class NDCGLoss(RankingLoss):
    r"""Maximises NDCG (SONG), or with ``top_k`` the NDCG of the top K items (K-SONG).

    With items j of a query, relevant items i of relevance :math:`y_i`, and a surrogate
    :math:`\phi` of "item j outranks item i", the rank of i among all N items is estimated by
    :math:`1 + N u_i`:

    .. math:: F = -\mathrm{mean}_q \frac{N^+_q}{Z_q} \mathrm{mean}_{i \in +} \;
        \psi(h_i - \lambda_q) \frac{2^{y_i} - 1}{\log_2(1 + N_q u_i)}, \qquad
        u_i \leftarrow (1 - \gamma) u_i + \gamma \, \mathrm{mean}_j \, \phi(h_j - h_i),

    where :math:`Z_q` is the ideal DCG. The returned value is the current estimate of F, minus a
    surrogate of the NDCG: between -1 and 0 where the sizes are those of whole lists. Its gradient
    is the dynamic gradient of SONG, with u taken after the update.

    SONG has :math:`\psi = 1`. K-SONG has :math:`\psi(x) = \sigma(\alpha x)` and a threshold
    :math:`\lambda_q` near the (K+1)-th largest score, which follows the smoothed top-K problem (see
    :func:`xrisk_ext.ops.topk_threshold`) by one gradient step per visit; the gradient also flows
    through it, by the implicit function theorem. A query with at most K items has no threshold
    (:math:`\psi = 1`).

    Args:
        num_pairs: ids of (query, relevant item) pairs that may occur in ``pair_index``. ``None``
            keeps no moving average and needs ``gamma=1``.
        num_queries: ids that may occur in ``query_index``; needed by ``top_k``, unless
            ``threshold="solve"``.
        top_k: K, as a number of the ``num_items`` items, not of those in the batch.
        surrogate, margin, scale: as in :func:`xrisk_ext.ops.pairwise_sums`. ``scale`` may be
            assigned at any time. A margin of 0 lets the estimated rank reach 1, where the discount
            diverges.
        gamma: weight of the new observation in u, in [0, 1]; may be assigned at any time.
        gamma1: the same for the curvature s of the top-K problem.
        eta0: step size of lambda, in squared units of the scores.
        tau1, tau2: temperature and quadratic term of the smoothed top-K problem.
        sigmoid_alpha: slope of psi. ``gamma1``, ``eta0``, ``tau1``, ``tau2`` and ``sigmoid_alpha``
            are used with ``top_k`` alone, and may be assigned at any time.
        epsilon: the threshold cuts at K + epsilon items, in [0, 1).
        top_k_version: ``"theoretical"``: the gradient of the bilevel objective. ``"practical"``:
            psi and lambda are constants.
        threshold: ``"step"``: lambda and s are state, as in the paper. ``"solve"``: the smoothed
            problem is solved on the query's items in every call; the right choice for whole lists.
        psi_slope: ``"derivative"``: that of psi, and no item moves lambda by more than its own
            step. ``"published"``: as the authors' code, without the factor alpha and that bound.
        stale_state: weights from the moving average before its update, as in the convergence
            proofs, instead of after.
        algorithm: ``"auto"``, ``"direct"``, ``"sort"`` or ``"smooth"``, as in ``pairwise_sums``.
        state_dtype: float32 or float64.
        reduction: ``"mean"`` over the queries (one that has nothing to rank counts as 0), or
            ``"none"``: ``[Q]``.
        initial_state: ``"assign"``: the first observation of an id is taken as it is, and lambda
            starts at the batch's own threshold. ``"zero"``: all start at zero, as in LibAUC.

    In ``eval()`` the state is neither read nor written: value and gradient are those of the batch
    alone, with the threshold solved for. A query without relevant items, or with ideal DCG 0, gives
    zero and leaves the state alone. If a score of a query is NaN or infinite, its value and
    gradient are NaN and its state is left alone.

    Source: Qiu et al., "Large-scale stochastic optimization of NDCG surrogates for deep learning
    with provable convergence" (ICML 2022).
    """

    def __init__(
        self,
        num_pairs: int | None = None,
        num_queries: int | None = None,
        *,
        top_k: int | None = None,
        surrogate: Surrogate = "squared_hinge",
        margin: float = 1.0,
        scale: float = 1.0,
        gamma: float = 0.9,
        gamma1: float = 0.9,
        eta0: float = 0.01,
        tau1: float = 0.01,
        tau2: float = 1e-4,
        sigmoid_alpha: float = 2.0,
        epsilon: float = 0.5,
        top_k_version: TopKVersion = "theoretical",
        threshold: Threshold = "step",
        psi_slope: PsiSlope = "derivative",
        stale_state: bool = False,
        algorithm: Algorithm = "auto",
        state_dtype: torch.dtype = torch.float32,
        reduction: Reduction = "mean",
        initial_state: InitialState = "assign",
    ) -> None:
        super().__init__(
            rule="ndcg",
            num_pairs=num_pairs,
            gamma=gamma,
            surrogate=surrogate,
            margin=margin,
            scale=scale,
            algorithm=algorithm,
            state_dtype=state_dtype,
            reduction=reduction,
            initial_state=initial_state,
            log_state=False,
            options=STALE_STATE * bool(stale_state),
        )
        self.check_count("num_queries", num_queries)
        if top_k is not None and threshold == "step" and num_queries is None:
            raise ValueError(
                "NDCGLoss: expected num_queries, the number of ids that the thresholds of top_k "
                "are kept for, or threshold='solve'; got None"
            )
        self.num_queries = num_queries
        self.stale_state = bool(stale_state)
        self._add_top_k(
            top_k,
            num_queries,
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
        """The loss of a batch of queries.

        Padded lists are ``[Q, S]`` with a ``mask``; ragged ones stand flat ``[T]``, one behind the
        other, with ``offsets``.

        Args:
            scores: ``[Q, S]`` or ``[T]``, float32, float64, float16 or bfloat16.
            relevance: the scores' shape, any integer, bool or floating dtype, below 1024; relevant
                where > 0.
            pair_index: the scores' shape, ids of the (query, item) pairs, int64 or int32, in
                [0, num_pairs) where relevant; the others are ignored and may be -1.
            query_index: ``[Q]``, int64 or int32, in [0, num_queries); needed by ``top_k`` alone.
            mask: the scores' shape, bool: which entries take part.
            offsets: ``[Q + 1]``, int64 or int32: query q has the entries from offsets[q] up to
                offsets[q + 1].
            num_items: N, how many items the query ranks, one number or ``[Q]``. ``None``: those of
                the batch. If the batch has a sample of the items, give the size of the whole list:
                ranks, and with them the discounts, are out of N.
            num_relevant: N+, how many of them are relevant, likewise.
            ideal_dcg: Z, the DCG of the best order (of its first K, with ``top_k``), likewise; 0
                leaves the query out.
            item_weights: the scores' shape, >= 0, relative within a query: they weigh the averages
                over items (to undo a sampler that favours some), not the sizes; weight 0 removes an
                entry.
            update_state: False blends with the state but writes nothing (for closures, SAM,
                recomputation under activation checkpointing).

        Raises:
            IndexError: an id of a relevant item, or of a query, is out of range.
            ValueError: a shape, device, size or weight that is not as above, or no index where
                there is state.
            TypeError: an argument that is not a tensor, or of a dtype that is not as above.

        Where it raises, nothing has been written.
        """
        return self._step(
            scores, relevance, pair_index, query_index, mask, offsets, item_weights, num_items,
            num_relevant, ideal_dcg, update_state,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"surrogate={self.surrogate!r}, margin={self.margin}, scale={float(self.scale)}, "
            f"gamma={float(self.gamma)}, algorithm={self.algorithm!r}, "
            f"reduction={self.reduction!r}{self._top_k_repr()}"
        )
