"""xrisk_ext.libauc against LibAUC: the same calls, side by side, over several steps."""

import contextlib
import inspect
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import libauc.losses
import pytest
import torch
from helpers import randn, random_labels
from libauc.losses.auc import tpAUC_CVaR_loss
from loss_helpers import bits_equal
from torch import Tensor, nn

from xrisk_ext import libauc as dropin

SAMPLES, STEPS = 20, 5


class Step(NamedTuple):
    """A call: tensors that get gradients, then the other arguments."""

    leaves: tuple[Tensor, ...]
    rest: tuple[Any, ...]
    keywords: dict[str, Any] = {}  # noqa: RUF012


def ids(seed: int, count: int = 12, among: int = SAMPLES) -> Tensor:
    """No id twice in a batch, which LibAUC leaves undefined, but ids that come back."""
    return torch.randperm(among, generator=torch.Generator().manual_seed(seed))[:count]


def scored(seed: int, labels: int = 0, column: bool = False) -> Step:
    index = ids(seed)
    shape = (labels,) if labels else ()
    targets = random_labels(SAMPLES, *shape, seed=11)
    targets[:7], targets[7:11] = 1, 0
    scores = torch.sigmoid(randn(12, *shape, seed=20 + seed)).float()
    y = targets[index]
    return Step((scores[:, None] if column else scores,), (y[:, None] if column else y, index))


def without_index(step: Step) -> Step:
    return step._replace(rest=step.rest[:1])


def floats(step: Step) -> Step:
    return step._replace(rest=(step.rest[0].float(),))


def lists(seed: int) -> Step:
    """4 queries of 5, each with 3 relevant items of 8."""
    users = ids(seed, 4, 5)
    generator = torch.Generator().manual_seed(seed)
    items = torch.stack([torch.randperm(6, generator=generator)[:3] for _ in range(4)])
    pairs = torch.cat([users[:, None] * 6 + items, torch.zeros(4, 5, dtype=torch.int64)], dim=1)
    rating = torch.randint(1, 5, (4, 8), generator=generator)
    batch = {
        "rating": rating,
        "user_id": users,
        "num_pos_items": torch.full((4,), 6),
        "ideal_dcg": torch.rand(4, generator=generator) + 5,
        "user_item_id": pairs,
    }
    return Step((randn(4, 8, seed=40 + seed).float(),), (batch,))


def views(seed: int, unit: bool = False) -> Step:
    """First every id once: LibAUC's first touch is one for the whole batch."""
    index = torch.arange(10) + 10 * seed if seed < 2 else ids(seed, 10)
    first = randn(10, 6, seed=60 + seed)
    second = first + 0.8 * randn(10, 6, seed=80 + seed)
    if unit:
        first, second = (nn.functional.normalize(v, dim=1) for v in (first, second))
    return Step((first.float(), second.float()), (index,))


def classes(seed: int) -> Step:
    logits = randn(12, 9, seed=seed).float()
    target = torch.arange(12) % 9
    logits = logits - logits.gather(1, target[:, None])
    return Step((logits,), (ids(seed),))


def bags(seed: int, pair: bool = False) -> Step:
    step = scored(seed, column=True)
    values = step.leaves[0] + 0.5
    keywords = {"y_true": step.rest[0], "index": step.rest[1]}
    leaves = (values, values.flip(0) + 0.3) if pair else (values,)
    return Step(leaves, (), keywords)


class Case(NamedTuple):
    name: str
    options: dict[str, Any]
    make_step: Callable[[int], Step]
    value: bool = False  # whether the returned number is LibAUC's, too
    signs: int = 0  # gradients of a, b and alpha are compared, alpha's reversed


