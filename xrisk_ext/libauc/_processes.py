"""Several processes: LibAUC's losses find out by themselves whether there are any."""

from typing import Any

import torch.distributed as dist
from torch import Tensor

from xrisk_ext._exchange import Exchange, Group, ShardOfBatch
from xrisk_ext.distributed import gather_batch


def is_distributed() -> bool:
    """Whether ``torch.distributed`` is initialised, with more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rows_of_all(loss: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows of all processes if ``loss.distributed``, else these.

    As in LibAUC every process computes the loss of all, and the gradient of a process's own rows
    is that times the number of processes: DistributedDataParallel takes the average.
    """
    return gather_batch(*tensors) if loss.distributed else tensors


def own_rows(**tensors: Tensor) -> ShardOfBatch:
    """These rows as a part of the batch of all processes."""
    rows = list(tensors.values())
    return ShardOfBatch(Exchange(Group(), rows, False, list(tensors)), {})
