"""Full-batch average precision: a linear and a boosted model on the objective of all the data.

    python examples/full_batch.py                      # digits of scikit-learn, 8 against the rest
    python examples/full_batch.py --samples 1000000    # made up, one positive in a hundred

With gamma = 1 and no ids, `AveragePrecisionLoss` is the surrogate objective of whatever it is
given: here of the whole training set in each call, positives against all, near-linear through the
smooth algorithm. Needs scikit-learn; the boosted model needs LightGBM: the extra `examples`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy
import torch
from sklearn.datasets import load_digits, make_classification
from sklearn.metrics import average_precision_score
from sklearn.model_selection import train_test_split
from torch import Tensor

import xrisk_ext as xr

SCALE = 2.0  # of the logistic surrogate: one over its temperature


def load(samples: int | None, seed: int) -> tuple[Tensor, ...]:
    """Features and labels to train on, and to test on; features scaled by the training set."""
    if samples is None:
        digits = load_digits()
        x, y = digits.data, (digits.target == 8).astype(numpy.int64)
    else:
        x, y = make_classification(
            samples, 20, n_informative=8, weights=[0.99], class_sep=0.7, random_state=seed
        )
    parts = train_test_split(x, y, test_size=0.5, stratify=y, random_state=seed)
    train, test = (torch.as_tensor(part, dtype=torch.float32) for part in parts[:2])
    mean, spread = train.mean(0), train.std(0) + 1e-6
    labels = (torch.as_tensor(part) for part in parts[2:])
    return ((train - mean) / spread, (test - mean) / spread, *labels)


def train_linear(
    x: Tensor, y: Tensor, loss_fn: Callable[..., Tensor], steps: int
) -> torch.nn.Linear:
    """L-BFGS on the whole set: nothing is sampled, so the objective is a function."""
    torch.manual_seed(0)
    model = torch.nn.Linear(x.shape[1], 1)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss_fn(model(x).squeeze(1), y) + 1e-4 * model.weight.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return model


def gradient_and_curvature(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of the AP surrogate: the exact gradient, and a diagonal for a Newton step.

    The objective is -mean_i u_pos_i / u_all_i, both sums over pairs. The diagonal is of the
    Gauss-Newton kind: it holds the weights u_pos / u_all^2 of the pairs (positive i, negative j)
    constant and keeps their own second derivative, phi'' = s^2 sigma'(s d) >= 0; the pairs of two
    positives, whose weights are negative, are left out. That is again a pair sum: s times the
    slopes of the sigmoid's.
    """
    h = scores.detach().requires_grad_()
    loss_fn = xr.AveragePrecisionLoss(gamma=1.0, surrogate="logistic", scale=SCALE)
    (gradient,) = torch.autograd.grad(loss_fn(h, labels), h)

    positive = labels > 0
    anchors, negatives = scores[positive].detach(), scores[~positive].detach()
    options = {"surrogate": "logistic", "scale": SCALE}
    u_positive = xr.ops.pairwise_sums(anchors, anchors, **options)
    u_all = u_positive + xr.ops.pairwise_sums(anchors, negatives, **options)
    weights = u_positive / u_all.square() / len(anchors)
    x, y = anchors.requires_grad_(), negatives.requires_grad_()
    sums = xr.ops.pairwise_sums(x, y, surrogate="sigmoid", scale=SCALE)
    by_anchor, by_negative = torch.autograd.grad(sums, (x, y), weights)
    curvature = torch.empty_like(scores)
    curvature[positive] = -SCALE * by_anchor
    curvature[~positive] = SCALE * by_negative
    return gradient, curvature


def train_boosted(x: Tensor, y: Tensor, rounds: int, exact: bool) -> Callable[[Tensor], Tensor]:
    """LightGBM with its own binary objective, or with ours."""
    import lightgbm

    def objective(
        predictions: numpy.ndarray, data: lightgbm.Dataset
    ) -> tuple[numpy.ndarray, numpy.ndarray]:
        scores = torch.as_tensor(predictions, dtype=torch.float32)
        gradient, curvature = gradient_and_curvature(scores, y)
        # Per sample as the library's own: the mean times their number; a floor bounds the steps.
        curvature = curvature.clamp(min=0.05 * float(curvature.mean()))
        return (len(y) * gradient).double().numpy(), (len(y) * curvature).double().numpy()

    parameters = {
        "objective": objective if exact else "binary",
        "num_leaves": 15,
        "learning_rate": 0.1,
        "min_sum_hessian_in_leaf": 1e-3,
        "seed": 0,
        "deterministic": True,
        "num_threads": torch.get_num_threads(),
        "verbose": -1,
    }
    model = lightgbm.train(parameters, lightgbm.Dataset(x.numpy(), y.numpy()), rounds)
    return lambda features: torch.as_tensor(model.predict(features.numpy(), raw_score=True))


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, help="made-up samples instead of the digits")
    parser.add_argument("--steps", type=int, default=60, help="of L-BFGS")
    parser.add_argument("--rounds", type=int, help="of boosting; as many as steps, if not given")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rounds = options.steps if options.rounds is None else options.rounds

    x, x_test, y, y_test = load(options.samples, options.seed)
    print(
        f"{len(y)} training samples, {int(y.sum())} positive; average precision on as many others"
    )
    loss_fn = xr.AveragePrecisionLoss(gamma=1.0, surrogate="logistic", scale=SCALE)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
    trainers: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
        "linear, cross entropy": lambda: train_linear(
            x, y, lambda h, t: cross_entropy(h, t.float()), options.steps
        ),
        "linear, average precision": lambda: train_linear(x, y, loss_fn, options.steps),
        "boosted, cross entropy": lambda: train_boosted(x, y, rounds, exact=False),
        "boosted, average precision": lambda: train_boosted(x, y, rounds, exact=True),
    }
    found = {}
    for name, train in trainers.items():
        start = time.perf_counter()
        try:
            predict = train()
        except ImportError as error:
            print(f"{name:<28} left out: {error}")
            continue
        seconds = time.perf_counter() - start
        with torch.no_grad():
            found[name] = float(average_precision_score(y_test, predict(x_test).squeeze()))
        print(f"{name:<28} {found[name]:.3f}   {seconds:.1f} s")
    return found


if __name__ == "__main__":
    main()
