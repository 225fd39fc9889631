"""surrogate_values on anything, elementwise, against the reference."""

import torch
from fuzzing import drawn_simd, each_device, fuzz
from helpers import computed_in
from hypothesis import strategies as st
from strategies import (
    KINDS,
    dtypes,
    generator_of,
    large,
    relaid,
    scores_of_kind,
    surrogate_hyper_parameters,
    with_specials,
)

from xrisk_ext import ops, reference


@each_device
@fuzz
def test_values_and_slopes_are_the_reference(data: st.DataObject, device: str) -> None:
    name = data.draw(st.sampled_from(reference.SURROGATES), label="surrogate")
    margin, scale = data.draw(surrogate_hyper_parameters, label="margin and scale")
    columns = data.draw(st.sampled_from(((), (1,), (3,), (2, 5))), label="columns")
    shape = (data.draw(large, label="size"), *columns)
    dtype = data.draw(dtypes, label="dtype")
    kind = data.draw(st.sampled_from((*KINDS, "extreme")), label="kind")
    d = with_specials(data, scores_of_kind(kind, shape, dtype, generator_of(data)))
    given = relaid(data, d.to(device))
    with drawn_simd(data):
        found = ops.surrogate_values(given, surrogate=name, margin=margin, scale=scale)
    wide = d.double()
    expected = (
        reference.surrogate(name, wide, margin, scale),
        reference.surrogate_slope(name, wide, margin, scale),
    )
    info = torch.finfo(computed_in(dtype))
    # what margin + d and scale d are rounded to, and where that decides between two sides
    reach = info.eps * (scale * (wide.abs() + margin)).nan_to_num(0.0, 0.0, 0.0)
    kinks = (-margin, 0.0, scale * margin / (scale - 1.0) if scale > 1.0 else 0.0)
    doubt = torch.stack([(wide - k).abs() <= 8.0 * (reach + info.eps * abs(k)) for k in kinks])
    smooth = name in ("logistic", "sigmoid", "exponential")
    for what, x, truth in zip(("value", "slope"), found, expected, strict=True):
        assert x.dtype == computed_in(dtype)
        assert x.shape == d.shape
        x = x.cpu().double()
        slope = expected[1].abs().nan_to_num(0.0, 0.0, 0.0)
        moved = slope * reach if what == "value" or smooth else reach
        allowed = 16.0 * (info.eps * truth.abs() + moved) + info.smallest_normal
        right = ((x - truth).abs() <= allowed) | (x == truth) | (x.isnan() & truth.isnan())
        past = (truth.abs() > 0.25 * info.max) & (x.sign() == truth.sign())
        right |= past & (x.abs() > 0.2 * info.max)
        if what == "slope" and not smooth:
            right |= doubt.any(dim=0)
        assert bool(right.all()), f"{what} of {name} at {wide[~right]}: {x[~right]}"
