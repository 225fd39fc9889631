"""The contrastive part of the demo: SogCLR against SimCLR on digit images, in small batches.

Both train the same encoder without labels, from two random distortions of every image; what the
encoder has learnt is read off by a linear probe, a logistic regression on its frozen features.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from xrisk_ext import GlobalContrastiveLoss, NTXentLoss

SIMCLR = "SimCLR"
SOGCLR = "xrisk_ext SogCLR"
METHODS = (SIMCLR, SOGCLR)
COLOURS = {SIMCLR: "tab:gray", SOGCLR: "tab:red"}

PROTOCOL = """\
Contrastive: {images} digit images of 8 x 8 pixels without their labels; {steps} steps of {batch}
images, each in two distortions (shift, contrast, noise, an erased patch); Adam, the same encoder,
batches and distortions for both. The temperature is chosen on validation data of the first
{tuning_seeds} seeds from the same {temperatures} for both; a logistic regression on the frozen
features is fitted to {labelled} labelled images."""

IMAGES = 1000
BATCH = 32
FEATURES = 64
EMBEDDING = 32
SIDE = 8
LABELLED = 100
LEARNING_RATE = 1e-3
GAMMA = 0.9


@dataclass(frozen=True)
class Plan:
    seeds: int
    tuning_seeds: int
    steps: int
    temperatures: tuple[float, ...]

    def runs(self) -> int:
        """Of both methods together."""
        one = len(self.temperatures) * self.tuning_seeds + self.seeds - self.tuning_seeds
        return len(METHODS) * one


def make_plan(seeds: int, quick: bool) -> Plan:
    seeds = min(seeds, 4)  # what two minutes leave
    if quick:
        return Plan(seeds, 1, 20, (0.2,))
    return Plan(seeds, min(seeds, 2), 300, (0.1, 0.3))


@dataclass(frozen=True)
class Images:
    """One split: images [n, 64] in [0, 1]. The labels of `train` serve the probe alone."""

    train: Tensor
    train_labels: np.ndarray
    validation: Tensor
    validation_labels: np.ndarray
    test: Tensor
    test_labels: np.ndarray


def split(seed: int) -> Images:
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16.0).astype(np.float32)
    train, rest, train_labels, rest_labels = train_test_split(
        pixels, labels, train_size=IMAGES, stratify=labels, random_state=seed
    )
    validation, test, validation_labels, test_labels = train_test_split(
        rest, rest_labels, train_size=300, stratify=rest_labels, random_state=seed
    )
    return Images(
        torch.from_numpy(train), train_labels,
        torch.from_numpy(validation), validation_labels,
        torch.from_numpy(test), test_labels,
    )  # fmt: skip


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Another view of every image [n, 64]: moved by up to a pixel, brighter or darker, noisy, and
    with a patch of 2 x 2 pixels erased."""
    count = len(images)
    rows = torch.arange(SIDE)
    moves = torch.randint(-1, 2, (2, count, 1), generator=generator)
    patch = torch.randint(0, SIDE - 1, (2, count, 1), generator=generator)
    down, right = rows + moves[0], rows + moves[1]  # [n, 8]: where each row, column comes from
    taken = images.view(count, SIDE, SIDE)
    taken = taken.gather(1, down.clamp(0, SIDE - 1).unsqueeze(2).expand(-1, -1, SIDE))
    taken = taken.gather(2, right.clamp(0, SIDE - 1).unsqueeze(1).expand(-1, SIDE, -1))
    rows_inside, columns_inside = (down >= 0) & (down < SIDE), (right >= 0) & (right < SIDE)
    inside = rows_inside.unsqueeze(2) & columns_inside.unsqueeze(1)
    erased_rows = (rows >= patch[0]) & (rows <= patch[0] + 1)
    erased_columns = (rows >= patch[1]) & (rows <= patch[1] + 1)
    kept = inside & ~(erased_rows.unsqueeze(2) & erased_columns.unsqueeze(1))
    contrast = 0.6 + 0.8 * torch.rand(count, 1, generator=generator)
    noise = 0.1 * torch.randn(count, SIDE * SIDE, generator=generator)
    return (taken * kept).reshape(count, -1) * contrast + noise


