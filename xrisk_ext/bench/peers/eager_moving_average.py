"""The moving average with our contract in eager PyTorch, as fast as we could write it.

Contract: an untouched row (NaN, log: -inf) is assigned; every duplicate of an id reads the old
state; the mean of the duplicates' blends (log: the log of the mean of their exponentials) is stored
and given back to each. A guard against non-finite observations is left out, in the peer's favour.

Duplicates cost little where there are few: each entry writes its number into its row's slot, the
one that stays leads, and only the others (the losers) are added up at their leader. Slower here
(4096 rows / 1e6 rows, in units of this one): scatter_reduce_ and index_reduce_ 20 / 3,
torch.unique 5 / 10, two zeroed accumulators of the state's size 3 / 1.5.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import peer
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.cases import MovingAverageInputs


class EagerMovingAverage:
    """Workspaces are kept between calls: fresh memory would cost it page faults."""

    def __init__(self, state: Tensor, num_entries: int, gamma: float, log: bool) -> None:
        self.state = state  # [N]
        self.gamma = gamma
        self.log = log
        self._slot = torch.zeros(state.numel(), dtype=torch.int32, device=state.device)  # [N]
        self._numbers = torch.arange(num_entries, dtype=torch.int32, device=state.device)
        self._winner = torch.empty_like(self._numbers)
        self._old = state.new_empty(num_entries)
        self._other = state.new_empty(num_entries)
        self._count = state.new_ones(num_entries)

    @torch.no_grad()
    def update(self, index: Tensor, values: Tensor) -> Tensor:
        old = torch.index_select(self.state, 0, index, out=self._old)
        blend = self._blend_log(old, values) if self.log else self._blend(old, values)
        self._slot.scatter_(0, index, self._numbers)
        winner = torch.index_select(self._slot, 0, index, out=self._winner)
        if not torch.equal(winner, self._numbers):
            losers = (winner != self._numbers).nonzero().squeeze_(1)
            leaders = winner.index_select(0, losers)
            average = self._average_log if self.log else self._average
            mean = average(blend, losers, leaders)
            blend.index_copy_(0, leaders.long(), mean).index_copy_(0, losers, mean)
        self.state.scatter_(0, index, blend)
        return blend

    def _blend(self, old: Tensor, values: Tensor) -> Tensor:
        untouched = old.isnan()
        return torch.where(untouched, values, old.lerp_(values, self.gamma))

    def _blend_log(self, old: Tensor, values: Tensor) -> Tensor:
        untouched = old == -math.inf
        new = torch.add(values, math.log(self.gamma), out=self._other)
        mixed = torch.logaddexp(old.add_(math.log1p(-self.gamma)), new, out=new)
        return torch.where(untouched, values, mixed)

    def _average(self, blend: Tensor, losers: Tensor, leaders: Tensor) -> Tensor:
        blend.index_add_(0, leaders, blend.index_select(0, losers))
        return blend.index_select(0, leaders).div_(self._group_sizes(leaders))

    def _average_log(self, blend: Tensor, losers: Tensor, leaders: Tensor) -> Tensor:
        """Shifted by each group's largest blend."""
        lost, led = blend.index_select(0, losers), blend.index_select(0, leaders)
        wide = leaders.long()
        self._other.index_copy_(0, wide, led)
        self._other.scatter_reduce_(0, wide, lost, "amax")
        peak = self._other.index_select(0, leaders)
        self._other.index_copy_(0, wide, led.sub_(peak).exp_())
        self._other.index_add_(0, leaders, lost.sub_(peak).exp_())
        mean = self._other.index_select(0, leaders).div_(self._group_sizes(leaders))
        return mean.log_().add_(peak)

    def _group_sizes(self, leaders: Tensor) -> Tensor:
        """Per loser, the entries that share its id; the counter is left at one again."""
        self._count.index_add_(0, leaders, self._count.new_ones(leaders.numel()))
        sizes = self._count.index_select(0, leaders)
        self._count.index_fill_(0, leaders.long(), 1.0)
        return sizes


@peer("moving_average", "eager")
def eager(inputs: MovingAverageInputs) -> Contestant:
    start, index, values, gamma, log = inputs
    solver = EagerMovingAverage(start.clone(), len(index), gamma, log)
    out = values

    def call() -> None:
        nonlocal out
        out = solver.update(index, values)

    return Contestant(
        "eager",
        call,
        lambda: solver.state.copy_(start),
        lambda: truth.moving_average_error(inputs, out, solver.state),
    )


@peer("moving_average", "eager_unique")
def eager_unique(inputs: MovingAverageInputs) -> Contestant:
    """What one writes first: group the ids, average per group, guard, scatter; no workspace."""
    start, index, values, gamma, log = inputs
    state = start.clone()
    out = values

    @torch.no_grad()
    def call() -> None:
        nonlocal out
        rows, group, sizes = torch.unique(index, return_inverse=True, return_counts=True)
        old = state[rows]
        seen = old[group]
        if log:
            mixed = torch.logaddexp(seen + math.log1p(-gamma), values + math.log(gamma))
            blend = torch.where(seen == -math.inf, values, mixed)
            peak = torch.full_like(old, -math.inf).scatter_reduce_(0, group, blend, "amax")
            total = torch.zeros_like(old).index_add_(0, group, (blend - peak[group]).exp())
            mean = (total / sizes).log() + peak
        else:
            blend = torch.where(seen.isnan(), values, (1 - gamma) * seen + gamma * values)
            mean = torch.zeros_like(old).index_add_(0, group, blend) / sizes
        state[rows] = torch.where(mean.isfinite(), mean, old)
        out = mean[group]

    return Contestant(
        "eager_unique",
        call,
        lambda: state.copy_(start),
        lambda: truth.moving_average_error(inputs, out, state),
    )
