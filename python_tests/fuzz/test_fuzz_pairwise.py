"""pairwise_sums and pairwise_log_sums on anything, against the reference and against themselves."""

import pytest
import torch
from fuzzing import drawn_simd, each_device, fuzz, threads
from helpers import INF, NAN, SURROGATE_ALGORITHMS, value_and_gradients
from hypothesis import assume
from hypothesis import strategies as st
from loss_helpers import bits_equal
from pairs import Pairs, check, follow, sizes_of
from strategies import (
    KINDS,
    TAME_KINDS,
    WEIGHT_KINDS,
    dtypes,
    generator_of,
    precisions,
    relaid,
    scores_of_kind,
    shapes,
    small,
    surrogate_hyper_parameters,
    vector,
    weights_of_kind,
    with_specials,
)
from torch import Tensor

from xrisk_ext import ops, reference

names = st.sampled_from(reference.SURROGATES)
# a parameter where a kernel has code of its own for each of them: so many examples for each
each_name = pytest.mark.parametrize("name", reference.SURROGATES)


def draw_weights(data: st.DataObject, items: Tensor, signed: bool) -> Tensor | None:
    """None, [M] or [C, M]."""
    channels = data.draw(st.sampled_from((None, 1, 1, 2, 3) if signed else (None, 1)))
    if channels is None:
        return None
    kind = data.draw(st.sampled_from(WEIGHT_KINDS), label="weights")
    shape = (len(items),) if channels == 1 else (channels, len(items))
    generator = generator_of(data)
    w = weights_of_kind(kind, shape, data.draw(dtypes, label="dtype of weights"), generator)
    if signed and data.draw(st.booleans(), label="signed"):
        w = w * torch.randn(shape, generator=generator).sign().to(w.dtype)
    return w


def draw_pairs(data: st.DataObject, name: str, temperature: float | None = None) -> Pairs:
    margin, scale = data.draw(surrogate_hyper_parameters, label="margin and scale")
    # a sum of exponentials may reach inf by definition, and a log sum's shares become a matter of
    # rounding where exponents are large
    kinds = TAME_KINDS if name == "exponential" or temperature is not None else KINDS
    if data.draw(st.booleans(), label="on the grid"):  # exact differences: kinks are hit
        kinds, margin, scale = ("grid",), 0.5, 1.5
    p, m = shapes(data)
    anchors, items = vector(data, p, "anchors", kinds), vector(data, m, "items", kinds)
    weights = draw_weights(data, items, signed=temperature is None)
    shape = (p,) if weights is None or weights.dim() == 1 else (len(weights), p)
    upstream = scores_of_kind("normal", shape, torch.float64, generator_of(data))
    if data.draw(st.booleans(), label="zeros upstream"):
        upstream[..., ::2] = 0.0
    pairs = Pairs(anchors, items, weights, upstream, name, margin, scale, temperature)
    if name == "exponential":
        reach = 2.0 * max((float(t.abs().max()) for t in (anchors, items) if len(t)), default=0.0)
        assume(reach * scale < 60.0)
    return pairs._replace(upstream=upstream.to(pairs.computed))


def in_any_layout(data: st.DataObject, pairs: Pairs, device: str) -> Pairs:
    relaid_ = [None if t is None else relaid(data, t) for t in pairs.on(device)[:4]]
    return Pairs(*relaid_, *pairs[4:])  # type: ignore[arg-type]


def algorithm_for(data: st.DataObject, name: str) -> str:
    algorithms = [a for n, a in SURROGATE_ALGORITHMS if n == name]
    return data.draw(st.sampled_from(algorithms), label="algorithm")


@each_device
@each_name
@fuzz
def test_sums_follow_the_reference(data: st.DataObject, name: str, device: str) -> None:
    pairs = draw_pairs(data, name)
    algorithm = algorithm_for(data, pairs.name)
    given = in_any_layout(data, pairs, device)
    with drawn_simd(data):
        check(pairs, given, algorithm=algorithm)


@each_device
@each_name
@fuzz
def test_log_sums_follow_the_reference(data: st.DataObject, name: str, device: str) -> None:
    temperature = data.draw(st.sampled_from((0.05, 0.25, 1.0, 1024.0)), label="temperature")
    pairs = draw_pairs(data, name, temperature)
    given = in_any_layout(data, pairs, device)
    with drawn_simd(data):
        check(pairs, given)


