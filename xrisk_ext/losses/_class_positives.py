"""Sums over the classes of a batch, and the positives of the supervised contrastive loss."""

from typing import Any

import torch
from torch import Tensor

from xrisk_ext.losses._embeddings import accumulated
from xrisk_ext.ops.second_derivative import guard_second_derivative


def class_sums(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of the rows of each class [B, D], the classes' sizes [B], each row's class [B].

    Of known shapes, and in a fixed order: where adding in place has none, by sums of segments.
    """
    if len(labels) == 0:
        return x, x.new_zeros(0), labels.new_zeros(0, dtype=torch.int64)
    ordered, order = labels.sort(stable=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    number = torch.empty_like(order).scatter_(0, order, new.cumsum(0) - 1)
    sizes = torch.zeros_like(order).scatter_add_(0, number, torch.ones_like(number))
    if x.is_cpu:
        sums = torch.zeros_like(x).index_add(0, number, x)
    else:
        sums = torch.segment_reduce(x[order], "sum", lengths=sizes, unsafe=True)
    return sums, sizes.to(x.dtype), number


class PairsLessPositives(torch.autograd.Function):
    """Mean over the 2B rows of (s_pair - mean over the class's others of s) / temperature.

    What NT-Xent and the supervised loss differ by. With v = partner - (sum of the class - e) /
    (2 size - 1), of unit rows e, it is the sum of <e, v> / (2 B temperature), and its derivative by
    e is v / (B temperature): no graph is kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        view1: Tensor,
        view2: Tensor,
        labels: Tensor,
        temperature: Tensor,
        normalize: bool,
    ) -> Tensor:
        batch = len(view1)
        e = accumulated(torch.cat((view1, view2)))
        inverse = None
        if normalize and e.numel():  # as unit_rows
            largest = e.abs().amax(1, keepdim=True)
            largest.masked_fill_(largest == 0, 1.0)
            e /= largest
            length = torch.linalg.vector_norm(e, dim=1, keepdim=True)
            inverse = torch.where(length == 0, 0.0, 1.0 / length)
            e *= inverse
            inverse /= largest
        first, second = e[:batch], e[batch:]
        sums, sizes, number = class_sums(first + second, labels)
        weights = (1.0 / (2.0 * sizes - 1.0)).unsqueeze(1)  # of classes, [B, 1]
        weight = weights[number]
        v = torch.cat((second.addcmul(first, weight), first.addcmul(second, weight)))
        v.view(2, batch, e.shape[1]).sub_((sums * weights)[number])
        along = (e * v).sum(1, keepdim=True)
        scale = 1.0 / (max(batch, 1) * temperature)
        value = (0.5 * scale * along.sum()).to(e.dtype)
        if any(ctx.needs_input_grad):
            factor = scale.to(v.dtype)
            if inverse is not None:
                v.addcmul_(e, along, value=-1.0)
                factor = factor * inverse
            ctx.save_for_backward(v.mul_(factor), value / -temperature)
            ctx.dtypes = view1.dtype, view2.dtype, temperature.dtype
        return value

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient, slope = ctx.saved_tensors
        found: list[Tensor | None] = [None] * 3
        with torch.no_grad():
            halves = (*gradient.chunk(2), slope)
            wanted = (*ctx.needs_input_grad[:2], ctx.needs_input_grad[3])
            for k, (half, dtype) in enumerate(zip(halves, ctx.dtypes, strict=True)):
                if wanted[k]:
                    found[k] = (upstream[0] * half).to(dtype)
        view1, view2, temperature = guard_second_derivative(*found)
        return view1, view2, None, temperature, None
