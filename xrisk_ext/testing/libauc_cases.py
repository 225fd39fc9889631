"""Cases of LibAUC's losses by name: its own class against the drop-in of the same name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from xrisk_ext.testing.case import SEED, Case, Limit

NUM_SAMPLES = 100_000
# What makes each, by the name it has in the tables: its class, and what sets it apart.
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "AP": ("APLoss", {"data_len": NUM_SAMPLES}),
    "pairwise AUC": ("PairwiseAUCLoss", {"surr_loss": "squared_hinge"}),
    "AUC-M": ("AUCMLoss", {}),
    "AUC-M v2": ("AUCMLoss", {"version": "v2"}),
    "SOPA": ("pAUCLoss", {"mode": "SOPA", "data_len": NUM_SAMPLES, "pos_len": NUM_SAMPLES}),
    "SOPA-s": ("pAUCLoss", {"mode": "1w", "data_len": NUM_SAMPLES}),
    "SOTA-s": ("pAUCLoss", {"mode": "2w", "data_len": NUM_SAMPLES}),
    "STACO": ("tpAUC_CVaR_loss", {"data_length": NUM_SAMPLES}),
    "cross entropy": ("CrossEntropyLoss", {}),
    "focal": ("FocalLoss", {"alpha": 0.5}),
}
POINTWISE = ("AUC-M", "AUC-M v2", "cross entropy", "focal")


@dataclass(frozen=True)
class LibaucCase(Case):
    """One step of a loss: scores -> value, gradient of the scores, state."""

    work: ClassVar[str] = "libauc"
    share: ClassVar[float] = 0.25
    loss: str
    batch: int

    @property
    def name(self) -> str:
        return f"{self.loss}, B={self.batch}"

    @property
    def quick(self) -> bool:
        return self.batch == 256 and self.loss in ("SOPA-s", "AUC-M", "focal")

    @property
    def pairs(self) -> int:
        if self.loss == "focal":  # of theirs, all weights meet all losses
            return self.batch * self.batch
        return 0 if self.loss in POINTWISE else self.batch * self.batch // 10

    @property
    def under_o(self) -> tuple[str, ...]:
        return ("libauc",)

    @property
    def notes(self) -> dict[str, Any]:
        return {"batch": self.batch, "loss": self.loss}

    def inputs(self) -> LibaucInputs:
        generator = torch.Generator().manual_seed(SEED)
        labels = torch.zeros(self.batch)
        labels[torch.randperm(self.batch, generator=generator)[: self.batch // 10]] = 1.0
        scores = torch.sigmoid(torch.randn(self.batch, generator=generator) + labels)
        index = torch.randperm(NUM_SAMPLES, generator=generator)[: self.batch]
        class_name, options = LOSSES[self.loss]
        return LibaucInputs(scores.requires_grad_(), labels, index, class_name, options)

    def limit(self) -> Limit:
        """Scores and labels read, the gradient written."""
        return Limit(12 * self.batch)


class LibaucInputs(NamedTuple):
    scores: Tensor  # [B] float32, requires grad
    labels: Tensor  # [B] float32, 0 or 1
    ids: Tensor  # [B] int64, distinct
    class_name: str
    options: dict[str, Any]


LIBAUC = [LibaucCase(loss, batch) for loss in LOSSES for batch in (256, 1024, 4096)]
