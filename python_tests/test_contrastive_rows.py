"""The global contrastive losses computed row by row, as processes do: the fused step's numbers."""

from typing import Any

import pytest
import torch
from helpers import randn
from torch import Tensor, nn

from xrisk_ext import BimodalGlobalContrastiveLoss, FlatNCELoss, GlobalContrastiveLoss
from xrisk_ext.losses._rows import WHOLE_BATCH

NUM_SAMPLES, DIM = 11, 6
UNIMODAL: dict[str, dict[str, Any]] = {
    "shared": {},
    "per view": {"denominator": "per_view"},
    "individual": {"individual_temperature": True},
    "individual, raw": {"individual_temperature": True, "relative_to_positive": False},
    "not normalised": {"normalize": False, "temperature": 2.0},
}
BIMODAL: dict[str, dict[str, Any]] = {
    "constant": {},
    "individual": {"temperature_mode": "individual", "max_temperature": 1.0},
    "adam": {
        "temperature_mode": "individual",
        "temperature_optimizer": "adam",
        "max_temperature": 1.0,
        "max_slope": 5.5,
    },
    "global": {"temperature_mode": "global"},
    "unweighted": {"temperature_mode": "global", "temperature_weighted": False},
    "floored": {"epsilon": 1e-3},
}
VARIANTS = [("view", name) for name in UNIMODAL] + [("image", name) for name in BIMODAL]


def make_global(kind: str, name: str, **options: Any) -> nn.Module:
    defaults: dict[str, Any] = {"temperature": 0.3, "gamma": 0.6, "state_dtype": torch.float64}
    if kind == "view":
        loss: nn.Module = GlobalContrastiveLoss(
            NUM_SAMPLES, **{**defaults, **UNIMODAL[name], **options}
        )
    else:
        loss = BimodalGlobalContrastiveLoss(NUM_SAMPLES, **{**defaults, **BIMODAL[name], **options})
    return loss.double()


def by_rows(loss: Any, a: Tensor, b: Tensor, index: Tensor, **options: Any) -> Tensor:
    names = ("view1", "view2") if isinstance(loss, GlobalContrastiveLoss) else ("image", "text")
    value: Tensor = loss.forward_rows(
        WHOLE_BATCH, **dict(zip(names, (a, b), strict=True)), index=index, **options
    )
    return value


@pytest.mark.parametrize(("kind", "name"), VARIANTS)
def test_rows_and_the_fused_step_agree(kind: str, name: str) -> None:
    fused, rows = make_global(kind, name), make_global(kind, name)
    for step in range(5):
        a, b = randn(7, DIM, seed=step).requires_grad_(), randn(7, DIM, seed=50 + step)
        b.requires_grad_()
        index = torch.randint(NUM_SAMPLES, (7,), generator=torch.Generator().manual_seed(step))
        options = {"update_state": False} if step == 3 else {}
        for loss in (fused, rows):
            loss.train(step != 2)  # once in eval()
        wanted, found = fused(a, b, index, **options), by_rows(rows, a, b, index, **options)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        parameters = [[a, b, *loss.parameters()] for loss in (fused, rows)]
        expected = torch.autograd.grad(wanted, parameters[0])
        for ours, theirs in zip(torch.autograd.grad(found, parameters[1]), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        for key, value in fused.state_dict().items():
            torch.testing.assert_close(rows.state_dict()[key], value, rtol=1e-10, atol=1e-12)


def test_flat_nce_is_sogclr_with_gamma_one_but_for_a_factor() -> None:
    a, b = randn(7, DIM).requires_grad_(), randn(7, DIM, seed=1).requires_grad_()
    tau = 0.3
    flat = FlatNCELoss(temperature=tau)(a, b)
    # of separate views: the shared denominator averages over them
    sogclr = GlobalContrastiveLoss(temperature=tau, gamma=1.0, denominator="per_view")(a, b)
    for ours, theirs in zip(
        torch.autograd.grad(flat, (a, b)), torch.autograd.grad(sogclr, (a, b)), strict=True
    ):
        torch.testing.assert_close(ours, theirs / (2 * tau), rtol=1e-10, atol=1e-12)
