"""Multi-instance pooling: the reference, finite differences, LibAUC's MIDAM, state, extremes."""

import io
import math
from typing import Any

import pytest
import torch
from helpers import NAN, finite_differences, randn
from top_loss_helpers import close
from torch import Tensor

from xrisk_ext import MultiInstancePooling, reference

NUM_BAGS, BATCH, SAMPLED = 7, 5, 4
MODES = ("softmax", "attention")
each_mode = pytest.mark.parametrize("mode", MODES)
Inputs = tuple[Tensor, Tensor, Tensor]


def batches(count: int = 4, *, twice: bool = True) -> list[Inputs]:
    """Scores, attention logits and ids that come back, with `twice` also within a batch."""
    ids = [torch.tensor([0, 3, 5, 1, 6]), torch.tensor([2, 3, 4, 3 if twice else 0, 1])]
    return [
        (randn(BATCH, SAMPLED, seed=k), randn(BATCH, SAMPLED, seed=k + 50), ids[k % 2])
        for k in range(count)
    ]


def make(mode: Any, **options: Any) -> MultiInstancePooling:
    options = {"gamma": 0.3, "temperature": 0.4, "state_dtype": torch.float64, **options}
    return MultiInstancePooling(NUM_BAGS, mode=mode, **options)


def pool(module: MultiInstancePooling, inputs: Inputs, **options: Any) -> list[Tensor]:
    """Pooled scores, and the gradients of their weighted sum by scores and attention."""
    scores, attention, index = inputs
    leaves = [scores.clone().requires_grad_()]
    if module.mode == "attention":
        leaves.append(attention.to(scores.dtype).clone().requires_grad_())
    pooled = module(leaves[0], index, *leaves[1:], **options)
    upstream = torch.arange(1.0, len(scores) + 1, dtype=pooled.dtype)
    return [pooled.detach(), *torch.autograd.grad((pooled * upstream).sum(), leaves)]


def truth(module: MultiInstancePooling, inputs: Inputs, state: Tensor | None) -> list[Tensor]:
    scores, attention, index = inputs
    if module.mode == "softmax":
        results = reference.softmax_pooling(
            scores, index, state, module.gamma, temperature=module.temperature
        )
    else:
        results = reference.attention_pooling(scores, attention, index, state, module.gamma)
    upstream = torch.arange(1.0, len(scores) + 1, dtype=torch.float64)[:, None]
    return [results[0], *(slopes * upstream for slopes in results[1:])]


def states_of(module: MultiInstancePooling) -> list[Tensor]:
    return [m.value.clone() for m in (module.state, module.ratio) if m is not None]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x.nan_to_num(9.0), y.nan_to_num(9.0)) for x, y in zip(a, b, strict=True))


@each_mode
def test_steps_are_the_reference_s(mode: str) -> None:
    module = make(mode)
    shape = (NUM_BAGS,) if mode == "softmax" else (NUM_BAGS, 2)
    state = torch.full(shape, -torch.inf if mode == "softmax" else NAN, dtype=torch.float64)
    for inputs in batches():
        for a, b in zip(pool(module, inputs), truth(module, inputs, state), strict=True):
            close("step", a, b, 1e-10)
    if mode == "softmax":
        close("state", module.state.value, state, 1e-10)
    else:
        close("q", module.state.value.exp(), state[:, 1], 1e-10)
        close("n", module.ratio.value * module.state.value.exp(), state[:, 0], 1e-10)


@each_mode
def test_the_batch_alone_is_an_ordinary_function(mode: str) -> None:
    scores, attention, index = batches()[0]
    for module in (make(mode).eval(), MultiInstancePooling(mode=mode, gamma=1.0, temperature=0.4)):
        upstream = torch.arange(1.0, BATCH + 1, dtype=torch.float64)

        def value(
            h: Tensor, g: Tensor = attention, m: Any = module, w: Tensor = upstream
        ) -> Tensor:
            return w * m(h, None, *([g] * (m.mode == "attention")))

        gradients = pool(module, (scores, attention, index))[1:]
        close("scores", gradients[0], finite_differences(value, scores), 1e-7)
        if mode == "attention":
            by_logits = finite_differences(lambda g, f=value: f(scores, g), attention)
            close("attention", gradients[1], by_logits, 1e-7)


@each_mode
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(mode: str, dtype: torch.dtype) -> None:
    low, wide = make(mode), make(mode)
    for scores, attention, index in batches():
        rounded = (scores.to(dtype), attention.to(dtype), index)
        a = pool(low, rounded)
        b = pool(wide, (rounded[0].double(), rounded[1].double(), index))
        assert a[0].dtype == torch.float32
        assert a[1].dtype == dtype
        close("pooled", a[0], b[0], 1e-5)
        close("gradient", a[1], b[1], 1e-5 if dtype == torch.float32 else 1e-2)


@each_mode
def test_when_the_state_is_written(mode: str) -> None:
    module = make(mode)
    inputs = batches()
    pool(module, inputs[0])
    before = states_of(module)
    dry = pool(module, inputs[1], update_state=False)
    pool(module.eval(), inputs[1])
    assert same(states_of(module), before)
    assert same(pool(module.train(), inputs[1]), dry)
    assert not same(states_of(module), before)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    resumed = make(mode, gamma=0.9)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert same(pool(resumed, inputs[2]), pool(module, inputs[2]))
    assert same(states_of(resumed), states_of(module))
    module.reset_state()
    assert same(states_of(module), states_of(make(mode)))


