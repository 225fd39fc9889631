"""The ranking part of the demo: digit images retrieved for a digit image, with graded relevance.

An image is relevant to another by 2 if it shows the same digit, and by 1 if it shows one of the two
digits whose mean images are nearest to the other's: what a reader would take for it next. Every
training image is a query for all the others; what is reported is the NDCG@10 of unseen queries.
"""

import itertools
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from xrisk_ext import ApproxNDCGLoss, ListNetLoss, NDCGLoss
from xrisk_ext.metrics import ndcg_at_k

LISTNET = "ListNet"
APPROX_NDCG = "ApproxNDCG"
SONG = "xrisk_ext SONG"
K_SONG = "xrisk_ext K-SONG"
METHODS = (LISTNET, APPROX_NDCG, SONG, K_SONG)
COLOURS = dict(zip(METHODS, ("tab:gray", "tab:blue", "tab:red", "tab:orange"), strict=True))

PROTOCOL = """\
Ranking: {items} digit images, each a query for the others; relevance 2 for the same digit, 1 for
the two digits of the nearest mean images. Scores are cosines of a small encoder's embeddings, times
a factor; {steps} steps of {batch} queries; Adam, the same batches and first weights for all.
Learning rate and factor are chosen on validation queries of the first {tuning_seeds} seeds from
the same {trials} trials for all, the K of K-SONG there, too, from {ks}; test queries are ranked
against the same images. Steps and grid were set by hand with some of these splits in view."""

ITEMS = 400
VALIDATION = 300
TEST = 600
BATCH = 32
EMBEDDING = 16
TOP = 10
GAMMA = 0.9
KS = (10, 50, 100)  # of K-SONG: a query's digit has 40 images
NEAR_DIGITS = 2


@dataclass(frozen=True)
class Trial:
    """What is chosen on validation queries."""

    learning_rate: float
    factor: float  # of the cosines
    k: int | None  # of K-SONG


@dataclass(frozen=True)
class Plan:
    seeds: int
    tuning_seeds: int
    steps: int
    trials: tuple[tuple[float, float], ...]  # learning rate, factor of the cosines
    ks: tuple[int, ...] = KS  # tried by K-SONG

    def trials_of(self, method: str) -> list["Trial"]:
        ks = self.ks if method == K_SONG else (None,)
        return [Trial(*pair, k) for pair in self.trials for k in ks]

    def runs(self) -> int:
        """Of all methods together."""
        tried = sum(len(self.trials_of(method)) for method in METHODS)
        return tried * self.tuning_seeds + len(METHODS) * (self.seeds - self.tuning_seeds)


def make_plan(seeds: int, quick: bool) -> Plan:
    seeds = min(seeds, 5)  # what two minutes leave
    if quick:
        return Plan(seeds, 1, 10, ((3e-3, 5.0),), KS[:1])
    grid = itertools.product((5e-3, 2e-2), (5.0, 15.0))
    return Plan(seeds, min(seeds, 2), 80, tuple(grid))


@dataclass(frozen=True)
class Queries:
    """Images [n, 64] in [0, 1], and the relevance [n, ITEMS] of the items to them."""

    images: Tensor
    relevance: Tensor


@dataclass(frozen=True)
class Lists:
    """One split; the items are the training queries themselves."""

    train: Queries
    validation: Queries
    test: Queries


def split(seed: int) -> Lists:
    pixels, digits = load_digits(return_X_y=True)
    pixels = (pixels / 16.0).astype(np.float32)
    train, rest, train_digits, rest_digits = train_test_split(
        pixels, digits, train_size=ITEMS, stratify=digits, random_state=seed
    )
    validation, test, validation_digits, test_digits = train_test_split(
        rest, rest_digits, train_size=VALIDATION, test_size=TEST, stratify=rest_digits,
        random_state=seed,
    )  # fmt: skip
    grades = digit_grades(torch.from_numpy(train), torch.from_numpy(train_digits))

    def queries(images: np.ndarray, their_digits: np.ndarray) -> Queries:
        return Queries(torch.from_numpy(images), grades[their_digits][:, train_digits])

    return Lists(
        queries(train, train_digits),
        queries(validation, validation_digits),
        queries(test, test_digits),
    )


def digit_grades(images: Tensor, digits: Tensor) -> Tensor:
    """[10, 10]: the relevance of an image of digit b to a query of digit a."""
    means = torch.stack([images[digits == digit].mean(0) for digit in range(10)])
    distance = torch.cdist(means, means).fill_diagonal_(-1.0)
    order = distance.argsort(dim=1)
    grades = torch.zeros(10, 10)
    grades.scatter_(1, order[:, 1 : 1 + NEAR_DIGITS], 1.0)
    return grades.scatter_(1, order[:, :1], 2.0)


