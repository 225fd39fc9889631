"""LibAUC's way of passing things, translated."""

from typing import Any

import torch
from torch import Tensor


def device_of(device: torch.device | str | None) -> torch.device:
    """LibAUC's default: CUDA if there is one."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def surrogate_options(surr_loss: str, hparam: Any) -> dict[str, Any]:
    """Its surrogates have one hyper-parameter: a margin, a scale, or a pair of both."""
    if surr_loss == "logistic":
        return {"surrogate": surr_loss, "margin": float(hparam), "scale": float(hparam)}
    if surr_loss == "barrier_hinge":
        margin, scale = hparam
        return {"surrogate": surr_loss, "margin": float(margin), "scale": float(scale)}
    return {"surrogate": surr_loss, "margin": float(hparam)}


def column(t: Tensor) -> Tensor:
    """[B] or [B, 1] -> [B]; anything else is left for the loss to refuse."""
    return t.squeeze(1) if t.dim() == 2 and t.shape[1] == 1 else t


def widened(t: Tensor, name: str) -> Tensor:
    """In the dtype that the fused steps return."""
    if not t.is_floating_point():
        raise TypeError(f"expected {name} to be floating, got {t.dtype}")
    return t.to(torch.float64 if t.dtype == torch.float64 else torch.float32)


def ids_in(index: Tensor, state: Tensor) -> Tensor:
    """Ids [B] or [B, 1] as [B], on the state's device."""
    if index.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"expected index to be int64 or int32, got {index.dtype}")
    return column(index).to(state.device)


def ids_of(index: Tensor, labels: Tensor) -> Tensor:
    """One id an entry, on the labels' device, from that or from the ids of the positives alone."""
    index = column(index)
    if index.device != labels.device:
        index = index.to(labels.device)
    batch = labels.shape[0]
    if index.numel() == batch:
        return index
    positive = labels > 0
    if positive.dim() == 2:
        positive = positive.any(dim=1)
    if index.numel() != int(positive.sum()):
        raise ValueError(
            f"expected index of {batch} entries, or one for each of the {int(positive.sum())} "
            f"positives, got {index.numel()}"
        )
    ids = torch.full((batch,), -1, dtype=torch.int64, device=labels.device)
    return ids.masked_scatter(positive, index.to(torch.int64))


def chosen_labels(task_id: Any, num_labels: int, scores: Tensor) -> tuple[Tensor | None, int]:
    """``item_weights`` [B, L] that leave out the labels not in task_id, and how many are left."""
    if task_id is None or len(task_id) == 0:
        return None, num_labels
    chosen = torch.zeros(num_labels, dtype=torch.bool, device=scores.device)
    chosen[torch.as_tensor(task_id, device=scores.device).long()] = True
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    return chosen.to(dtype).expand(scores.shape[0], num_labels), int(chosen.sum())