@each_mode
def test_no_score_overflows_and_none_that_is_bad_is_kept(mode: str) -> None:
    module, (scores, attention, index) = make(mode, state_dtype=torch.float32), batches()[0]
    for factor in (1e3, 1e6):
        results = pool(module, (scores.float() * factor, attention.float() * factor, index))
        assert all(bool(t.isfinite().all()) for t in results)
    module.reset_state()
    pool(module, (scores, attention, index))
    before = states_of(module)
    bad = scores.clone()
    bad[1, 2] = NAN
    results = pool(module, (bad, attention, index))
    assert results[0][1].isnan()
    assert bool(results[0][[0, 2, 3, 4]].isfinite().all())
    for a, b in zip(states_of(module), before, strict=True):
        assert float(a[3]) == float(b[3])


@each_mode
def test_an_id_twice_in_a_batch_is_the_mean(mode: str) -> None:
    module, (scores, attention, _) = make(mode, gamma=1.0), batches()[0]
    twice = torch.tensor([2, 2, 0, 1, 3])
    pooled = pool(module, (scores, attention, twice))[0]
    assert float(pooled[0]) == float(pooled[1])


def test_scores_of_minus_infinity_are_masked() -> None:
    scores, _, index = batches()[0]
    masked = scores.clone()
    masked[:, -1] = -torch.inf
    masked[1] = -torch.inf
    module, plain = make("softmax"), make("softmax")
    found = pool(module, (masked, scores, index))
    expected = pool(plain, (scores[:, :-1], scores, index))
    kept = torch.arange(BATCH) != 1
    share = math.log((SAMPLED - 1) / SAMPLED)  # the mean is over all of the sample
    close("pooled", found[0][kept], expected[0][kept] + 0.4 * share, 1e-10)
    close("slopes", found[1][kept, :-1], expected[1][kept], 1e-10)
    assert not found[1][kept, -1].any()
    assert found[0][1].isnan()
    assert module.state is not None
    assert module.state.value[index[1]] == -torch.inf  # as if it had not been there


def test_compiled() -> None:
    module, other = make("softmax"), make("softmax")
    run = torch.compile(
        lambda h, i: other(h, i).square().sum(), fullgraph=True, backend="aot_eager"
    )
    for scores, _, index in batches():
        leaf, twin = scores.clone().requires_grad_(), scores.clone().requires_grad_()
        value = run(leaf, index)
        value.backward()
        expected = module(twin, index).square().sum()
        expected.backward()
        close("value", value.detach(), expected.detach(), 1e-12)
        close("gradient", leaf.grad, twin.grad, 1e-12)
        assert same(states_of(other), states_of(module))


@each_mode
def test_midam_is_libauc_s(mode: str) -> None:
    # AUC margin on the pooled scores, at an alpha of its own; LibAUC has 1 where the paper has 2
    from libauc.losses.mil import MIDAMLoss

    options = {"data_len": NUM_BAGS, "gamma": 0.3, "margin": 1.0, "device": "cpu"}
    theirs = MIDAMLoss(mode=mode, **options, **({"tau": 0.4} if mode == "softmax" else {}))
    inner = theirs.loss_fn
    for name in ("s", "sn", "sd"):
        if hasattr(inner, name):
            setattr(inner, name, getattr(inner, name).double())
    inner.alpha += 0.6
    ours = make(mode, initial_state="zero")
    labels = torch.tensor([1, 0, 1, 0, 0])
    for scores, attention, index in batches(twice=False):
        leaves = [scores.clone().requires_grad_(), attention.clone().requires_grad_()]
        if mode == "softmax":
            pooled_input: Any = (leaves[0] / 0.4).exp().mean(dim=1, keepdim=True)
        else:
            e = leaves[1].exp()
            pooled_input = ((e * leaves[0]).mean(1, keepdim=True), e.mean(1, keepdim=True))
        loss = theirs(y_pred=pooled_input, y_true=labels, index=index)
        wanted = torch.autograd.grad(loss, leaves[: len(MODES[: MODES.index(mode) + 1])])
        h = [t.detach().clone().requires_grad_() for t in leaves[: len(wanted)]]
        p = ours(h[0], index, *h[1:])
        positive, negative = p[labels == 1], p[labels == 0]
        objective = positive.square().mean() + negative.square().mean()
        objective = objective + 0.6 * (negative.mean() - positive.mean())
        for a, b in zip(torch.autograd.grad(objective, h), wanted, strict=True):
            assert a.any()
            close("gradient", a, b, 1e-6)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mode": "max"}, "mode"),
        ({"num_bags": 0}, "num_bags"),
        ({"num_bags": None}, "num_bags"),
        ({"temperature": 0.0}, "temperature"),
        ({"gamma": 1.5}, "gamma"),
        ({"state_dtype": torch.float16}, "state_dtype"),
        ({"initial_state": "one"}, "initial_state"),
    ],
    ids=str,
)
def test_a_bad_hyper_parameter_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        MultiInstancePooling(**{"num_bags": 3, **options})


def test_a_bad_argument_is_named_and_nothing_is_written() -> None:
    module, (scores, attention, index) = make("softmax"), batches()[0]
    before = states_of(module)
    refused: list[tuple[Any, tuple[Any, ...], str]] = [
        (ValueError, (scores[0], index), "scores"),
        (ValueError, (scores[:, :0], index), "scores"),
        (TypeError, (scores.long(), index), "scores"),
        (TypeError, ([1.0], index), "scores"),
        (ValueError, (scores, None), "index"),
        (ValueError, (scores, index[:2]), "index"),
        (TypeError, (scores, index.float()), "index"),
        (IndexError, (scores, index + NUM_BAGS), "index"),
        (ValueError, (scores, index, attention), "attention"),
    ]
    for error, arguments, named in refused:
        with pytest.raises(error, match=named):
            module(*arguments)
    for bad in (attention[:2], None):
        with pytest.raises(ValueError, match="attention"):
            make("attention")(scores, index, bad)
    assert same(states_of(module), before)
