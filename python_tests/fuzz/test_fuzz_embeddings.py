"""The losses over embeddings and bags on anything, against the reference, step after step."""

from typing import Any

import pytest
import torch
from baseline_helpers import BASELINES, DIM, WITH_QUEUE, expected_rows, gradients, make_baseline
from fuzzing import drawn_simd, each_device, fuzz_less
from helpers import computed_in
from hypothesis import strategies as st
from loss_helpers import bits_equal
from strategies import draw_ids, dtypes, generator_of, relaid, scores_of_kind, with_specials
from torch import Tensor

from xrisk_ext import CompositionalEntropicLoss, MultiInstancePooling, reference

# rows of one length, or of lengths of all sizes, some of which come twice
KINDS = ("normal", "grid", "few", "huge", "outliers")
SIZES = st.sampled_from((7, 0, 1, 2, 3, 16, 33, 130))
NUM_IDS = 12
each_baseline = pytest.mark.parametrize("name", BASELINES)


def draw_views(data: st.DataObject, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    size, kind = data.draw(SIZES, label="batch"), data.draw(st.sampled_from(KINDS), label="kind")
    generator = generator_of(data)
    first, second = (scores_of_kind(kind, (size, DIM), dtype, generator) for _ in "12")
    if size > 2:
        second[0], second[1] = first[0], second[2]
    return first, second


def near(what: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Relative to the largest of a row, and in absolute terms to numbers around 1."""
    assert actual.shape == expected.shape, what
    actual, expected = actual.detach().cpu().double(), expected.detach().double()
    assert bool((actual.isfinite() == expected.isfinite()).all()), what
    size = expected.abs()
    if expected.dim() == 2 and expected.numel():
        size = size.amax(dim=1, keepdim=True)
    wrong = (actual - expected).abs() > tolerance * size.clamp(min=1.0)
    assert not bool((wrong & expected.isfinite()).any()), f"{what}: {actual}, {expected}"


@each_device
@each_baseline
@fuzz_less
def test_baselines_are_the_reference(data: st.DataObject, name: str, device: str) -> None:
    dtype = data.draw(dtypes, label="dtype")
    temperature = data.draw(st.sampled_from((0.3, 0.05, 4.0)), label="temperature")
    reduction = data.draw(st.sampled_from(("mean", "none")), label="reduction")
    loss = make_baseline(name, temperature=temperature, reduction=reduction).to(device)
    there = make_baseline(name, temperature=temperature, reduction=reduction)
    for step in range(2):
        plain = draw_views(data, dtype)
        labels: dict[str, Tensor] = {}
        if name == "SupCon" and data.draw(st.booleans(), label="with labels"):
            labels["labels"] = torch.randint(3, plain[0].shape[:1], generator=generator_of(data))
        there.load_state_dict(loss.state_dict())
        a, b = (relaid(data, t.to(device)).detach().requires_grad_() for t in plain)
        with drawn_simd(data):
            value = loss(a, b, **{n: t.to(device) for n, t in labels.items()})
            found = gradients(value.sum(), a, b)
        assert value.dtype == computed_in(dtype)
        if len(a) == 0:
            assert not value.any()
            continue
        x, y = (t.to(torch.float64, copy=True).requires_grad_() for t in plain)
        rows = expected_rows(name, there, x, y, **labels)
        expected = rows.mean() if reduction == "mean" else rows
        # unit rows are kept in the dtype; of no length there is no direction
        rough = max(64 * torch.finfo(dtype).eps, 1e-11) / temperature
        if rough > 0.3:
            continue
        near(f"value of step {step}", value, expected, rough)
        for leaf, g, e in zip((x, y), found, gradients(expected.sum(), x, y), strict=True):
            assert g.dtype == dtype
            lengths = leaf.detach().norm(dim=1, keepdim=True)
            kept = (lengths[:, 0] > 1e-6) & (lengths[:, 0] < 1e6)
            scale = lengths[kept] * (len(leaf) if reduction == "mean" else 1)
            near(f"gradient of step {step}", g.cpu().double()[kept] * scale, e[kept] * scale,
                 rough * (1.0 + 1.0 / temperature))  # fmt: skip


@each_device
@pytest.mark.parametrize("name", WITH_QUEUE)
@fuzz_less
def test_only_finite_rows_enter_a_queue(data: st.DataObject, name: str, device: str) -> None:
    loss: Any = make_baseline(name).to(device)
    for _ in range(2):
        before, at = loss.queue.cpu().clone(), int(loss.pointer)
        views = [with_specials(data, t) for t in draw_views(data, data.draw(dtypes))]
        loss(*(relaid(data, t.to(device)) for t in views))
        entering = views[1 if name == "MoCo" else 0]
        size, new = len(before), len(entering)
        assert int(loss.pointer) == (at + new) % size
        after = loss.queue.cpu()
        assert bool(after.isfinite().all())
        bad = ~entering.isfinite().all(dim=1)
        slots = (at + torch.arange(max(new - size, 0), new)) % size
        rejected = slots[bad[max(new - size, 0) :]]
        assert bits_equal(after[rejected].clone(), before[rejected].clone())
        outside = torch.ones(size, dtype=torch.bool)
        outside[slots] = False
        assert bits_equal(after[outside].clone(), before[outside].clone())


@each_device
@pytest.mark.parametrize("method", ("sox", "scent"))
@fuzz_less
def test_extreme_classification(data: st.DataObject, method: Any, device: str) -> None:
    dtype = data.draw(dtypes, label="dtype")
    loss = CompositionalEntropicLoss(
        NUM_IDS, method=method, gamma=data.draw(st.sampled_from((0.6, 1.0, 0.1))), alpha=0.4,
        kappa=1.3, state_dtype=torch.float64,
        reduction=data.draw(st.sampled_from(("mean", "none"))),
    ).to(device)  # fmt: skip
    assert loss.state is not None
    state = loss.state.value.cpu().clone()
    alpha = float(loss.alpha) if method == "scent" else None
    for step in range(2):
        generator = generator_of(data)
        size, classes = data.draw(SIZES, label="batch"), data.draw(st.sampled_from((9, 1, 2, 300)))
        kind = data.draw(st.sampled_from(("normal", "few", "grid", "equal")), label="kind")
        x, w = (scores_of_kind(kind, (n, DIM), dtype, generator) for n in (size, classes))
        targets = torch.randint(classes, (size,), generator=generator)
        index = torch.randint(NUM_IDS, (size,), generator=generator)
        leaves = [relaid(data, t.to(device)).detach().requires_grad_() for t in (x, w)]
        others = [relaid(data, t.to(device)) for t in (targets, index.int())]
        with drawn_simd(data):
            value = loss(*leaves, *others)
            found = torch.autograd.grad(value.mean() if value.numel() else value.sum(), leaves)
        truth = reference.compositional_entropic(
            x, w, targets, index, state, float(loss.gamma), alpha=alpha, kappa=float(loss.kappa)
        )
        values = truth[0] if loss.reduction == "none" else truth[0].sum() / max(size, 1)
        reach = float((x.double() @ w.double().T).abs().max()) if size else 0.0
        rough = 64 * torch.finfo(computed_in(dtype)).eps * (1.0 + reach)
        near(f"value of step {step}", value, values, rough)
        # the parts of a gradient of which each is rounded before they are added
        parts = max((float(t.double().abs().max()) for t in (x, w) if t.numel()), default=0.0)
        rounding = torch.finfo(dtype).eps * (1.0 + parts)
        for g, e in zip(found, truth[1:], strict=True):
            near(f"gradient of step {step}", g, e, rough * (1.0 + reach) + rounding)
        near("state", loss.state.value, state, rough * 4)


@each_device
@pytest.mark.parametrize("mode", ("softmax", "attention"))
@fuzz_less
def test_pooling(data: st.DataObject, mode: Any, device: str) -> None:
    dtype = data.draw(dtypes, label="dtype")
    module = MultiInstancePooling(
        NUM_IDS, mode=mode, gamma=data.draw(st.sampled_from((0.3, 1.0))), temperature=0.4,
        state_dtype=torch.float64,
    ).to(device)  # fmt: skip
    shape = (NUM_IDS,) if mode == "softmax" else (NUM_IDS, 2)
    fill = -torch.inf if mode == "softmax" else torch.nan
    state = torch.full(shape, fill, dtype=torch.float64)
    for step in range(2):
        size = data.draw(SIZES, label="batch")
        instances = data.draw(st.sampled_from((4, 1, 40)), label="instances")
        kind = data.draw(st.sampled_from(("normal", "few", "grid", "equal")), label="kind")
        generator = generator_of(data)
        parts = [scores_of_kind(kind, (size, instances), dtype, generator) for _ in "hg"]
        parts = parts[: 1 + (mode == "attention")]
        index = draw_ids(data, NUM_IDS, size, generator)
        parts = [t[: len(index)] for t in parts]  # unique ids may be fewer
        size = len(index)
        leaves = [relaid(data, t.to(device)).detach().requires_grad_() for t in parts]
        pooled = module(leaves[0], relaid(data, index.to(device)), *leaves[1:])
        found = torch.autograd.grad(pooled.sum(), leaves)
        gamma = float(module.gamma)
        if mode == "softmax":
            truth = reference.softmax_pooling(*parts, index, state, gamma, temperature=0.4)
        else:
            truth = reference.attention_pooling(*parts, index, state, gamma)
        rough = 2e-5 if computed_in(dtype) == torch.float32 else 1e-10
        near(f"pooled, step {step}", pooled, truth[0], rough)
        for g, e in zip(found, truth[1:], strict=True):
            near(f"slopes, step {step}", g, e, rough + torch.finfo(dtype).eps)
