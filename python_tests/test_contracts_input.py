"""What the losses accept, in every dtype, shape and layout, and what they refuse.

A refusal names the argument and comes before anything is written.
"""

import inspect
from typing import Any

import pytest
import torch
from helpers import INF, NAN, assert_close, randn
from loss_helpers import (
    LOSSES,
    NUM_LABELS,
    NUM_SAMPLES,
    STATEFUL,
    Batch,
    bits_equal,
    each_loss,
    each_stateful_loss,
    make_batch,
    make_batches,
    make_loss,
    state_of,
    step,
)
from torch import Tensor

INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)
UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def assert_same_steps(kind: str, batch: Batch, other: Batch) -> None:
    """Two ways to say the same give the same, bit for bit; gradients in the scores' shape."""
    losses = [make_loss(kind, state_dtype=torch.float64) for _ in range(2)]
    for _ in range(2):
        value, gradient = step(losses[0], batch)
        other_value, other_gradient = step(losses[1], other)
        assert gradient.any()
        assert torch.equal(other_value, value)
        assert other_gradient.shape == other.scores.shape
        assert torch.equal(other_gradient.reshape(gradient.shape), gradient)
    assert bits_equal(state_of(losses[0]), state_of(losses[1]))


# ---------------------------------------------------------------------------------------- accepted


@each_loss
@pytest.mark.parametrize("dtype", (torch.bool, *INTEGERS, *UNSIGNED, *FLOATS))
def test_labels_of_any_dtype(kind: str, dtype: torch.dtype) -> None:
    batch = make_batch(kind)
    labels = batch.labels
    if dtype == torch.bool:
        pass
    elif dtype in UNSIGNED:
        labels = labels * 200  # past the range of int8
    else:
        # positive is > 0: neither 1 nor 0, and what is negative is not positive
        labels = torch.where(labels > 0, 0.25 if dtype in FLOATS else 3, -2)
    assert_same_steps(kind, batch, batch._replace(labels=labels.to(dtype)))


@each_loss
def test_a_label_that_is_nan_is_not_positive(kind: str) -> None:
    batch = make_batch(kind)
    labels = torch.where(batch.labels > 0, 1.0, NAN)
    assert_same_steps(kind, batch, batch._replace(labels=labels))


@each_stateful_loss
def test_index_may_be_int32(kind: str) -> None:
    batch = make_batch(kind)
    assert_same_steps(kind, batch, batch._replace(index=batch.index.int()))


@pytest.mark.parametrize("kind", ("ap", "auc"))
@pytest.mark.parametrize("weights", ["", "entry"])
def test_scores_of_shape_b_1(kind: str, weights: str) -> None:
    batch = make_batch(kind, weights=weights)
    other = batch._replace(scores=batch.scores[:, None], labels=batch.labels[:, None])
    assert_same_steps(kind, batch, other)
    if other.weights is not None:
        assert_same_steps(kind, batch, other._replace(weights=other.weights[:, None]))


@each_loss
@pytest.mark.parametrize("weights", ["", "entry", "label"])
def test_arguments_of_any_layout(kind: str, weights: str) -> None:
    def strided(t: Tensor) -> Tensor:
        wide = torch.stack([t, torch.zeros_like(t)], dim=-1)[..., 0]
        result = wide.t().contiguous().t() if t.dim() == 2 else wide
        assert not result.is_contiguous()
        return result

    batch = make_batch(kind, weights=weights)
    other = Batch(*(None if t is None else strided(t) for t in batch))  # type: ignore[arg-type]
    assert_same_steps(kind, batch, other)


@each_loss
@pytest.mark.parametrize("dtype", FLOATS)
def test_weights_of_any_floating_dtype(kind: str, dtype: torch.dtype) -> None:
    batch = make_batch(kind, weights="entry")
    assert batch.weights is not None
    rounded = batch.weights.to(dtype)
    same = batch._replace(weights=rounded.double())
    assert_same_steps(kind, same, batch._replace(weights=rounded))


@each_loss
@pytest.mark.parametrize("algorithm", ["direct", "sort"])
def test_an_integer_weight_is_repetition(kind: str, algorithm: str) -> None:
    options: dict[str, Any] = {"algorithm": algorithm, "state_dtype": torch.float64}
    loss, other = make_loss(kind, **options), make_loss(kind, **options)
    for k, batch in enumerate(make_batches(kind)):
        # The mean of an id's duplicates is unweighted, so each positive has an id of its own here.
        index = torch.arange(12) % NUM_SAMPLES
        labels = batch.labels.clone()
        labels[NUM_SAMPLES:] = 0
        times = torch.arange(12).add(k) % 4  # 0 to 3
        assert bool((times[:NUM_SAMPLES] > 1).any())
        copies = torch.arange(12).repeat_interleave(times)
        weighted = Batch(batch.scores, labels, index, times.double())
        repeated = Batch(batch.scores[copies], labels[copies], index[copies])
        value, gradient = step(loss, weighted)
        value_of_copies, gradient_of_copies = step(other, repeated)
        summed = torch.zeros_like(gradient).index_add_(0, copies, gradient_of_copies)
        assert_close(value, value_of_copies)
        assert_close(gradient, summed)
        if loss.state is not None and other.state is not None:
            assert_close(loss.state.value, other.state.value)


