"""What partial AUC and the push losses share: their state by rule, and the call of their step."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from xrisk_ext.losses._score_loss import (
    Reduction,
    ScoreLoss,
    check_num_labels,
    check_single_label,
)
from xrisk_ext.ops.partial_auc_step import PARTIAL_RULES, PARTIAL_SCHEDULES, partial_auc_step
from xrisk_ext.ops.surrogates import Algorithm, Surrogate
from xrisk_ext.state import InitialState, MovingAverage

# Of the rules that keep state: are the rows logarithms?
_LOG_ROWS = {
    "kl": True,
    "two_way_kl": True,
    "p_norm_push": True,
    "cvar": False,
    "two_way_cvar": False,
}


class TopLoss(ScoreLoss):
    """Base of the losses over (positive, negative) pairs that look at the top of the list.

    ``state`` ``[L, num_samples]`` has log u (KL, p-norm push) or the thresholds s (CVaR), ``dual``
    ``[L, num_samples]`` the dual variables y and ``outer`` ``[L]`` log v or the threshold t of the
    two-way losses; each is None where the rule has none.
    """

    rules: ClassVar[dict[str, int]] = PARTIAL_RULES
    dual: MovingAverage | None
    outer: MovingAverage | None

    def __init__(
        self,
        *,
        rule: str,
        num_samples: int | None,
        num_labels: int | None,
        gamma: float,
        surrogate: Surrogate,
        margin: float,
        scale: float,
        algorithm: Algorithm,
        state_dtype: torch.dtype,
        reduction: Reduction,
        initial_state: InitialState = "assign",
        max_fpr: float = 1.0,
        min_tpr: float = 0.0,
        power: float = 1.0,
        **schedules: float,
    ) -> None:
        name = type(self).__name__
        if initial_state not in ("assign", "zero"):
            raise ValueError(
                f"{name}: expected initial_state 'assign' or 'zero', got {initial_state!r}"
            )
        if not isinstance(max_fpr, (int, float)) or not 0 < max_fpr <= 1:
            raise ValueError(f"{name}: expected max_fpr in (0, 1], got {max_fpr!r}")
        if not isinstance(min_tpr, (int, float)) or not 0 <= min_tpr < 1:
            raise ValueError(f"{name}: expected min_tpr in [0, 1), got {min_tpr!r}")
        if not isinstance(power, (int, float)) or not 1 <= power < float("inf"):
            raise ValueError(f"{name}: expected p >= 1 and finite, got {power!r}")
        log = _LOG_ROWS.get(rule)
        if log is None:  # no state: ids and gamma have no part
            num_samples, gamma = None, 1.0
        elif not log and num_samples is None:
            raise ValueError(
                f"{name}: expected num_samples, the number of ids that thresholds are kept for; "
                "mode='exact' needs none"
            )
        super().__init__(
            rule=rule,
            num_samples=num_samples,
            num_labels=1 if num_labels is None else num_labels,
            gamma=gamma,
            surrogate=surrogate,
            margin=margin,
            scale=scale,
            algorithm=algorithm,
            state_dtype=state_dtype,
            reduction=reduction,
            initial_state=initial_state if log else 0.0,
            state_columns=(),
            log_state=bool(log),
        )
        if algorithm in ("sort", "smooth") and rule in ("kl", "two_way_kl"):
            raise ValueError(f"{name}: mode 'kl' has no algorithm {algorithm!r}")
        self.num_labels = num_labels
        self.max_fpr = float(max_fpr)
        self.min_tpr = float(min_tpr)
        self.power = float(power)
        self._add_schedules(**schedules)
        self._schedule_names = PARTIAL_SCHEDULES[rule]
        self.dual = self.outer = None
        if self.state is not None and rule.startswith("two_way"):
            shape = tuple(self.state.value.shape)
            if log:
                self.outer = MovingAverage(
                    shape[:1], dtype=state_dtype, log=True, initial=initial_state
                )
            else:
                self.dual = MovingAverage(shape, dtype=state_dtype, initial=1.0)
                self.outer = MovingAverage(shape[:1], dtype=state_dtype, initial=0.0)

    def reset_state(self) -> None:
        """Forgets all state, as if no batch had been seen."""
        super().reset_state()
        for module in (self.dual, self.outer):
            if module is not None:
                module.reset()

    def _step(
        self,
        scores: Tensor,
        labels: Tensor,
        index: Tensor | None,
        item_weights: Tensor | None,
        update_state: bool,
    ) -> Tensor:
        if self.num_labels is None:
            check_single_label(scores, type(self).__name__)
        else:
            check_num_labels(scores, self.num_labels, type(self).__name__)
        state = self._state_of_call(scores, labels, index, item_weights)
        modules, buffers = self._modules, self._buffers
        dual = modules.get("dual") if state is not None else None
        outer = modules.get("outer") if state is not None else None
        return partial_auc_step(
            scores,
            labels,
            index,
            item_weights,
            state,
            None if dual is None else dual._buffers["value"],
            None if outer is None else outer._buffers["value"],
            [buffers[name] for name in self._schedule_names],  # type: ignore[misc]
            buffers["scale"],  # type: ignore[arg-type]
            self.margin,
            self.max_fpr,
            self.min_tpr,
            self.power,
            self._rule,
            self._surrogate,
            self._algorithm,
            update_state,
            self.reduction == "mean",
        )

    def _options(self) -> dict[str, Any]:
        """What `extra_repr` says first."""
        return {}

    def extra_repr(self) -> str:
        own = self._options()
        own |= {n: float(self._buffers[n]) for n in self._schedule_names}  # type: ignore[arg-type]
        own |= {"surrogate": self.surrogate, "margin": self.margin, "scale": float(self.scale)}
        own |= {"algorithm": self.algorithm, "reduction": self.reduction}
        return ", ".join(f"{name}={value!r}" for name, value in own.items())
