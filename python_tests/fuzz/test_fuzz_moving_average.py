"""moving_average_update_ on anything, against the reference, step after step."""

import pytest
import torch
from fuzzing import drawn_simd, each_device, fuzz, fuzz_a_little, threads
from helpers import INF, NAN, assert_bitwise
from hypothesis import strategies as st
from loss_helpers import bits_equal
from strategies import (
    KINDS,
    draw_ids,
    dtypes,
    generator_of,
    large,
    precisions,
    relaid,
    scores_of_kind,
    small,
    with_specials,
)
from torch import Tensor

from xrisk_ext import ops, reference

update_ = ops.moving_average_update_
gammas = st.sampled_from((0.0, 1e-8, 0.1, 0.5, 0.9, 1.0))


def draw_state(
    data: st.DataObject, shape: tuple[int, ...], log: bool, generator: torch.Generator
) -> Tensor:
    """A third of the rows untouched."""
    dtype = data.draw(precisions, label="state dtype")
    state = scores_of_kind(data.draw(st.sampled_from(KINDS)), shape, dtype, generator)
    state[torch.rand(shape[0], generator=generator) < 0.3] = -INF if log else NAN
    return state


def draw_gamma(data: st.DataObject, size: int, generator: torch.Generator) -> float | Tensor:
    kind = data.draw(st.sampled_from(("number", "tensor", "per entry", "expanded")), label="gamma")
    one = data.draw(gammas)
    if kind == "number":
        return one
    if kind == "per entry":
        return relaid(data, torch.rand(size, generator=generator))
    return torch.tensor(one) if kind == "tensor" else torch.tensor(one).expand(size)


def sizes_of(before: Tensor, index: Tensor, values: Tensor, log: bool) -> Tensor:
    """What the error of an entry is relative to: the largest number that its group blends."""
    old = before.double().nan_to_num(0.0, 0.0, 0.0)[index.long()]
    one = torch.maximum(old.abs(), values.double().nan_to_num(0.0, 0.0, 0.0).abs())
    size = torch.zeros(before.shape, dtype=torch.float64)
    ids = index.long().reshape(-1, *[1] * (values.dim() - 1)).expand(values.shape)
    size.scatter_reduce_(0, ids, one, "amax")
    return size + 40.0 if log else size  # a logarithm of gamma, or of a count, is added


def assert_follows(what: str, actual: Tensor, expected: Tensor, size: Tensor) -> None:
    """Within the rounding of the dtype and a few of double; NaN and infinities are the same."""
    info = torch.finfo(actual.dtype)
    error = (actual.double() - expected.double()).abs()
    allowed = info.eps * expected.abs() + 64 * 2.0**-52 * size + info.smallest_normal * info.eps
    same = (actual.double() == expected) | (actual.isnan() & expected.isnan()) | (error <= allowed)
    # at the very end of the range the rounding decides between the largest number and inf
    same |= (expected.abs() > 0.999 * info.max) & (actual.abs() > 0.999 * info.max)
    assert bool(same.all()), f"{what}: {actual[~same]}, expected {expected[~same]}"


@each_device
@fuzz
def test_updates_follow_the_reference(data: st.DataObject, device: str) -> None:
    log = data.draw(st.booleans(), label="log")
    rows = 1 + data.draw(large, label="rows")
    tail = data.draw(st.sampled_from(((), (1,), (2,), (3,))), label="columns")
    generator = generator_of(data)
    truth = draw_state(data, (rows, *tail), log, generator)
    state = truth.to(device, copy=True)
    with drawn_simd(data):
        for _ in range(data.draw(st.integers(1, 3), label="steps")):
            index = draw_ids(data, rows, data.draw(small, label="entries"), generator)
            dtype = data.draw(dtypes, label="dtype of values")
            kind = data.draw(st.sampled_from(KINDS), label="values")
            values = scores_of_kind(kind, (len(index), *tail), dtype, generator)
            values = with_specials(data, values)
            gamma = draw_gamma(data, len(index), generator)
            before = truth.clone()
            expected = reference.moving_average_update_(truth, index, values, gamma, log=log)
            size = sizes_of(before, index, values, log)
            on_device = gamma.to(device) if isinstance(gamma, Tensor) else gamma
            given = relaid(data, index.to(device)), relaid(data, values.to(device))
            stored = update_(state, *given, on_device, log=log).cpu()
            ids = index.long()
            assert_follows("returned", stored, expected, size[ids])
            assert_follows("state", state.cpu(), truth.double(), size)
            kept = state.cpu()[ids]
            assert bool(((stored == kept) | ~stored.isfinite()).all())
            left_out = torch.ones(rows, dtype=torch.bool)
            left_out[ids] = False
            assert_bitwise(state.cpu()[left_out], before[left_out])
            truth.copy_(state.cpu())  # one rounding must not grow over the steps


