"""What the score losses share: hyper-parameters, state, schedules, the call of the fused step."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from xrisk_ext.losses._schedules import Schedules
from xrisk_ext.ops.score_step import RULES, score_step
from xrisk_ext.ops.surrogates import (
    SMOOTH_SURROGATES,
    Algorithm,
    Surrogate,
    algorithm_number,
    check_devices,
    check_tensor,
    surrogate_number,
)
from xrisk_ext.state import InitialState, MovingAverage

Reduction = Literal["mean", "none"]


class ScoreLoss(Schedules):
    """Base of the losses over scores and labels; a subclass names its rule.

    ``gamma``, ``scale`` and what a subclass adds are :class:`Schedules`.

    ``state`` is a :class:`~xrisk_ext.MovingAverage` ``[L, num_samples, ...]``, of average precision
    ``[L, num_samples, 2]`` for (u_all, u_pos); or None for a loss without state.
    """

    rules: ClassVar[dict[str, int]] = RULES
    gamma: Tensor
    scale: Tensor
    state: MovingAverage | None

    def __init__(
        self,
        *,
        rule: str,
        num_samples: int | None,
        num_labels: int,
        gamma: float,
        surrogate: Surrogate,
        margin: float,
        scale: float,
        algorithm: Algorithm,
        state_dtype: torch.dtype,
        reduction: Reduction,
        initial_state: InitialState | float = "assign",
        state_columns: tuple[int, ...] = (2,),
        log_state: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(margin, (int, float)) or not 0 <= margin < float("inf"):
            raise ValueError(f"{name}: expected margin >= 0 and finite, got {margin!r}")
        if surrogate == "barrier_hinge" and scale < 1:
            raise ValueError(f"{name}: expected scale >= 1 for barrier_hinge, got {scale!r}")
        if reduction not in ("mean", "none"):
            raise ValueError(f"{name}: expected reduction 'mean' or 'none', got {reduction!r}")
        if algorithm in ("sort", "smooth") and (
            (surrogate in SMOOTH_SURROGATES) != (algorithm == "smooth")
        ):
            raise ValueError(f"{name}: surrogate {surrogate!r} has no algorithm {algorithm!r}")
        for label, size in (("num_samples", num_samples), ("num_labels", num_labels)):
            optional = label == "num_samples" and size is None
            if not optional and (not isinstance(size, int) or size < 1):
                raise ValueError(f"{name}: expected {label} to be a positive integer, got {size!r}")
        self.surrogate = surrogate
        self.margin = float(margin)
        self.algorithm = algorithm
        self.reduction = reduction
        self.num_samples = num_samples
        self._rule = self.rules[rule]
        self._surrogate = surrogate_number(surrogate)
        self._algorithm = algorithm_number(algorithm)
        if num_samples is None:
            if gamma != 1:
                raise ValueError(
                    f"{name}: expected num_samples, the number of ids that the moving averages are "
                    f"kept for, or gamma=1 for no state; got gamma={gamma!r}"
                )
            self.state = None
        else:
            shape = (num_labels, num_samples, *state_columns)
            self.state = MovingAverage(
                shape, dtype=state_dtype, log=log_state, initial=initial_state
            )
        self._add_schedules(gamma=gamma, scale=scale)

    def _check_schedule(self, name: str, number: float) -> None:
        if name == "gamma" and self.state is None and number != 1:
            raise ValueError(
                f"{type(self).__name__}: without num_samples gamma is 1, got {number!r}"
            )

    def reset_state(self) -> None:
        """Forgets the moving averages, as if no batch had been seen."""
        if self.state is not None:
            self.state.reset()

    def _state_of_call(
        self, scores: Tensor, labels: Tensor, index: Tensor | None, item_weights: Tensor | None
    ) -> Tensor | None:
        """The state to blend with; refuses what no op would name as well."""
        check_tensor(labels, "labels")
        if index is not None:
            check_tensor(index, "index")
        if item_weights is not None:
            check_tensor(item_weights, "item_weights")
            if item_weights.requires_grad:
                raise ValueError("expected item_weights to be constants, got requires_grad=True")
        module, gamma = self.state, self._buffers["gamma"]  # at small batches even look-ups show
        state = module._buffers["value"] if module is not None and self.training else None
        assert gamma is not None
        all_on_cpu = (
            (scores.is_cpu and labels.is_cpu and gamma.is_cpu)
            and (index is None or index.is_cpu)
            and (state is None or state.is_cpu)
            and (item_weights is None or item_weights.is_cpu)
        )
        if not all_on_cpu:
            check_devices(scores, "scores", labels=labels, state=gamma)
            check_devices(scores, "scores", state=state, index=index, item_weights=item_weights)
        return state

    def _step(
        self,
        scores: Tensor,
        labels: Tensor,
        index: Tensor | None,
        item_weights: Tensor | None,
        update_state: bool,
    ) -> Tensor:
        state, buffers = self._state_of_call(scores, labels, index, item_weights), self._buffers
        return score_step(
            scores,
            labels,
            index,
            item_weights,
            state,
            buffers["gamma"],  # type: ignore[arg-type]
            buffers["scale"],  # type: ignore[arg-type]
            self.margin,
            self._rule,
            self._surrogate,
            self._algorithm,
            update_state,
            self.reduction == "mean",
        )

    def extra_repr(self) -> str:
        return (
            f"surrogate={self.surrogate!r}, margin={self.margin}, scale={float(self.scale)}, "
            f"gamma={float(self.gamma)}, algorithm={self.algorithm!r}, "
            f"reduction={self.reduction!r}"
        )


def check_single_label(scores: Tensor, name: str) -> None:
    """Scores [B] or [B, 1]."""
    check_tensor(scores, "scores")
    if scores.dim() == 2 and scores.shape[1] != 1:
        raise ValueError(
            f"{name}: expected scores of shape [B] or [B, 1], got {tuple(scores.shape)}"
        )


def check_num_labels(scores: Tensor, num_labels: int, name: str) -> None:
    """Scores [B, num_labels]."""
    check_tensor(scores, "scores")
    if scores.dim() != 2 or scores.shape[1] != num_labels:
        raise ValueError(
            f"{name}: expected scores of shape [B, {num_labels}], got {tuple(scores.shape)}"
        )
