"""What the examples share: data that ships with scikit-learn, a small network, ``--steps``."""

import argparse
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


class Split(NamedTuple):
    x: Tensor  # float32 [n, 64]
    digit: Tensor  # int64 [n]


def digits(seed: int = 0) -> tuple[Split, Split]:
    """The 8x8 digits, half for training and half for testing."""
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32) / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    half = len(y) // 2
    train, test = order[:half], order[half:]
    return Split(x[train], y[train]), Split(x[test], y[test])


def rare_eight(seed: int = 0) -> tuple[Split, Split]:
    """The eights (1) against the rest (0); of the training eights one in four is left."""
    train, test = digits(seed)
    keep = (train.digit != 8) | (torch.arange(len(train.digit)) % 4 == 0)
    train = Split(train.x[keep], (train.digit[keep] == 8).long())
    return train, Split(test.x, (test.digit == 8).long())


def network(outputs: int = 1, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, outputs))


def steps(description: str | None, argv: list[str] | None, default: int) -> int:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=int, default=default, help=f"default: {default}")
    return int(parser.parse_args(argv).steps)


def endless(loader):  # type: ignore[no-untyped-def]
    """The batches of one epoch after another."""
    while True:
        yield from loader
