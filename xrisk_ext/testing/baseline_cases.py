"""The named cases of the contrastive baselines; see cases.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from xrisk_ext.testing.case import SEED, Case, Limit

TEMPERATURE = 0.1
CLASSES = 10
ALPHA = 256.0  # EqCo's default


@dataclass(frozen=True)
class BaselineCase(Case):
    """Two views' embeddings -> a contrastive loss of the literature, and their gradients."""

    work: ClassVar[str] = "contrastive_baselines"
    loss: str  # a class of xrisk_ext, less "Loss"
    batch: int
    dimension: int = 256
    queue: int = 0
    dtype: ClassVar[torch.dtype] = torch.float32

    @property
    def name(self) -> str:
        return f"{self.loss}, B={self.batch}" + (f", queue {self.queue}" if self.queue else "")

    @property
    def quick(self) -> bool:
        return self.batch == 256 and not self.queue

    @property
    def pairs(self) -> int:
        if self.queue:
            return self.batch * self.queue
        return self.batch**2 * (1 if self.loss == "CLIP" else 4)

    @property
    def notes(self) -> dict[str, Any]:
        return {"batch": self.batch, "loss": self.loss}

    def inputs(self) -> BaselineInputs:
        generator = torch.Generator().manual_seed(SEED)
        shape = (self.batch, self.dimension)
        view1 = torch.randn(shape, generator=generator)
        view2 = view1 + torch.randn(shape, generator=generator)
        labels = torch.randint(CLASSES, (self.batch,), generator=generator)
        queue = torch.randn(self.queue, self.dimension, generator=generator)
        queue = torch.nn.functional.normalize(queue, dim=1)
        view1, view2 = (view.to(self.dtype).requires_grad_() for view in (view1, view2))
        return BaselineInputs(view1, view2, labels, queue, self.loss)

    def limit(self) -> Limit | None:
        """Products alone: the similarities once, and one for each side's gradient.

        CLIP: B^2 d multiply-adds for the similarities, and for the gradient of each side. MoCo: B K
        d, and the gradient of the queries alone. The others: 2 B^2 d, half of 2B x 2B symmetric
        similarities, and 4 B^2 d, both views' gradients being one product.
        """
        products = {"CLIP": 3, "MoCo": 2}.get(self.loss, 1.5)
        return Limit(math.inf, products * self.pairs * self.dimension)


@dataclass(frozen=True)
class Bfloat16BaselineCase(BaselineCase):
    """On a GPU, where others have fused kernels for bfloat16."""

    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    wrong: ClassVar[float] = 0.05  # similarities and gradients are rounded to bfloat16 by some
    dtype: ClassVar[torch.dtype] = torch.bfloat16

    @property
    def name(self) -> str:
        return f"{self.loss} bfloat16, B={self.batch}, d={self.dimension}"

    @property
    def quick(self) -> bool:
        return False

    def limit(self) -> None:
        """The rates that limits are taken by are those of float32."""


class BaselineInputs(NamedTuple):
    view1: Tensor  # [B, D] float32 or bfloat16, requires grad
    view2: Tensor  # [B, D], the same
    labels: Tensor  # [B] int64, of SupCon
    queue: Tensor  # [K, D] float32 unit rows, of MoCo; K may be 0
    loss: str


BASELINES: list[Case] = [
    BaselineCase("NTXent", 64),
    BaselineCase("FlatNCE", 64),
    BaselineCase("EqCo", 64),
    BaselineCase("SupCon", 64),
    BaselineCase("CLIP", 64),
    BaselineCase("MoCo", 64, dimension=128, queue=4096),
    BaselineCase("NTXent", 128),
    BaselineCase("NTXent", 256),
    BaselineCase("NTXent", 1024),
    BaselineCase("NTXent", 2048),
    BaselineCase("SupCon", 256),
    BaselineCase("SupCon", 1024),
    BaselineCase("CLIP", 256),
    BaselineCase("CLIP", 1024),
    BaselineCase("CLIP", 4096),
    BaselineCase("MoCo", 256, dimension=128, queue=65536),
    Bfloat16BaselineCase("CLIP", 256, dimension=128),
    Bfloat16BaselineCase("CLIP", 4096, dimension=512),
    Bfloat16BaselineCase("CLIP", 32768, dimension=768),
]
