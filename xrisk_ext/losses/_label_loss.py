"""What the losses without pairs share: number of labels, reduction, checks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xrisk_ext.losses._score_loss import Reduction
from xrisk_ext.ops.surrogates import check_devices, check_tensor


def check_number(owner: str, name: str, value: float, low: float, *, strict: bool = False) -> float:
    """A finite number >= low (> low if ``strict``)."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not low <= value < float("inf") or (strict and value == low):
        sign = ">" if strict else ">="
        raise ValueError(f"{owner}: expected {name} {sign} {low:g} and finite, got {value!r}")
    return float(value)


class LabelLoss(nn.Module):
    """A loss over ``num_labels`` columns of scores; one that has one label takes ``[B]``, too."""

    def __init__(self, num_labels: int, reduction: Reduction) -> None:
        super().__init__()
        name = type(self).__name__
        if isinstance(num_labels, bool) or not isinstance(num_labels, int) or num_labels < 1:
            raise ValueError(
                f"{name}: expected num_labels to be a positive integer, got {num_labels!r}"
            )
        if reduction not in ("mean", "none"):
            raise ValueError(f"{name}: expected reduction 'mean' or 'none', got {reduction!r}")
        self.num_labels = num_labels
        self.reduction = reduction

    def reset_state(self) -> None:
        """There is no state that depends on the batches seen."""

    def _numbers(
        self,
        what: str,
        given: float | Sequence[float] | Sequence[Sequence[float]] | Tensor,
        *sizes: int,
    ) -> Tensor:
        """float64 numbers ``[*sizes, num_labels]`` from those, or from one for all labels."""
        numbers = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
        if numbers.shape == torch.Size(sizes):
            numbers = numbers.unsqueeze(-1).expand(*sizes, self.num_labels)
        if numbers.shape != torch.Size([*sizes, self.num_labels]):
            expected = [*sizes, self.num_labels]
            raise ValueError(
                f"{type(self).__name__}: expected {what} of shape {list(sizes)} or {expected}, got "
                f"{list(numbers.shape)}"
            )
        return numbers.clone()

    def _check(
        self, scores: Tensor, labels: Tensor, item_weights: Tensor | None, own: Tensor | None
    ) -> None:
        name = type(self).__name__
        check_tensor(scores, "scores")
        check_tensor(labels, "labels")
        if item_weights is not None:
            check_tensor(item_weights, "item_weights")
            if item_weights.requires_grad:
                raise ValueError("expected item_weights to be constants, got requires_grad=True")
        shape = scores.shape
        if len(shape) not in (1, 2) or (shape[1] if len(shape) == 2 else 1) != self.num_labels:
            expected = "[B] or [B, 1]" if self.num_labels == 1 else f"[B, {self.num_labels}]"
            raise ValueError(f"{name}: expected scores of shape {expected}, got {tuple(shape)}")
        check_devices(scores, "scores", labels=labels, item_weights=item_weights, parameters=own)
