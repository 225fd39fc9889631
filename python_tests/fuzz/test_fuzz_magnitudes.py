"""Scores of any size, and scores that are not finite, for everything public, from one table."""

from typing import Any

import pytest
import torch
from draws import KINDS, SIZES, Draw
from fuzzing import drawn_simd, each_device, fuzz_a_little
from helpers import computed_in
from hypothesis import assume
from hypothesis import strategies as st
from loss_helpers import bits_equal
from public import SUBJECTS, each_subject
from strategies import SPECIAL, dtypes
from subjects import (
    Outcome,
    Subject,
    Tensors,
    drawn_subject,
    in_double,
    moved,
    rows_but_of,
    rows_of_ids,
    run,
    state_of,
    twin,
)
from torch import Tensor

Parts = dict[str, Tensor]
PERTURBATIONS = 3


def parts_of(outcome: Outcome) -> Parts:
    return {"value": outcome.value} | {f"d {n}": g for n, g in outcome.gradients.items()}


def check_state(subject: Subject, tensors: Tensors, before: Tensors, after: Tensors) -> None:
    """No infinity stays, what was written stays, and other ids' rows are as they were."""
    owners = rows_of_ids(subject, after)
    for name, value in after.items():
        old = before[name]
        assert not (value == torch.inf).any(), name
        assert bool((old.isnan() | ~value.isnan()).all()), name
        assert bool(((old == -torch.inf) | (value != -torch.inf)).all()), name
        if name in owners:
            ids, dimension = owners[name]
            rows = (rows_but_of(tensors[ids], state, dimension) for state in (value, old))
            assert bits_equal(*rows), name


def largest_of(subject: Subject, batches: list[Tensors]) -> float:
    sizes = [b[name].double().abs().max() for b in batches for name in subject.leaves
             if b[name].numel()]  # fmt: skip
    return float(max(sizes, default=torch.zeros(())))


@each_device
@each_subject
@fuzz_a_little
def test_finite_scores_of_any_size(data: st.DataObject, name: str, device: str) -> None:
    """Finite results, which are those of float64 up to what rounding the scores would change."""
    subject, make = drawn_subject(data, SUBJECTS[name], device)
    dtype = data.draw(dtypes, label="dtype")
    batches = [moved(subject.draw(Draw(data, dtype, KINDS)), device) for _ in range(2)]
    largest = largest_of(subject, batches)
    assume(largest <= subject.finite_below)
    assume(dtype != torch.float16 or largest <= subject.finite_in_half_below)
    module = make()
    wide_state = data.draw(st.booleans(), label="float64 state")
    module, truth = in_double(module) if wide_state else module, in_double(module)
    others = [twin(truth) for _ in range(PERTURBATIONS)]
    fitting = lengths_fit(subject, batches)
    exact = fitting and largest <= (
        subject.exact_below if wide_state else subject.exact_in_state_below
    )
    signs = torch.Generator().manual_seed(0)
    for step, batch in enumerate(batches):
        before = state_of(module)
        with drawn_simd(data):
            outcome = run(subject, module, batch)
        check_state(subject, batch, before, outcome.state)
        found = parts_of(outcome)
        for what, x in found.items():
            assert not x.isnan().any(), f"{what} of step {step}"
        if dtype == torch.float64:
            for what, x in found.items():
                fits = fitting and x.dtype == dtype and not subject.may_be_infinite
                assert not fits or bool((x != torch.inf).all()), f"{what} of step {step}"
            continue
        wide = batch | {n: batch[n].double() for n in subject.leaves}
        expected = parts_of(run(subject, truth, wide))
        eps = torch.finfo(dtype if subject.rounds_inputs else computed_in(dtype)).eps
        near = [parts_of(run(subject, o, perturbed(subject, wide, eps, signs))) for o in others]
        if exact:
            for what, x in found.items():
                assert_close(
                    f"{what} of step {step}", x, expected[what], [n[what] for n in near],
                    eps, terms_of(subject, what, wide),
                )  # fmt: skip
        if not wide_state and not_stored(subject, outcome, truth):
            break


