"""CLIP's loss by the fused CUDA kernels of others: inf_cl, Liger-Kernel, quack.

The last two fuse a linear layer with the cross entropy: its weights are the other view's rows.
Each is called once for either view.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from xrisk_ext.bench.peers import UnavailableError, peer
from xrisk_ext.bench.peers.contrastive_baselines import WORK, measure_error
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.baseline_cases import TEMPERATURE, BaselineInputs

# From two views' unit rows to the mean cross entropy of the first view's among the second's.
OneWay = Callable[[Tensor, Tensor], Tensor]


def _register(name: str, make: Callable[[BaselineInputs], OneWay]) -> None:
    @peer(WORK, name)
    def build(inputs: BaselineInputs) -> Contestant | None:
        if inputs.loss != "CLIP" or not inputs.view1.is_cuda:
            return None
        try:
            one_way = make(inputs)
        except ImportError as error:
            raise UnavailableError(str(error)) from error

        def call() -> None:
            inputs.view1.grad = inputs.view2.grad = None
            a, b = F.normalize(inputs.view1, dim=1), F.normalize(inputs.view2, dim=1)
            ((one_way(a, b) + one_way(b, a)) / 2).backward()

        return Contestant(name, call, error=lambda: measure_error(inputs))


def _inf_cl(inputs: BaselineInputs) -> OneWay:
    from inf_cl import cal_flash_loss

    width = inputs.view1.shape[1]
    head = 256 if width % 256 == 0 else width  # what it reads at a time
    return lambda a, b: cal_flash_loss(a, b, scale=1 / TEMPERATURE, head_dim=head).mean()


def _liger(inputs: BaselineInputs) -> OneWay:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss_fn = LigerFusedLinearCrossEntropyLoss()
    here = torch.arange(len(inputs.view1), device=inputs.view1.device)
    return lambda a, b: loss_fn(b, a / TEMPERATURE, here)


def _quack(inputs: BaselineInputs) -> OneWay:
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    here = torch.arange(len(inputs.view1), device=inputs.view1.device)
    return lambda a, b: chunked_linear_cross_entropy(a / TEMPERATURE, b, here)


_register("inf_cl", _inf_cl)
_register("liger", _liger)
_register("quack", _quack)
