"""Partial AUC and push losses: the reference, the papers' identities, state, LibAUC, extremes."""

from typing import Any

import pytest
import torch
from helpers import (
    INF,
    SURROGATE_ALGORITHMS,
    each_simd,
    finite_differences,
    randn,
    random_labels,
)
from loss_helpers import NUM_SAMPLES, Batch
from top_loss_helpers import (
    LOG,
    RULES,
    batches,
    close,
    each_rule,
    each_width,
    follow,
    make_top_batch,
    make_top_loss,
    states_of,
    top_reference,
    top_step,
)
from torch import Tensor

from xrisk_ext import (
    PairwiseAUCLoss,
    PartialAUCLoss,
    PNormPushLoss,
    TopPushLoss,
    TwoWayPartialAUCLoss,
    reference,
)

DOUBLE: dict[str, Any] = {"state_dtype": torch.float64, "margin": 0.7, "scale": 1.3}


# ------------------------------------------------------------------------------------ the reference


@each_rule
@each_width
@pytest.mark.parametrize("weights", ["", "entry", "label"])
def test_steps_are_the_reference_s(rule: str, num_labels: int | None, weights: str) -> None:
    loss = make_top_loss(rule, num_labels=num_labels, reduction="none", **DOUBLE)
    follow(loss, batches(rule, num_labels, weights=weights))
    follow(loss.eval(), batches(rule, num_labels, weights=weights))
    mean = make_top_loss(rule, num_labels=num_labels, **DOUBLE)
    follow(mean, batches(rule, num_labels, weights=weights)[:2])


@each_rule
@pytest.mark.parametrize(("name", "algorithm"), SURROGATE_ALGORITHMS)
def test_every_surrogate_and_algorithm(rule: str, name: str, algorithm: str) -> None:
    if rule in ("kl", "two_way_kl") and algorithm not in ("direct", "auto"):
        with pytest.raises(ValueError, match=f"algorithm '{algorithm}'"):
            make_top_loss(rule, surrogate=name, algorithm=algorithm)
        return
    loss = make_top_loss(rule, surrogate=name, algorithm=algorithm, **DOUBLE)
    steps = batches(rule, weights="entry")
    if name == "zero_one":  # a threshold of 1 less a rounding lies on the other side of a loss of 1
        steps = steps[:1]
    follow(loss, steps)


@each_simd
@each_rule
def test_wide_batches_in_float32(rule: str, simd: str) -> None:
    loss = make_top_loss(rule, 700, num_labels=None)
    size = 700
    labels = random_labels(size)
    batch = Batch(randn(size).float(), labels, torch.randperm(size))
    for k in range(2):
        truth = states_of(loss)
        value, gradient = top_step(loss, batch._replace(scores=batch.scores * (1 + k)))
        expected = top_reference(loss, batch._replace(scores=batch.scores * (1 + k)), truth)
        close("value", value, expected[0], 3e-6)
        # one item between two roundings of a threshold moves an anchor's slope by its share
        close("gradient", gradient, expected[1], 1e-3 if "cvar" in rule else 2e-5)


@each_rule
def test_scores_far_from_zero_keep_their_differences(rule: str) -> None:
    # near 30 with spread 0.05, and thresholds between the pairs
    loss = make_top_loss(rule, 200, margin=0.05)
    if rule in ("cvar", "two_way_cvar"):
        loss.state.value.fill_(0.004)
    batch = Batch((30.0 + 0.05 * randn(200)).float(), random_labels(200), torch.arange(200))
    truth = states_of(loss)
    value, gradient = top_step(loss, batch)
    expected_value, expected = top_reference(loss, batch, truth)
    close("value", value, expected_value, 1e-5)
    close("gradient", gradient, expected, 1e-4)