AP = {"data_len": SAMPLES, "gamma": 0.3, "margin": 0.7}
CASES = {
    "APLoss": Case("APLoss", AP, scored),
    "APLoss columns": Case("APLoss", AP, lambda k: scored(k, column=True)),
    "AP hinge": Case("AveragePrecisionLoss", AP | {"surr_loss": "hinge"}, scored),
    "AP logistic": Case("APLoss", AP | {"surr_loss": "logistic"}, scored),
    "AP barrier": Case("APLoss", AP | {"surr_loss": "barrier_hinge", "margin": (0.7, 1.3)}, scored),
    "mAPLoss": Case("mAPLoss", AP | {"num_labels": 3}, lambda k: scored(k, 3)),
    "mAPLoss top_k": Case("mAPLoss", AP | {"num_labels": 3, "top_k": 2}, lambda k: scored(k, 3)),
    "mAPLoss top_k logistic": Case(
        "mAPLoss",
        AP | {"num_labels": 2, "top_k": 0, "surr_loss": "logistic"},
        lambda k: scored(k, 2),
    ),
    "PairwiseAUC": Case("PairwiseAUCLoss", {}, lambda k: without_index(scored(k)), value=True),
    "PairwiseAUC squared": Case(
        "PairwiseAUCLoss",
        {"surr_loss": "squared", "hparam": 0.4},
        lambda k: without_index(scored(k, column=True)),
        value=True,
    ),
    "AUCM": Case(
        "AUCMLoss",
        {"margin": 0.7},
        lambda k: without_index(scored(k, column=True)),
        value=True,
        signs=1,
    ),
    "AUCM v2": Case(
        "AUCMLoss",
        {"margin": 0.7, "version": "v2"},
        lambda k: without_index(scored(k)),
        value=True,
        signs=1,
    ),
    "AUCM imratio": Case(
        "AUCMLoss",
        {"margin": 0.7, "imratio": 0.1},
        lambda k: without_index(scored(k))._replace(keywords={"auto": False}),
        value=True,
        signs=1,
    ),
    "mAUCM": Case(
        "mAUCMLoss",
        {"margin": 0.7, "num_labels": 3},
        lambda k: without_index(scored(k, 3)),
        value=True,
        signs=1,
    ),
    "mAUCM v2": Case(
        "mAUCMLoss",
        {"margin": 0.7, "num_labels": 3, "version": "v2"},
        lambda k: without_index(scored(k, 3)),
        value=True,
        signs=1,
    ),
    "SOPA": Case("pAUC_CVaR_Loss", {"data_len": SAMPLES, "pos_len": 7, "eta": 0.4}, scored),
    "SOPAs": Case("pAUC_DRO_Loss", {"data_len": SAMPLES, "Lambda": 0.6, "gamma": 0.3}, scored),
    "SOTAs": Case(
        "tpAUC_KL_Loss",
        {"data_len": SAMPLES, "gammas": (0.3, 0.4), "Lambda": 0.6, "tau": 0.9},
        scored,
    ),
    "STACO": Case(
        "tpAUC_CVaR_loss",
        {"data_length": SAMPLES, "threshold": 0.7, "theta_0": 0.4, "theta_1": 0.3, "beta_0": 0.4},
        scored,
    ),
    "pAUC 1w": Case("pAUCLoss", {"data_len": SAMPLES}, scored),
    "pAUC 2w": Case("pAUCLoss", {"mode": "2w", "data_len": SAMPLES}, scored),
    "pAUC SOPA": Case("pAUCLoss", {"mode": "SOPA", "data_len": SAMPLES, "pos_len": 7}, scored),
    "mPAUC": Case("mPAUCLoss", {"num_labels": 3, "data_len": SAMPLES}, lambda k: scored(k, 3)),
    "SONG": Case("NDCGLoss", {"N": 30, "num_user": 5, "num_item": 50, "num_pos": 3}, lists),
    "K-SONG": Case(
        "NDCGLoss",
        {"N": 30, "num_user": 5, "num_item": 50, "num_pos": 3, "topk": 10, "tau_1": 0.3},
        lists,
    ),
    "K-SONG practical": Case(
        "NDCGLoss",
        {"N": 30, "num_user": 5, "num_item": 50, "num_pos": 3, "topk": 10, "topk_version": "prac"},
        lists,
    ),
    "ListwiseCE": Case("ListwiseCELoss", {"N": 30, "num_pos": 3, "gamma": 0.3}, lists),
    "SogCLR": Case("GCLoss", {"N": SAMPLES, "tau": 0.3, "gamma": 0.4}, views),
    "iSogCLR": Case(
        "GCLoss_v1", {"N": SAMPLES, "tau": 0.3, "gamma": 0.4, "enable_isogclr": True}, views
    ),
    "bimodal": Case(
        "GCLoss",
        {"mode": "bimodal", "N": SAMPLES, "tau": 0.3, "gamma": 0.4},
        lambda k: views(k, True),
    ),
    "bimodal iSogCLR": Case(
        "GCLoss_v2",
        {"N": SAMPLES, "tau": 0.04, "gamma": 0.4, "enable_isogclr": True},
        lambda k: views(k, True),
    ),
    "CrossEntropy": Case("CrossEntropyLoss", {}, lambda k: floats(scored(k)), value=True),
    "Focal": Case("FocalLoss", {"alpha": 0.3}, lambda k: floats(scored(k)), value=True),
    "SCENT": Case("EntLossClassification", {"data_size": SAMPLES, "alpha": 0.4}, classes, True),
    "SOX": Case("EntLossClassification", {"data_size": SAMPLES, "is_scent": False}, classes, True),
    "MIDAM softmax": Case("MIDAMLoss", {"mode": "softmax", "data_len": SAMPLES}, bags, True, 1),
    "MIDAM attention": Case(
        "MIDAMLoss", {"data_len": SAMPLES}, lambda k: bags(k, pair=True), True, 1
    ),
}