@each_device
@each_name
@fuzz
def test_weight_zero_hides_any_score(data: st.DataObject, name: str, device: str) -> None:
    # of a sum or of a log sum; and an anchor whose upstream gradient is zero pulls at no item
    temperature = data.draw(st.sampled_from((None, None, 1.0)), label="temperature")
    m = data.draw(small, label="M")
    precision = data.draw(precisions, label="dtype")
    generator = generator_of(data)
    anchors = scores_of_kind("normal", (7,), precision, generator)
    items = scores_of_kind("normal", (m,), precision, generator)
    weights = weights_of_kind("half zeros", (m,), precision, generator)
    pairs = Pairs(anchors, items, weights, torch.ones(7, dtype=precision), name, 0.7, 1.3)
    pairs = pairs._replace(temperature=temperature)
    what = data.draw(st.sampled_from((NAN, INF, -INF, 1e200, 1e30, -1e18, 1e4, -40.0)))
    top = torch.finfo(precision).max
    what = min(max(what, -top), top) if abs(what) < INF else what
    hiding = pairs._replace(items=torch.where(weights == 0, what, items))
    options = {} if temperature else {"algorithm": algorithm_for(data, name)}
    with drawn_simd(data):
        check(hiding, hiding.on(device), **options)
    if temperature is not None or not abs(what) < 1e35:
        return  # zero times a slope that is no number is none either
    by_item = []
    for score in (what, 0.5):  # of the anchor that is not listened to
        one = anchors.clone()
        one[3] = score
        upstream = torch.ones(7, dtype=precision)
        upstream[3] = 0.0
        changed = pairs._replace(anchors=one, upstream=upstream)
        if name != "exponential" or abs(what) < 30.0:
            by_item.append(changed.on(device).answer(ops.pairwise_sums, **options)[2].cpu())
    if len(by_item) == 2:
        size = sizes_of(pairs, torch.zeros(7))[0][2]
        truth = by_item[1]
        follow("d items", by_item[0], truth, truth.double(), size, torch.zeros_like(size))


@each_device
@fuzz
def test_sums_of_what_is_not_finite(data: st.DataObject, device: str) -> None:
    temperature = data.draw(st.sampled_from((None, 1.0)), label="temperature")
    pairs = draw_pairs(data, data.draw(names, label="surrogate"), temperature)
    pairs = pairs._replace(
        anchors=with_specials(data, pairs.anchors), items=with_specials(data, pairs.items)
    )
    options = {} if pairs.temperature else {"algorithm": algorithm_for(data, pairs.name)}
    with drawn_simd(data):
        check(pairs, in_any_layout(data, pairs, device), **options)


@each_device
@fuzz
def test_log_sums_never_overflow(data: st.DataObject, device: str) -> None:
    # gaps of any size at any temperature: a number, or inf where the truth is past the dtype
    name = data.draw(names.filter(lambda n: n != "exponential"), label="surrogate")
    p, m = shapes(data)
    x, y = vector(data, p, "anchors"), vector(data, m, "items")
    temperature = data.draw(st.sampled_from((1e-6, 1e-2, 1.0, 1e6)), label="temperature")
    options = {"surrogate": name, "temperature": temperature}
    value, by_anchor, by_item = value_and_gradients(
        ops.pairwise_log_sums, x.to(device), y.to(device), **options
    )
    truth, _, _ = value_and_gradients(
        reference.pairwise_log_sums, x.double(), y.double(), **options
    )
    rounded = truth.to(value.dtype)
    torch.testing.assert_close(value.cpu(), rounded, rtol=1e-5, atol=1e-4)
    steepest = float(truth.abs().max()) if m and p else 0.0
    for gradient in (by_anchor, by_item):
        assert not gradient.isnan().any()
        limit = torch.finfo(gradient.dtype).max
        assert steepest / temperature * p > 1e-3 * limit or bool(gradient.isfinite().all())


