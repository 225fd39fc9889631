"""That an installed package works: run in a clean environment, away from the checkout.

Usage: python smoke.py FOLDER, the folder that the package must have been installed under.
"""

import sys
from pathlib import Path

import torch

import xrisk_ext as xr

installed = Path(xr.__file__).resolve()
assert installed.is_relative_to(Path(sys.argv[1]).resolve()), f"{installed} is not under {sys.argv}"
assert Path(xr._C.__file__).resolve().parent == installed.parent, xr._C.__file__
assert xr._C.build_info()["version"] == xr.__version__

# an op and its gradient: sum_j max(1 + y_j - x, 0)^2 at x = 0.5, y = (0, 1)
anchors = torch.tensor([0.5], requires_grad=True)
sums = xr.ops.pairwise_sums(anchors, torch.tensor([0.0, 1.0]))
sums.sum().backward()
torch.testing.assert_close(sums.detach(), torch.tensor([0.25 + 2.25]))
torch.testing.assert_close(anchors.grad, torch.tensor([-2 * (0.5 + 1.5)]))

# a training step of a loss that keeps state, against the reference's batch objective
torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
features, labels = torch.randn(32, 3), torch.arange(32) % 4 == 0
loss_fn = xr.AveragePrecisionLoss(num_samples=32)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
losses = []
for _ in range(20):
    loss = loss_fn(model(features).squeeze(1), labels, torch.arange(32))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(float(loss))
assert -1 < losses[-1] < losses[0] < 0, losses
fresh = xr.AveragePrecisionLoss(num_samples=32)
fresh.load_state_dict(loss_fn.state_dict())

print(f"xrisk_ext {xr.__version__} works from {installed.parent}")
