"""What losses of ranked lists promise: precision, autograd, degenerate lists, input, process."""

import resource
from typing import Any

import pytest
import torch
from helpers import INF, NAN, assert_bitwise, randn
from listwise_helpers import (
    GRADED,
    KINDS,
    RETRIEVAL,
    Lists,
    call,
    each_graded_kind,
    each_kind,
    each_retrieval_kind,
    expected_step,
    make_lists,
    make_loss,
    step,
)
from loss_helpers import assert_near, bits_equal, each_half
from torch import nn

import xrisk_ext as xr
from xrisk_ext.losses._list_loss import ListLoss

TEMPERED = tuple(k for k in KINDS if k not in ("list_net", "list_mle", "fast_ap"))


def assert_zero(loss: ListLoss, lists: Lists) -> None:
    value, gradient = step(loss, lists)
    assert_bitwise(value, torch.zeros_like(value))
    assert_bitwise(gradient, torch.zeros_like(lists.scores))


# ---------------------------------------------------------------------------------------- precision


@each_kind
@each_half
def test_halves_are_computed_in_float32(kind: str, dtype: torch.dtype) -> None:
    lists = make_lists(kind, dtype=dtype)
    value, gradient = step(make_loss(kind), lists)
    expected_value, expected = step(make_loss(kind), lists._replace(scores=lists.scores.float()))
    assert bits_equal(value, expected_value)
    assert bits_equal(gradient, expected.to(dtype))  # cast last, once
    with torch.autocast("cpu", dtype=dtype):
        inside, gradient_inside = step(make_loss(kind), lists)
    assert bits_equal(inside, value)
    assert bits_equal(gradient_inside, gradient)


