"""What the ranking losses share: the state of (query, item) pairs and the call of the step."""

from typing import Literal

import torch
from torch import Tensor

from xrisk_ext.losses._top_k import TopKLoss
from xrisk_ext.ops.ranking_step import RULES, ranking_step
from xrisk_ext.ops.surrogates import (
    SMOOTH_SURROGATES,
    Algorithm,
    Surrogate,
    algorithm_number,
    as_scalar,
    check_devices,
    check_tensor,
    surrogate_number,
)
from xrisk_ext.state import InitialState, MovingAverage

Reduction = Literal["mean", "none"]


class RankingLoss(TopKLoss):
    """Base of the losses over lists of items; a subclass names its rule.

    ``state`` is the :class:`~xrisk_ext.MovingAverage` ``[num_pairs]`` of u (or log u), None for a
    loss without state.
    """

    gamma: Tensor
    scale: Tensor
    state: MovingAverage | None

    def __init__(
        self,
        *,
        rule: str,
        num_pairs: int | None,
        gamma: float,
        surrogate: Surrogate,
        margin: float,
        scale: float,
        algorithm: Algorithm,
        state_dtype: torch.dtype,
        reduction: Reduction,
        initial_state: InitialState,
        log_state: bool,
        options: int,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(margin, (int, float)) or not 0 <= margin < float("inf"):
            raise ValueError(f"{name}: expected margin >= 0 and finite, got {margin!r}")
        if surrogate == "barrier_hinge" and scale < 1:
            raise ValueError(f"{name}: expected scale >= 1 for barrier_hinge, got {scale!r}")
        if reduction not in ("mean", "none"):
            raise ValueError(f"{name}: expected reduction 'mean' or 'none', got {reduction!r}")
        self._surrogate = surrogate_number(surrogate)
        self._algorithm = algorithm_number(algorithm)
        if algorithm in ("sort", "smooth") and (
            (surrogate in SMOOTH_SURROGATES) != (algorithm == "smooth")
        ):
            raise ValueError(f"{name}: surrogate {surrogate!r} has no algorithm {algorithm!r}")
        self.check_count("num_pairs", num_pairs)
        self.surrogate = surrogate
        self.margin = float(margin)
        self.algorithm = algorithm
        self.reduction = reduction
        self.num_pairs = num_pairs
        self._rule = RULES[rule]
        self._options = options
        if num_pairs is None:
            if gamma != 1:
                raise ValueError(
                    f"{name}: expected num_pairs, the number of ids that the moving averages are "
                    f"kept for, or gamma=1 for no state; got gamma={gamma!r}"
                )
            self.state = None
        else:
            self.state = MovingAverage(
                (num_pairs,), dtype=state_dtype, log=log_state, initial=initial_state
            )
        self._add_schedules(gamma=gamma, scale=scale)

    def check_count(self, label: str, count: int | None) -> None:
        """None or a positive integer."""
        whole = isinstance(count, int) and not isinstance(count, bool)
        if count is not None and (not whole or count < 1):
            raise ValueError(
                f"{type(self).__name__}: expected {label} to be a positive integer, got {count!r}"
            )

    def _check_schedule(self, name: str, number: float) -> None:
        if name == "gamma" and self.state is None and number != 1:
            raise ValueError(f"{type(self).__name__}: without num_pairs gamma is 1, got {number!r}")

    def reset_state(self) -> None:
        """Forgets the moving averages, as if no batch had been seen."""
        if self.state is not None:
            self.state.reset()
        self._reset_top_k()

    def _step(
        self,
        scores: Tensor,
        relevance: Tensor,
        pair_index: Tensor | None,
        query_index: Tensor | None,
        mask: Tensor | None,
        offsets: Tensor | None,
        item_weights: Tensor | None,
        num_items: int | Tensor | None,
        num_relevant: int | Tensor | None,
        ideal_dcg: float | Tensor | None,
        update_state: bool,
    ) -> Tensor:
        check_tensor(scores, "scores")
        check_tensor(relevance, "relevance")
        for name, argument in (
            ("pair_index", pair_index),
            ("query_index", query_index),
            ("mask", mask),
            ("offsets", offsets),
            ("item_weights", item_weights),
        ):
            if argument is not None:
                check_tensor(argument, name)
        if item_weights is not None and item_weights.requires_grad:
            raise ValueError("expected item_weights to be constants, got requires_grad=True")
        items = None if num_items is None else as_scalar(num_items, "num_items", scores)
        relevant = None if num_relevant is None else as_scalar(num_relevant, "num_relevant", scores)
        ideal = None if ideal_dcg is None else as_scalar(ideal_dcg, "ideal_dcg", scores)
        module, buffers = self.state, self._buffers
        state = module._buffers["value"] if module is not None and self.training else None
        thresholds, curvatures = self._top_k_state()
        gamma, scale = buffers["gamma"], buffers["scale"]
        given = (
            relevance, pair_index, query_index, mask, offsets, item_weights, items, relevant, ideal,
            state, thresholds, gamma,
        )  # fmt: skip
        if not scores.is_cpu or not all(t is None or t.is_cpu for t in given):
            check_devices(
                scores, "scores", relevance=relevance, state=gamma, pair_index=pair_index,
                query_index=query_index, mask=mask, offsets=offsets, item_weights=item_weights,
                num_items=items, num_relevant=relevant, ideal_dcg=ideal,
            )  # fmt: skip
            check_devices(scores, "scores", state=state)
            check_devices(scores, "scores", state=thresholds)
            check_devices(scores, "scores", state=curvatures)
        return ranking_step(
            scores,
            relevance,
            pair_index,
            query_index,
            mask,
            offsets,
            item_weights,
            items,
            relevant,
            ideal,
            state,
            thresholds,
            curvatures,
            gamma,  # type: ignore[arg-type]
            scale,  # type: ignore[arg-type]
            self._top_k_schedules(),
            self.margin,
            self.epsilon,
            self.top_k or 0,
            self._rule,
            self._options | self._top_k_options,
            self._surrogate,
            self._algorithm,
            update_state,
            self.reduction == "mean",
        )