@pytest.mark.parametrize("rule", ["kl", "two_way_kl"])
@pytest.mark.parametrize("kl_weight", [0.3, 1.0, 20.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_near_linear_log_sums(rule: str, kl_weight: float, dtype: torch.dtype) -> None:
    size = 3000
    labels = random_labels(size)
    weights = torch.arange(size) % 4 / 2
    batch = Batch(randn(size).to(dtype), labels, torch.randperm(size), weights.double())
    for _ in range(2):
        loss = make_top_loss(rule, size, kl_weight=kl_weight, state_dtype=torch.float64)
        direct = make_top_loss(
            rule, size, kl_weight=kl_weight, state_dtype=torch.float64, algorithm="direct"
        )
        truth = states_of(loss)
        expected = top_reference(loss, batch, truth)
        rtol = 1e-10 if dtype == torch.float64 else 2e-5
        for each in (loss, direct):
            value, gradient = top_step(each, batch)
            close("value", value, expected[0], rtol)
            close("gradient", gradient, expected[1], rtol)
            close("state", each.state.value, truth["state"], rtol)
        batch = batch._replace(scores=batch.scores * 0.1)


# ----------------------------------------------------------------------------- METHODS' identities


def objective(rule: str, batch: Batch) -> Any:
    """The stated objective of a batch as a function of the scores, written once more."""
    positive = batch.labels > 0
    options = RULES[rule][1]

    def value(h: Tensor) -> Tensor:
        phi = (1.0 + h[~positive][None, :] - h[positive][:, None]).clamp(min=0.0).square()
        count = phi.shape[1]
        if rule == "kl":
            weight = options["kl_weight"]
            return weight * ((phi / weight).exp().mean(dim=1)).log().mean()
        if rule == "two_way_kl":
            weight, other = options["kl_weight"], options["positive_kl_weight"]
            inner = (phi / weight).exp().mean(dim=1)
            return other * inner.pow(weight / other).mean().log()
        if rule == "top_push":
            return phi.amax(dim=1).mean()
        if rule == "p_norm_push":
            return phi.mean(dim=0).pow(options["p"]).mean()
        amount = options["max_fpr"] * count
        losses = phi.sort(dim=1, descending=True).values
        ranks = torch.arange(phi.numel(), dtype=torch.float64)
        shares = (amount - ranks[:count]).clamp(0.0, 1.0) / amount
        g = (losses * shares).sum(dim=1)  # [P]
        if rule in ("exact", "cvar"):
            return g.mean()
        amount = (1.0 - options["min_tpr"]) * len(g)
        shares = (amount - ranks[: len(g)]).clamp(0.0, 1.0) / amount
        return (g.sort(descending=True).values * shares).sum()

    return value


@each_rule
def test_without_state_it_is_the_gradient_of_the_objective(rule: str) -> None:
    # identity 1: gamma = 1 and all data in one batch; the gradient by finite differences
    batch = make_top_batch(rule, seed=3)
    f = objective(rule, batch)
    value, gradient = top_step(make_top_loss(rule).eval(), batch)
    close("value", value, f(batch.scores), 1e-12)
    close("gradient", gradient, finite_differences(f, batch.scores), 1e-7)
    if rule in LOG:  # gamma = 1 keeps state and looks at the batch alone
        loss = make_top_loss(rule, state_dtype=torch.float64, gamma=1.0)
        if rule == "two_way_kl":
            loss.outer_gamma = 1.0
        top_step(loss, make_top_batch(rule, seed=8))
        once = batch._replace(index=torch.arange(15))
        loss = make_top_loss(rule, 15, state_dtype=torch.float64, gamma=1.0)
        if rule == "two_way_kl":
            loss.outer_gamma = 1.0
        close("with state", top_step(loss, once)[1], gradient, 1e-12)


@each_rule
def test_gradients_sum_to_zero_and_shifts_change_nothing(rule: str) -> None:
    # identities 3 and 4
    loss, moved = (make_top_loss(rule, **DOUBLE) for _ in range(2))
    for batch in batches(rule, weights="entry"):
        value, gradient = top_step(loss, batch)
        assert abs(float(gradient.sum())) <= 1e-13 * float(gradient.abs().sum()) + 1e-15
        other = top_step(moved, batch._replace(scores=batch.scores + 64.0))
        close("value", other[0], value, 1e-10)
        close("gradient", other[1], gradient, 1e-9)
    for name, state in states_of(moved).items():
        close(name, state, states_of(loss)[name], 1e-9)


def test_the_best_thresholds_make_cvar_exact() -> None:
    # identity 6
    batch = make_top_batch("cvar", size=24)._replace(index=torch.arange(24))
    positive = batch.labels > 0
    phi = (1.0 + batch.scores[~positive][None, :] - batch.scores[positive][:, None]).clamp(min=0)
    losses = phi.square().sort(dim=1, descending=True).values
    count = losses.shape[1]
    best = 4  # negatives
    exact = PartialAUCLoss(mode="exact", max_fpr=best / count)
    loss = PartialAUCLoss(24, mode="cvar", max_fpr=best / count, state_dtype=torch.float64)
    # between the last that counts and the first that does not
    loss.state.value[0, positive] = (losses[:, best - 1] + losses[:, best]) / 2
    for a, b in zip(top_step(loss, batch), top_step(exact, batch), strict=True):
        close("cvar", a, b, 1e-12)


def test_two_way_cvar_starts_as_pairwise_auc() -> None:
    # identity 6: theta = 1 and no steps
    batch = make_top_batch("two_way_cvar")
    loss = TwoWayPartialAUCLoss(
        NUM_SAMPLES, mode="cvar", max_fpr=1.0, min_tpr=0.0, eta=0.0, dual_eta=0.0, outer_eta=0.0
    )
    value, gradient = top_step(loss, batch)
    expected_value, expected = top_step(PairwiseAUCLoss(), batch)  # type: ignore[arg-type]
    close("value", value, expected_value, 1e-12)
    close("gradient", gradient, expected, 1e-12)


def test_the_limits_of_every_family_are_pairwise_auc_and_top_push() -> None:
    batch = make_top_batch("exact", size=30)
    auc = top_step(PairwiseAUCLoss(), batch)  # type: ignore[arg-type]
    push = top_step(TopPushLoss(), batch)
    whole: list[Any] = [
        PartialAUCLoss(mode="exact", max_fpr=1.0),
        TwoWayPartialAUCLoss(mode="exact", max_fpr=1.0, min_tpr=0.0),
        PartialAUCLoss(gamma=1.0, kl_weight=1e9),
        PNormPushLoss(gamma=1.0, p=1.0),
    ]
    for loss in whole:
        for a, b in zip(top_step(loss, batch), auc, strict=True):
            close(repr(loss), a, b, 1e-6)
    top: list[Any] = [
        PartialAUCLoss(mode="exact", max_fpr=1e-3),
        PartialAUCLoss(gamma=1.0, kl_weight=1e-3),
    ]
    for loss in top:
        for a, b in zip(top_step(loss, batch), push, strict=True):
            close(repr(loss), a, b, 2e-3)


def test_ties_at_the_edge_count_from_the_first() -> None:
    scores = torch.tensor([0.0, 2.0, 1.0, 2.0, 1.0, 1.0])
    labels = torch.tensor([1, 0, 0, 0, 0, 0])
    loss = PartialAUCLoss(mode="exact", max_fpr=0.5, surrogate="hinge")  # 2.5 of 5 negatives
    _, gradient = top_step(loss, Batch(scores, labels, labels))
    close("gradient", gradient, torch.tensor([-1.0, 0.4, 0.2, 0.4, 0.0, 0.0]), 1e-6)


# ----------------------------------------------------------------------- extremes, and their traces


@pytest.mark.parametrize("rule", ["kl", "two_way_kl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_score_gap_poisons_the_state(rule: str, dtype: torch.dtype) -> None:
    # phi / lambda up to 1e10: nothing overflows, and what is stored is finite
    for gap in (2e2, 1e4, 1e7):
        loss = make_top_loss(rule, kl_weight=0.5)
        batch = make_top_batch(rule)
        far = batch._replace(scores=(batch.scores.sign() * gap).to(dtype))
        value, gradient = top_step(loss, far)
        assert bool(value.isfinite())
        assert gradient.any()
        assert bool(gradient.isfinite().all())
        for _ in range(3):
            value, gradient = top_step(loss, batch._replace(scores=batch.scores.to(dtype)))
            assert bool(value.isfinite())
            assert bool(gradient.isfinite().all())
        assert not any((state == INF).any() or state.isnan().any() for state in
                       states_of(loss).values())  # fmt: skip
        loss.gamma = 1.0  # a row is as good as new
        if rule == "two_way_kl":
            loss.outer_gamma = 1.0
        fresh = make_top_loss(rule, kl_weight=0.5)
        once = batch._replace(scores=batch.scores.to(dtype), index=torch.arange(15) % NUM_SAMPLES)
        if rule == "kl":
            loss.reset_state()
        close("gradient", top_step(loss, once)[1], top_step(fresh, once)[1], 1e-4)


def test_powers_past_any_range_are_inf_and_not_nan() -> None:
    batch = Batch(torch.tensor([0.0, 1e12, 5e11, -3.0]), torch.tensor([1, 0, 0, 0]),
                  torch.tensor([-1, 0, 1, 2]))  # fmt: skip
    loss = PNormPushLoss(3, p=6.0)
    value, gradient = top_step(loss, batch)
    assert float(value) == INF
    assert not gradient.isnan().any()
    assert float(gradient[1]) == INF
    assert float(gradient[3]) == 0.0
    assert bool(loss.state.value[0, :2].isfinite().all())
    calm = batch._replace(scores=torch.tensor([0.0, 0.5, 0.1, -0.2]))
    loss.gamma = 1.0
    assert bool(top_step(loss, calm)[1].isfinite().all())


def test_a_threshold_of_any_size_is_a_threshold() -> None:
    batch = make_top_batch("cvar")
    for s in (-1e20, -3.0, 0.0, 1e-20, 1e20):
        for surrogate in ("squared_hinge", "hinge", "logistic", "barrier_hinge"):
            loss = make_top_loss("cvar", surrogate=surrogate, state_dtype=torch.float64)
            loss.state.value.fill_(s)
            follow(loss, [batch])


def test_the_reference_refuses_what_it_does_not_know() -> None:
    batch = make_top_batch("kl")
    for function in (reference.partial_auc, reference.two_way_partial_auc):
        with pytest.raises(ValueError, match="mode"):
            function(batch.scores, batch.labels, mode="sopa")
        with pytest.raises(ValueError, match="state"):
            function(batch.scores, batch.labels, batch.index, torch.zeros(2, 8))
    with pytest.raises(IndexError, match="index"):
        reference.partial_auc(batch.scores, batch.labels, batch.index + 8, torch.full((8,), -INF))
