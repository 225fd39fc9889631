"""The oracle of the pairwise ops: any two score vectors, held to the accuracy rule of helpers.py.

The strict cases of test_pairwise_sums.py choose scores whose differences are exact. These may be
anything, so errors are relative to more: a difference d is rounded to eps |d|, and margin + d to
eps (|d| + margin), whatever the code. A pair that its own rounding puts on the other side of a kink
may take either slope.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from helpers import (
    SMOOTH_BOUNDS,
    assert_accurate,
    assert_within,
    may_be_smooth,
    plain_surrogate,
    value_and_gradients,
)
from torch import Tensor

from xrisk_ext import ops, reference

PARTS = ("value", "d anchors", "d items")


class Pairs(NamedTuple):
    """The arguments of a pairwise op; weights None, [M] or [C, M]; temperature None: plain sums."""

    anchors: Tensor
    items: Tensor
    weights: Tensor | None
    upstream: Tensor
    name: str
    margin: float
    scale: float
    temperature: float | None = None

    def answer(self, f: Callable[..., Tensor], **options: Any) -> tuple[Tensor, ...]:
        options |= {"surrogate": self.name, "margin": self.margin, "scale": self.scale}
        if self.temperature is not None:
            options["temperature"] = self.temperature
        return value_and_gradients(
            f, self.anchors, self.items, self.upstream, item_weights=self.weights, **options
        )

    def to(self, dtype: torch.dtype) -> "Pairs":
        tensors = (None if t is None else t.to(dtype) for t in self[:4])
        return Pairs(*tensors, *self[4:])  # type: ignore[arg-type]

    def on(self, device: str) -> "Pairs":
        tensors = (None if t is None else t.to(device) for t in self[:4])
        return Pairs(*tensors, *self[4:])  # type: ignore[arg-type]

    @property
    def computed(self) -> torch.dtype:
        wide = torch.float64 in (self.anchors.dtype, self.items.dtype)
        return torch.float64 if wide else torch.float32

    def plain(
        self, anchors: Tensor, items: Tensor, *, item_weights: Tensor | None, **_: Any
    ) -> Tensor:
        """What one writes in PyTorch."""
        d = items[None, :] - anchors[:, None]
        terms = plain_surrogate(self.name, d, self.margin, self.scale)  # [P, M]
        if self.temperature is not None:
            exponents = terms / self.temperature
            weighed = exponents if item_weights is None else exponents + item_weights.log()
            return weighed.logsumexp(dim=1)
        if item_weights is None:
            return terms.sum(dim=1)
        if item_weights.dim() == 1:
            return (terms * item_weights).sum(dim=1)
        return torch.einsum("pm,cm->cp", terms, item_weights)


class Pieces(NamedTuple):
    """What the errors of every pair are made of, [P, M] each."""

    phi: Tensor
    slope: Tensor
    phi_error: Tensor  # per eps
    slope_error: Tensor
    jump: Tensor  # of the slope, where the pair may take either


def pieces_of(pairs: Pairs) -> Pieces:
    name, margin, scale = pairs.name, pairs.margin, pairs.scale
    eps = torch.finfo(pairs.computed).eps
    x, y = pairs.anchors.double()[:, None], pairs.items.double()[None, :]
    d = y - x
    phi = reference.surrogate(name, d, margin, scale).abs()
    slope = reference.surrogate_slope(name, d, margin, scale).abs()
    reach = d.abs() + margin
    phi_error = phi + slope * reach
    jump = torch.zeros_like(d)
    if name in ("squared", "squared_hinge"):
        near = 2.0 * reach * ((name == "squared") | (d > -margin - 16.0 * eps * reach))
        phi_error, slope_error = phi + near * (slope + eps * reach), slope + near
    elif name in ("hinge", "barrier_hinge"):
        kinks = [(-margin, 1.0 + scale)]
        if name == "barrier_hinge" and scale > 1.0:
            kinks.append((scale * margin / (scale - 1.0), scale - 1.0))
        for kink, height in kinks:
            doubt = (d - kink).abs() <= 16.0 * eps * (d.abs() + abs(kink) + margin)
            jump += torch.where(doubt & ~sure(x, y, d, kink), height, 0.0)
        phi_error, slope_error = phi + scale * reach, slope
        if name == "hinge":
            phi_error = phi + reach * (d > -margin - 16.0 * eps * reach)
    elif name == "zero_one":
        slope_error = slope
    else:
        phi_error = phi + slope * d.abs()
        slope_error = slope * (1.0 + scale * d.abs())
    return Pieces(phi, slope, phi_error, slope_error, jump)


def sure(x: Tensor, y: Tensor, d: Tensor, kink: float) -> Tensor:
    """Where the difference is exact and the kink a short binary number: no side is in doubt."""
    if kink * 1024.0 != round(kink * 1024.0) or abs(kink) > 1024.0:
        return torch.zeros_like(d, dtype=torch.bool)
    return (d + x == y) & (y - d == x) & (d.float().double() == d)


def sizes_of(pairs: Pairs, truth: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What errors are relative to, and what is forgiven besides, of value and both gradients."""
    m = len(pairs.items)
    pieces = pieces_of(pairs)
    w = torch.ones(m) if pairs.weights is None else pairs.weights
    w, u = (torch.atleast_2d(t).double().abs() for t in (w, pairs.upstream))
    if pairs.temperature is None:
        pair = torch.einsum("cp,cm->pm", u, w)
        value = torch.einsum("pm,cm->cp", pieces.phi_error, w).view_as(truth)
        pull, jump = pair * pieces.slope_error, pair * pieces.jump
        return (
            (value, pull.sum(dim=1), pull.sum(dim=0)),
            (torch.zeros_like(value), jump.sum(dim=1), jump.sum(dim=0)),
        )
    # an exponent is rounded too, and that is the relative error of the pair's share
    inverse = 1.0 / pairs.temperature
    kept = w[0] > 0
    exponents = torch.where(kept, pieces.phi * inverse + w[0].log(), -torch.inf)
    shares = torch.where(kept, (exponents - truth[:, None]).exp(), 0.0)  # each row sums to 1
    rough = 1.0 + inverse * pieces.phi_error + torch.where(kept, w[0].log().abs(), 0.0)
    shared = (shares * rough).sum(dim=1, keepdim=True)  # through the sum that divides
    pull = u.T * shares * inverse * (pieces.slope_error + pieces.slope * (rough + shared))
    jump = u.T * shares * inverse * pieces.jump
    # exp underflows: a share far below the largest ones is kept in absolute terms only
    least = 1e-12 * float(pull.max()) if pull.numel() else 0.0
    sizes = ((shares * rough).sum(dim=1), pull.sum(dim=1), pull.sum(dim=0).clamp(min=least))
    return sizes, (torch.zeros_like(truth), jump.sum(dim=1), jump.sum(dim=0))


