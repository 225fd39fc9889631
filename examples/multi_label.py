"""Mean average precision over many labels, a third of them missing.

Each digit has the labels "is even", "is prime", "has a closed loop", "is eight". A weight of 0 in
``item_weights`` takes a missing label out, as an item and as an anchor.
"""

import torch
from common import digits, endless, network, steps
from torch.utils.data import DataLoader, TensorDataset

import xrisk_ext as xr
from xrisk_ext.data import IndexedDataset, MultiLabelBatchSampler

LABELS = torch.tensor(
    [[d % 2 == 0, d in (2, 3, 5, 7), d in (0, 6, 8, 9), d == 8] for d in range(10)]
)


def main(argv: list[str] | None = None) -> None:
    count = steps(__doc__, argv, default=500)
    train, test = digits()
    truth = LABELS[train.digit].float()
    missing = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) < 1 / 3
    labels = truth.masked_fill(missing, float("nan"))

    data = IndexedDataset(TensorDataset(train.x, labels))
    sampler = MultiLabelBatchSampler(labels, batch_size=64, num_positives=6)
    model = network(outputs=4)
    loss_fn = xr.MeanAveragePrecisionLoss(len(data), 4, margin=0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    batches = endless(DataLoader(data, batch_sampler=sampler))
    for _, (x, y, index) in zip(range(count), batches, strict=False):
        # 0 where a label is missing; elsewhere what undoes the sampler's choice of positives
        weights = sampler.item_weights(y, observed=~y.isnan())
        loss = loss_fn(torch.sigmoid(model(x)), y.nan_to_num(), index, item_weights=weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        scores = model(test.x)
    aps = xr.metrics.average_precision(scores, LABELS[test.digit], reduction="none")
    names = ("even", "prime", "loop", "eight")
    print(", ".join(f"{n}: {float(ap):.3f}" for n, ap in zip(names, aps, strict=True)))
    print(f"test mean average precision {float(aps.mean()):.3f}")


if __name__ == "__main__":
    main()