@each_kind
def test_grad_scaler_with_float16(kind: str) -> None:
    model = nn.Linear(5, 9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    lists, loss = make_lists(kind, shape=(4, 9)), make_loss(kind)
    for x, scale, moves in ((1.0, 2.0**10, True), (1e30, 2.0**9, False)):
        before = model.weight.detach().clone()
        optimizer.zero_grad()
        value = call(loss, lists, model(x * randn(4, 5).float()).half())
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == scale
        assert torch.equal(model.weight, before) == (not moves)


# ----------------------------------------------------------------------------------------- autograd


@each_kind
def test_backward_twice_gives_the_same_and_twice_differentiated_raises(kind: str) -> None:
    lists = make_lists(kind)
    leaf = lists.scores.requires_grad_()
    value = call(make_loss(kind), lists, leaf)
    (first,) = torch.autograd.grad(value, leaf, retain_graph=True)
    (second,) = torch.autograd.grad(value, leaf, 4.0 * torch.ones_like(value), retain_graph=True)
    assert torch.equal(4.0 * first, second)
    (once,) = torch.autograd.grad(value, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        once.sum().backward()


@each_kind
def test_no_grad_gives_the_same_value(kind: str) -> None:
    lists = make_lists(kind)
    value, _ = step(make_loss(kind), lists)
    with torch.no_grad():
        plain = call(make_loss(kind), lists)
    assert bits_equal(plain, value)
    assert not plain.requires_grad
    assert bits_equal(call(make_loss(kind).eval(), lists, update_state=False), value)


# ---------------------------------------------------------------------------------- nothing to rank


@each_kind
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_lists_with_nothing_to_rank(kind: str, reduction: str, dtype: torch.dtype) -> None:
    loss = make_loss(kind, reduction=reduction)
    scores = randn(3, 7).to(dtype)
    none = torch.zeros(3, 7, dtype=torch.int64)
    some = make_lists(kind, shape=(3, 7)).relevance
    assert_zero(loss, Lists(scores, none))  # nothing relevant
    assert_zero(loss, Lists(scores, some, torch.zeros(3, 7, dtype=torch.bool)))
    assert_zero(loss, Lists(scores * NAN, none))  # nothing to poison either
    for shape in ((0, 7), (3, 0), (0, 0), (0,)):
        assert_zero(loss, Lists(torch.zeros(shape, dtype=dtype), torch.zeros(shape)))
    if kind in GRADED:
        assert_zero(loss, Lists(scores, torch.full((3, 7), -1)))
    if kind in ("rank_net", "lambda_rank", "list_net", "list_mle"):
        assert_zero(loss, Lists(scores, torch.full((3, 7), 2)))  # no order
    if kind in RETRIEVAL:
        assert_zero(loss, Lists(scores, some, None, torch.zeros(3, 7)))


@each_kind
def test_a_list_of_one_item(kind: str) -> None:
    one = Lists(torch.tensor([[0.7], [0.2]]).double(), torch.tensor([[1], [0]]))
    if kind in RETRIEVAL:  # [B, 1] is one list
        one = Lists(one.scores.reshape(1, 2)[:, :1].reshape(1), torch.ones(1))
    value, gradient = step(make_loss(kind), one)
    assert not gradient.any()
    expected = {"approx_ndcg": -0.5, "neural_ndcg": -0.5, "recall_at_k": None}
    if kind == "recall_at_k":
        assert_near("value", value, expected_step(kind, one)[0])
    else:
        assert_near("value", value, torch.tensor(expected.get(kind, 0.0)).double())


@each_kind
def test_ties_follow_the_reference(kind: str) -> None:
    for tie in (0.0, -0.0, 0.3, 1e5):
        lists = make_lists(kind, masked=True)
        lists = lists._replace(scores=torch.full_like(lists.scores, tie))
        if kind == "fast_ap":  # on an edge its slope is one-sided
            lists = lists._replace(scores=lists.scores.clamp(max=0.25) + 0.01)
        value, gradient = step(make_loss(kind), lists)
        expected_value, expected = expected_step(kind, lists)
        assert_near("value", value, expected_value)
        assert_near("gradient", gradient, expected)


# ----------------------------------------------------------------- not finite, and gaps of any size


@each_kind
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("where", [0, 1, 8])
def test_a_bad_score_gives_nan_for_its_list(kind: str, bad: float, where: int) -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        lists = make_lists(kind, shape=(3, 9), dtype=dtype)
        good, good_gradient = step(make_loss(kind, reduction="none"), lists)
        scores = lists.scores.clone()
        scores[1, where] = bad
        lists = lists._replace(scores=scores)
        value, gradient = step(make_loss(kind, reduction="none"), lists)
        assert value.isnan().tolist() == [False, True, False]
        assert gradient[1].isnan().all()
        assert bits_equal(gradient[[0, 2]], good_gradient[[0, 2]])
        assert bits_equal(value[[0, 2]], good[[0, 2]])
        assert step(make_loss(kind), lists)[0].isnan()


@each_kind
@pytest.mark.parametrize(
    ("gap", "dtype"),
    [(1e4, torch.float16), (1e30, torch.bfloat16), (1e3, torch.float32), (1e9, torch.float32),
     (1e25, torch.float32), (700.0, torch.float64), (1e120, torch.float64)],
)  # fmt: skip
def test_a_gap_of_any_size_follows_the_reference(kind: str, gap: float, dtype: torch.dtype) -> None:
    lists = make_lists(kind)
    lists = lists._replace(scores=lists.scores.clamp(-0.5, 0.5).mul(gap).to(dtype))
    value, gradient = step(make_loss(kind), lists)
    expected_value, expected = expected_step(kind, lists)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert_near("value", value, expected_value)
    if kind != "neural_ndcg" or gap < 1e100:  # its reference has no finite gradient there
        assert_near("gradient", gradient, expected, value.dtype)


@each_graded_kind
@pytest.mark.parametrize("top", [31, 200, 5000, 1e30])
def test_relevance_of_any_size(kind: str, top: float) -> None:
    for dtype in (torch.float32, torch.float64):
        lists = make_lists(kind, dtype=dtype)
        relevance = lists.relevance.double() * (top / 3.0)
        lists = lists._replace(relevance=relevance.to(dtype))
        value, gradient = step(make_loss(kind), lists)
        expected_value, expected = expected_step(kind, lists)
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert_near("value", value, expected_value)
        assert_near("gradient", gradient, expected, dtype)


@pytest.mark.parametrize("kind", TEMPERED)
@pytest.mark.parametrize("temperature", [1e-30, 1e-9, 1e9, 1e30])
def test_a_temperature_of_any_size(kind: str, temperature: float) -> None:
    for dtype in (torch.float32, torch.float64):
        value, gradient = step(
            make_loss(kind, temperature=temperature), make_lists(kind, dtype=dtype)
        )
        assert value.isfinite()
        assert gradient.isfinite().all()


# -------------------------------------------------------------------------------------------- input


@each_kind
@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int8, torch.uint8, torch.int32, torch.float16, torch.float64]
)
def test_relevance_of_any_dtype(kind: str, dtype: torch.dtype) -> None:
    lists = make_lists(kind)
    if dtype == torch.bool:
        lists = lists._replace(relevance=(lists.relevance > 0).long())
    other = lists._replace(relevance=lists.relevance.to(dtype))
    for a, b in zip(step(make_loss(kind), lists), step(make_loss(kind), other), strict=True):
        assert bits_equal(a, b)


