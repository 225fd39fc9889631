"""What the losses over embeddings share: inputs, unit rows, the temperature, the reduction."""

from typing import Literal

import torch
from torch import Tensor

from xrisk_ext.losses._rows import WholeBatch
from xrisk_ext.losses._schedules import Schedules
from xrisk_ext.ops.surrogates import check_devices, check_tensor

Reduction = Literal["mean", "none"]
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_embeddings(first: str, **embeddings: Tensor | None) -> None:
    """All [B, D] of a floating dtype, like the one called ``first``."""
    like = embeddings[first]
    check_tensor(like, first)
    assert like is not None
    for name, x in embeddings.items():
        if x is None:
            continue
        check_tensor(x, name)
        if x.dtype not in FLOATING:
            raise TypeError(
                f"expected {name} to be float32, float64, float16 or bfloat16, got {x.dtype}"
            )
        if x.dim() != 2:
            raise ValueError(f"expected {name} of shape [B, D], got {tuple(x.shape)}")
        if x.shape != like.shape:
            raise ValueError(
                f"expected {name} of the shape of {first} {tuple(like.shape)}, got {tuple(x.shape)}"
            )
    check_devices(like, first, **embeddings)


def check_integers(like: Tensor, name: str, values: Tensor, stop: int) -> None:
    """One number in [0, stop) for each row of ``like``; the range only on the CPU."""
    check_tensor(values, name)
    if values.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"expected {name} to be int64 or int32, got {values.dtype}")
    if values.shape != like.shape[:1]:
        raise ValueError(f"expected {name} of shape [{len(like)}], got {tuple(values.shape)}")
    check_devices(like, "the embeddings", **{name: values})
    if values.is_cpu and values.numel() and not torch.compiler.is_compiling():
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= stop:
            raise IndexError(f"expected {name} in [0, {stop}), got {low if low < 0 else high}")


def accumulated(x: Tensor) -> Tensor:
    """In the dtype that sums are taken in."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit_rows(x: Tensor) -> Tensor:
    """Rows of length one, by norms in float32 or better, in the dtype as before.

    A zero row stays zero and gets no gradient.
    """
    wide = accumulated(x)
    if x.shape[1] > 0:  # squares leave the range of the dtype before the entries do
        largest = wide.detach().abs().amax(1, keepdim=True)
        wide = wide / largest.masked_fill(largest == 0, 1.0)
    length = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    empty = length == 0
    unit: Tensor = wide / length.masked_fill(empty, 1.0)
    return unit.masked_fill(empty, 0.0).to(x.dtype)


def row_products(a: Tensor, b: Tensor) -> Tensor:
    """<a_i, b_i>, in float32 or better. [B]"""
    return (accumulated(a) * accumulated(b)).sum(1)


class EmbeddingLoss(Schedules):
    """Base of the contrastive baselines. ``temperature`` is a schedule, a 0-dim buffer."""

    temperature: Tensor

    def __init__(
        self, *, temperature: float, normalize: bool = True, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "none"):
            raise ValueError(
                f"{type(self).__name__}: expected reduction 'mean' or 'none', got {reduction!r}"
            )
        self.normalize = bool(normalize)
        self.reduction = reduction
        self._add_schedules(temperature=temperature)

    def _unit(self, x: Tensor) -> Tensor:
        return unit_rows(x) if self.normalize else x

    def _is_fused(self, rows: WholeBatch) -> bool:
        """Does one fused step, with the gradient in the forward, compute the mean?"""
        return rows.is_whole and self.reduction == "mean"

    def _reduce(self, rows: WholeBatch, values: Tensor, count: int) -> Tensor:
        """The mean over the ``count`` values of all processes, or those of the own rows."""
        if self.reduction == "none":
            return values
        return rows.total(values.sum() / max(count, 1))

    def extra_repr(self) -> str:
        return (
            f"temperature={float(self.temperature):g}, normalize={self.normalize}, "
            f"reduction={self.reduction!r}"
        )
