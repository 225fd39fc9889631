"""Weights that make a batch stand for the data it was drawn from."""

import torch
from torch import Tensor


def stratified_weights(
    labels: Tensor, positive_rate: float | Tensor, *, observed: Tensor | None = None
) -> Tensor:
    r"""``item_weights`` that undo the over-representation of positives in a batch.

    Positives and negatives of a label are two strata. Every entry gets the ratio of its stratum's
    share in the data to that in the batch,

    .. math:: w = \frac{\pi}{p} \text{ for positives}, \qquad
        w = \frac{1 - \pi}{1 - p} \text{ for negatives},

    so that weighted means over the batch estimate those over the data without bias. The weights of
    a label sum to the number of its observed entries. Where a label has entries of one stratum
    only, they weigh 1.

    Args:
        labels: ``[B]``, ``[B, 1]`` or ``[B, L]``, of any dtype; positive where > 0.
        positive_rate: pi, the share of positives in the data, in (0, 1): a number, or ``[L]``. The
            samplers have it as their attribute of that name.
        observed: bool, of the labels' shape; an entry that is False (a missing label) weighs 0 and
            is not counted.

    Returns:
        Weights of the labels' shape, float32, on their device; nothing waits for that device.

    Raises:
        ValueError: a shape is not as above, or a rate given as a number is out of range.
        TypeError: ``labels`` is not a tensor.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"expected labels to be a tensor, got {type(labels).__name__}")
    if labels.dim() not in (1, 2):
        raise ValueError(f"expected labels of shape [B] or [B, L], got {tuple(labels.shape)}")
    if observed is not None and observed.shape != labels.shape:
        raise ValueError(
            f"expected observed of the labels' shape {tuple(labels.shape)}, got "
            f"{tuple(observed.shape)}"
        )
    if isinstance(positive_rate, Tensor):
        if positive_rate.dim() > 0 and positive_rate.shape != labels.shape[1:]:
            raise ValueError(
                f"expected positive_rate to be a number or of shape {tuple(labels.shape[1:])}, got "
                f"{tuple(positive_rate.shape)}"
            )
        rate = positive_rate.to(device=labels.device, dtype=torch.float32, non_blocking=True)
    else:
        if not 0 < positive_rate < 1:
            raise ValueError(f"expected positive_rate in (0, 1), got {positive_rate!r}")
        rate = torch.full((), positive_rate, dtype=torch.float32, device=labels.device)
    seen = torch.ones_like(labels, dtype=torch.bool) if observed is None else observed.bool()
    positive, negative = (labels > 0) & seen, ~(labels > 0) & seen
    positives, negatives = positive.sum(0), negative.sum(0)
    total = positives + negatives
    both = (positives > 0) & (negatives > 0)
    of_positives = torch.where(both, rate * total / positives.clamp(min=1), 1.0)
    of_negatives = torch.where(both, (1 - rate) * total / negatives.clamp(min=1), 1.0)
    return positive * of_positives + negative * of_negatives
