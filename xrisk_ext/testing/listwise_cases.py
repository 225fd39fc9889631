"""The named cases of the stateless losses of ranked lists; see cases.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from xrisk_ext.testing.case import SEED, Case, Limit

# The losses, as xrisk_ext.ops.listwise names them, and whether they look at pairs.
LISTWISE = {
    "rank_net": True,
    "lambda_rank": True,
    "list_net": False,
    "list_mle": False,
    "approx_ndcg": True,
    "neural_ndcg": True,
    "smooth_ap": True,
    "fast_ap": False,
    "recall_at_k": True,
}
RELEVANT = 10  # items of a list, of relevance 1 to 4; the others have none
SHAPES = [(32, 30), (256, 310)]
LONG = [("lambda_rank", 1, 5000, 2500)]  # whose weights need not all pairs


@dataclass(frozen=True)
class ListwiseCase(Case):
    """One step: scores [Q, S] -> loss and gradient of the scores."""

    work: ClassVar[str] = "listwise"
    share: ClassVar[float] = 0.25
    loss: str
    lists: int
    length: int
    relevant: int = RELEVANT

    @property
    def name(self) -> str:
        return f"{self.loss} {self.lists}x{self.length}"

    @property
    def quick(self) -> bool:
        return self.lists == 32 and self.loss in ("list_net", "approx_ndcg")

    @property
    def pairs(self) -> int:
        return self.lists * self.length**2 if LISTWISE[self.loss] else 0

    @property
    def notes(self) -> dict[str, Any]:
        return {"lists": self.lists, "length": self.length}

    def inputs(self) -> ListwiseInputs:
        return listwise_inputs(self)

    def limit(self) -> Limit:
        """Scores, relevance and gradient."""
        return Limit(12 * self.lists * self.length)


LISTS = [ListwiseCase(loss, *shape) for loss in LISTWISE for shape in SHAPES]
LISTS += [ListwiseCase(*long) for long in LONG]


class ListwiseInputs(NamedTuple):
    scores: Tensor  # [Q, S] float32, requires grad
    relevance: Tensor  # [Q, S] float32
    loss: str


def listwise_inputs(case: ListwiseCase) -> ListwiseInputs:
    """Cosine-like scores for the losses of retrieval, normal ones for the others."""
    generator = torch.Generator().manual_seed(SEED)
    relevance = torch.zeros(case.lists, case.length)
    graded = torch.randint(1, 5, (case.lists, case.relevant), generator=generator)
    relevance[:, : case.relevant] = graded.float()
    scores = torch.randn(case.lists, case.length, generator=generator) + 0.5 * relevance
    if case.loss in ("smooth_ap", "fast_ap", "recall_at_k"):
        scores, relevance = torch.tanh(scores), (relevance > 0).float()
    return ListwiseInputs(scores.requires_grad_(), relevance, case.loss)
