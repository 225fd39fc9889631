"""Training a small network with one loss, and choosing the trial that does best on validation."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from xrisk_ext.demo.data import Floats, Part, Split
from xrisk_ext.demo.methods import Method, cross_entropy, loss_step

BATCH = 64
BATCH_POSITIVES = 8  # positives are oversampled to 1 in 8, for every method
HIDDEN = 16
WARM_UP = 0.1  # this share of the steps is cross entropy, for the losses that rank


@dataclass(frozen=True)
class Trial:
    """What is tuned, on the same grid for every method: AdamW's settings."""

    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Plan:
    """What is run: ``seeds`` runs of the best trial, chosen on the first ``tuning_seeds``."""

    seeds: int
    tuning_seeds: int
    steps: int
    trials: tuple[Trial, ...]

    def runs(self) -> int:
        """Runs per task and method."""
        return len(self.trials) * self.tuning_seeds + self.seeds - self.tuning_seeds


GRID = tuple(Trial(*pair) for pair in itertools.product((0.03, 0.1, 0.3), (0.3, 1.0)))
QUICK_GRID = (Trial(0.03, 0.3), Trial(0.1, 0.3))


def make_plan(seeds: int, quick: bool) -> Plan:
    if quick:
        return Plan(seeds, min(seeds, 1), 40, QUICK_GRID)
    return Plan(seeds, min(seeds, 4), 400, GRID)


@dataclass(frozen=True)
class Run:
    validation: float  # AUPRC
    test: float  # AUPRC
    test_scores: Floats
    step_seconds: float  # the loss's forward and backward, median over the runs of the stack


@dataclass(frozen=True)
class Outcome:
    """The runs of a method's best trial, one per seed."""

    trial: Trial
    runs: list[Run]


def draw_batches(train: Part, steps: int, seed: int) -> Tensor:
    """Ids of the samples of every batch [steps, BATCH], the positives first."""
    rng = np.random.default_rng(seed)
    positives, total = train.positives, len(train.labels)
    wanted = steps * (BATCH - BATCH_POSITIVES)
    passes = -(-wanted // (total - positives))
    shuffled = [positives + rng.permutation(total - positives) for _ in range(passes)]
    negative_ids = np.concatenate(shuffled)[:wanted].reshape(steps, -1)
    positive_ids = [rng.choice(positives, BATCH_POSITIVES, replace=False) for _ in range(steps)]
    return torch.from_numpy(np.concatenate([np.stack(positive_ids), negative_ids], axis=1))


class StackedNetwork(nn.Module):
    """One small network per seed, run side by side; nothing of one enters another."""

    def __init__(self, features: int, seeds: Sequence[int]) -> None:
        super().__init__()
        drawn = [self._weights(features, seed) for seed in seeds]
        self.hidden_weight = nn.Parameter(torch.stack([hidden for hidden, _ in drawn]))
        self.hidden_bias = nn.Parameter(torch.zeros(len(seeds), 1, HIDDEN))
        self.out_weight = nn.Parameter(torch.stack([out for _, out in drawn]))
        self.out_bias = nn.Parameter(torch.zeros(len(seeds), 1, 1))

    @staticmethod
    def _weights(features: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        hidden = torch.randn(features, HIDDEN, generator=generator) * math.sqrt(2 / features)
        return hidden, torch.randn(HIDDEN, 1, generator=generator) * math.sqrt(2 / HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        """[seeds, n, features] -> [seeds, n]"""
        hidden = torch.relu(torch.baddbmm(self.hidden_bias, x, self.hidden_weight))
        return torch.baddbmm(self.out_bias, hidden, self.out_weight).squeeze(2)


def train(
    method: Method, splits: Sequence[Split], batches: Tensor, trial: Trial, seeds: Sequence[int]
) -> list[Run]:
    """One run per seed. Split, batches and first weights depend on the seed, not on the method.

    The runs share a stack of networks, which saves time and changes nothing: Adam acts on every
    entry by itself, and every run has its own loss.
    """
    features = torch.stack([split.train.features for split in splits])
    labels = (torch.arange(BATCH) < BATCH_POSITIVES).float()
    network = StackedNetwork(features.shape[2], seeds)
    losses = [method.make(features.shape[1]) for _ in seeds]
    optimizer = torch.optim.AdamW(
        network.parameters(), trial.learning_rate, weight_decay=trial.weight_decay, fused=True
    )
    steps = batches.shape[1]
    warm_up = round(WARM_UP * steps) if method.ranks else 0
    rows = torch.arange(len(seeds)).unsqueeze(1)
    times = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = trial.learning_rate * (1 - step / steps)
        index = batches[:, step]
        logits = network(features[rows, index])
        warming = step < warm_up
        outputs = torch.sigmoid(logits) if method.ranks and not warming else logits

        gradient = torch.empty_like(outputs)
        for run, loss in enumerate(losses):
            start = time.perf_counter()
            gradient[run] = loss_step(
                cross_entropy if warming else loss, outputs[run], labels, index[run]
            )
            if not warming:
                times.append(time.perf_counter() - start)

        optimizer.zero_grad()
        outputs.backward(gradient)
        optimizer.step()

    seconds = statistics.median(times)
    with torch.no_grad():
        validation, test = (
            network(torch.stack([part.features for part in parts])).double().numpy()
            for parts in ([s.validation for s in splits], [s.test for s in splits])
        )
    return [
        Run(
            validation=float(average_precision_score(split.validation.labels, validation[run])),
            test=float(average_precision_score(split.test.labels, test[run])),
            test_scores=test[run],
            step_seconds=seconds,
        )
        for run, split in enumerate(splits)
    ]


def tune_and_train(
    method: Method, splits: Sequence[Split], plan: Plan, progress: Callable[[int], object]
) -> Outcome:
    """The best trial by mean validation AUPRC over the tuning seeds, run for every seed."""
    batches = torch.stack([draw_batches(s.train, plan.steps, i) for i, s in enumerate(splits)])

    def run(trial: Trial, seeds: range) -> list[Run]:
        part = slice(seeds.start, seeds.stop)
        runs = train(method, splits[part], batches[part], trial, seeds) if seeds else []
        progress(len(seeds))
        return runs

    tried = {trial: run(trial, range(plan.tuning_seeds)) for trial in plan.trials}
    best = max(tried, key=lambda trial: statistics.mean(r.validation for r in tried[trial]))
    return Outcome(best, tried[best] + run(best, range(plan.tuning_seeds, plan.seeds)))
