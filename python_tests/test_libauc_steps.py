"""LibAUC's losses that take one step on the CPU, against what they compose elsewhere."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import randn, random_labels
from torch import Tensor, nn

from xrisk_ext import libauc as dropin

SAMPLES, BATCH, LABELS = 9, 8, 3


def made(name: str) -> Any:
    return {
        "softmax": lambda: dropin.MIDAM_softmax_pooling_loss(SAMPLES, tau=0.3, gamma=0.4),
        "attention": lambda: dropin.MIDAM_attention_pooling_loss(SAMPLES, gamma=0.4),
        "mAP": lambda: dropin.mAPLoss(SAMPLES, LABELS, top_k=2, gamma=0.4),
        "mAP logistic": lambda: dropin.mAPLoss(SAMPLES, LABELS, top_k=0, surr_loss="logistic"),
    }[name]()


def steps(loss: nn.Module, one_label: bool = True) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
    """Leaves, labels and ids, which come twice in a batch and come back."""
    for seed in range(3):
        index = torch.randint(SAMPLES, (BATCH,), generator=torch.Generator().manual_seed(seed))
        if isinstance(loss, dropin.mAPLoss):
            leaves = [torch.sigmoid(randn(BATCH, LABELS, seed=seed))]
            labels = random_labels(BATCH, LABELS, seed=seed)
        else:
            count = 2 if isinstance(loss, dropin.MIDAM_attention_pooling_loss) else 1
            leaves = [randn(BATCH, seed=seed + k).abs() + 0.2 for k in range(count)]
            labels = random_labels(BATCH, seed=seed)
            if seed == 2 and one_label:
                labels = torch.ones_like(labels)
        yield [x.requires_grad_() for x in leaves], labels, index


def composed(loss: Any, leaves: list[Tensor], labels: Tensor, index: Tensor) -> Tensor:
    if not isinstance(loss, dropin.mAPLoss):
        result: Tensor = loss._composed(leaves[0] if len(leaves) == 1 else leaves, labels, index)
        return result
    values = loss._step(leaves[0].detach(), labels, index, None, True)
    return loss._composed(leaves[0], labels, values, None, index, LABELS)


def gradients(value: Tensor, loss: nn.Module, leaves: list[Tensor]) -> list[Tensor]:
    wrt = [*leaves, *(p for p in loss.parameters() if p.requires_grad)]
    return [value.detach(), *torch.autograd.grad(value, wrt, retain_graph=True)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["softmax", "attention", "mAP", "mAP logistic"])
def test_one_step_is_what_is_composed_elsewhere(name: str, training: bool) -> None:
    fused, other = (made(name).double().train(training) for _ in range(2))
    for loss in (fused, other):
        for k, parameter in enumerate(loss.parameters()):
            parameter.data.fill_(0.2 + 0.1 * k)  # a, b and alpha
    before = {key: value.clone() for key, value in fused.state_dict().items()}
    for leaves, labels, index in steps(fused):
        found = fused(leaves if len(leaves) > 1 else leaves[0], labels, index)
        wanted = composed(other, leaves, labels, index)
        mine = gradients(found, fused, leaves)
        for a, b in zip(mine, gradients(wanted, other, leaves), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        again = gradients(found, fused, leaves)  # retain_graph
        assert all(torch.equal(a, b) for a, b in zip(mine, again, strict=True))
        with pytest.raises(RuntimeError, match="twice"):
            torch.autograd.grad(found, leaves[0], create_graph=True)[0].sum().backward()
    for key, value in fused.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[key], rtol=1e-12, atol=1e-12)
    states = [key for key in before if key.endswith(".value")]
    assert states
    assert all(torch.equal(before[k], fused.state_dict()[k]) != training for k in states)


@pytest.mark.parametrize("name", ["softmax", "attention", "mAP"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes_and_columns(name: str, dtype: torch.dtype) -> None:
    loss, exact = made(name), made(name)
    for leaves, labels, index in steps(loss):
        narrow = [x.detach().to(dtype).requires_grad_() for x in leaves]
        wide = [x.detach().double().requires_grad_() for x in narrow]
        given = [x if x.dim() == 2 else x[:, None] for x in narrow]
        found = loss(given if len(given) > 1 else given[0], labels > 0, index.int())
        wanted = exact(wide if len(wide) > 1 else wide[0], labels, index)
        assert found.dtype == torch.float32
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)
        for a, b in zip(
            torch.autograd.grad(found, narrow), torch.autograd.grad(wanted, wide), strict=True
        ):
            assert a.dtype == dtype
            size = float(b.abs().max())
            torch.testing.assert_close(a.double(), b, rtol=4 * eps, atol=(eps + 1e-4) * size + 1e-9)


@pytest.mark.parametrize("name", ["softmax", "attention", "mAP"])
def test_what_is_not_finite_and_what_is_wrong(name: str) -> None:
    loss = made(name)
    leaves, labels, index = next(steps(loss))
    before = {key: value.clone() for key, value in loss.state_dict().items()}

    def call(leaf: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        value: Tensor = loss(leaf if len(leaves) == 1 else [leaf, *leaves[1:]], labels, index)
        return value

    for error, arguments in [
        (TypeError, (leaves[0].long(), labels, index)),
        (ValueError, (leaves[0], labels[1:], index)),
        (ValueError, (leaves[0], labels, index[1:])),
        (IndexError, (leaves[0], torch.ones_like(labels), index + SAMPLES)),
    ]:
        with pytest.raises(error):
            call(*arguments)
    for key, value in loss.state_dict().items():
        assert torch.equal(value, before[key])
    bad = leaves[0].detach().clone()
    bad[2] = torch.nan
    bad.requires_grad_()
    (gradient,) = torch.autograd.grad(call(bad, torch.ones_like(labels) - labels, index), bad)
    assert bool(gradient.isnan().any())
    assert all(not bool(v.isnan().any()) for v in loss.state_dict().values())


def test_chosen_labels_of_mean_average_precision() -> None:
    loss, alone = made("mAP"), made("mAP")
    for leaves, labels, index in steps(loss):
        (gradient,) = torch.autograd.grad(loss(*leaves, labels, index, task_id=[0, 2]), leaves)
        weights = torch.tensor([1.0, 0.0, 1.0]).double().expand_as(labels)
        values = alone._step(leaves[0].detach(), labels, index, weights, True)
        chosen = torch.tensor([True, False, True])
        wanted = alone._composed(*leaves, labels, values, chosen, index, 2)
        torch.testing.assert_close(gradient, torch.autograd.grad(wanted, leaves)[0])
        assert not bool(gradient[:, 1].any())


@pytest.mark.parametrize("name", ["softmax", "attention", "mAP"])
def test_compiles_without_a_break(name: str) -> None:
    loss, eager = made(name), made(name)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for leaves, labels, index in steps(loss):
        given = leaves if len(leaves) > 1 else leaves[0]
        found, wanted = compiled(given, labels, index), eager(given, labels, index)
        torch.testing.assert_close(found, wanted)
        for a, b in zip(
            gradients(found, loss, leaves), gradients(wanted, eager, leaves), strict=True
        ):
            torch.testing.assert_close(a, b)
