"""What the metrics share: checks, sorted rows and their ties, the mean over rows."""

from typing import Any, Literal

import torch
from torch import Tensor

from xrisk_ext.ops.curves import sort_descending

Reduction = Literal["mean", "none"]
_FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # torch does not compare them


def sort_rows(op: str, rows: Tensor) -> tuple[Tensor, Tensor]:
    values, order = sort_descending(rows)
    if bool(values[..., :1].isnan().any()):  # NaN sorts first
        raise ValueError(f"{op}: expected scores without NaN")
    return values, order


def positives_of(labels: Tensor) -> Tensor:
    if labels.dtype == torch.bool:
        return labels
    return labels.to(torch.bool) if labels.dtype in _UNSIGNED else labels > 0


def check_scores(op: str, scores: Tensor, shapes: str) -> None:
    if not isinstance(scores, Tensor):
        raise TypeError(f"{op}: expected scores to be a tensor, got {type(scores).__name__}")
    if scores.dtype not in _FLOATING:
        raise TypeError(
            f"{op}: expected scores to be float32, float64, float16 or bfloat16, got {scores.dtype}"
        )
    if scores.ndim not in (1, 2):
        raise ValueError(f"{op}: expected scores of shape {shapes}, got {list(scores.shape)}")


def check_other(op: str, other: Tensor, name: str, scores: Tensor) -> None:
    if not isinstance(other, Tensor):
        raise TypeError(f"{op}: expected {name} to be a tensor, got {type(other).__name__}")
    if other.dtype.is_complex:
        raise TypeError(f"{op}: expected {name} of a real dtype, got {other.dtype}")
    if other.device != scores.device:
        raise ValueError(
            f"{op}: expected {name} on the device of the scores ({scores.device}), "
            f"got {other.device}; move it with .to()"
        )


def as_number(op: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{op}: expected {name} to be a float, got {type(value).__name__}")
    return float(value)


def reduce_rows(
    op: str,
    values: Tensor,
    defined: Tensor,
    reduction: str,
    undefined: float,
    given: Tensor,
) -> Tensor:
    """The mean of ``values [rows]``, all of them, or the one of flat input."""
    if reduction not in ("mean", "none"):
        raise ValueError(f'{op}: expected reduction to be "mean" or "none", got {reduction!r}')
    values = torch.where(defined, values, undefined)
    if given.ndim == 1:
        return values[0]
    if reduction == "none":
        return values
    return values.mean() if values.numel() else values.new_full((), undefined)
