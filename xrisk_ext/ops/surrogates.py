"""Names of surrogates and algorithms, as the op schemas number them (csrc/core/params.h)."""

from typing import Any, Literal

import torch
from torch import Tensor

Surrogate = Literal[
    "squared",
    "squared_hinge",
    "hinge",
    "barrier_hinge",
    "logistic",
    "sigmoid",
    "exponential",
    "zero_one",
]
Algorithm = Literal["auto", "direct", "sort", "smooth"]

SURROGATES: dict[str, int] = {
    "squared": 0,
    "squared_hinge": 1,
    "hinge": 2,
    "barrier_hinge": 3,
    "logistic": 4,
    "sigmoid": 5,
    "exponential": 6,
    "zero_one": 7,
}
ALGORITHMS: dict[str, int] = {"auto": 0, "direct": 1, "sort": 2, "smooth": 3}
SMOOTH_SURROGATES = ("logistic", "sigmoid")  # of the algorithm "smooth"; they have no "sort"


def _number(kind: str, name: str, numbers: dict[str, int]) -> int:
    try:
        return numbers[name]
    except (KeyError, TypeError):
        known = ", ".join(repr(n) for n in numbers)
        raise ValueError(f"expected {kind} to be one of {known}, got {name!r}") from None


def surrogate_number(name: str) -> int:
    return _number("surrogate", name, SURROGATES)


def algorithm_number(name: str) -> int:
    return _number("algorithm", name, ALGORITHMS)


def as_scalar(value: float | Tensor, name: str, like: Tensor) -> Tensor:
    """A hyper-parameter as the 0-dim tensor that the ops take, on the device of `like`."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise ValueError(f"expected {name} to be a constant, got a tensor that requires grad")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected {name} to be a float or a tensor, got {type(value).__name__}")
    if like.is_cpu:
        return torch.tensor(value, dtype=torch.float64)
    return torch.full((), value, dtype=torch.float64, device=like.device)  # a copy would wait


def as_margin(margin: float) -> float:
    if isinstance(margin, bool) or not isinstance(margin, (int, float)):
        raise TypeError(f"expected margin to be a float, got {type(margin).__name__}")
    return float(margin)


def check_tensor(value: Any, name: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"expected {name} to be a tensor, got {type(value).__name__}")


def check_devices(like: Tensor, name: str, **others: Tensor | None) -> None:
    """All on the device of ``like``: the dispatcher looks at one of them only."""
    for other_name, other in others.items():
        if other is not None and other.device != like.device:
            raise ValueError(
                f"expected {other_name} on the device of {name} ({like.device}), got "
                f"{other.device}; move it, or the loss that keeps it, with .to()"
            )


def surrogate_values(
    differences: Tensor, *, surrogate: str, margin: float = 1.0, scale: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """The kernels' own phi(d) and phi'(d), d = item score - anchor score, elementwise.

    For tests and plots; not differentiable. Half precisions are computed in float32.

    Args:
        differences: of any shape, float32, float64, float16 or bfloat16.
        surrogate, margin, scale: as in :func:`pairwise_sums`.

    Returns:
        Values and slopes in the shape of ``differences``; float64 for float64, else float32.
    """
    check_tensor(differences, "differences")
    values, slopes = torch.ops.xrisk_ext.surrogate_values(
        differences.detach(), as_scalar(scale, "scale", differences), as_margin(margin),
        surrogate_number(surrogate),
    )  # fmt: skip
    return values, slopes


@torch.library.register_fake("xrisk_ext::surrogate_values")
def _(differences: Tensor, scale: Tensor, margin: float, surrogate: int) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if differences.dtype == torch.float64 else torch.float32
    out = differences.new_empty(differences.shape, dtype=dtype)
    return out, torch.empty_like(out)