@each_kind
def test_layouts(kind: str) -> None:
    lists = make_lists(kind, masked=True)
    assert lists.mask is not None
    value, gradient = step(make_loss(kind), lists)
    strided = Lists(*(t.t().contiguous().t() for t in lists[:3]))  # type: ignore[union-attr]
    other, other_gradient = step(make_loss(kind), strided)
    assert bits_equal(other, value)
    assert torch.equal(other_gradient, gradient)


@each_retrieval_kind
def test_scores_of_shape_b_1_are_one_list(kind: str) -> None:
    lists = make_lists(kind, shape=(12,), weighted=True, masked=True)
    column = Lists(*(t[:, None] for t in lists))  # type: ignore[index]
    value, gradient = step(make_loss(kind), lists)
    other, other_gradient = step(make_loss(kind), column)
    assert bits_equal(other, value)
    assert torch.equal(other_gradient, gradient[:, None])


def refuse(error: type[Exception], match: str, kind: str, lists: Lists, **options: Any) -> None:
    with pytest.raises(error, match=match):
        call(make_loss(kind), lists, **options)


@each_kind
def test_bad_input_is_refused_by_name(kind: str) -> None:
    lists = make_lists(kind, masked=True)
    name = "relevance" if kind in GRADED else "labels"
    h, y, mask, _ = lists
    assert mask is not None
    refuse(TypeError, "scores", kind, Lists([0.0], y))  # type: ignore[arg-type]
    refuse(TypeError, name, kind, Lists(h, [0]))  # type: ignore[arg-type]
    refuse(TypeError, "mask", kind, Lists(h, y, [True]))  # type: ignore[arg-type]
    refuse(TypeError, "scores", kind, Lists(h.long(), y))
    refuse(TypeError, name, kind, Lists(h, y.to(torch.complex64)))
    refuse(TypeError, "mask", kind, Lists(h, y, mask.long()))
    refuse(ValueError, "scores", kind, Lists(h[None], y[None]))
    refuse(ValueError, name, kind, Lists(h, y[:, :-1]))
    refuse(ValueError, name, kind, Lists(h, y[0]))
    refuse(ValueError, "mask", kind, Lists(h, y, mask[:2]))
    refuse(ValueError, name, kind, Lists(h, y.to("meta")))
    refuse(ValueError, "mask", kind, Lists(h, y, mask.to("meta")))


@each_graded_kind
def test_relevance_must_be_finite(kind: str) -> None:
    lists = make_lists(kind)
    mask = torch.ones_like(lists.scores, dtype=torch.bool)
    mask[0, 0] = False
    for bad in (NAN, INF):
        relevance = lists.relevance.double()
        relevance[0, 0] = bad
        refuse(ValueError, "relevance", kind, lists._replace(relevance=relevance))
        call(make_loss(kind), lists._replace(relevance=relevance, mask=mask))  # padding: ignored


