"""Average precision on several processes that share every batch, under torchrun.

    torchrun --nproc-per-node 2 examples/distributed.py

The eights of scikit-learn's digits against the rest. Each process has its part of a batch, and the
moving averages of its part of the positives (``state="sharded"``); the model is trained as one
process with the whole batch would train it, which the last line checks.
"""

import argparse

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import xrisk_ext as xr
from xrisk_ext.distributed import DistributedLoss

BATCH, POSITIVES = 64, 8


def rare_eights() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Half of the digits for training, with one eight in four left, and half for testing."""
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32) / 16
    y = torch.tensor(data.target == 8).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, test = order[: len(y) // 2], order[len(y) // 2 :]
    train = train[(y[train] == 0) | (torch.arange(len(train)) % 4 == 0)]
    return x[train], y[train], x[test], y[test]


def draw_batch(labels: Tensor, generator: torch.Generator) -> Tensor:
    """The same samples on every process: one in eight is positive, in random order."""
    positive, negative = labels.nonzero().squeeze(1), (labels == 0).nonzero().squeeze(1)
    chosen = [
        part[torch.randperm(len(part), generator=generator)[:count]]
        for part, count in ((positive, POSITIVES), (negative, BATCH - POSITIVES))
    ]
    return torch.cat(chosen)[torch.randperm(BATCH, generator=generator)]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0), nn.Sigmoid()
    )


def train(model: nn.Module, loss_fn: nn.Module, steps: int, rank: int, processes: int) -> float:
    """Trains with every ``processes``-th row of each batch; the last value of the loss."""
    x, y, _, _ = rare_eights()
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    value = 0.0
    for step in range(steps):
        index = draw_batch(y, generator)[rank::processes]
        scores = model(x[index])
        if step < steps // 10:  # a short warm-up
            loss = nn.functional.binary_cross_entropy(scores, y[index].float())
        else:
            loss = loss_fn(scores, y[index], index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        value = float(loss.detach())
    return value


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400, help="default: 400")
    steps = parser.parse_args(argv).steps
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    x, _, test_x, test_y = rare_eights()

    model = DistributedDataParallel(network())
    loss_fn = DistributedLoss(
        xr.AveragePrecisionLoss(len(x), margin=0.5, gamma=0.9), state="sharded"
    )
    value = train(model, loss_fn, steps, rank, processes)
    state = loss_fn.full_state_dict()["state.value"]  # a collective call: by all
    if rank == 0:
        with torch.no_grad():
            ap = xr.metrics.average_precision(model.module(test_x), test_y)
        seen = int(state.isfinite().all(dim=2).sum())
        print(f"{processes} processes: loss {value:.4f}, averages of {seen} samples")
        print(f"test average precision {float(ap):.3f}")
        alone = network()
        expected = train(alone, xr.AveragePrecisionLoss(len(x), margin=0.5), steps, 0, 1)
        gap = max(
            float((p - q).abs().max().detach())
            for p, q in zip(model.parameters(), alone.parameters(), strict=True)
        )
        print(f"one process: loss {expected:.4f}, parameters differ by {gap:.1e}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