@each_device
@fuzz
def test_sums_are_invariant(data: st.DataObject, device: str) -> None:
    # permutation, weight w as w copies, weight 0 as removal, translation: all within the rounding
    name = data.draw(names, label="surrogate")
    algorithm = algorithm_for(data, name)
    p, m = data.draw(small, label="P"), data.draw(small, label="M")
    generator, dtype = (
        generator_of(data),
        data.draw(st.sampled_from((torch.float32, torch.float64))),
    )
    anchors = scores_of_kind("grid", (p,), dtype, generator)
    items = scores_of_kind("grid", (m,), dtype, generator)
    weights = weights_of_kind("integers", (m,), dtype, generator)
    upstream = scores_of_kind("normal", (p,), dtype, generator)
    pairs = Pairs(anchors, items, weights, upstream, name, 0.5, 1.5)
    base = pairs.on(device).answer(ops.pairwise_sums, algorithm=algorithm)
    counts = weights.long()
    row_order, order = (
        torch.randperm(p, generator=generator),
        torch.randperm(m, generator=generator),
    )
    copies = torch.arange(m).repeat_interleave(counts)
    kept = counts > 0
    each_copy = torch.where(kept, 1.0 / weights.clamp(min=1.0).double(), 0.0)

    permuted = pairs._replace(
        anchors=anchors[row_order], items=items[order], weights=weights[order],
        upstream=upstream[row_order],
    )  # fmt: skip
    others = {
        "permuted": (permuted, row_order, order),
        "copied": (pairs._replace(items=items[copies], weights=None), slice(None), copies),
        "removed": (
            pairs._replace(items=items[kept], weights=weights[kept]), slice(None), kept,
        ),
        "moved": (
            pairs._replace(anchors=anchors + 64.0, items=items + 64.0), slice(None), slice(None),
        ),
    }  # fmt: skip
    sizes, nothing = sizes_of(pairs, base[0].cpu().double())
    for what, (other, rows, columns) in others.items():
        result = [t.cpu() for t in other.on(device).answer(ops.pairwise_sums, algorithm=algorithm)]
        factor = each_copy[columns] if what == "copied" else torch.ones(())
        expected = (base[0].cpu()[rows], base[1].cpu()[rows], base[2].cpu()[columns] * factor)
        size = (sizes[0][rows], sizes[1][rows], sizes[2][columns] * factor)
        for k in range(3):
            follow(
                f"{what}, {k}", result[k], expected[k].to(dtype), expected[k].double(),
                size[k], torch.zeros_like(size[k]),
            )  # fmt: skip
    assert all(not t.any() for t in nothing)


@fuzz
def test_threads_change_no_bit_of_sums(data: st.DataObject) -> None:
    name = data.draw(names, label="surrogate")
    log = data.draw(st.booleans(), label="log sums")
    p, m = data.draw(st.integers(1, 40), label="few"), data.draw(st.integers(1, 60_000))
    if data.draw(st.booleans(), label="few items"):
        p, m = m, p
    dtype = data.draw(st.sampled_from((torch.float32, torch.float64)))
    generator = generator_of(data)
    kind = data.draw(st.sampled_from(TAME_KINDS), label="kind")
    x = scores_of_kind(kind, (p,), dtype, generator)
    y = scores_of_kind("normal", (m,), dtype, generator)
    weights = None
    if data.draw(st.booleans(), label="weighted"):
        weights = weights_of_kind("half zeros", (m,), dtype, generator)
    pairs = Pairs(x, y, weights, torch.ones(p, dtype=dtype), name, 0.7, 1.3, 0.5 if log else None)
    options = {} if log else {"algorithm": algorithm_for(data, name)}
    f = ops.pairwise_log_sums if log else ops.pairwise_sums
    results = []
    for count in (1, 2):
        with threads(count):
            results.append(pairs.answer(f, **options))
    assert all(bits_equal(a, b) for a, b in zip(*results, strict=True))


@fuzz
def test_auto_is_one_of_the_algorithms(data: st.DataObject) -> None:
    pairs = draw_pairs(data, data.draw(names, label="surrogate"))
    algorithms = [a for n, a in SURROGATE_ALGORITHMS if n == pairs.name]
    results = {a: pairs.answer(ops.pairwise_sums, algorithm=a) for a in algorithms}
    chosen = results.pop("auto")
    assert any(
        all(bits_equal(a, b) for a, b in zip(chosen, r, strict=True)) for r in results.values()
    )
