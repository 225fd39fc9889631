"""The contrastive baselines: values and gradients, identities, peers, contracts."""

import math

import pytest
import torch
from baseline_helpers import (
    BASELINES,
    DIM,
    WITH_QUEUE,
    each_baseline,
    expected_rows,
    gradients,
    make_baseline,
    unit,
    views,
)
from helpers import randn
from pytorch_metric_learning import losses as metric_learning
from torch import Tensor

import xrisk_ext as xr
from xrisk_ext import reference
from xrisk_ext.losses._class_positives import PairsLessPositives

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


@each_baseline
@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("normalize", [True, False])
def test_value_and_gradients_are_those_of_the_reference(
    name: str, batch: int, normalize: bool
) -> None:
    for reduction in ("mean", "none"):
        loss = make_baseline(name, normalize=normalize, reduction=reduction)
        a, b = views(batch)
        rows = expected_rows(name, loss, a, b)
        wanted = rows.mean() if reduction == "mean" else rows
        upstream = torch.linspace(0.5, 2.0, wanted.numel()).double().view_as(wanted)
        expected = gradients(wanted, a, b, upstream=upstream)
        found = loss(a, b)
        torch.testing.assert_close(found, wanted, **CLOSE)
        for ours, theirs in zip(gradients(found, a, b, upstream=upstream), expected, strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)


@each_baseline
def test_gradcheck(name: str) -> None:
    loss = make_baseline(name).eval()  # the queue stays as it is
    a, b = views(4)
    inputs = (a, b.detach()) if name == "MoCo" else (a, b)
    if name == "NNCLR":  # which neighbour is nearest is piecewise constant
        loss = make_baseline(name, queue_size=3).eval()
    assert torch.autograd.gradcheck(loss, inputs)


def test_the_heads_of_nnclr_predict_and_the_projections_look_up() -> None:
    loss = make_baseline("NNCLR").eval()
    (z1, z2), (p1, p2) = views(5), views(5, seed=9)
    found = loss(z1, z2, predicted1=p1, predicted2=p2)
    rows = reference.nnclr(unit(z1), unit(z2), loss.queue, loss.temperature, unit(p1), unit(p2))
    torch.testing.assert_close(found, rows.mean(), **CLOSE)
    assert torch.autograd.grad(found, (z1, z2), allow_unused=True, retain_graph=True) == (
        None,
        None,
    )
    for ours, theirs in zip(gradients(found, p1, p2), gradients(rows.mean(), p1, p2), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.bool])
