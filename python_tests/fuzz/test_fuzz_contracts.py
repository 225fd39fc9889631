"""The contracts of everything public, from one table: layouts, types, empty batches, weight zero.

How large scores may be, and what is not finite: test_fuzz_magnitudes.py.
"""

import pytest
import torch
from draws import TAME, Draw
from fuzzing import drawn_simd, each_device, fuzz_a_little
from helpers import NAN
from hypothesis import strategies as st
from loss_helpers import bits_equal
from public import SUBJECTS, each_subject, names_not_in_the_table, subjects_with
from strategies import dtypes, relaid
from subjects import (
    Outcome,
    Subject,
    drawn_subject,
    moved,
    rows_of_ids,
    run,
    state_of,
)
from torch import Tensor

LABEL_TYPES = (torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)
LABEL_TYPES += (torch.float32, torch.float64, torch.float16)
NO_IDS = (torch.int16, torch.float32, torch.bool)


def test_nothing_public_is_missing_from_the_table() -> None:
    assert not names_not_in_the_table(), "give it an entry in *_subjects.py"


def assert_same(subject: Subject, what: str, a: Outcome, b: Outcome) -> None:
    pairs: list[tuple[str, Tensor, Tensor]] = [("value", a.value, b.value)]
    for part in ("gradients", "state"):
        one, other = getattr(a, part), getattr(b, part)
        assert one.keys() == other.keys()
        pairs += [(f"{part} {name}", one[name], other[name]) for name in one]
    for name, x, y in pairs:
        if subject.same_bits:
            assert bits_equal(x, y), f"{name} of {what}: {x}, {y}"
        else:
            assert_near(f"{name} of {what}", x, y, least=1e-6 * subject.terms)


def assert_near(
    what: str, a: Tensor, b: Tensor, tolerance: float = 2e-5, least: float = 1e-30
) -> None:
    finite = b[b.isfinite()].double().abs()
    size = float(finite.max()) if finite.numel() else 0.0
    rounding = torch.finfo(b.dtype).eps if b.is_floating_point() else 0.0
    torch.testing.assert_close(
        a, b, rtol=2 * rounding, atol=max(tolerance, 2 * rounding) * size + least, equal_nan=True,
        check_dtype=False, msg=lambda text: f"{what}: {text}",
    )  # fmt: skip


@each_device
@each_subject
@fuzz_a_little
def test_a_layout_changes_nothing(data: st.DataObject, name: str, device: str) -> None:
    subject, make = drawn_subject(data, SUBJECTS[name], device)
    tensors = moved(subject.draw(Draw(data, data.draw(dtypes, label="dtype"))), device)
    constant = data.draw(st.sampled_from((None, *tensors)), label="expanded")
    if constant is not None and tensors[constant].numel():
        for ids in subject.ids:  # whose labels may have become positive
            tensors[ids] = tensors[ids].clamp(min=0)
        one = tensors[constant]
        tensors[constant] = one.reshape(-1)[0].reshape([1] * one.dim()).expand(one.shape)
    other = {n: t if n == constant else relaid(data, t) for n, t in tensors.items()}
    plain = {n: t.contiguous().clone() for n, t in tensors.items()}
    module, twin = make(), make()
    with drawn_simd(data):
        for step in range(2):
            outcomes = run(subject, module, plain), run(subject, twin, other)
            assert_same(subject, f"step {step}", *outcomes)