def make_both(case: Case) -> tuple[nn.Module, nn.Module]:
    theirs = (
        tpAUC_CVaR_loss if case.name == "tpAUC_CVaR_loss" else getattr(libauc.losses, case.name)
    )
    with contextlib.redirect_stdout(io.StringIO()):  # some print in the constructor
        return theirs(**case.options), getattr(dropin, case.name)(**case.options)


def run(loss: Any, step: Step, *others: Tensor) -> tuple[Tensor, ...]:
    """The value, and the gradients of the leaves and of `others`."""
    leaves = tuple(t.detach().requires_grad_() for t in step.leaves)
    if "y_true" in step.keywords:  # MIDAM takes keywords alone
        result = loss(y_pred=leaves if len(leaves) > 1 else leaves[0], **step.keywords)
    else:
        result = loss(*leaves, *step.rest, **step.keywords)
    value = result["loss"] if isinstance(result, dict) else result
    value = value[0] if isinstance(value, tuple) else value
    wrt = [*leaves, *(t for t in others if t.requires_grad)]
    gradients = torch.autograd.grad(value.sum(), wrt)
    for name in ("grad_tau", "learnable_tau"):  # theirs keep the graph of every step
        inner = getattr(loss, "loss_fn", loss)
        if isinstance(getattr(inner, name, None), Tensor):
            setattr(inner, name, getattr(inner, name).detach())
    return (value.detach().reshape(()), *gradients)


@pytest.mark.parametrize("name", CASES)
def test_side_by_side(name: str) -> None:
    case = CASES[name]
    theirs, ours = make_both(case)
    for k in range(STEPS):
        step = case.make_step(k)
        duals: list[list[Tensor]] = [[], []]
        if case.signs:
            for of, loss in zip(duals, (theirs, ours), strict=True):
                of += [loss.a, loss.b, loss.alpha]  # type: ignore[arg-type]
            start = torch.linspace(0.2, 0.6, duals[0][0].numel())
            for position, (a, b) in enumerate(zip(*duals, strict=True)):
                a.data.copy_(start * (position + 1 + 0.1 * k))
                b.data.copy_(a.data)
        expected = run(theirs, step, *duals[0])
        actual = run(ours, step, *duals[1])
        assert len(actual) == len(expected)
        if not case.value:
            actual, expected = actual[1:], expected[1:]
        if case.signs and duals[0][2].requires_grad:
            actual = (*actual[:-1], -actual[-1])  # ours ascends
        for a, e in zip(actual, expected, strict=True):
            assert a.shape == e.shape
            size = float(e.abs().max())
            torch.testing.assert_close(a, e, rtol=3e-5, atol=3e-5 * max(size, 1e-6))
    assert any(bool(g.any()) for g in actual)


def defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "self"}


def test_every_class_is_there_with_its_signature() -> None:
    from libauc.losses import auc, contrastive, losses, mil, ranking, xc

    theirs = {
        name: value
        for module in (auc, contrastive, losses, mil, ranking, xc)
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, nn.Module) and value is not nn.Module
        and value.__module__.startswith("libauc.losses")
    }  # fmt: skip
    assert set(theirs) == set(dropin.__all__)
    for name, their_class in theirs.items():
        our_class = getattr(dropin, name)
        their_arguments = defaults(their_class.__init__)
        assert defaults(our_class.__init__) == their_arguments, name
        their_names = [*inspect.signature(their_class.forward).parameters][1:]
        our_names = [*inspect.signature(our_class.forward).parameters][1:]
        shared = [n for n in their_names if n not in ("auto", "kwargs", "k", "task_id")]
        assert our_names[: len(shared)] == shared, name


def test_aliases_are_the_same_classes() -> None:
    for alias, name in [
        ("APLoss", "AveragePrecisionLoss"),
        ("mAPLoss", "meanAveragePrecisionLoss"),
        ("mAUCMLoss", "MultiLabelAUCMLoss"),
        ("mPAUCLoss", "MultiLabelpAUCLoss"),
    ]:
        assert getattr(dropin, alias) is getattr(dropin, name)


def test_an_index_of_the_positives_alone() -> None:
    step = scored(0)
    labels, index = step.rest
    whole, alone = dropin.APLoss(SAMPLES), dropin.APLoss(SAMPLES)
    for a, b in zip(
        run(whole, step), run(alone, step._replace(rest=(labels, index[labels > 0]))), strict=True
    ):
        assert bits_equal(a, b)
    assert bits_equal(whole.state.value, alone.state.value)
    wide = scored(1, 3)
    labels, index = wide.rest
    positive = (labels > 0).any(1)
    loss = dropin.mAPLoss(SAMPLES, num_labels=3)
    run(loss, wide._replace(rest=(labels, index[positive])))
    with pytest.raises(ValueError, match="index"):
        run(loss, wide._replace(rest=(labels, index[:2])))