class Encoder(nn.Module):
    """Unit embeddings of images."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, EMBEDDING))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(self.layers(images))


Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # scores, relevance, queries, mask


def make_loss(method: str, top_k: int | None) -> Loss:
    """The moving averages of SONG are kept per (query, item)."""
    if method in (LISTNET, APPROX_NDCG):
        plain = ListNetLoss() if method == LISTNET else ApproxNDCGLoss()
        return lambda scores, relevance, queries, mask: plain(scores, relevance, mask)
    # Lists are whole, so the top-K threshold of each is solved for.
    song = NDCGLoss(ITEMS * ITEMS, top_k=top_k, threshold="solve", gamma=GAMMA)
    items = torch.arange(ITEMS)

    def dynamic(scores: Tensor, relevance: Tensor, queries: Tensor, mask: Tensor) -> Tensor:
        pairs = queries[:, None] * ITEMS + items
        value: Tensor = song(scores, relevance, pairs, queries, mask=mask)
        return value

    return dynamic


@dataclass(frozen=True)
class Run:
    validation: float  # NDCG@10
    test: float


def train(method: str, lists: Lists, plan: Plan, trial: Trial, seed: int) -> Run:
    """Batches and first weights depend on the seed, not on the method."""
    learning_rate, factor = trial.learning_rate, trial.factor
    encoder, loss_fn = Encoder(seed), make_loss(method, trial.k)
    optimizer = torch.optim.Adam(encoder.parameters(), learning_rate)
    generator = torch.Generator().manual_seed(seed)
    others = ~torch.eye(ITEMS, dtype=torch.bool)  # a query is no item of its own list
    order = torch.empty(0, dtype=torch.int64)
    for step in range(plan.steps):
        if len(order) < BATCH:
            order = torch.randperm(ITEMS, generator=generator)
        queries, order = order[:BATCH], order[BATCH:]
        embeddings = encoder(lists.train.images)
        scores = factor * embeddings[queries] @ embeddings.T
        loss = loss_fn(scores, lists.train.relevance[queries], queries, others[queries])
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / plan.steps)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        items = encoder(lists.train.images)
        validation, test = (
            float(ndcg_at_k(encoder(part.images) @ items.T, part.relevance, TOP))
            for part in (lists.validation, lists.test)
        )
    return Run(validation, test)


@dataclass(frozen=True)
class Outcome:
    trial: Trial
    runs: list[Run]  # one per seed

    def test(self) -> list[float]:
        return [run.test for run in self.runs]


def compare(plan: Plan, progress: Callable[[int], object]) -> dict[str, Outcome]:
    """The runs of every method with the trial that validates best, one per seed."""
    splits = [split(seed) for seed in range(plan.seeds)]
    outcomes = {}
    for method in METHODS:

        def run(trial: Trial, seed: int, method: str = method) -> Run:
            progress(1)
            return train(method, splits[seed], plan, trial, seed)

        tried = {
            trial: [run(trial, seed) for seed in range(plan.tuning_seeds)]
            for trial in plan.trials_of(method)
        }
        best = max(tried, key=lambda t: statistics.mean(run.validation for run in tried[t]))
        later = [run(best, seed) for seed in range(plan.tuning_seeds, plan.seeds)]
        outcomes[method] = Outcome(best, tried[best] + later)
    return outcomes


def table(outcomes: dict[str, Outcome]) -> list[list[str]]:
    """Rows of cells: mean and standard deviation over the seeds, paired difference to ListNet."""
    rows = [["", f"test NDCG@{TOP}", "minus ListNet", "seeds won", "lr", "factor", "K"]]
    base = np.array(outcomes[LISTNET].test())
    for name, outcome in outcomes.items():
        ndcg = np.array(outcome.test())
        count = len(ndcg)
        spread = f" ± {ndcg.std(ddof=1):.4f}" if count > 1 else ""
        trial = outcome.trial
        row = [name, f"{ndcg.mean():.4f}{spread}", "", ""]
        row += [f"{trial.learning_rate:g}", f"{trial.factor:g}", f"{trial.k or ''}"]
        if name != LISTNET:
            gap = ndcg - base
            error = f" ± {gap.std(ddof=1) / math.sqrt(count):.4f}" if count > 1 else ""
            row[2] = f"{gap.mean():+.4f}{error}"
            row[3] = f"{int((gap > 0).sum())} of {count}"
        rows.append(row)
    return rows


def draw(axes: Any, outcomes: dict[str, Outcome]) -> None:
    """The seeds of every method as points, their mean as a line."""
    for place, (name, outcome) in enumerate(outcomes.items()):
        ndcg, colour = outcome.test(), COLOURS[name]
        axes.plot([place] * len(ndcg), ndcg, "o", color=colour, alpha=0.5)
        axes.plot([place - 0.25, place + 0.25], [statistics.mean(ndcg)] * 2, color=colour)
    names = [name.removeprefix("xrisk_ext ") for name in outcomes]
    axes.set_xticks(range(len(names)), names)
    axes.set_title("digit images for a digit image", fontsize="medium")
    axes.set_ylabel(f"test NDCG@{TOP}")
