"""Kinds of scores, by name: what a model gives, and what breaks or slows down a kernel.

    for name, make in SCORES.items(): scores = make(1000, generator)

All are float32 and finite; FINITE_SQUARES names those whose squared differences are finite too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

Maker = Callable[[int, Generator], Tensor]


def normal(n: int, generator: Generator) -> Tensor:
    """Standard normal: all distinct, or nearly."""
    return torch.randn(n, generator=generator)


def ties(n: int, generator: Generator) -> Tensor:
    """One value: every comparison is a tie, every radix pass a single bucket."""
    return torch.full((n,), float(torch.randn((), generator=generator)))


def few_values(n: int, generator: Generator) -> Tensor:
    """Five values at whole steps: ties, and differences that sit exactly on a margin of 1 or 2."""
    return torch.randint(-2, 3, (n,), generator=generator).float()


def narrow(n: int, generator: Generator) -> Tensor:
    """Near 30 with a spread of 0.05: whoever subtracts large moments loses every digit."""
    return 30.0 + 0.05 * torch.randn(n, generator=generator)


def bits(n: int, generator: Generator) -> Tensor:
    """Random bits of sign and mantissa, 2^-30 to 2^5: no byte of a sort key is the same for all."""
    sign = torch.randint(0, 2, (n,), generator=generator) * 2 - 1
    exponent = torch.randint(-30, 6, (n,), generator=generator)
    return sign * torch.ldexp(1.0 + torch.rand(n, generator=generator), exponent)


def sorted_down(n: int, generator: Generator) -> Tensor:
    """Already in order, the wrong one."""
    return torch.randn(n, generator=generator).sort(descending=True).values


def subnormal(n: int, generator: Generator) -> Tensor:
    """Below the smallest normal number, zeros of both signs among them."""
    tiny = torch.finfo(torch.float32).smallest_normal
    scores = torch.randn(n, generator=generator) * (tiny / 8)
    scores[::5], scores[1::5] = 0.0, -0.0
    return scores


def huge_gaps(n: int, generator: Generator) -> Tensor:
    """Up to 1e30 on either side: squares and exponentials of the gaps overflow float32."""
    return (torch.rand(n, generator=generator) - 0.5) * 2e30


SCORES: dict[str, Maker] = {
    make.__name__: make
    for make in (normal, ties, few_values, narrow, bits, sorted_down, subnormal, huge_gaps)
}
FINITE_SQUARES = tuple(name for name in SCORES if name != "huge_gaps")
