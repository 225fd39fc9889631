"""Average precision with SGD, momentum and Adam: the published SOAP, MOAP and ADAP.

They share one loss. Its moving averages make the gradient; what a method adds is the optimizer.
"""

import torch
from common import endless, network, rare_eight, steps
from torch.utils.data import DataLoader, TensorDataset

import xrisk_ext as xr
from xrisk_ext.data import IndexedDataset, PositiveBatchSampler, positive_ids

OPTIMIZERS = {
    "SOAP (SGD)": lambda p: torch.optim.SGD(p, lr=0.05),
    "MOAP (momentum)": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "ADAP (Adam)": lambda p: torch.optim.Adam(p, lr=0.002),
}


def main(argv: list[str] | None = None) -> None:
    count = steps(__doc__, argv, default=600)
    train, test = rare_eight()
    # ids that number the positives: state is kept for them alone
    data = IndexedDataset(TensorDataset(train.x, train.digit), ids=positive_ids(train.digit))
    for name, make_optimizer in OPTIMIZERS.items():
        model = network()
        loss_fn = xr.AveragePrecisionLoss(int(train.digit.sum()), margin=0.5, gamma=0.9)
        optimizer = make_optimizer(model.parameters())
        sampler = PositiveBatchSampler(train.digit, batch_size=64, num_positives=8)
        batches = endless(DataLoader(data, batch_sampler=sampler))
        for step, (x, y, index) in zip(range(count), batches, strict=False):
            logits = model(x).squeeze(1)
            if step < count // 10:  # a short warm-up
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y.float())
            else:
                loss = loss_fn(torch.sigmoid(logits), y, index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            ap = xr.metrics.average_precision(model(test.x).squeeze(1), test.digit)
        print(f"{name}: test average precision {float(ap):.3f}")


if __name__ == "__main__":
    main()