def test_tasks_of_a_batch() -> None:
    step = scored(0, 3)
    tasks = torch.tensor([2, 0, 2])
    theirs, ours = make_both(CASES["mAPLoss"])
    for k in range(3):
        step = scored(k, 3)
        step = step._replace(rest=(*step.rest, tasks))
        expected, actual = run(theirs, step)[1], run(ours, step)[1]
        torch.testing.assert_close(actual, expected, rtol=3e-5, atol=1e-6)
        assert not actual[:, 1].any()
    assert not ours.state.value[1].any()  # type: ignore[index, union-attr]


def test_compositional_auc_alternates() -> None:
    options: dict[str, Any] = {"k": 2, "margin": 0.6}
    theirs = libauc.losses.CompositionalAUCLoss(**options)
    ours = dropin.CompositionalAUCLoss(**options)
    for k in range(7):
        scores, labels = scored(k).leaves[0], scored(k).rest[0].float()
        for loss in (theirs, ours):
            loss.alpha.data.fill_(0.4)
        expected = theirs(scores, labels).detach().reshape(())
        torch.testing.assert_close(ours(scores, labels).detach(), expected)
        assert theirs.step == ours.step


def test_state_is_saved_and_parameters_of_theirs_load() -> None:
    theirs, ours = libauc.losses.AUCMLoss(), dropin.AUCMLoss()
    theirs.a.data.fill_(0.3)
    ours.load_state_dict(theirs.state_dict())
    assert ours.a.item() == pytest.approx(0.3)
    loss, other = dropin.APLoss(SAMPLES), dropin.APLoss(SAMPLES)
    run(loss, scored(0))
    other.load_state_dict(loss.state_dict())
    for a, b in zip(run(loss, scored(1)), run(other, scored(1)), strict=True):
        assert bits_equal(a, b)


def test_where_theirs_is_an_error_or_nan_ours_is_right() -> None:
    nothing = Step((torch.rand(4),), (torch.zeros(4), torch.arange(4)))
    for name in ("APLoss", "pAUC_DRO_Loss", "tpAUC_KL_Loss"):
        value, gradient = run(getattr(dropin, name)(SAMPLES), nothing)
        assert value == 0
        assert not gradient.any()
    gap = Step((torch.tensor([-60.0, 60.0]),), (torch.tensor([1, 0]), torch.arange(2)))
    results = run(dropin.pAUC_DRO_Loss(SAMPLES), gap)
    assert all(bool(r.isfinite().all()) for r in results)
    one = Step((torch.rand(1),), (torch.ones(1), torch.zeros(1, dtype=torch.int64)))
    assert all(bool(r.isfinite().all()) for r in run(dropin.APLoss(SAMPLES), one))
    staco = dropin.pAUCLoss(mode="STACO", data_len=SAMPLES)  # a TypeError there
    assert run(staco, scored(0))[1].any()


def test_arguments_that_make_no_sense() -> None:
    for make in (
        lambda: dropin.AUCMLoss(version="v3"),
        lambda: dropin.pAUCLoss(mode="3w", data_len=8),
        lambda: dropin.mPAUCLoss(mode="STACO", data_len=8),
        lambda: dropin.NDCGLoss(8, 2, 2, 2, topk_version="both"),
        lambda: dropin.GCLoss(mode="trimodal"),
        lambda: dropin.GCLoss_v2(world_size=2),
        lambda: dropin.GCLoss_v2(temperature_scheme="hot"),
        lambda: dropin.GCLoss_v1(gamma_schedule="cosine"),
        lambda: dropin.MIDAMLoss(mode="mean", data_len=8),
        lambda: dropin.CompositionalAUCLoss(k=0),
    ):
        with pytest.raises(ValueError, match=r"expected|unknown"):
            make()


def test_the_cosine_schedule() -> None:
    options = {"N": 4, "gamma": 0.2, "gamma_schedule": "cosine", "gamma_decay_epochs": 10}
    with contextlib.redirect_stdout(io.StringIO()):
        theirs, ours = libauc.losses.GCLoss(**options), dropin.GCLoss(**options)
        for epoch in (0, 3, 10, 12):
            theirs.adjust_gamma(epoch)
            ours.adjust_gamma(epoch)
            assert float(ours.loss_fn.gamma) == pytest.approx(theirs.loss_fn.gamma)
