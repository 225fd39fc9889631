"""Contrastive learning from small batches: SogCLR on two noisy views of the digits.

Every sample is contrasted with all the data by a moving average of its own, so that batches of 32
do what large ones are needed for otherwise. What was learned is measured by the nearest neighbour.
"""

import torch
from common import digits, endless, network, steps
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, TensorDataset

import xrisk_ext as xr
from xrisk_ext.data import IndexedDataset


def view(x: Tensor) -> Tensor:
    """A random view: shifted by up to a pixel, with noise."""
    images = torch.nn.functional.pad(x.view(-1, 8, 8), (1, 1, 1, 1))
    row, column = torch.randint(0, 3, (2,)).tolist()
    shifted = images[:, row : row + 8, column : column + 8].reshape(-1, 64)
    return shifted + 0.1 * torch.randn_like(shifted)


def main(argv: list[str] | None = None) -> None:
    count = steps(__doc__, argv, default=600)
    train, test = digits()
    data = IndexedDataset(TensorDataset(train.x))
    encoder = network(outputs=16)
    loss_fn = xr.GlobalContrastiveLoss(len(data), temperature=0.2, gamma=0.5)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.003)
    loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=True)
    for _, (x, index) in zip(range(count), endless(loader), strict=False):
        loss = loss_fn(encoder(view(x)), encoder(view(x)), index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        known, unknown = (normalize(encoder(x), dim=1) for x in (train.x, test.x))
    nearest = train.digit[(unknown @ known.T).argmax(1)]
    accuracy = (nearest == test.digit).double().mean()
    print(f"test accuracy of the nearest neighbour {float(accuracy):.3f}")


if __name__ == "__main__":
    main()