@each_device
@each_subject
@fuzz_a_little
def test_types_of_labels_ids_and_weights(data: st.DataObject, name: str, device: str) -> None:
    """Those that are taken change no bit; others are refused, and nothing is written."""
    subject, make = drawn_subject(data, SUBJECTS[name], device)
    tensors = moved(subject.draw(Draw(data, data.draw(dtypes, label="dtype"))), device)
    if "item_weights" in tensors:
        tensors["item_weights"] = tensors["item_weights"].float().double()
    other = dict(tensors)
    for label in subject.labels:
        grades = bool((tensors[label] > 1).any())
        types = [t for t in LABEL_TYPES if t != torch.bool or not grades]
        other[label] = tensors[label].to(data.draw(st.sampled_from(types), label=label))
    for name_of_ids in subject.ids:
        kind = data.draw(st.sampled_from((torch.int64, torch.int32)), label=name_of_ids)
        other[name_of_ids] = tensors[name_of_ids].to(kind)
    if "item_weights" in tensors and data.draw(st.booleans(), label="float32 weights"):
        other["item_weights"] = tensors["item_weights"].float()
    module, twin = make(), make()
    assert_same(subject, "other types", run(subject, module, tensors), run(subject, twin, other))
    before = state_of(module)
    ids = [name for name in subject.ids[:1] if rows_of_ids(subject, before)]
    refused = data.draw(st.sampled_from((*ids, *subject.leaves)), label="refused")
    kinds = NO_IDS if refused in ids else (torch.int64,)
    wrong = tensors | {refused: tensors[refused].to(data.draw(st.sampled_from(kinds)))}
    with pytest.raises((TypeError, ValueError)):
        subject.call(module, wrong)
    for key, value in state_of(module).items():
        assert bits_equal(value, before[key])


@each_device
@each_subject
@fuzz_a_little
def test_an_empty_batch_does_nothing(data: st.DataObject, name: str, device: str) -> None:
    subject, make = drawn_subject(data, SUBJECTS[name], device)
    dtype = data.draw(dtypes, label="dtype")
    module = make()
    run(subject, module, moved(subject.draw(Draw(data, dtype)), device))
    before = state_of(module)
    outcome = run(subject, module, moved(subject.draw(Draw(data, dtype, size=0)), device))
    assert bool((outcome.value == subject.empty).all()), outcome.value
    assert not any(g.any() for g in outcome.gradients.values())
    for key, value in outcome.state.items():
        assert bits_equal(value, before[key]), key


@each_device
@subjects_with("left_out_by")
@fuzz_a_little
def test_what_is_left_out_is_as_good_as_none(data: st.DataObject, name: str, device: str) -> None:
    """More entries, whose weight is zero or whose mask is false, whatever they are."""
    subject, make = drawn_subject(data, SUBJECTS[name], device)
    d = Draw(data, data.draw(dtypes, label="dtype"), TAME)
    tensors = moved(subject.draw(d), device)
    way = data.draw(st.sampled_from(subject.left_out_by), label="left out by")
    score = next(iter(subject.leaves))
    shape = tensors[score].shape
    if way not in tensors:
        kind = torch.bool if way == "mask" else torch.float64
        tensors[way] = torch.ones(shape, dtype=kind, device=device)
    count = data.draw(st.sampled_from((3, 1, 20)), label="entries added")
    longer = {n: extended(subject, n, t, count) for n, t in tensors.items()}
    module, twin = make(), make()
    for step in range(2):
        a, b = run(subject, module, longer), run(subject, twin, tensors)
        assert_near(f"value of step {step}", a.value, b.value)
        for key, gradient in a.gradients.items():
            if key in subject.leaves:
                kept, rest = gradient.tensor_split([shape[subject.entries_in]], subject.entries_in)
                assert not rest.any()
                gradient = kept
            assert_near(f"gradient {key} of step {step}", gradient, b.gradients[key])
        for key, value in a.state.items():
            assert_near(f"{key} of step {step}", value, b.state[key])


def extended(subject: Subject, name: str, t: Tensor, count: int) -> Tensor:
    if t.dim() <= subject.entries_in:
        return t
    shape = [*t.shape]
    shape[subject.entries_in] = count
    if name in subject.left_out_by:
        fill: float = 0
    elif name in subject.leaves:
        fill = 1e4 if subject.bad == "refused" else NAN
    else:
        fill = 1
    return torch.cat(
        [t, torch.full(shape, fill, dtype=t.dtype, device=t.device)], subject.entries_in
    )
