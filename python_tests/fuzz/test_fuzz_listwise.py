"""The losses of ranked lists on anything, against the reference: grades, padding, layouts."""

import torch
from fuzzing import drawn_simd, each_device, fuzz
from hypothesis import strategies as st
from listwise_helpers import KINDS, RETRIEVAL, Lists, each_kind, expected_step, step
from loss_helpers import assert_near
from strategies import generator_of, relaid

RELEVANCE = ("graded", "binary", "one level", "continuous", "none")


def draw_lists(data: st.DataObject, kind: str) -> Lists:
    """Distinct scores: at a tie the references of some losses have one-sided derivatives."""
    shape = (data.draw(st.integers(0, 5), label="lists"), data.draw(st.integers(0, 40)))
    generator = generator_of(data)
    dtype = data.draw(st.sampled_from((torch.float32, torch.float64)), label="dtype")
    order = torch.rand(shape, generator=generator).argsort(1).double()
    scores = (0.15 * order + 0.05 * torch.rand(shape, generator=generator) - 2.0).to(dtype)
    name = data.draw(st.sampled_from(RELEVANCE), label="relevance")
    uniform = torch.rand(shape, generator=generator)
    relevance = {
        "graded": (5 * uniform).floor(),
        "binary": (uniform < 0.3).float(),
        "one level": torch.full(shape, 2.0),
        "continuous": 3 * uniform,
        "none": torch.zeros(shape),
    }[name]
    if kind not in RETRIEVAL and data.draw(st.booleans(), label="padded by relevance"):
        relevance = torch.where(torch.rand(shape, generator=generator) < 0.2, -1.0, relevance)
    mask = None
    if data.draw(st.booleans(), label="masked"):
        mask = relaid(data, torch.rand(shape, generator=generator) < 0.8)
    weights = None
    if kind in RETRIEVAL and data.draw(st.booleans(), label="weighted"):
        weights = torch.randint(3, shape, generator=generator).double()
    return Lists(relaid(data, scores), relaid(data, relevance), mask, weights)


@each_device
@each_kind
@fuzz
def test_a_step(kind: str, device: str, data: st.DataObject) -> None:
    lists = draw_lists(data, kind)
    options = data.draw(st.sampled_from(KINDS[kind].options), label="options")
    if "tolerance" not in options and kind == "neural_ndcg":  # when to stop is decided by rounding
        options = {**options, "tolerance": 0.0, "max_iterations": 5}
    loss = KINDS[kind].make(**options).to(device)
    there = Lists(*(None if t is None else t.to(device) for t in lists))
    with drawn_simd(data):
        value, gradient = step(loss, there)
    expected_value, expected = expected_step(kind, lists, options)
    assert_near("value", value.cpu(), expected_value)
    # A gradient that cancels has the rounding of its parts, which are about 1.
    scale = max(0.3, float(expected.abs().max())) if expected.numel() else 0.0
    assert_near("gradient", gradient.cpu() + scale, expected + scale, value.dtype)


@each_device
@fuzz
def test_long_lists_of_lambda_rank(device: str, data: st.DataObject) -> None:
    """Beyond where its pairs are no longer visited one by one: levels, ties, spreads, top_k."""
    size = data.draw(st.integers(250, 700), label="size")
    generator = generator_of(data)
    dtype = data.draw(st.sampled_from((torch.float32, torch.float64)), label="dtype")
    spread = 10.0 ** data.draw(st.integers(-3, 4), label="spread")
    ties = data.draw(st.booleans(), label="ties")
    scores = torch.randn(size, generator=generator, dtype=torch.float64)
    scores = spread * (scores.round() if ties else scores).to(dtype)
    levels = data.draw(st.sampled_from((2, 3, 7, size)), label="levels")
    uniform = torch.rand(size, generator=generator, dtype=torch.float64)
    relevance = (levels * uniform).floor() * (4.0 / levels)
    options = {"temperature": data.draw(st.sampled_from((0.1, 1.0, 7.0)), label="temperature")}
    if data.draw(st.booleans(), label="truncated"):
        options["top_k"] = data.draw(st.integers(1, size), label="top_k")
    lists = Lists(scores, relevance)
    there = Lists(scores.to(device), relevance.to(device))
    with drawn_simd(data):
        value, gradient = step(KINDS["lambda_rank"].make(**options).to(device), there)
    expected_value, expected = expected_step("lambda_rank", lists, options)
    assert_near("value", value.cpu(), expected_value)
    scale = max(0.3, float(expected.abs().max()))
    assert_near("gradient", gradient.cpu() + scale, expected + scale, value.dtype)