def lengths_fit(subject: Subject, batches: list[Tensors]) -> bool:
    """Whether one over the length of a row is in the range of float32."""
    rows = [b[n].double() for b in batches for n in subject.leaves if subject.rows]
    lengths = torch.cat([x.abs().amax(dim=1) for x in rows]) if rows else torch.ones(1)
    return bool(((lengths == 0) | (lengths >= subject.shortest)).all())


def not_stored(subject: Subject, outcome: Outcome, truth: Any) -> bool:
    """Whether an average is past the range of the state, which goes on without it."""
    most = 0.25 * torch.finfo(torch.float32).max
    wide = state_of(truth)
    return any(bool((t.abs() > most).any() & (t.abs() < torch.inf).any()) for t in wide.values())


def perturbed(subject: Subject, wide: Tensors, eps: float, signs: torch.Generator) -> Tensors:
    """Every score moved by a rounding, up or down."""
    moves = {n: torch.randn(wide[n].shape, generator=signs).sign().double() for n in subject.leaves}
    return wide | {n: wide[n] * (1.0 + eps * moves[n].to(wide[n].device)) for n in subject.leaves}


def terms_of(subject: Subject, what: str, wide: Tensors) -> Tensor:
    """As large as what may cancel; of the gradient of a row, over its length."""
    terms = torch.full((), subject.terms, dtype=torch.float64)
    if not subject.rows:
        return terms
    lengths = {name: wide[name].cpu().norm(dim=1, keepdim=True) for name in subject.leaves}
    longest = max((float(n.max()) for n in lengths.values() if n.numel()), default=0.0)
    name = what.removeprefix("d ")
    if name not in lengths:
        return terms * (1.0 + longest**2)
    return terms * (longest + 1.0 / lengths[name].clamp(min=1e-300))


def assert_close(
    what: str, x: Tensor, truth: Tensor, near: list[Tensor], eps: float, terms: Tensor
) -> None:
    info = torch.finfo(x.dtype)
    reached = truth.abs() < 0.25 * info.max
    assert bool((x.isfinite() | ~reached).all()), f"{what}: {x}, {truth}"
    if not reached.any():
        return
    size = float(truth[reached].abs().max())
    moved_by = max(float((n - truth)[reached].abs().nan_to_num(torch.inf).max()) for n in near)
    allowed = 64 * eps * terms.clamp(min=size) + 8 * moved_by
    rounding = (info.eps * truth.abs()).clamp(min=info.smallest_normal)
    error = (x.double() - truth).abs() - rounding
    excess = (error / allowed.clamp(min=1e-300))[reached]
    assert float(excess.max()) <= 1, f"{what}: error {float(excess.max()):.3g} of what is allowed"


@each_device
@each_subject
@fuzz_a_little
def test_scores_that_are_not_finite(data: st.DataObject, name: str, device: str) -> None:
    """What each subject says of them; no other id's state is touched, and the next step is one."""
    subject, make = drawn_subject(data, SUBJECTS[name], device)
    dtype = data.draw(dtypes, label="dtype")
    size = data.draw(SIZES.filter(lambda n: n > 1), label="batch")
    drawn = [moved(subject.draw(Draw(data, dtype, size=size)), device) for _ in range(2)]
    first, calm = ({n: t for n, t in d.items() if n != "item_weights"} for d in drawn)
    module = make()
    run(subject, module, first)
    clean = run(subject, twin(module), calm)
    leaf = data.draw(st.sampled_from(subject.leaves), label="leaf")
    special = data.draw(st.sampled_from(SPECIAL), label="special")
    row = data.draw(st.integers(0, 10**6), label="row") % max(len(calm[leaf]), 1)
    scores = calm[leaf].clone()
    assume(scores.numel() > 0)
    if subject.bad == "nan":
        scores[row] = special
    else:
        scores[row].view(-1)[data.draw(st.integers(0, 10**6)) % scores[row].numel()] = special
    before = state_of(module)
    bad = calm | {leaf: scores}
    if subject.bad == "refused" and special != special:
        return refuses(subject, module, bad)
    outcome = run(subject, module, bad)
    check_state(subject, bad, before, outcome.state)
    if subject.takes_minus_infinity and special == -torch.inf:
        return None
    {"nan": all_nan, "lists": only_that_list, "rows": only_that_row, "value": no_value,
     "refused": a_number, "defined": lambda *_: None}[subject.bad](
        subject, bad, row, before, clean, outcome)  # fmt: skip
    after = run(subject, module, calm)
    if subject.bad == "nan":
        for what, x in parts_of(after).items():
            assert bits_equal(x, parts_of(clean)[what]), what
    if subject.bad != "defined":
        assert not after.value.isnan().any()
    return None