def smooth_sizes_of(pairs: Pairs, truth: Tensor) -> tuple[Tensor, ...]:
    """The sizes with 1 for phi and scale for its slope."""
    w = torch.ones(len(pairs.items)) if pairs.weights is None else pairs.weights
    w, u = (torch.atleast_2d(t).double().abs() for t in (w, pairs.upstream))
    total, ups = w.sum(dim=1, keepdim=True), u.sum(dim=1, keepdim=True)
    value = total.expand(-1, len(pairs.anchors)).reshape(truth.shape)
    return value, pairs.scale * (u * total).sum(dim=0), pairs.scale * (w * ups).sum(dim=0)


def check(pairs: Pairs, given: Pairs, **options: Any) -> None:
    """Holds the op on `given`, the same numbers in any layout and on any device, to the truth."""
    f, true_f = ops.pairwise_sums, reference.pairwise_sums
    if pairs.temperature is not None:
        f, true_f = ops.pairwise_log_sums, reference.pairwise_log_sums
    actual = [t.cpu() for t in given.answer(f, **options)]
    assert actual[0].dtype == pairs.computed
    assert (actual[1].dtype, actual[2].dtype) == (pairs.anchors.dtype, pairs.items.dtype)
    truth = pairs.to(torch.float64).answer(true_f)
    weighed = torch.ones(len(pairs.items), dtype=torch.bool)
    if pairs.weights is not None:
        weighed = (torch.atleast_2d(pairs.weights) != 0).any(dim=0)
    finite = bool(pairs.anchors.isfinite().all() & pairs.items[weighed].isfinite().all())
    if not finite:
        return follow_ieee(actual[0], truth[0])
    # what no weight counts may be anything: it takes no part below
    calm = pairs._replace(items=torch.where(weighed, pairs.items, 0.0))
    plain = calm.to(pairs.computed).answer(calm.plain)
    sizes, forgiven = sizes_of(calm, truth[0])
    # plain float64 is the truth itself: what long sums of doubles may lose has to be granted
    wide = pairs.computed == torch.float64
    grown = 1.0 + max(len(pairs.anchors), len(pairs.items)) / 500.0 if wide else 1.0
    what = f"{pairs.name}, {options}, {list(actual[0].shape)} x {len(pairs.items)}"
    smooth = may_be_smooth(pairs.name, options.get("algorithm", "auto"))
    if smooth and pairs.temperature is None:
        # its bound, and what rounding the differences costs any algorithm
        bound = SMOOTH_BOUNDS[pairs.computed]
        ones = smooth_sizes_of(calm, truth[0])
        eps = torch.finfo(pairs.computed).eps
        for k, part in enumerate(PARTS):
            size = sizes[k] + ones[k] + 8.0 * grown * eps / bound * sizes[k]
            kept = size.isfinite() & (truth[k].abs() < 0.25 * torch.finfo(actual[k].dtype).max)
            assert_within(f"{part} of {what}", actual[k][kept], truth[k][kept], size[kept], bound)
        assert not actual[2][~weighed].any()
        return None
    for k, part in enumerate(PARTS):
        follow(f"{part} of {what}", actual[k], plain[k], truth[k], grown * sizes[k], forgiven[k])
    assert not actual[2][~weighed].any()
    return None