@each_device
@fuzz_a_little
def test_a_state_that_is_not_contiguous_is_refused(data: st.DataObject, device: str) -> None:
    rows = 2 + data.draw(small, label="rows")
    generator = generator_of(data)
    wide = draw_state(data, (rows, 3), False, generator).to(device)
    state = data.draw(st.sampled_from((wide[:, 0], wide[:, :2], wide[::2])), label="state")
    before = wide.clone()
    index = torch.zeros(1, dtype=torch.int64, device=device)
    with pytest.raises(ValueError, match=r"state.*contiguous"):
        update_(state, index, torch.ones(1, *state.shape[1:], device=device), 0.5)
    assert bits_equal(wide, before)


@each_device
@fuzz
def test_updates_are_invariant(data: st.DataObject, device: str) -> None:
    # order of the entries; every entry twice; the columns on their own; ids renamed
    log = data.draw(st.booleans(), label="log")
    rows, size = 1 + data.draw(small, label="rows"), data.draw(small, label="entries")
    generator = generator_of(data)
    state = draw_state(data, (rows, 2), log, generator)
    index = draw_ids(data, rows, size, generator)
    size = len(index)
    values = scores_of_kind(data.draw(st.sampled_from(KINDS)), (size, 2), torch.float32, generator)
    gamma = torch.rand(size, generator=generator)

    def run(old: Tensor, ids: Tensor, new: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        after = old.to(device, copy=True)
        arguments = (ids.to(device), new.to(device), weight.to(device))
        return update_(after, *arguments, log=log).cpu(), after.cpu()

    stored, after = run(state, index, values, gamma)
    sizes = sizes_of(state, index, values, log)
    order, names = (torch.randperm(n, generator=generator) for n in (size, rows))
    again, permuted = run(state, index[order], values[order], gamma[order])
    assert_follows("permuted", permuted, after.double(), sizes)
    assert_follows("permuted, returned", again, stored[order].double(), sizes[index[order].long()])
    _, twice = run(state, index.repeat(2), values.repeat(2, 1), gamma.repeat(2))
    assert_follows("every entry twice", twice, after.double(), sizes)
    renamed = torch.empty_like(state)
    renamed[names] = state
    _, elsewhere = run(renamed, names[index.long()], values, gamma)
    assert bits_equal(elsewhere[names], after) or bool(len(index.unique()) < size)
    for column in range(2):
        alone = state[:, column].clone()
        _, one = run(alone, index, values[:, column], gamma)
        assert bits_equal(one, after[:, column].clone())


@fuzz
def test_threads_change_no_bit_of_the_state(data: st.DataObject) -> None:
    log = data.draw(st.booleans(), label="log")
    rows = data.draw(st.sampled_from((37, 1000, 50_000, 1 << 20)), label="rows")
    size = data.draw(st.integers(0, 70_000), label="entries")
    generator = generator_of(data)
    state = torch.randn(rows, generator=generator)
    index = draw_ids(data, rows, size, generator)
    values = torch.randn(len(index), generator=generator)
    results = []
    for count in (1, 2):
        after = state.clone()
        with threads(count):
            results.append((update_(after, index, values, 0.3, log=log), after))
    assert all(bits_equal(a, b) for a, b in zip(*results, strict=True))
