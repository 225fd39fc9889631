"""The contrastive baselines as the tests see them: how each is made, and its reference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import randn
from torch import Tensor, nn

import xrisk_ext as xr
from xrisk_ext import reference
from xrisk_ext.losses._embeddings import EmbeddingLoss

DIM, QUEUE = 6, 11
# name: class, options beyond temperature, reference of unit rows -> one value per row
BASELINES: dict[str, tuple[type[EmbeddingLoss], dict[str, Any], Callable[..., Tensor]]] = {
    "NTXent": (xr.NTXentLoss, {}, lambda a, b, loss: reference.nt_xent(a, b, loss.temperature)),
    "FlatNCE": (xr.FlatNCELoss, {}, lambda a, b, loss: reference.flat_nce(a, b, loss.temperature)),
    "EqCo": (
        xr.EqCoLoss,
        {"alpha": 40.0},
        lambda a, b, loss: reference.eqco(a, b, loss.temperature, loss.alpha),
    ),
    "SupCon": (
        xr.SupConLoss,
        {},
        lambda a, b, loss, labels=None: reference.sup_con(
            a, b, torch.arange(len(a)) if labels is None else labels, loss.temperature
        ),
    ),
    "CLIP": (
        xr.CLIPLoss,
        {"learnable_temperature": False},
        lambda a, b, loss: reference.clip(a, b, loss.temperature),
    ),
    "MoCo": (
        xr.MoCoLoss,
        {"dim": DIM, "queue_size": QUEUE, "state_dtype": torch.float64},
        lambda a, b, loss: reference.moco(a, b, loss.queue.clone(), loss.temperature),
    ),
    "NNCLR": (
        xr.NNCLRLoss,
        {"dim": DIM, "queue_size": QUEUE, "state_dtype": torch.float64},
        lambda a, b, loss: reference.nnclr(a, b, loss.queue.clone(), loss.temperature),
    ),
}
WITH_QUEUE = ("MoCo", "NNCLR")
each_baseline = pytest.mark.parametrize("name", BASELINES)
each_queue = pytest.mark.parametrize("name", WITH_QUEUE)


def make_baseline(name: str, **options: Any) -> EmbeddingLoss:
    torch.manual_seed(3)  # of the queue
    kind, defaults, _ = BASELINES[name]
    return kind(**{"temperature": 0.3, **defaults, **options})


def views(
    batch: int = 7, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    a = randn(batch, DIM, seed=seed)
    b = a + 0.5 * randn(batch, DIM, seed=seed + 50)
    return a.to(dtype).requires_grad_(), b.to(dtype).requires_grad_()


def unit(x: Tensor) -> Tensor:
    return nn.functional.normalize(x.double(), dim=1)


def expected_rows(name: str, loss: EmbeddingLoss, a: Tensor, b: Tensor, **options: Any) -> Tensor:
    """By the reference, differentiable in a and b."""
    if loss.normalize:
        a, b = unit(a), unit(b)
    return BASELINES[name][2](a, b, loss, **options)


def gradients(value: Tensor, *inputs: Tensor, upstream: Tensor | None = None) -> list[Tensor]:
    """Zeros where there is none."""
    found = torch.autograd.grad(value, inputs, upstream, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