def follow_ieee(actual: Tensor, truth: Tensor) -> None:
    """Infinities and NaN where the truth has them, the same numbers elsewhere."""
    expected = truth.to(actual.dtype)
    regular = expected.isfinite()
    torch.testing.assert_close(actual[~regular], expected[~regular], equal_nan=True)
    rtol = 64 * torch.finfo(actual.dtype).eps
    size = float(expected[regular].abs().max()) if regular.any() else 0.0
    torch.testing.assert_close(actual[regular], expected[regular], rtol=rtol, atol=rtol * size)


def follow(
    what: str, actual: Tensor, plain: Tensor, truth: Tensor, size: Tensor, forgiven: Tensor
) -> None:
    """The accuracy rule where the truth fits the dtype; infinite, or nearly, where it does not."""
    top = torch.finfo(actual.dtype).max
    regular = size.isfinite() & (truth.abs() < 0.25 * top)
    if bool(((truth.abs() == torch.inf) & ~actual.isinf()).any()):
        torch.testing.assert_close(actual.double(), truth, equal_nan=True)  # -inf of no items
    assert not bool(actual.isnan().any()) or bool(truth.isnan().any()), f"{what}: NaN"
    plain = torch.where(plain.isfinite(), plain.double(), truth).to(plain.dtype)
    # the rule asks for nothing where nothing can be told: only the sides of kinks
    error = (actual.double() - truth).abs()
    actual = torch.where(error <= forgiven, truth.to(actual.dtype), actual)
    where = regular & truth.isfinite()
    assert_accurate(what, actual[where], plain[where], truth[where], size[where])
