"""An X-risk of your own, from public parts: a pair term, a state, a rule.

Here: the mean logarithm of how many negatives outrank a positive,

    F = mean over positives i of log(1 + N u_i),    u_i = mean over negatives j of phi(h_j - h_i),

N the number of negatives. The pair sums are an op with a gradient, the moving average is an op that
writes a state; the rule f(u) = log(1 + N u) and its slope are yours. The gradient of the method is
f'(u_i) times that of the batch's u_i, the state taken as a constant.
"""

import torch
from common import endless, network, rare_eight, steps
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import xrisk_ext as xr
from xrisk_ext.data import IndexedDataset, PositiveBatchSampler, positive_ids


class LogRankLoss(nn.Module):
    def __init__(self, num_positives: int, num_negatives: int, *, gamma: float = 0.9) -> None:
        super().__init__()
        self.num_negatives = num_negatives
        self.state = xr.MovingAverage((num_positives,))
        self.register_buffer("gamma", torch.tensor(gamma, dtype=torch.float64))

    def forward(self, scores: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        positive = labels > 0
        anchors, items = scores[positive], scores[~positive]
        # the pair term: any surrogate, near-linear in the batch, differentiable
        means = xr.ops.pairwise_sums(anchors, items, surrogate="squared_hinge", margin=0.5)
        means = means / len(items)
        # the state: blended and written, nothing of it differentiable
        u = xr.ops.moving_average_update_(
            self.state.value, index[positive], means.detach(), self.gamma
        )
        # the rule: f'(u) weighs the gradient, f(u) is what is reported
        slope = self.num_negatives / (1 + self.num_negatives * u)
        dynamic = (slope * means).mean()
        value = torch.log1p(self.num_negatives * u).mean()
        return value + dynamic - dynamic.detach()


def main(argv: list[str] | None = None) -> None:
    count = steps(__doc__, argv, default=500)
    train, test = rare_eight()
    positives = int(train.digit.sum())
    data = IndexedDataset(TensorDataset(train.x, train.digit), ids=positive_ids(train.digit))
    sampler = PositiveBatchSampler(train.digit, batch_size=64, num_positives=8)
    model = network()
    loss_fn = LogRankLoss(positives, len(train.digit) - positives)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    batches = endless(DataLoader(data, batch_sampler=sampler))
    for _, (x, y, index) in zip(range(count), batches, strict=False):
        loss = loss_fn(torch.sigmoid(model(x).squeeze(1)), y, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        scores = model(test.x).squeeze(1)
        above = (scores[test.digit == 0] > scores[test.digit == 1][:, None]).sum(1)
    print(f"mean log(1 + negatives above a positive): {float(above.float().log1p().mean()):.3f}")
    print(f"test average precision {float(xr.metrics.average_precision(scores, test.digit)):.3f}")


if __name__ == "__main__":
    main()