def test_supervised_labels(dtype: torch.dtype) -> None:
    labels = torch.tensor([1, 0, 1, 1, 0, 7, 1]).to(dtype)
    loss = make_baseline("SupCon")
    a, b = views()
    found = loss(a, b, labels)
    wanted = expected_rows("SupCon", loss, a, b, labels=labels).mean()
    torch.testing.assert_close(found, wanted, **CLOSE)
    for ours, theirs in zip(gradients(found, a, b), gradients(wanted, a, b), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_the_fused_positives_are_those_of_the_rows() -> None:
    labels = torch.tensor([3, 3, 1, 3, 0, 1, 3])
    for normalize in (True, False):
        a, b = (v.detach() for v in views())
        a[2] = 0.0
        a, b = a.requires_grad_(), (1e3 * b if normalize else b).detach().requires_grad_()
        tau = torch.tensor(0.3).double().requires_grad_()
        found = PairsLessPositives.apply(a, b, labels, tau, normalize)
        x, y = (unit(a), unit(b)) if normalize else (a, b)
        both, same = torch.cat((x, y)), torch.cat((labels, labels))
        s = both @ both.T / tau
        others = (same[:, None] == same) & ~torch.eye(14, dtype=torch.bool)
        wanted = ((x * y).sum(1) / tau).mean() - ((s * others).sum(1) / others.sum(1)).mean()
        torch.testing.assert_close(found, wanted, **CLOSE)
        ours = torch.autograd.grad(2.5 * found, (a, b, tau), create_graph=True)
        for o, theirs in zip(ours, torch.autograd.grad(2.5 * wanted, (a, b, tau)), strict=True):
            kept = torch.ones(len(o) if o.dim() else 1, dtype=torch.bool)
            if normalize and o.dim() and o.shape == a.shape and o is ours[0]:
                assert not o[2].any()  # a zero row gets no gradient
                kept[2] = False
            torch.testing.assert_close(
                o.reshape(len(kept), -1)[kept], theirs.reshape(len(kept), -1)[kept], **CLOSE
            )
        with pytest.raises(RuntimeError, match="twice"):
            ours[0].sum().backward()


# --------------------------------------------------------------------------------------- identities


def test_eqco_is_info_nce_where_alpha_is_the_number_of_negatives() -> None:
    a, b = views(6)
    eqco, info_nce = make_baseline("EqCo", alpha=10.0)(a, b), make_baseline("NTXent")(a, b)
    torch.testing.assert_close(eqco, info_nce, **CLOSE)
    for ours, theirs in zip(gradients(eqco, a, b), gradients(info_nce, a, b), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_flat_nce_has_the_gradient_of_its_papers_loss() -> None:
    a, b = views(5)
    loss = make_baseline("FlatNCE", reduction="none")
    v = loss(a, b)
    flat = torch.exp(v - v.detach()).mean()
    assert float(flat.detach()) == 1.0
    for ours, theirs in zip(gradients(loss(a, b).mean(), a, b), gradients(flat, a, b), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_without_labels_supcon_is_nt_xent() -> None:
    a, b = views()
    loss = make_baseline("SupCon")
    torch.testing.assert_close(loss(a, b), make_baseline("NTXent")(a, b), **CLOSE)
    assert torch.equal(loss(a, b), loss(a, b, torch.arange(7)))


def test_clip_is_the_mean_of_two_cross_entropies() -> None:
    a, b = views()
    loss = make_baseline("CLIP")
    logits, classes = unit(a) @ unit(b).T / loss.temperature, torch.arange(7)
    entropy = torch.nn.functional.cross_entropy
    wanted = (entropy(logits, classes) + entropy(logits.T, classes)) / 2
    torch.testing.assert_close(loss(a, b), wanted, **CLOSE)


@pytest.mark.parametrize("name", ["NTXent", "SupCon"])
def test_pytorch_metric_learning_agrees(name: str) -> None:
    labels = torch.arange(9) if name == "NTXent" else torch.tensor([0, 1, 2, 0, 0, 1, 3, 3, 2])
    a, b = views(9)
    both = torch.cat((a, b))
    theirs = getattr(metric_learning, f"{name}Loss")(temperature=0.3)(both, labels.repeat(2))
    loss = make_baseline(name)
    ours = loss(a, b) if name == "NTXent" else loss(a, b, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)  # it casts to float32 inside
    for found, expected in zip(gradients(ours, a, b), gradients(theirs, a, b), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


# --------------------------------------------------------------------------------- the temperature


@each_baseline
@pytest.mark.parametrize("temperature", [1e-2, 1e-3])
def test_small_temperatures_do_not_overflow(name: str, temperature: float) -> None:
    loss = make_baseline(name, temperature=temperature)
    a, b = (x.detach().float().requires_grad_() for x in views(9))
    wanted = expected_rows(name, loss, a, b).mean()
    found = loss(a, b)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-3)
    for ours, theirs in zip(gradients(found, a, b), gradients(wanted, a, b), strict=True):
        size = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-4 * max(size, 1.0))


@each_baseline
def test_the_temperature_is_a_buffer_that_may_be_set(name: str) -> None:
    loss, other = make_baseline(name), make_baseline(name, temperature=0.9)
    buffer = loss.temperature
    loss.temperature = 0.9  # type: ignore[assignment]
    assert loss.temperature is buffer
    assert float(buffer) == 0.9
    assert torch.equal(loss(*views()), other(*views()))
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature"):
            loss.temperature = bad  # type: ignore[assignment]
    with pytest.raises(TypeError, match="temperature"):
        loss.temperature = "warm"  # type: ignore[assignment]
    assert float(loss.temperature) == 0.9
    loss.half()
    assert loss.temperature.dtype == torch.float64
    assert "temperature=0.9" in repr(loss)


def test_clip_learns_its_temperature() -> None:
    loss = xr.CLIPLoss(temperature=0.2)
    (scale,) = loss.parameters()
    a, b = views()
    (found,) = torch.autograd.grad(loss(a, b), scale)
    logits = scale.detach().double().requires_grad_()
    (wanted,) = torch.autograd.grad(
        reference.clip(unit(a), unit(b), 1 / logits.exp()).mean(), logits
    )
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-8)
    loss.temperature = 0.05  # type: ignore[assignment]
    torch.testing.assert_close(scale.exp(), torch.tensor(20.0))
    with torch.no_grad():
        scale.fill_(9.0)  # an optimizer went too far
    loss(a, b)
    torch.testing.assert_close(float(loss.temperature), 0.01)
    torch.testing.assert_close(float(scale), math.log(100.0))


# ---------------------------------------------------------------------------------------- contracts


@each_baseline
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    loss = make_baseline(name, temperature=0.1)
    a, b = views(dtype=dtype)
    wanted = expected_rows(name, loss, a, b).mean()
    found = loss(a, b)
    assert found.dtype == torch.float32
    # what normalised rows lose in the dtype, against the temperature
    tolerance = 4 * torch.finfo(dtype).eps / 0.1
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(gradients(found, a, b), gradients(wanted, a, b), strict=True):
        assert ours.dtype == dtype
        size = float(theirs.abs().max())
        torch.testing.assert_close(
            ours.double(), theirs.double(), rtol=0.0, atol=tolerance * max(size, 0.1)
        )


@each_baseline
def test_autocast_changes_nothing(name: str) -> None:
    a, b = views(dtype=torch.float32)
    plain = make_baseline(name, temperature=0.01)(a, b)
    expected = gradients(plain, a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = make_baseline(name, temperature=0.01)(a, b)
    assert torch.equal(plain, lowered)
    for ours, theirs in zip(gradients(lowered, a, b), expected, strict=True):
        assert torch.equal(ours, theirs)


@each_baseline
def test_an_empty_batch_gives_zero(name: str) -> None:
    loss = make_baseline(name)
    before = {k: v.clone() for k, v in loss.state_dict().items()}
    a, b = views(0)
    value = loss(a, b)
    assert float(value.detach()) == 0.0
    for gradient in gradients(value, a, b):
        assert gradient.shape == (0, DIM)
    for key, stored in loss.state_dict().items():
        assert torch.equal(stored, before[key])


@pytest.mark.parametrize("name", ["NTXent", "FlatNCE", "EqCo", "SupCon", "CLIP"])
def test_a_batch_of_one_gives_zero(name: str) -> None:
    a, b = views(1)
    value = make_baseline(name)(a, b)
    assert abs(float(value.detach())) < 1e-12
    for gradient in gradients(value, a, b):
        assert float(gradient.abs().max()) < 1e-12


@each_baseline
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_give_nan(name: str, bad: float) -> None:
    loss = make_baseline(name)
    a, b = views()
    with torch.no_grad():
        a[2, 1] = bad
        b[2, 1] = bad
    assert loss(a, b).isnan()
    if name in WITH_QUEUE:
        assert bool(loss.queue.isfinite().all())  # type: ignore[operator]
        assert loss(*views()).isfinite()


@each_baseline
def test_bad_input_is_refused(name: str) -> None:
    loss = make_baseline(name)
    a, b = views()
    for error, match, arguments in [
        (TypeError, "view1", (None, b)),
        (TypeError, "view2", (a, [1.0])),
        (TypeError, "view1", (a.long(), b)),
        (ValueError, "view1", (a[0], b)),
        (ValueError, "view2", (a, b[1:])),
        (ValueError, "view2", (a, b[:, 1:])),
        (ValueError, "view2", (a, b.to("meta"))),
    ]:
        with pytest.raises(error, match=match):
            loss(*arguments)
    with pytest.raises(ValueError, match="reduction"):
        make_baseline(name, reduction="sum")
    with pytest.raises(ValueError, match="temperature"):
        make_baseline(name, temperature=-1.0)


def test_bad_labels_and_alpha_are_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        make_baseline("SupCon")(*views(), torch.zeros(3))
    with pytest.raises(TypeError, match="labels"):
        make_baseline("SupCon")(*views(), [0] * 7)
    with pytest.raises(ValueError, match="alpha"):
        make_baseline("EqCo", alpha=0.0)


@each_baseline
def test_one_derivative(name: str) -> None:
    a, b = views()
    loss = make_baseline(name)
    value = loss(a, b)
    first = gradients_kept(value, a)
    assert torch.equal(first, gradients_kept(value, a))
    (gradient,) = torch.autograd.grad(loss(a, b), a, create_graph=True)
    with pytest.raises(RuntimeError, match=r"twice|not implemented"):  # by us, or by torch
        gradient.sum().backward()


def gradients_kept(value: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(value, x, retain_graph=True)[0]


@each_baseline
def test_threads_do_not_change_a_bit(name: str, restore_threads: None) -> None:
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        options = {"dim": 64} if name in WITH_QUEUE else {}
        a = randn(300, 64).float().requires_grad_()
        b = randn(300, 64, seed=1).float().requires_grad_()
        value = make_baseline(name, **options)(a, b)
        results.append([value.detach(), *gradients(value, a, b)])
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@each_baseline
def test_no_matrix_of_similarities(name: str) -> None:
    batch = 2048
    a = torch.randn(batch, DIM, requires_grad=True)
    b = torch.randn(batch, DIM, requires_grad=True)
    loss = make_baseline(name)
    with torch.profiler.profile(profile_memory=True) as profile:
        loss(a, b).backward()
    largest = max(e.self_cpu_memory_usage for e in profile.key_averages())
    assert largest < batch * batch  # bytes; the matrix has four times as many


@each_baseline
def test_compiles_without_a_break(name: str) -> None:
    loss, eager = make_baseline(name), make_baseline(name)
    a, b = views(dtype=torch.float32)
    labels = (torch.arange(7) % 3,) if name == "SupCon" else ()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for temperature in (0.3, 0.4):  # changing it compiles nothing anew
        loss.temperature = eager.temperature = temperature  # type: ignore[assignment]
        found, wanted = compiled(a, b, *labels), eager(a, b, *labels)
        torch.testing.assert_close(found, wanted)
        for ours, theirs in zip(gradients(found, a, b), gradients(wanted, a, b), strict=True):
            torch.testing.assert_close(ours, theirs)
    for key, stored in loss.state_dict().items():
        torch.testing.assert_close(stored, eager.state_dict()[key])


def test_every_baseline_is_public() -> None:
    for name in BASELINES:
        assert hasattr(xr, f"{name}Loss")
        assert hasattr(xr.losses, f"{name}Loss")