@each_retrieval_kind
def test_bad_weights_are_refused(kind: str) -> None:
    h, y, *_ = make_lists(kind)
    for bad in (-1.0, NAN, INF):
        refuse(ValueError, "item_weights", kind, Lists(h, y, None, torch.full((4, 9), bad)))
    refuse(ValueError, "item_weights", kind, Lists(h, y, None, torch.ones(9)))
    refuse(TypeError, "item_weights", kind, Lists(h, y, None, torch.ones(4, 9).long()))
    refuse(TypeError, "item_weights", kind, Lists(h, y, None, [1.0]))  # type: ignore[arg-type]
    refuse(
        ValueError, "item_weights", kind, Lists(h, y, None, torch.ones(4, 9, requires_grad=True))
    )


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (xr.RankNetLoss, {"pair_weights": "other"}),
        (xr.RankNetLoss, {"temperature": 0.0}),
        (xr.LambdaRankLoss, {"top_k": 0}),
        (xr.ApproxNDCGLoss, {"temperature": INF}),
        (xr.NeuralNDCGLoss, {"max_iterations": 0}),
        (xr.NeuralNDCGLoss, {"tolerance": -1.0}),
        (xr.SmoothAPLoss, {"temperature": -1.0}),
        (xr.FastAPLoss, {"num_bins": 0}),
        (xr.FastAPLoss, {"num_bins": 1025}),
        (xr.FastAPLoss, {"score_range": (1.0, -1.0)}),
        (xr.RecallAtKLoss, {"k": 0}),
        (xr.RecallAtKLoss, {"k": ()}),
        (xr.RecallAtKLoss, {"rank_temperature": 0.0}),
        (xr.ListNetLoss, {"reduction": "median"}),
    ],
    ids=str,
)
def test_bad_hyper_parameters_are_refused_by_name(make: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        make(**options)


# ------------------------------------------------------------------------------------------- module


@pytest.mark.parametrize("kind", TEMPERED)
def test_temperatures_are_schedules(kind: str) -> None:
    loss, lists = make_loss(kind), make_lists(kind)
    loss.temperature = 0.77
    fresh = make_loss(kind, temperature=0.77)
    for a, b in zip(step(loss, lists), step(fresh, lists), strict=True):
        assert bits_equal(a, b)
    loss.temperature = torch.tensor(0.5)
    for bad in (0.0, -1.0, NAN, INF):
        with pytest.raises(ValueError, match="temperature"):
            loss.temperature = bad
    with pytest.raises(TypeError, match="temperature"):
        loss.temperature = "1"
    assert float(loss.temperature) == 0.5
    assert float(loss.half().temperature) == 0.5
    assert loss.temperature.dtype == torch.float64
    other = make_loss(kind)
    other.load_state_dict(loss.state_dict())
    assert float(other.temperature) == 0.5
    assert "temperature=0.5" in repr(loss)


@each_kind
def test_there_is_no_state(kind: str) -> None:
    loss, lists = make_loss(kind), make_lists(kind)
    before = {name: t.clone() for name, t in loss.state_dict().items()}
    assert set(before) <= {"temperature", "rank_temperature"}
    step(loss, lists)
    loss.reset_state()
    assert all(torch.equal(loss.state_dict()[name], t) for name, t in before.items())


# ------------------------------------------------------------------------------------------ process


@each_kind
@pytest.mark.usefixtures("restore_threads")
def test_threads_change_nothing(kind: str) -> None:
    wide = 300 if kind == "neural_ndcg" else 6000
    for shape in ((60, 40), (2, wide)):
        lists = make_lists(kind, shape=shape, dtype=torch.float32)
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(step(make_loss(kind), lists))
        assert all(bits_equal(a, b) for a, b in zip(*results, strict=True))
        assert results[0][1].any()


@each_kind
def test_memory_is_linear_in_the_list(kind: str) -> None:
    if kind == "neural_ndcg":
        pytest.skip("holds the matrix of a list, by design")
    size = 40_000  # every pair in float32: 6.4 GB
    lists = make_lists(kind, shape=(1, size), dtype=torch.float32)
    if kind in ("approx_ndcg", "smooth_ap", "recall_at_k"):
        lists.relevance[0, 100:] = 0
    if kind == "rank_net":
        lists.relevance[0, 100:] = 1
    loss = make_loss("lambda_rank", top_k=200) if kind == "lambda_rank" else make_loss(kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    value, gradient = step(loss, lists)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB
    assert value.isfinite()
    assert gradient.isfinite().all()


@each_kind
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_whole_step_is_one_graph(kind: str, reduction: str) -> None:
    torch._dynamo.reset()
    loss, lists = make_loss(kind, reduction=reduction), make_lists(kind, masked=True)

    def run(scores: torch.Tensor) -> torch.Tensor:
        return call(loss, lists, 2.0 * scores).sum()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        results = []
        for function in (run, compiled):
            leaf = randn(4, 9, seed=seed).requires_grad_()
            value = function(leaf)
            value.backward()
            results.append((value.detach(), leaf.grad))
            if kind in TEMPERED:
                loss.temperature = float(loss.temperature)
        assert all(bits_equal(a, b) for a, b in zip(*results, strict=True))
