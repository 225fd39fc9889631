"""A data set whose samples carry the ids that the losses keep their state by."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset


def positive_ids(labels: Tensor | Sequence[Any]) -> Tensor:
    """Ids ``[N]`` that number the positives 0, 1, ... in order; -1 for the other samples.

    With them a loss keeps state for the positives alone: ``num_samples`` is their number.

    Args:
        labels: ``[N]``, or ``[N, L]``, where a sample is numbered if any label of it is positive.
            Positive means > 0.
    """
    positive = torch.as_tensor(labels) > 0
    if positive.dim() not in (1, 2):
        raise ValueError(f"expected labels of shape [N] or [N, L], got {tuple(positive.shape)}")
    if positive.dim() == 2:
        positive = positive.any(dim=1)
    return torch.where(positive, positive.cumsum(0) - 1, -1)


class IndexedDataset(Dataset[Any]):
    """Adds its id to every sample of a map-style data set.

    A tuple or list ``(x, y)`` becomes the tuple ``(x, y, id)``; a mapping gets the entry
    ``"index"``; anything else ``x`` becomes ``(x, id)``. Where the data set fetches a whole batch
    at once (``__getitems__``), so does this one.

    Args:
        dataset: of N samples, with ``__getitem__`` and ``__len__``.
        ids: ``[N]`` integers to hand out, for example :func:`positive_ids`. Default: the positions
            0 .. N-1.

    Raises:
        TypeError: the data set has no length, or the ids are not integers.
        ValueError: there is not one id per sample.
    """

    def __init__(self, dataset: Any, *, ids: Tensor | Sequence[int] | None = None) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                "IndexedDataset: expected a map-style dataset, with __getitem__ and __len__, got "
                f"{type(dataset).__name__}"
            )
        self.dataset = dataset
        self.ids: list[int] | None = None
        if ids is not None:
            numbers = torch.as_tensor(ids)
            if numbers.dtype.is_floating_point or numbers.dtype in (torch.bool, torch.complex64):
                raise TypeError(f"IndexedDataset: expected ids to be integers, got {numbers.dtype}")
            if numbers.shape != (len(dataset),):
                raise ValueError(
                    f"IndexedDataset: expected ids of shape [{len(dataset)}], got "
                    f"{tuple(numbers.shape)}"
                )
            self.ids = numbers.tolist()
        if hasattr(dataset, "__getitems__"):
            # an attribute of the instance: DataLoader asks whether there is one
            self.__getitems__ = self._fetch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> Any:
        return self._with_id(self.dataset[position], position)

    def _fetch(self, positions: list[int]) -> list[Any]:
        samples = self.dataset.__getitems__(positions)
        return [self._with_id(s, p) for s, p in zip(samples, positions, strict=True)]

    def _with_id(self, sample: Any, position: int) -> Any:
        if position < 0:
            position += len(self)
        identity = int(position) if self.ids is None else self.ids[position]
        if isinstance(sample, Mapping):
            return {**sample, "index": identity}
        if isinstance(sample, (tuple, list)):
            return (*sample, identity)
        return (sample, identity)
