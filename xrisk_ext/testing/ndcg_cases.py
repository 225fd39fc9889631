"""The named cases of the NDCG losses; see cases.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from xrisk_ext.testing.case import SEED, Case, Limit

LINE = 64  # bytes that memory moves for a row touched at random
TOP_K = 10


@dataclass(frozen=True)
class NDCGCase(Case):
    """One SONG or K-SONG step over sampled lists: scores -> loss, gradient, state."""

    work: ClassVar[str] = "ndcg"
    queries: int
    relevant: int
    others: int
    top_k: int | None = None

    @property
    def name(self) -> str:
        method = "SONG" if self.top_k is None else "K-SONG"
        return f"{method} {self.queries}x({self.relevant}+{self.others})"

    @property
    def quick(self) -> bool:
        return self.others <= 300

    @property
    def pairs(self) -> int:
        return self.queries * self.relevant * (self.relevant + self.others)

    @property
    def notes(self) -> dict[str, Any]:
        return {"queries": self.queries, "items": self.relevant + self.others}

    def inputs(self) -> NDCGInputs:
        return ndcg_inputs(self)

    def limit(self) -> Limit:
        """Scores, relevance, gradient; id and state row (read and written) of a relevant item."""
        items = self.queries * (self.relevant + self.others)
        return Limit(12 * items + (8 + 2 * LINE) * self.queries * self.relevant, 4 * self.pairs)


NDCG = [
    NDCGCase(queries, 10, others, top_k)
    for top_k in (None, TOP_K)
    for queries, others in ((32, 20), (256, 300), (256, 1000))
]


class NDCGInputs(NamedTuple):
    """Relevant items first in every list, as a peer insists; each contestant has its own scores."""

    scores: Tensor  # [Q, S] float32, requires grad
    relevance: Tensor  # [Q, S] float32, 0 to 4
    pair_index: Tensor  # [Q, S] int64, distinct where relevant
    query_index: Tensor  # [Q] int64, distinct
    num_relevant: Tensor  # [Q] int64
    ideal_dcg: Tensor  # [Q] float32
    num_items: int
    num_pairs: int
    relevant: int
    top_k: int | None


def ndcg_inputs(case: NDCGCase) -> NDCGInputs:
    """The relevant items' scores are 1 higher: a model that has learnt a bit."""
    generator = torch.Generator().manual_seed(SEED)
    items = case.relevant + case.others
    scores = torch.randn(case.queries, items, generator=generator)
    scores[:, : case.relevant] += 1.0
    relevance = torch.zeros(case.queries, items)
    relevance[:, : case.relevant] = torch.randint(
        1, 5, (case.queries, case.relevant), generator=generator
    ).float()
    gains = (torch.exp2(relevance) - 1.0).sort(dim=1, descending=True).values
    places = torch.arange(2, items + 2).log2()
    cut = items if case.top_k is None else case.top_k
    num_pairs = 4 * case.queries * items
    pairs = torch.randperm(num_pairs, generator=generator)[: case.queries * items]
    return NDCGInputs(
        scores.requires_grad_(),
        relevance,
        pairs.reshape(case.queries, items),
        torch.randperm(4 * case.queries, generator=generator)[: case.queries],
        torch.full((case.queries,), case.relevant),
        (gains / places)[:, :cut].sum(dim=1),
        items,
        num_pairs,
        case.relevant,
        case.top_k,
    )
