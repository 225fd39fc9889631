"""The top-K threshold that K-SONG and mAP@K carry: options, schedules, state."""

from typing import Literal

import torch
from torch import Tensor

from xrisk_ext.losses._schedules import Schedules
from xrisk_ext.ops.ranking_step import PRACTICAL_TOP_K, PUBLISHED_TOP_K, SOLVED_THRESHOLD
from xrisk_ext.state import InitialState, MovingAverage

TopKVersion = Literal["theoretical", "practical"]
Threshold = Literal["step", "solve"]
PsiSlope = Literal["derivative", "published"]
TOP_K_SCHEDULES = ("gamma1", "eta0", "tau1", "tau2", "sigmoid_alpha")


def check_choice(owner: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        known = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{owner}: expected {name} to be {known}, got {value!r}")


class TopKLoss(Schedules):
    """What ``top_k`` adds to a loss.

    ``thresholds`` and ``curvatures`` are the :class:`~xrisk_ext.MovingAverage` ``[num_rows]`` of
    lambda and s; None without ``top_k``, and where the threshold is solved for.
    """

    top_k: int | None
    thresholds: MovingAverage | None
    curvatures: MovingAverage | None

    def __init__(self) -> None:
        super().__init__()
        self.top_k = None
        self.epsilon = 0.0
        self.thresholds = None
        self.curvatures = None
        self._top_k_options = 0

    def _add_top_k(
        self,
        top_k: int | None,
        num_rows: int | None,
        *,
        version: TopKVersion,
        threshold: Threshold,
        psi_slope: PsiSlope,
        epsilon: float,
        state_dtype: torch.dtype,
        initial_state: InitialState,
        schedules: dict[str, float],
    ) -> None:
        owner = type(self).__name__
        whole = isinstance(top_k, int) and not isinstance(top_k, bool)
        if top_k is not None and (not whole or top_k < 1):
            raise ValueError(f"{owner}: expected top_k to be a positive integer, got {top_k!r}")
        check_choice(owner, "top_k_version", version, ("theoretical", "practical"))
        check_choice(owner, "threshold", threshold, ("step", "solve"))
        check_choice(owner, "psi_slope", psi_slope, ("derivative", "published"))
        if not isinstance(epsilon, (int, float)) or not 0 <= epsilon < 1:
            raise ValueError(f"{owner}: expected epsilon in [0, 1), got {epsilon!r}")
        self.top_k = top_k
        self.top_k_version = version
        self.threshold = threshold
        self.psi_slope = psi_slope
        self.epsilon = float(epsilon)
        self._top_k_options = (
            PRACTICAL_TOP_K * (version == "practical")
            + SOLVED_THRESHOLD * (threshold == "solve")
            + PUBLISHED_TOP_K * (psi_slope == "published")
        )
        if top_k is None:
            return
        self._add_schedules(**schedules)
        if num_rows is not None and threshold == "step":
            self.thresholds = MovingAverage((num_rows,), dtype=state_dtype, initial=initial_state)
            self.curvatures = MovingAverage((num_rows,), dtype=state_dtype, initial=initial_state)

    def _top_k_state(self) -> tuple[Tensor | None, Tensor | None]:
        if self.thresholds is None or self.curvatures is None or not self.training:
            return None, None
        return self.thresholds._buffers["value"], self.curvatures._buffers["value"]

    def _top_k_schedules(self) -> list[Tensor]:
        if self.top_k is None:
            return []
        buffers = self._buffers
        return [buffers[name] for name in TOP_K_SCHEDULES]  # type: ignore[misc]

    def _reset_top_k(self) -> None:
        for state in (self.thresholds, self.curvatures):
            if state is not None:
                state.reset()

    def _top_k_repr(self) -> str:
        if self.top_k is None:
            return ""
        schedules = ", ".join(f"{n}={float(self._buffers[n])}" for n in TOP_K_SCHEDULES)  # type: ignore[arg-type]
        return (
            f", top_k={self.top_k}, top_k_version={self.top_k_version!r}, "
            f"threshold={self.threshold!r}, epsilon={self.epsilon}, {schedules}"
        )