@each_loss
def test_weight_zero_removes_an_entry(kind: str) -> None:
    options: dict[str, Any] = {"state_dtype": torch.float64}
    loss, rest = make_loss(kind, **options), make_loss(kind, **options)
    for batch in make_batches(kind, weights="entry"):
        assert batch.weights is not None
        kept = torch.arange(12) % 4 != 3
        value, gradient = step(loss, batch._replace(weights=batch.weights * kept))
        without = Batch(*(t[kept] for t in batch if t is not None))
        expected_value, expected_gradient = step(rest, without)
        assert_close(value, expected_value)
        assert_close(gradient[kept], expected_gradient)
        assert not gradient[~kept].any()
    assert bits_equal(state_of(loss), state_of(rest))


@each_loss
def test_weights_count_relative_to_each_other(kind: str) -> None:
    batch = make_batch(kind)
    ones = torch.ones(batch.scores.shape, dtype=torch.float64)
    plain = step(make_loss(kind), batch)
    for weights in (ones, 4.0 * ones):
        for a, b in zip(step(make_loss(kind), batch._replace(weights=weights)), plain, strict=True):
            assert_close(a, b)
    ones[0] = 2.0
    assert abs(float(step(make_loss(kind), batch._replace(weights=ones))[0] - plain[0])) > 1e-3


@each_loss
def test_reduction_none_is_one_value_per_label(kind: str) -> None:
    count = NUM_LABELS if kind == "map" else 1
    mean, none = make_loss(kind), make_loss(kind, reduction="none")
    for batch in make_batches(kind):
        value, gradient = step(mean, batch)
        values, gradients = step(none, batch)
        assert value.shape == ()
        assert values.shape == (count,)
        assert_close(values.mean(), value)
        assert_close(gradients / count, gradient)
    assert bits_equal(state_of(mean), state_of(none))


@each_loss
def test_common_keywords(kind: str) -> None:
    # API.md, "Common to every score loss"
    loss_type = type(make_loss(kind))
    forward = inspect.signature(loss_type.forward).parameters
    constructor = inspect.signature(loss_type.__init__).parameters
    for parameters, name, default in [
        (forward, "item_weights", None),
        (forward, "update_state", True),
        (constructor, "reduction", "mean"),
        (constructor, "state_dtype", torch.float32),
    ]:
        assert name in parameters
        assert parameters[name].kind == inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default == default


# ----------------------------------------------------------------------------------------- refused


def _refused_tensors() -> dict[str, tuple[str, type[Exception], Any]]:
    """name: (argument, error, what becomes of the argument; None where it does not apply)."""

    def at_positive(value: int) -> Any:
        # the first entry is a positive
        return lambda t: torch.cat([torch.tensor([value]), t[1:]])

    def first(value: float) -> Any:
        return lambda t: torch.cat([torch.full_like(t[:1], value), t[1:]])

    every: dict[str, tuple[str, type[Exception], Any]] = {}
    for argument in ("scores", "labels", "index", "item_weights"):
        every[f"{argument}-list"] = (argument, TypeError, lambda t: t.tolist())
        every[f"{argument}-short"] = (argument, ValueError, lambda t: t[:-1])
        every[f"{argument}-complex"] = (argument, TypeError, lambda t: t + 0j)
        every[f"{argument}-meta"] = (argument, ValueError, lambda t: t.to("meta"))
        every[f"{argument}-0d"] = (argument, ValueError, lambda t: t.reshape(-1)[0])
        every[f"{argument}-3d"] = (argument, ValueError, lambda t: torch.stack([t, t])[None])
    del every["scores-short"]  # then it is the labels that are too long
    every |= {
        "scores-int": ("scores", TypeError, lambda t: t.long()),
        "scores-float8": ("scores", TypeError, lambda t: t.to(torch.float8_e4m3fn)),
        "index-none": ("index", ValueError, lambda t: None),
        "index-float": ("index", TypeError, lambda t: t.float()),
        "index-int16": ("index", TypeError, lambda t: t.short()),
        "index-bool": ("index", TypeError, lambda t: t > 0),
        "index-past-the-end": ("index", IndexError, at_positive(NUM_SAMPLES)),
        "index-negative": ("index", IndexError, at_positive(-1)),
        "index-huge": ("index", IndexError, at_positive(2**40)),
        "index-very-negative": ("index", IndexError, at_positive(-(2**63))),
        "item_weights-negative": ("item_weights", ValueError, first(-0.5)),
        "item_weights-nan": ("item_weights", ValueError, first(NAN)),
        "item_weights-inf": ("item_weights", ValueError, first(INF)),
        "item_weights-learnt": ("item_weights", ValueError, lambda t: t.requires_grad_()),
        "item_weights-transposed": (
            "item_weights",
            ValueError,
            lambda t: torch.ones(NUM_LABELS, t.shape[0], dtype=t.dtype),
        ),
    }
    return every


