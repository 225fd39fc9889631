"""The fused step of the global contrastive losses; they are thin around it."""

from typing import NamedTuple

import torch
from torch import Tensor


class StepOptions(NamedTuple):
    """What stays constant over the steps of a loss, as the op takes it."""

    beta: float
    second_beta: float  # of the squares; > 0: Adam
    slope_limit: float
    lowest: float
    highest: float
    rho: float
    epsilon: float
    bimodal: bool
    normalize: bool
    per_view: bool
    relative: bool
    temperature_weighted: bool


def contrastive_step(
    view1: Tensor,
    view2: Tensor,
    index: Tensor | None,
    state: Tensor | None,
    temperatures: Tensor | None,
    momenta: Tensor | None,
    gamma: Tensor,
    temperature: Tensor,
    eta: Tensor,
    options: StepOptions,
    update_state: bool,
) -> Tensor:
    """Value of one step; its gradients, for both views and the temperature, are attached to it.

    Shapes: views ``[B, D]``; index ``[B]``; state, temperatures and momenta ``[S, N]`` or None, S
    being 1 for one modality and 2 for two; with Adam momenta are ``[3 S, N]``: first moments,
    second moments, numbers of steps.
    """
    needs_gradient = torch.is_grad_enabled() and (
        view1.requires_grad or view2.requires_grad or temperature.requires_grad
    )
    value, _, _ = torch.ops.xrisk_ext.contrastive_step_(
        view1, view2, index, state, temperatures, momenta, gamma, temperature, eta, *options,
        update_state, needs_gradient,
    )  # fmt: skip
    return value  # type: ignore[no-any-return]


@torch.library.register_fake("xrisk_ext::contrastive_step_")
def _(
    view1: Tensor,
    view2: Tensor,
    index: Tensor | None,
    state: Tensor | None,
    state_temperature: Tensor | None,
    state_momentum: Tensor | None,
    gamma: Tensor,
    temperature: Tensor,
    eta: Tensor,
    beta: float,
    second_beta: float,
    slope_limit: float,
    lowest: float,
    highest: float,
    rho: float,
    epsilon: float,
    bimodal: bool,
    normalize: bool,
    per_view: bool,
    relative: bool,
    temperature_weighted: bool,
    update_state: bool,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.float64 if torch.float64 in (view1.dtype, view2.dtype) else torch.float32
    value = view1.new_empty([], dtype=dtype)
    gradient = view1.new_empty([2, *view1.shape] if needs_gradient else [0], dtype=dtype)
    return value, gradient, torch.empty_like(value)
