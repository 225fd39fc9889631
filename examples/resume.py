"""Stop and go on from a checkpoint: model, optimizer, loss and sampler, bit for bit.

The moving averages are state like weights are: they belong in the checkpoint, and so does the place
in the epoch.
"""

import io

import torch
from common import network, rare_eight, steps
from torch.utils.data import DataLoader, TensorDataset

import xrisk_ext as xr
from xrisk_ext.data import IndexedDataset, PositiveBatchSampler


class Run:
    """All that a checkpoint has to hold."""

    def __init__(self) -> None:
        self.train, self.test = rare_eight()
        data = IndexedDataset(TensorDataset(self.train.x, self.train.digit))
        self.model = network()
        self.loss_fn = xr.AveragePrecisionLoss(len(data), margin=0.5)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.003)
        self.sampler = PositiveBatchSampler(self.train.digit, batch_size=64, num_positives=8)
        self.loader = DataLoader(data, batch_sampler=self.sampler)
        self.parts = {
            "model": self.model,
            "loss": self.loss_fn,
            "optimizer": self.optimizer,
            "sampler": self.sampler,
        }

    def save(self, file: io.BytesIO) -> None:
        torch.save({name: part.state_dict() for name, part in self.parts.items()}, file)

    def load(self, file: io.BytesIO) -> None:
        for name, state in torch.load(file, weights_only=True).items():
            self.parts[name].load_state_dict(state)

    def advance(self, count: int) -> None:
        while count > 0:
            for x, y, index in self.loader:
                loss = self.loss_fn(torch.sigmoid(self.model(x).squeeze(1)), y, index)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                count -= 1
                if count == 0:
                    return


def main(argv: list[str] | None = None) -> None:
    count = steps(__doc__, argv, default=200)
    whole = Run()
    whole.advance(count)

    first, checkpoint = Run(), io.BytesIO()
    first.advance(count // 2)
    first.save(checkpoint)
    checkpoint.seek(0)
    second = Run()
    second.load(checkpoint)
    second.advance(count - count // 2)

    pairs = zip(whole.model.parameters(), second.model.parameters(), strict=True)
    same = all(torch.equal(a, b) for a, b in pairs)
    print(f"{count} steps at once and in two parts give the same weights, bit for bit: {same}")
    with torch.no_grad():
        ap = xr.metrics.average_precision(second.model(second.test.x).squeeze(1), whole.test.digit)
    print(f"test average precision {float(ap):.3f}")


if __name__ == "__main__":
    main()
