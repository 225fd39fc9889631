"""Mixed precision: the model in half precision, the loss in float32, gradients scaled.

Inside of autocast the losses lower nothing; half-precision scores are read as they are, summed in
float32, and get their gradient cast last. float16 needs the scaler, bfloat16 does not.
"""

import torch
from common import endless, network, rare_eight, steps
from torch.utils.data import DataLoader, TensorDataset

import xrisk_ext as xr
from xrisk_ext.data import IndexedDataset, PositiveBatchSampler


def main(argv: list[str] | None = None) -> None:
    count = steps(__doc__, argv, default=400)
    train, test = rare_eight()
    data = IndexedDataset(TensorDataset(train.x, train.digit))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for dtype in (torch.bfloat16, torch.float16):
        model = network().to(device)
        loss_fn = xr.AveragePrecisionLoss(len(data), margin=0.5).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
        scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
        sampler = PositiveBatchSampler(train.digit, batch_size=64, num_positives=8)
        batches = endless(DataLoader(data, batch_sampler=sampler))
        for _, batch in zip(range(count), batches, strict=False):
            x, y, index = (t.to(device) for t in batch)
            with torch.autocast(device, dtype=dtype):
                scores = torch.sigmoid(model(x).squeeze(1))
                loss = loss_fn(scores, y, index)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        with torch.no_grad():
            scores = model(test.x.to(device)).squeeze(1).cpu()
        ap = xr.metrics.average_precision(scores, test.digit)
        print(f"{dtype}: scores were {loss.dtype} in the loss, test AP {float(ap):.3f}")


if __name__ == "__main__":
    main()
