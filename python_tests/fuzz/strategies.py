"""What hypothesis draws: sizes, scores of every kind, weights, layouts.

Hypothesis chooses the kind, the size, a seed and the exceptions, all of which it can shrink; the
bulk comes from torch's generator. Thousands of numbers drawn one by one would take seconds.
"""

from typing import Any

import torch
from helpers import DTYPES, INF, NAN
from hypothesis import strategies as st
from torch import Tensor

# around the sizes of a register, of the kernels' blocks and of the sorts' switches
EDGES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)
EDGES += (255, 256, 257, 511, 512, 513)
small = st.one_of(st.integers(0, 40), st.sampled_from(EDGES))
large = st.one_of(small, st.integers(0, 5000), st.sampled_from((1023, 1025, 4095, 4096, 4097)))
dtypes = st.sampled_from(DTYPES)
precisions = st.sampled_from((torch.float32, torch.float64))
seeds = st.integers(0, 2**20)

KINDS = ("normal", "grid", "wide_grid", "few", "equal", "far", "tiny_gaps", "huge", "spread")
KINDS += ("subnormal", "outliers")
# as large as a score may be: what a loss sums need not fit the dtype, nor float64
EXTREMES = {torch.float16: 4, torch.bfloat16: 30, torch.float32: 30, torch.float64: 150}
# The gaps of these are small in every way: for sums that grow without bound
TAME_KINDS = ("normal", "grid", "few", "equal", "far", "tiny_gaps", "subnormal")
SPECIAL = (INF, -INF, NAN)


def shapes(data: st.DataObject) -> tuple[int, int]:
    """(P, M), one of them up to thousands, the dense truth of both at most about 2e5 pairs."""
    one, other = data.draw(small, label="small side"), data.draw(large, label="large side")
    if one * other > 200_000:
        one = 200_000 // other
    return (one, other) if data.draw(st.booleans(), label="few anchors") else (other, one)


def generator_of(data: st.DataObject) -> torch.Generator:
    return torch.Generator().manual_seed(data.draw(seeds, label="seed"))


def scores_of_kind(kind: str, shape: Any, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Finite scores of that shape in that dtype."""
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    integers = lambda most: torch.randint(-most, most + 1, x.shape, generator=generator)  # noqa: E731
    info = torch.finfo(dtype)
    # the size of the largest: squares and products with weights stay in float64's range, and
    # what leaves float32's is the kernels' business
    top = {torch.float16: 3.0, torch.bfloat16: 15.0, torch.float32: 15.0}.get(dtype, 100.0)
    if kind == "grid":
        x = integers(16) / 8.0
    elif kind == "wide_grid":
        x = integers(8000) / 8.0
    elif kind == "few":
        x = (2.0 * x).round() * 0.3
    elif kind == "equal":
        x = x[:1].flatten()[:1].expand(x.shape) if x.numel() else x
    elif kind == "far":
        x = 30.0 + 0.05 * x
    elif kind == "tiny_gaps":  # neighbours in the dtype
        x = 0.7 * (1.0 + info.eps * integers(3))
    elif kind == "huge":
        x = x.clamp(-6.0, 6.0) * 10.0 ** float(
            integers(1000).abs().flatten()[:1].sum() / 1000 * top
        )
    elif kind == "spread":
        x = x.sign() * 10.0 ** (torch.rand(x.shape, generator=generator).double() * 2 * top - top)
    elif kind == "subnormal":
        x = x * info.smallest_normal * 0.25
    elif kind == "extreme":
        x = x * 10.0 ** EXTREMES[dtype]
    elif kind == "outliers":
        x = torch.where(integers(20) == 0, x * 10.0**top, x)
    return x.double().clamp(-0.5 * info.max, 0.5 * info.max).to(dtype)


def vector(data: st.DataObject, size: int, name: str, kinds: tuple[str, ...] = KINDS) -> Tensor:
    """Scores [size] of a drawn kind and dtype."""
    dtype = data.draw(dtypes, label=f"dtype of {name}")
    kind = data.draw(st.sampled_from(kinds), label=f"kind of {name}")
    return scores_of_kind(kind, (size,), dtype, generator_of(data))


def with_specials(data: st.DataObject, x: Tensor) -> Tensor:
    """Up to three infinities or NaNs put in."""
    x = x.clone()
    for special in data.draw(st.lists(st.sampled_from(SPECIAL), max_size=3), label="specials"):
        if x.numel():
            x.view(-1)[data.draw(st.integers(0, x.numel() - 1), label="at")] = special
    return x


def relaid(data: st.DataObject, x: Tensor) -> Tensor:
    """The same numbers in another layout."""
    layout = data.draw(st.sampled_from(("plain", "strided", "offset", "expanded", "turned")))
    if layout == "strided":
        return torch.stack([x, torch.full_like(x, 7)], dim=-1)[..., 0]
    if layout == "offset":  # not aligned to a register
        return (
            torch.cat([torch.zeros_like(x[:1]).flatten()[:1], x.flatten()])[-x.numel() :].view(
                x.shape
            )
            if x.numel()
            else x
        )
    if layout == "expanded" and x.numel() and bool((x == x.flatten()[0]).all()):
        return x.flatten()[:1].view([1] * x.dim()).expand(x.shape)
    if layout == "turned" and x.dim() == 2:
        return x.t().contiguous().t()
    return x


ID_KINDS = ("any", "unique", "one", "few hot", "runs")


def draw_ids(data: st.DataObject, rows: int, size: int, generator: torch.Generator) -> Tensor:
    """Ids below `rows`, at most that many where none comes twice."""
    kind = data.draw(st.sampled_from(ID_KINDS), label="ids")
    ids = torch.randint(rows, (size,), generator=generator)
    if kind == "unique":
        ids = torch.randperm(rows, generator=generator)[:size]
    elif kind == "one":
        ids = ids[:1].expand(size)
    elif kind == "few hot":
        ids = torch.where(ids % 3 == 0, ids, ids[:1])
    elif kind == "runs":
        ids = ids.sort().values
    return ids.to(data.draw(st.sampled_from((torch.int64, torch.int32)), label="id dtype"))


WEIGHT_KINDS = ("ones", "positive", "half zeros", "integers", "all zeros", "tiny and huge")


def weights_of_kind(
    kind: str, shape: Any, dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    """Weights >= 0."""
    w = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1
    if kind == "ones":
        w = torch.ones_like(w)
    elif kind == "half zeros":
        w = torch.where(torch.rand(w.shape, generator=generator) < 0.5, 0.0, w)
    elif kind == "integers":
        w = torch.randint(0, 4, w.shape, generator=generator).double()
    elif kind == "all zeros":
        w = torch.zeros_like(w)
    elif kind == "tiny and huge":
        w = 10.0 ** (w * 8.0 - 5.0)
    return w.clamp(max=1e4).to(dtype)


surrogate_hyper_parameters = st.one_of(
    st.tuples(st.sampled_from((0.0, 0.5, 1.0, 2.25)), st.sampled_from((1.0, 1.5, 2.0))),
    st.tuples(st.sampled_from((0.7, 0.1, 1e3)), st.sampled_from((1.0, 1.3, 7.1))),
)
