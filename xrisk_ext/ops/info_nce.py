"""The fused step of the contrastive losses without state: value and gradients in one call."""

import torch
from torch import Tensor


def info_nce_step(
    view1: Tensor,
    view2: Tensor,
    temperature: Tensor,
    alpha: Tensor | None,
    *,
    labels: Tensor | None = None,
    bimodal: bool,
    flat: bool = False,
    normalize: bool = True,
) -> Tensor:
    """Mean over the anchors of log(1 + alpha g), g the mean over the negatives of an exponential.

    Of exp((s_neg - s_pos) / temperature). Anchors are the 2B rows of both views and negatives the
    2B - 2 others but the positive; with ``bimodal``, row i of one view against the rows j != i of
    the other, both ways round. ``alpha=None`` is the number of negatives: InfoNCE. ``flat``:
    log(alpha g). ``labels`` ``[B]``, on the CPU alone: what stands for a pair's similarity in the
    loss is the mean over the other rows of its class. Views ``[B, D]``. Similarities are multiplied
    once for both directions, kept where few and multiplied again where not; the gradients for views
    and temperature are attached to the value.
    """
    needs_gradient = torch.is_grad_enabled() and (
        view1.requires_grad or view2.requires_grad or temperature.requires_grad
    )
    value, _, _ = torch.ops.xrisk_ext.info_nce_step(
        view1, view2, temperature, alpha, labels, bimodal, flat, normalize, needs_gradient
    )
    return value  # type: ignore[no-any-return]


@torch.library.register_fake("xrisk_ext::info_nce_step")
def _(
    view1: Tensor,
    view2: Tensor,
    temperature: Tensor,
    alpha: Tensor | None,
    labels: Tensor | None,
    bimodal: bool,
    flat: bool,
    normalize: bool,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.float64 if torch.float64 in (view1.dtype, view2.dtype) else torch.float32
    value = view1.new_empty([], dtype=dtype)
    gradient = view1.new_empty([2, *view1.shape] if needs_gradient else [0], dtype=dtype)
    return value, gradient, torch.empty_like(value)
