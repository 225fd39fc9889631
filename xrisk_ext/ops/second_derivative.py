"""A gradient whose own derivative is not known says so when it is asked for."""

from typing import Any

import torch
from torch import Tensor


class _NoSecondDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        raise RuntimeError("xrisk_ext: its ops cannot be differentiated twice")


def guard_second_derivative(*gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """To wrap what a backward returns: with ``create_graph=True`` it gets a backward that raises.

    ``once_differentiable`` is silent where the upstream gradient is a constant: a gradient penalty
    would be dropped without a word.
    """
    if not torch.is_grad_enabled():
        return gradients
    return tuple(
        None if g is None else _NoSecondDerivative.apply(g.detach().requires_grad_())
        for g in gradients
    )