class Encoder(nn.Module):
    """Features for the probe, and the embedding of them that the loss compares."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.features = nn.Sequential(
                nn.Linear(SIDE * SIDE, 256), nn.ReLU(), nn.Linear(256, FEATURES)
            )
            self.projection = nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, EMBEDDING))

    def forward(self, images: Tensor) -> Tensor:
        embedding: Tensor = self.projection(self.features(images))
        return embedding


@dataclass(frozen=True)
class Run:
    validation: float  # accuracy of the linear probe
    test: float


def train(method: str, images: Images, plan: Plan, temperature: float, seed: int) -> Run:
    """Batches, distortions and first weights depend on the seed, not on the method."""
    encoder = Encoder(seed)
    count = len(images.train)
    simclr = NTXentLoss(temperature=temperature)
    sogclr = GlobalContrastiveLoss(count, temperature=temperature, gamma=GAMMA)
    optimizer = torch.optim.Adam(encoder.parameters(), LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(plan.steps):
        if len(order) < BATCH:
            order = torch.randperm(count, generator=generator)
        index, order = order[:BATCH], order[BATCH:]
        batch = images.train[index]
        view1 = encoder(distort(batch, generator))
        view2 = encoder(distort(batch, generator))
        loss = simclr(view1, view2) if method == SIMCLR else sogclr(view1, view2, index)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / plan.steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return probe(encoder, images)


def probe(encoder: Encoder, images: Images) -> Run:
    with torch.no_grad():
        parts = (images.train, images.validation, images.test)
        train, validation, test = (encoder.features(part).numpy() for part in parts)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    classifier.fit(train[:LABELLED], images.train_labels[:LABELLED])
    return Run(
        float(classifier.score(validation, images.validation_labels)),
        float(classifier.score(test, images.test_labels)),
    )


@dataclass(frozen=True)
class Outcome:
    temperature: float
    runs: list[Run]  # one per seed

    def test(self) -> list[float]:
        return [run.test for run in self.runs]


def compare(plan: Plan, progress: Callable[[int], object]) -> dict[str, Outcome]:
    """The runs of every method at the temperature that validates best, one per seed."""
    splits = [split(seed) for seed in range(plan.seeds)]
    outcomes = {}
    for method in METHODS:

        def run(temperature: float, seed: int, method: str = method) -> Run:
            progress(1)
            return train(method, splits[seed], plan, temperature, seed)

        tried = {
            temperature: [run(temperature, seed) for seed in range(plan.tuning_seeds)]
            for temperature in plan.temperatures
        }
        best = max(tried, key=lambda t: statistics.mean(run.validation for run in tried[t]))
        later = [run(best, seed) for seed in range(plan.tuning_seeds, plan.seeds)]
        outcomes[method] = Outcome(best, tried[best] + later)
    return outcomes


def table(outcomes: dict[str, Outcome]) -> list[list[str]]:
    """Rows of cells: mean and standard deviation over the seeds, paired difference to SimCLR."""
    rows = [["", "probe accuracy", "minus SimCLR", "seeds won", "temperature"]]
    base = np.array(outcomes[SIMCLR].test())
    for name, outcome in outcomes.items():
        accuracy = np.array(outcome.test())
        count = len(accuracy)
        spread = f" ± {accuracy.std(ddof=1):.4f}" if count > 1 else ""
        row = [name, f"{accuracy.mean():.4f}{spread}", "", "", f"{outcome.temperature:g}"]
        if name != SIMCLR:
            gap = accuracy - base
            error = f" ± {gap.std(ddof=1) / math.sqrt(count):.4f}" if count > 1 else ""
            row[2] = f"{gap.mean():+.4f}{error}"
            row[3] = f"{int((gap > 0).sum())} of {count}"
        rows.append(row)
    return rows


def draw(axes: Any, outcomes: dict[str, Outcome]) -> None:
    """Test accuracy of every seed's probe, and the means."""
    for place, (name, outcome) in enumerate(outcomes.items()):
        accuracy = outcome.test()
        axes.plot([place] * len(accuracy), accuracy, "o", color=COLOURS[name], alpha=0.5)
        mean = statistics.mean(accuracy)
        axes.plot(
            place, mean, "_", color=COLOURS[name], markersize=30, label=f"{name} ({mean:.3f})"
        )
    axes.set_title("digits without labels", fontsize="medium")
    axes.set(xticks=range(len(outcomes)), ylabel="accuracy of a linear probe")
    axes.set_xticklabels(list(outcomes), fontsize="small")
    axes.legend(loc="lower center", title="mean test accuracy", fontsize="small")
