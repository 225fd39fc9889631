"""What the subjects of the contract tests are called with, form by form."""

from typing import Any

import torch
from hypothesis import strategies as st
from strategies import draw_ids, generator_of, scores_of_kind, weights_of_kind
from subjects import Tensors
from torch import Tensor

SAMPLES, QUERIES, BAGS = 97, 53, 89  # ids: sizes that no other dimension of a state has
LABELS = 3  # of the losses of several
WIDTH = 6  # of embeddings, as in baseline_helpers.py
# the first is what hypothesis tries first
SIZES = st.sampled_from((13, 2, 1, 0, 3, 7, 16, 33, 40, 64, 65, 129, 300))
RARELY = st.sampled_from((*[0] * 30, 1025, 2500))  # this many instead, where it is not 0
_ALL = ("normal", "few", "grid", "equal", "far", "extreme", "huge", "spread", "tiny_gaps")
KINDS = st.sampled_from((*_ALL, "subnormal", "outliers", "wide_grid"))
TAME = st.sampled_from(("normal", "few", "grid", "equal", "far", "subnormal", "tiny_gaps"))
WEIGHTS = st.sampled_from(("positive", "half zeros", "integers", "all zeros", "ones"))
SHARES = st.sampled_from((0.3, 0.02, 0.0, 1.0))


class Draw:
    """Sizes, kinds and dtypes that hypothesis chose; the numbers are of a generator's."""

    def __init__(
        self,
        data: st.DataObject,
        dtype: torch.dtype,
        kinds: st.SearchStrategy[str] = TAME,
        size: int | None = None,
    ) -> None:
        self.data, self.dtype = data, dtype
        self.generator = generator_of(data)
        self.kind = data.draw(kinds, label="kind of scores")
        if size is None:
            size = data.draw(RARELY, label="many") or data.draw(SIZES, label="size")
        self.size = size
        self.share = data.draw(SHARES, label="share of positives")
        self.weigh = data.draw(st.booleans(), label="weighted")

    def scores(self, *shape: int) -> Tensor:
        return scores_of_kind(self.kind, shape, self.dtype, self.generator)

    def positive(self, *shape: int) -> Tensor:
        """Labels of 0 and 1; mostly with one of each."""
        labels = (torch.rand(shape, generator=self.generator) < self.share).long()
        if len(labels) > 1 and self.data.draw(st.integers(0, 4), label="one class"):
            labels[0], labels[1] = 1, 0
        return labels

    def ids(self, count: int, among: int) -> Tensor:
        """May repeat; all of them may be one."""
        drawn = draw_ids(self.data, among, count, self.generator)
        return drawn.repeat(-(-count // max(len(drawn), 1)))[:count] if len(drawn) else drawn

    def weights(self, *shape: int) -> Tensor:
        kind = self.data.draw(WEIGHTS, label="weights")
        return weights_of_kind(kind, shape, torch.float64, self.generator)

    def mask(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator) < 0.8


def scored(
    labels: int = 0,
    index: bool = True,
    weights: bool = True,
    anchors: int = 1,
    names: tuple[str, str, str] = ("scores", "labels", "index"),
) -> Any:
    """Scores [B] or [B, L] with labels 0/1, ids (-1 where no label is `anchors`), weights."""

    def draw(d: Draw) -> Tensors:
        size = d.size // (labels or 1) if d.size > 1000 else d.size
        shape = (size, labels) if labels else (size,)
        drawn = {names[0]: d.scores(*shape), names[1]: d.positive(*shape)}
        if index:
            ids = d.ids(size, SAMPLES)
            some = (drawn[names[1]].reshape(size, labels or 1) == anchors).any(1)
            hidden = d.data.draw(st.booleans(), label="ids of anchors alone")
            drawn[names[2]] = torch.where(some, ids, -1) if hidden else ids
        if weights and d.weigh:
            entry = d.data.draw(st.booleans(), label="weight per entry")
            drawn["item_weights"] = d.weights(*((size,) if entry else shape))
        return drawn

    return draw


def lists_of(d: Draw) -> tuple[int, int]:
    """[Q, S], many of one alone."""
    if d.size > 1000:
        return (d.size // 9, 9) if d.data.draw(st.booleans(), label="many lists") else (1, d.size)
    count = 0 if d.size == 0 else d.data.draw(st.sampled_from((4, 1, 2, 9)), label="lists")
    return count, min(d.size, 70)


def lists(mask: bool = True, weights: bool = False, labels: str = "relevance") -> Any:
    """Scores [Q, S] with grades, of which some may be padding."""

    def draw(d: Draw) -> Tensors:
        shape = lists_of(d)
        if labels == "labels" and shape[1] == 1:  # the retrieval losses take [B, 1] as one list
            shape = (shape[0], 2)
        grades = torch.randint(0, 5 if labels == "relevance" else 2, shape, generator=d.generator)
        if d.share == 0.0:
            grades = torch.zeros_like(grades)
        drawn = {"scores": d.scores(*shape), labels: grades}
        if mask and d.data.draw(st.booleans(), label="masked"):
            drawn["mask"] = d.mask(*shape)
        if weights and d.weigh:
            drawn["item_weights"] = d.weights(*shape)
        return drawn

    return draw


def ranked(queries: int, several: bool = True) -> Any:
    """Lists with ids of pairs, which only relevant items have, and of queries."""

    def draw(d: Draw) -> Tensors:
        drawn: Tensors = lists(weights=True)(d)
        shape = drawn["scores"].shape
        ids = d.ids(shape[0] * shape[1], SAMPLES).reshape(shape)
        drawn["pair_index"] = torch.where(drawn["relevance"] > 0, ids, -1)
        if several:
            drawn["query_index"] = d.ids(shape[0], queries)
        return drawn

    return draw


def views(
    names: tuple[str, str] = ("view1", "view2"), index: bool = True, classes: bool = False
) -> Any:
    """Embeddings [B, D], the second related to the first or its copy."""

    def draw(d: Draw) -> Tensors:
        size = min(d.size, 300)
        first, other = d.scores(size, WIDTH), d.scores(size, WIDTH)
        if d.data.draw(st.booleans(), label="related"):
            other = (first.double() + 0.3 * other.double()).to(d.dtype)
        drawn = {names[0]: first, names[1]: other}
        if index:
            drawn["index"] = d.ids(size, SAMPLES)
        if classes and d.data.draw(st.booleans(), label="with labels"):
            drawn["labels"] = torch.randint(0, 4, (size,), generator=d.generator)
        return drawn

    return draw


def bags(attention: bool) -> Any:
    def draw(d: Draw) -> Tensors:
        instances = d.data.draw(st.sampled_from((4, 1, 17)), label="instances")
        shape = (min(d.size, 1000), instances)
        drawn = {"scores": d.scores(*shape), "index": d.ids(shape[0], BAGS)}
        return drawn | ({"attention": d.scores(*shape)} if attention else {})

    return draw