def refuses(subject: Subject, module: Any, bad: Tensors) -> None:
    if "mask" in bad:
        return
    with pytest.raises(ValueError, match="NaN"):
        subject.call(module, bad)


def all_nan(
    subject: Subject, bad: Tensors, row: int, before: Tensors, clean: Outcome, outcome: Outcome
) -> None:
    """Of every label that has something to compare; and nothing is written."""
    for key, value in outcome.state.items():
        assert bits_equal(value, before[key]), key
    busy = False
    for name in subject.leaves:
        gradient, calm = outcome.gradients[name], clean.gradients[name]
        columns = zip(*(g.reshape(len(g), -1).T for g in (gradient, calm)), strict=True)
        if calm.dim() == 2 and not subject.labels:
            columns = zip([gradient], [calm], strict=True)
        for column, was in columns:
            busy |= bool(was.any())
            assert bool(column.isnan().all()) or not (column.any() or was.any())
    assert not busy or bool(outcome.value.isnan().any())


def only_that_list(
    subject: Subject, bad: Tensors, row: int, before: Tensors, clean: Outcome, outcome: Outcome
) -> None:
    name = subject.leaves[0]
    gradient, calm = outcome.gradients[name], clean.gradients[name]
    taken = bad["mask"][row].cpu() if "mask" in bad else torch.ones(calm.shape[1], dtype=torch.bool)
    hit = not bool(bad[name][row].cpu()[taken].isfinite().all())
    if hit and calm[row].any():
        assert bool(outcome.value.isnan().any())
        assert bool(gradient[row][taken].isnan().all())
    others = torch.arange(len(gradient)) != row
    assert not gradient[others].isnan().any()
    for key, (ids, dimension) in rows_of_ids(subject, before).items():
        theirs = bad[ids][others.to(bad[ids].device)]
        kept = (rows_but_of(theirs, state[key], dimension) for state in (outcome.state, before))
        assert not hit or bits_equal(*kept), key


def only_that_row(
    subject: Subject, bad: Tensors, row: int, before: Tensors, clean: Outcome, outcome: Outcome
) -> None:
    others = torch.arange(len(outcome.value)) != row
    assert bool(outcome.value[row].isnan())
    mates = bad[subject.ids[0]].cpu() == bad[subject.ids[0]][row].cpu()
    for part, was in ((outcome.value, clean.value), *(
        (g, clean.gradients[n]) for n, g in outcome.gradients.items()
    )):  # fmt: skip
        assert not part[others & ~mates].isnan().any()
        assert bits_equal(part[~mates].clone(), was[~mates].clone())
    for key, (ids, dimension) in rows_of_ids(subject, before).items():
        theirs = bad[ids][others.to(bad[ids].device)]
        kept = (rows_but_of(theirs, state[key], dimension) for state in (outcome.state, before))
        assert bits_equal(*kept), key


def no_value(
    subject: Subject, bad: Tensors, row: int, before: Tensors, clean: Outcome, outcome: Outcome
) -> None:
    assert not outcome.value.isfinite().all()


def a_number(
    subject: Subject, bad: Tensors, row: int, before: Tensors, clean: Outcome, outcome: Outcome
) -> None:
    assert bool(outcome.value.isfinite().all())
