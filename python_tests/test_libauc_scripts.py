"""Training scripts in the style of LibAUC's tutorials, its optimizers too: one import changes."""

import contextlib
import importlib
import inspect
import io
import warnings
from typing import Any

import pytest
import torch
from helpers import randn
from libauc import optimizers
from torch import Tensor, nn

SAMPLES = 20


def train(losses: str, loss_name: str, optimizer_name: str, options: dict[str, Any]) -> Tensor:
    """A tutorial's training loop; `losses` is the one import that changes."""
    loss_class = getattr(importlib.import_module(losses), loss_name)
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    features = randn(SAMPLES, 4).float()
    labels = (features[:, 0] + 0.5 * randn(SAMPLES, seed=1).float() > 0.7).float()
    loss_fn = loss_class(**options)
    make = getattr(optimizers, optimizer_name)
    takes = inspect.signature(make).parameters
    given = {"lr": 0.1, "verbose": False, "loss_fn": loss_fn, "device": torch.device("cpu")}
    keywords = {name: value for name, value in given.items() if name in takes}
    torch.manual_seed(1)  # PESG draws its reference point
    with contextlib.redirect_stdout(io.StringIO()):
        optimizer = make(model.parameters(), **keywords)
        for k in range(8):
            index = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(k))[:14]
            y_pred = torch.sigmoid(model(features[index]))
            loss = loss_fn(y_pred, labels[index], index=index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if k == 4 and optimizer_name in ("PESG", "PDSCA"):  # the others have no reference point
                optimizer.update_regularizer()
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize(
    ("loss_name", "optimizer_name", "options"),
    [
        ("AUCMLoss", "PESG", {}),
        ("CompositionalAUCLoss", "PDSCA", {}),
        ("APLoss", "SOAP", {"data_len": SAMPLES}),
        ("pAUCLoss", "SOPA", {"mode": "SOPA", "data_len": SAMPLES, "pos_len": 8}),
        ("pAUCLoss", "SOPAs", {"mode": "1w", "data_len": SAMPLES}),
        ("pAUCLoss", "SOTAs", {"mode": "2w", "data_len": SAMPLES}),
        ("PairwiseAUCLoss", "Adam", {}),
    ],
)
def test_a_script_with_one_import_changed(
    loss_name: str, optimizer_name: str, options: dict[str, Any]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = train("libauc.losses", loss_name, optimizer_name, options)
        ours = train("xrisk_ext.libauc", loss_name, optimizer_name, options)
    torch.manual_seed(0)
    start = torch.cat([p.detach().reshape(-1) for p in nn.Linear(4, 1).parameters()])
    assert float((theirs - start).abs().max()) > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
