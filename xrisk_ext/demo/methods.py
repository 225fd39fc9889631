"""The losses that are compared, and what one step of each costs."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.profiler import ProfilerActivity, profile

from xrisk_ext import AveragePrecisionLoss

# (scores [B], labels [B], sample ids [B]) -> scalar
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

# The same for both AP losses. The margin was chosen by hand, between 0.1 and 1, on validation data
# of other seeds than the demo's: with 1 the surrogate is too blunt for scores in [0, 1] (not even
# the training AUPRC gets as high as with cross entropy); 0.2 to 0.4 differ by less than the noise.
MARGIN = 0.3
GAMMA = 0.9

OURS = "xrisk_ext AP"
CROSS_ENTROPY = "cross entropy"
LIBAUC = "LibAUC AP"


@dataclass(frozen=True)
class Method:
    """A loss by name. ``make(n)`` gives a fresh one for n training samples."""

    name: str
    make: Callable[[int], Loss]
    ranks: bool  # takes sigmoid scores after a warm-up; cross entropy takes the logits


def _make_cross_entropy(num_samples: int) -> Loss:
    return cross_entropy


def cross_entropy(scores: Tensor, labels: Tensor, index: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(scores, labels)


def _make_ours(num_samples: int) -> Loss:
    return AveragePrecisionLoss(num_samples, margin=MARGIN, gamma=GAMMA)


def available_methods() -> tuple[list[Method], str | None]:
    """The methods that can run here, and why LibAUC's is left out where it is."""
    methods = [
        Method(CROSS_ENTROPY, _make_cross_entropy, ranks=False),
        Method(OURS, _make_ours, ranks=True),
    ]
    try:
        from libauc.losses import APLoss
    except ImportError as error:
        return methods, f"LibAUC's APLoss is left out, it cannot be imported ({error})"

    def make_libauc(num_samples: int) -> Loss:
        loss: Loss = APLoss(num_samples, margin=MARGIN, gamma=GAMMA, device="cpu")
        return loss

    return [*methods, Method(LIBAUC, make_libauc, ranks=True)], None


def loss_step(loss: Loss, scores: Tensor, labels: Tensor, index: Tensor) -> Tensor:
    """Forward and backward of the loss alone: its gradient with respect to the scores."""
    leaf = scores.detach().requires_grad_()
    loss(leaf, labels, index).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return leaf.grad


@dataclass(frozen=True)
class StepCost:
    seconds: float
    peak_bytes: int


def step_cost(method: Method, batch: int, positives: int, repeats: int) -> StepCost:
    """Median time of ``loss_step`` and the most tensor memory that it holds at a time."""
    loss = method.make(batch)
    scores = torch.rand(batch, generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(batch) < positives).to(scores.dtype)
    index = torch.arange(batch)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        loss_step(loss, scores, labels, index)
        times.append(time.perf_counter() - start)
    peak = _peak_bytes(lambda: loss_step(loss, scores, labels, index))
    return StepCost(statistics.median(times[1:]), peak)


def _peak_bytes(run: Callable[[], object]) -> int:
    """The largest sum of what PyTorch's allocator handed out and has not got back, over a call."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its start and stop are not worth a line
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    kineto = profiler.profiler.kineto_results
    events = [(e.start_ns(), e.nbytes()) for e in kineto.events() if e.name() == "[memory]"]
    held = peak = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        held += size
        peak = max(peak, held)
    return peak
