"""torch.compile: model, loss and gradient in one graph; changing gamma does not compile again."""

import torch
from common import endless, network, rare_eight, steps
from torch.utils.data import DataLoader, TensorDataset

import xrisk_ext as xr
from xrisk_ext.data import IndexedDataset, PositiveBatchSampler


def main(argv: list[str] | None = None, backend: str = "inductor") -> None:
    count = steps(__doc__, argv, default=300)
    train, test = rare_eight()
    data = IndexedDataset(TensorDataset(train.x, train.digit))
    model = network()
    loss_fn = xr.AveragePrecisionLoss(len(data), margin=0.5)

    @torch.compile(fullgraph=True, backend=backend)
    def objective(x: torch.Tensor, y: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return loss_fn(torch.sigmoid(model(x).squeeze(1)), y, index)

    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    sampler = PositiveBatchSampler(train.digit, batch_size=64, num_positives=8)
    batches = endless(DataLoader(data, batch_sampler=sampler))
    for step, (x, y, index) in zip(range(count), batches, strict=False):
        if step == 1:
            torch.compiler.set_stance("fail_on_recompile")
        loss_fn.gamma = 0.9 - 0.6 * step / count
        loss = objective(x, y, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.compiler.set_stance("default")
    with torch.no_grad():
        ap = xr.metrics.average_precision(model(test.x).squeeze(1), test.digit)
    print(f"compiled once for {count} values of gamma, test average precision {float(ap):.3f}")


if __name__ == "__main__":
    main()
