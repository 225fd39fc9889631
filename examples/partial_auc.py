"""Partial AUC: one-way (few false positives) and two-way (and many true positives).

The KL forms (SOPA-s, SOTA-s) put a smooth emphasis on the negatives that rank highest, the CVaR
forms (SOPA, STACO) learn a threshold for each positive, the exact form selects in the batch.
"""

import torch
from common import endless, network, rare_eight, steps
from torch.utils.data import DataLoader, TensorDataset

import xrisk_ext as xr
from xrisk_ext.data import IndexedDataset, PositiveBatchSampler, positive_ids


def main(argv: list[str] | None = None) -> None:
    count = steps(__doc__, argv, default=500)
    train, test = rare_eight()
    positives = int(train.digit.sum())
    one_way = {"max_fpr": 0.1}
    two_way = {"max_fpr": 0.3, "min_tpr": 0.5}
    losses = {
        "one-way KL": xr.PartialAUCLoss(positives, mode="kl", kl_weight=0.1),
        "one-way CVaR": xr.PartialAUCLoss(positives, mode="cvar", **one_way),
        "one-way exact": xr.PartialAUCLoss(mode="exact", **one_way),
        "two-way KL": xr.TwoWayPartialAUCLoss(
            positives, mode="kl", kl_weight=0.1, positive_kl_weight=0.1
        ),
        "two-way exact": xr.TwoWayPartialAUCLoss(mode="exact", **two_way),
    }
    data = IndexedDataset(TensorDataset(train.x, train.digit), ids=positive_ids(train.digit))
    for name, loss_fn in losses.items():
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
        sampler = PositiveBatchSampler(train.digit, batch_size=64, num_positives=8)
        batches = endless(DataLoader(data, batch_sampler=sampler))
        for _, (x, y, index) in zip(range(count), batches, strict=False):
            loss = loss_fn(torch.sigmoid(model(x).squeeze(1)), y, index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            scores = model(test.x).squeeze(1)
        areas = [xr.metrics.auroc(scores, test.digit, **region) for region in (one_way, two_way)]
        print(f"{name}: test one-way {float(areas[0]):.3f}, two-way {float(areas[1]):.3f}")


if __name__ == "__main__":
    main()
