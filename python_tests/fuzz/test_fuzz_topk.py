"""topk_threshold on anything: exact against torch.topk, smooth against its own equation."""

from typing import Any

import torch
from fuzzing import drawn_simd, each_device, fuzz, fuzz_less
from helpers import INF, assert_bitwise, computed_in
from hypothesis import strategies as st
from strategies import (
    KINDS,
    TAME_KINDS,
    dtypes,
    generator_of,
    large,
    relaid,
    scores_of_kind,
    small,
    with_specials,
)
from torch import Tensor

from xrisk_ext import ops, reference


def draw_rows(data: st.DataObject) -> tuple[Tensor, list[int], int]:
    """Flat scores, the lengths of their rows, and k."""
    lengths = data.draw(st.lists(large, min_size=1, max_size=4), label="lengths")
    if data.draw(st.integers(0, 9), label="a long row") == 0:
        lengths[0] = 65_530 + data.draw(st.integers(0, 40_000))
    kind, dtype = data.draw(st.sampled_from(KINDS), label="kind"), data.draw(dtypes, label="dtype")
    flat = scores_of_kind(kind, (sum(lengths),), dtype, generator_of(data))
    k = data.draw(st.one_of(st.integers(0, 5), st.integers(0, max(lengths))), label="k")
    return with_specials(data, flat), lengths, k


@each_device
@fuzz
def test_exact_is_what_topk_finds(data: st.DataObject, device: str) -> None:
    flat, lengths, k = draw_rows(data)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    scores = relaid(data, flat.to(device)).detach().requires_grad_()
    with drawn_simd(data):
        found = ops.topk_threshold(scores, k, offsets=offsets.to(device))
        (gradient,) = torch.autograd.grad(found.sum(), scores)
    for row, value, slopes in zip(
        flat.split(lengths), found.detach().cpu(), gradient.cpu().split(lengths), strict=True
    ):
        if len(row) <= k:
            assert value == -INF
            assert not slopes.any()
            continue
        expected = row.topk(k + 1).values[-1].to(value.dtype)
        assert_bitwise(value + 0.0, expected + 0.0)  # -0 and 0 are the same
        same = row.isnan() if expected.isnan() else row == expected
        assert slopes.nonzero().tolist() == [[int(same.nonzero()[0])]]
        assert slopes.sum() == 1


@each_device
@fuzz
def test_smooth_solves_its_equation(data: st.DataObject, device: str) -> None:
    flat, lengths, k = draw_rows(data)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    tau1 = data.draw(st.sampled_from((1e-4, 0.01, 0.3, 10.0)), label="tau1")
    tau2 = data.draw(st.sampled_from((1e-6, 1e-4, 0.1)), label="tau2")
    options = {"epsilon": data.draw(st.sampled_from((0.1, 0.5, 1.0))), "tau1": tau1, "tau2": tau2}
    with drawn_simd(data):
        found = ops.topk_threshold(
            flat.to(device), k, method="smooth", offsets=offsets.to(device), **options
        ).cpu()
    for row, value in zip(flat.split(lengths), found, strict=True):
        if len(row) <= k:
            assert value == -INF
            continue
        kappa, at, h = (k + options["epsilon"]) / len(row), value.double(), row.double()

        def derivatives(
            t: Tensor, h: Tensor = h, kappa: float = kappa
        ) -> tuple[Tensor, Tensor, Tensor]:
            return reference.topk._derivatives(h, t, kappa, tau1, tau2)

        derivative, curvature, _ = derivatives(at)
        mass = kappa + tau2 * at - derivative
        # roundings: of the value, of the sum that stands against kappa + tau2 t
        off = 8 * torch.finfo(value.dtype).eps * (at.abs() + (mass + kappa) / curvature)
        assert derivatives(at - off)[0] < 0 < derivatives(at + off)[0]


@each_device
@fuzz_less
def test_rows_of_any_shape_are_the_references(data: st.DataObject, device: str) -> None:
    """[..., M] in any layout: values, and the gradients of both methods."""
    rows = data.draw(st.sampled_from(((), (1,), (3,), (2, 3), (0,))), label="rows")
    length = data.draw(small, label="length")
    kind, dtype = data.draw(st.sampled_from(TAME_KINDS), label="kind"), data.draw(dtypes)
    scores = scores_of_kind(kind, (*rows, length), dtype, generator_of(data))
    options: dict[str, Any] = {"k": data.draw(st.integers(0, 1 + length), label="k")}
    options["method"] = data.draw(st.sampled_from(("smooth", "exact")), label="method")
    if options["method"] == "smooth":
        options["tau1"] = data.draw(st.sampled_from((0.01, 0.3, 10.0)), label="tau1")
        options["tau2"] = data.draw(st.sampled_from((1e-4, 0.1)), label="tau2")
    leaf = turned(data, scores.to(device)).detach().requires_grad_()
    with drawn_simd(data):
        found = ops.topk_threshold(leaf, **options)
        upstream = torch.linspace(0.5, 1.5, found.numel(), dtype=found.dtype, device=device)
        (gradient,) = torch.autograd.grad(found, leaf, upstream.view_as(found))
    truth = scores.to(torch.float64, copy=True).requires_grad_()
    expected = reference.topk_threshold(truth, **options)
    assert found.dtype == computed_in(dtype)
    assert gradient.dtype == dtype
    if not expected.requires_grad:
        assert not gradient.any()
        return
    (slopes,) = torch.autograd.grad(expected, truth, upstream.cpu().double().view_as(expected))
    # a score is rounded to eps |h|, and so is the threshold, which the sigmoid sees in tau1
    eps = torch.finfo(found.dtype).eps
    reach = float(scores.double().abs().max()) if scores.numel() else 0.0
    rough = 32.0 * eps * (1.0 + reach / options.get("tau1", 1.0))
    finite = expected.isfinite()
    assert bool((found.cpu().isfinite() == finite).all())
    off = (found.detach().cpu().double() - expected.detach())[finite].abs()
    assert bool((off <= 64.0 * eps * (reach + options.get("tau1", 0.0))).all())
    if rough < 0.1:
        allowed = 40.0 * rough * (float(slopes.abs().max()) if slopes.numel() else 0.0)
        rounding = torch.finfo(dtype)
        if options["method"] == "smooth":  # sigma (1 - sigma) of the reference, far from the root
            allowed += 8.0 * eps / (options["tau1"] * options["tau2"] * max(length, 1))
        allowed = allowed + rounding.eps * slopes.abs() + rounding.smallest_normal * rounding.eps
        assert bool(((gradient.cpu().double() - slopes).abs() <= allowed).all())


def turned(data: st.DataObject, x: Tensor) -> Tensor:
    """Rows that lie across one another, or any other layout."""
    if x.dim() > 1 and data.draw(st.booleans(), label="across"):
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    return relaid(data, x)