REFUSED = _refused_tensors()


@pytest.mark.parametrize(
    ("kind", "name"),
    [(k, name) for k in LOSSES for name in REFUSED if k != "auc" or "index" not in name],
)
def test_a_refusal_names_the_argument_and_writes_nothing(kind: str, name: str) -> None:
    argument, error, change = REFUSED[name]
    batch = make_batch(kind, weights="entry")
    loss = make_loss(kind)
    step(loss, batch)
    before = state_of(loss)
    version = None if loss.state is None else loss.state.value._version
    arguments = {"scores": batch.scores, "labels": batch.labels, "index": batch.index}
    arguments["item_weights"] = batch.weights
    if kind == "auc":
        del arguments["index"]
    for training_gradient in (False, True):
        changed = dict(arguments, **{argument: change(arguments[argument].clone())})
        if training_gradient and isinstance(changed["scores"], Tensor):
            if not changed["scores"].is_floating_point() and not changed["scores"].is_complex():
                continue
            changed["scores"] = changed["scores"].detach().requires_grad_()
        with pytest.raises(error, match=argument):
            loss(**changed)
    assert bits_equal(state_of(loss), before)
    assert version == (None if loss.state is None else loss.state.value._version)


@each_stateful_loss
def test_state_on_another_device_names_to(kind: str) -> None:
    loss, batch = make_loss(kind), make_batch(kind)
    assert loss.state is not None
    loss.state.to("meta")
    with pytest.raises(ValueError, match=r"state.*\.to\("):
        step(loss, batch)


def _bad(argument: str, *values: Any, **others: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(argument, {argument: value, **others}) for value in values]


BAD_HYPER_PARAMETERS = [
    *_bad("surrogate", "hinge_squared", None, 3, ["hinge"]),
    *_bad("algorithm", "fast", None),
    *_bad("algorithm", "sort", surrogate="sigmoid"),
    *_bad("algorithm", "sort", surrogate="logistic"),
    *_bad("algorithm", "smooth", surrogate="squared_hinge"),
    *_bad("margin", -0.5, NAN, INF, "wide", None),
    *_bad("scale", 0.0, -1.0, NAN, INF),
    *_bad("scale", 0.5, surrogate="barrier_hinge"),
    *_bad("reduction", "sum", None),
]
BAD_STATE_PARAMETERS = [
    *_bad("gamma", -0.1, 1.1, NAN),
    *_bad("gamma", 0.5, num_samples=None),
    *_bad("num_samples", 0, -3, 2.5, "all"),
    *_bad("state_dtype", torch.float16, torch.int64, "float32"),
    *_bad("initial_state", "one", None),
]


@pytest.mark.parametrize(
    ("kind", "argument", "options"),
    [(kind, *bad) for kind in LOSSES for bad in BAD_HYPER_PARAMETERS]
    + [(kind, *bad) for kind in STATEFUL for bad in BAD_STATE_PARAMETERS],
    ids=str,
)
def test_a_bad_hyper_parameter_is_named(kind: str, argument: str, options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=argument):
        make_loss(kind, **options)


@each_stateful_loss
def test_an_index_is_not_needed_where_no_state_is_used(kind: str) -> None:
    batch = make_batch(kind)
    expected = step(make_loss(kind, None, gamma=1.0), batch)
    for loss in (make_loss(kind, None, gamma=1.0), make_loss(kind).eval()):
        leaf = batch.scores.clone().requires_grad_()
        value = loss(leaf, batch.labels)
        (gradient,) = torch.autograd.grad(value, leaf)
        assert torch.equal(value, expected[0])
        assert torch.equal(gradient, expected[1])


@pytest.mark.parametrize("kind", ("ap", "auc"))
def test_scores_of_several_labels_need_the_multi_label_loss(kind: str) -> None:
    with pytest.raises(ValueError, match="scores"):
        make_loss(kind)(randn(4, 2), torch.ones(4, 2), *([torch.arange(4)] * (kind == "ap")))
