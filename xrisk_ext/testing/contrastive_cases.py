"""The named cases of the global contrastive losses; see cases.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from xrisk_ext.testing.case import SEED, Case, Limit


@dataclass(frozen=True)
class ContrastiveCase(Case):
    """One step: two embeddings per sample -> loss, their gradients, the state."""

    work: ClassVar[str] = "global_contrastive"
    bimodal: ClassVar[bool] = False
    dtype: ClassVar[torch.dtype] = torch.float32
    batch: int
    width: int = 256
    temperature: float = 0.1

    @property
    def name(self) -> str:
        return f"B={self.batch}, d={self.width}"

    @property
    def quick(self) -> bool:
        return self.batch in (256, 1024)

    @property
    def pairs(self) -> int:
        return (self.batch if self.bimodal else 2 * self.batch) ** 2

    @property
    def notes(self) -> dict[str, Any]:
        return {"batch": self.batch, "width": self.width}

    def inputs(self) -> ContrastiveInputs:
        return contrastive_inputs(self)

    def limit(self) -> Limit:
        """Products alone: similarities for the sums, again for the gradients, and both gradients.

        One modality: each similarity once, 8 B^2 d multiply-adds; two: 4 B^2 d.
        """
        return Limit(math.inf, (4 if self.bimodal else 8) * self.batch**2 * self.width)


@dataclass(frozen=True)
class BimodalContrastiveCase(ContrastiveCase):
    """The same for image and text."""

    work: ClassVar[str] = "bimodal_global_contrastive"
    bimodal: ClassVar[bool] = True


@dataclass(frozen=True)
class Bfloat16ContrastiveCase(ContrastiveCase):
    """One modality, embeddings in bfloat16: against ours on the same numbers in float32."""

    work: ClassVar[str] = "bfloat16_global_contrastive"
    dtype: ClassVar[torch.dtype] = torch.bfloat16

    def limit(self) -> None:  # type: ignore[override]
        """The rates that limits are taken by are those of float32."""


CONTRASTIVE: list[Case] = [
    *(
        case(batch)
        for case in (ContrastiveCase, BimodalContrastiveCase)
        for batch in (256, 1024, 4096)
    ),
    *(Bfloat16ContrastiveCase(batch) for batch in (1024, 4096)),
]


class ContrastiveInputs(NamedTuple):
    first: Tensor  # [B, D] float32 or bfloat16, requires grad
    second: Tensor  # [B, D], the same
    ids: Tensor  # [B] int64, no id twice
    num_samples: int
    temperature: float
    gamma: float
    bimodal: bool


def contrastive_inputs(case: ContrastiveCase) -> ContrastiveInputs:
    """Views of a sample resemble each other (cosine about 0.7), others do not."""
    generator = torch.Generator().manual_seed(SEED)
    shared, first, second = (
        torch.randn(case.batch, case.width, generator=generator) for _ in range(3)
    )
    num_samples = 10 * case.batch
    ids = torch.randperm(num_samples, generator=generator)[: case.batch]
    return ContrastiveInputs(
        (1.5 * shared + first).to(case.dtype).requires_grad_(),
        (1.5 * shared + second).to(case.dtype).requires_grad_(),
        ids,
        num_samples,
        case.temperature,
        0.9,
        case.bimodal,
    )
