"""Partial AUC and push losses: the reference, the papers' identities, state, LibAUC, extremes."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    INF,
    NAN,
    SURROGATE_ALGORITHMS,
    each_simd,
    finite_differences,
    randn,
    random_labels,
)
from loss_helpers import NUM_SAMPLES, Batch, bits_equal, their_step
from top_loss_helpers import (
    LOG,
    NUM_LABELS,
    RULES,
    close,
    each_rule,
    each_stateful_rule,
    each_width,
    follow,
    make_top_batch,
    make_top_loss,
    same_states,
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


def batches(rule: str, num_labels: int | None = None, **options: Any) -> list[Batch]:
    return [make_top_batch(rule, num_labels, seed=5 * k, **options) for k in range(4)]


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
    if rule in ("kl", "two_way_kl") and algorithm == "sort":
        with pytest.raises(ValueError, match="algorithm 'sort'"):
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


# -------------------------------------------------------------------------------------------- state


@each_stateful_rule
@each_width
def test_saved_and_loaded_goes_on_bitwise(rule: str, num_labels: int | None) -> None:
    steps = batches(rule, num_labels)
    loss = make_top_loss(rule, num_labels=num_labels)
    for batch in steps[:2]:
        top_step(loss, batch)
    for name in loss._schedule_names:
        setattr(loss, name, 0.4375)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    resumed = make_top_loss(rule, num_labels=num_labels)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for batch in steps[2:]:
        for a, b in zip(top_step(resumed, batch), top_step(loss, batch), strict=True):
            assert bits_equal(a, b)
        assert same_states(states_of(resumed), states_of(loss))
    loss.reset_state()
    assert same_states(states_of(loss), states_of(make_top_loss(rule, num_labels=num_labels)))


@each_stateful_rule
def test_when_the_state_is_written(rule: str) -> None:
    loss = make_top_loss(rule)
    top_step(loss, make_top_batch(rule))
    batch = make_top_batch(rule, seed=5)
    before = states_of(loss)
    dry = top_step(loss, batch, update_state=False)
    top_step(loss.eval(), batch)
    assert same_states(states_of(loss), before)
    with torch.no_grad():
        value = loss.train()(batch.scores, batch.labels, batch.index)
    assert bits_equal(value, dry[0])
    after = states_of(loss)
    assert not bits_equal(after["state"], before["state"])
    assert "outer" not in before or not bits_equal(after["outer"], before["outer"])


@each_rule
@pytest.mark.parametrize("labels", [0, 1])
def test_one_class_gives_zero_and_leaves_the_state(rule: str, labels: int) -> None:
    loss = make_top_loss(rule)
    top_step(loss, make_top_batch(rule))
    before = states_of(loss)
    one = Batch(randn(6), torch.full((6,), labels), torch.arange(6))
    two = make_top_batch(rule)
    absent = torch.where((two.labels > 0) == (labels > 0), 1.0, 0.0)
    for batch in (one, one._replace(scores=one.scores * NAN), two._replace(weights=absent)):
        value, gradient = top_step(loss, batch)
        assert float(value) == 0.0
        assert not gradient.any()
        assert same_states(states_of(loss), before)


@each_rule
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_bad_score_gives_nan_and_leaves_the_state(rule: str, bad: float) -> None:
    loss = make_top_loss(rule, num_labels=2, reduction="none")
    top_step(loss, make_top_batch(rule, 2))
    before = states_of(loss)
    batch = make_top_batch(rule, 2, seed=4)
    batch.scores[3, 1] = bad
    value, gradient = top_step(loss, batch)
    assert bool(value[0].isfinite())
    assert value[1].isnan()
    assert gradient[:, 1].isnan().all()
    assert bool(gradient[:, 0].isfinite().all())
    for name, state in states_of(loss).items():
        assert bits_equal(state[1], before[name][1])


@each_stateful_rule
def test_a_bad_id_is_refused_before_anything_is_written(rule: str) -> None:
    loss, batch = make_top_loss(rule), make_top_batch(rule)
    before = states_of(loss)
    for bad in (NUM_SAMPLES, -2, 2**40):
        index = torch.where(batch.index < 0, batch.index, bad)
        index[: len(index) // 2] = batch.index[: len(index) // 2]
        with pytest.raises(IndexError, match="index"):
            top_step(loss, batch._replace(index=index))
    with pytest.raises(ValueError, match="index"):
        loss(batch.scores, batch.labels)
    assert same_states(states_of(loss), before)


BAD_OPTIONS: list[tuple[str, dict[str, Any], str]] = [
    *(("exact", {"max_fpr": bad}, "max_fpr") for bad in (0.0, 1.5, -0.1, NAN, "all")),
    *(("two_way_exact", {"min_tpr": bad}, "min_tpr") for bad in (1.0, -0.1, NAN, None)),
    *(("kl", {"kl_weight": bad}, "kl_weight") for bad in (0.0, -1.0, NAN, INF, "much")),
    *(("two_way_kl", {"positive_kl_weight": bad}, "positive_kl_weight") for bad in (0.0, NAN)),
    *(("two_way_kl", {"outer_gamma": bad}, "outer_gamma") for bad in (-0.1, 1.1)),
    *(("cvar", {"eta": bad}, "eta") for bad in (-0.1, NAN, INF)),
    *(("two_way_cvar", {name: -1.0}, name) for name in ("dual_eta", "outer_eta")),
    *(("p_norm_push", {"p": bad}, "p") for bad in (0.5, NAN, INF, None)),
    *(("kl", {"mode": bad}, "mode") for bad in ("sopa", None)),
    *(("two_way_kl", {"mode": bad}, "mode") for bad in ("staco", 1)),
    *((rule, {"num_labels": bad}, "num_labels") for rule in RULES for bad in (0, 2.5)),
    *((rule, {"num_samples": 0}, "num_samples") for rule in ("kl", "cvar", "p_norm_push")),
    *((rule, {"num_samples": None}, "num_samples") for rule in ("kl", "cvar", "two_way_cvar")),
    ("kl", {"initial_state": "one"}, "initial_state"),
]


@pytest.mark.parametrize(("rule", "options", "named"), BAD_OPTIONS, ids=str)
def test_a_bad_hyper_parameter_is_named(rule: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises((ValueError, TypeError), match=named):
        make_top_loss(rule, **options)


@each_width
def test_a_bad_schedule_is_refused_by_both(num_labels: int | None) -> None:
    loss = make_top_loss("two_way_kl", num_labels=num_labels)
    batch = make_top_batch("two_way_kl", num_labels)
    before = states_of(loss)
    for name, bad in [("kl_weight", 0.0), ("gamma", 2.0), ("outer_gamma", NAN)]:
        good = float(getattr(loss, name))
        with pytest.raises(ValueError, match=name):
            setattr(loss, name, bad)
        getattr(loss, name).fill_(bad)  # past the setter
        with pytest.raises(ValueError, match=name):
            top_step(loss, batch)
        getattr(loss, name).fill_(good)
    assert same_states(states_of(loss), before)


@each_rule
@pytest.mark.usefixtures("restore_threads")
def test_threads_change_nothing(rule: str) -> None:
    size = 30_000
    labels = (torch.arange(size) % 50 == 0).long()
    batch = Batch(randn(size).float(), labels, torch.arange(size) * 7 % 10_007)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        loss = make_top_loss(rule, 10_007)
        top_step(loss, batch)
        results.append((*top_step(loss, batch), *states_of(loss).values()))
    assert results[0][1].any()
    assert all(bits_equal(a, b) for a, b in zip(*results, strict=True))


@each_rule
def test_halves(rule: str) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        half, single = make_top_loss(rule), make_top_loss(rule)
        for batch in batches(rule):
            value, gradient = top_step(half, batch._replace(scores=batch.scores.to(dtype)))
            rounded = batch.scores.to(dtype).float()
            expected_value, expected = top_step(single, batch._replace(scores=rounded))
            assert bits_equal(value, expected_value)
            assert bits_equal(gradient, expected.to(dtype))
        assert same_states(states_of(half), states_of(single))


def test_repr_and_schedules() -> None:
    text = repr(TwoWayPartialAUCLoss(5, mode="cvar", dual_eta=0.25))
    for part in ("mode='cvar'", "max_fpr=0.5", "min_tpr=0.5", "dual_eta=0.25", "margin=1.0"):
        assert part in text
    assert "p=4.0" in repr(PNormPushLoss(5))


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


# ------------------------------------------------------------------------------------------- LibAUC


def parity_batches(dtype: torch.dtype, *shape: int) -> list[Batch]:
    """No id twice in a batch, which LibAUC leaves undefined, but ids that come back."""
    labels = random_labels(20, *shape, seed=11)
    labels[:7] = 1
    labels[7:11] = 0
    steps = []
    for k in range(5):
        index = torch.randperm(20, generator=torch.Generator().manual_seed(k))[:12]
        steps.append(Batch(randn(12, *shape, seed=20 + k).to(dtype), labels[index], index))
    return steps


PARITY: dict[str, tuple[str, dict[str, Any]]] = {
    "kl": ("pAUC_DRO_Loss", {"data_len": 20, "gamma": 0.3, "Lambda": 0.6, "margin": 0.7}),
    "cvar": (
        "pAUC_CVaR_Loss",
        {"data_len": 20, "pos_len": 7, "beta": 0.3, "eta": 0.4, "margin": 0.7},
    ),
    "two_way_kl": (
        "tpAUC_KL_Loss",
        {"data_len": 20, "gammas": (0.3, 0.4), "Lambda": 0.6, "tau": 0.9, "margin": 0.7},
    ),
    "two_way_cvar": (
        "tpAUC_CVaR_loss",
        {"data_length": 20, "threshold": 0.7, "alpha": 0.3, "beta_0": 0.4, "beta_1": 0.2}
        | {"theta_0": 0.4, "theta_1": 0.3},
    ),
}


@pytest.mark.parametrize("rule", PARITY)
@pytest.mark.parametrize("name", ["squared_hinge", "hinge", "logistic"])
def test_gradients_and_states_are_libauc_s(rule: str, name: str) -> None:
    from libauc.losses import auc as libauc

    class_name, options = PARITY[rule]
    theirs = getattr(libauc, class_name)(surr_loss=name, device="cpu", **options)
    loss = make_top_loss(rule, 20, surrogate=name, margin=0.7, scale=0.7, initial_state="zero",
                         state_dtype=torch.float64)  # fmt: skip
    for attribute in ("u_pos", "s1", "s2", "u", "dual_var"):
        if hasattr(theirs, attribute):
            setattr(theirs, attribute, getattr(theirs, attribute).double())
    rtol = 1e-6 if "cvar" in rule else 1e-9  # of theirs, factors are float32
    for batch in parity_batches(torch.float64):
        _, gradient = top_step(loss, batch)
        their_gradient = their_step(theirs, batch)[1]
        assert gradient.any()
        close("gradient", gradient, their_gradient, rtol)
        states = states_of(loss)
        if rule in LOG:
            close("u", states["state"].exp()[0], theirs.u_pos[:, 0], rtol)
        if rule == "two_way_kl":
            close("v", states["outer"].exp()[0], torch.as_tensor(theirs.w), rtol)
        if rule == "cvar":
            close("s", states["state"][0], theirs.u_pos[:, 0], rtol)
        if rule == "two_way_cvar":
            close("s", states["state"][0], theirs.s1[:, 0], rtol)
            close("y", states["dual"][0], theirs.dual_var[:, 0], rtol)
            close("t", states["outer"], theirs.s2[0], rtol)


@pytest.mark.parametrize(("rule", "mode"), [("kl", "SOPAs"), ("cvar", "SOPA")])
def test_several_labels_are_libauc_s(rule: str, mode: str) -> None:
    from libauc.losses import auc as libauc

    options = {"device": "cpu", **PARITY[rule][1]}
    theirs = libauc.mPAUCLoss(mode=mode, num_labels=NUM_LABELS, **options)
    theirs.u_pos_all = theirs.u_pos_all.double()
    loss = make_top_loss(rule, 20, margin=0.7, num_labels=NUM_LABELS, initial_state="zero",
                         state_dtype=torch.float64)  # fmt: skip
    for batch in parity_batches(torch.float64, NUM_LABELS):
        close("gradient", top_step(loss, batch)[1], their_step(theirs, batch)[1], 1e-9)


def test_defect_one_large_gap_kills_a_row_for_ever() -> None:
    from libauc.losses import auc as libauc

    gap = Batch(torch.tensor([-20.0, 20.0, 0.1]), torch.tensor([1, 0, 0]), torch.arange(3))
    calm = gap._replace(scores=torch.tensor([0.1, 0.5, 0.2]))
    for theirs in (libauc.pAUC_DRO_Loss(3), libauc.tpAUC_KL_Loss(3)):
        assert their_step(theirs, gap)[1].isnan().any()
        assert theirs.u_pos[0].isinf()
        assert not their_step(theirs, calm)[1].nan_to_num(0.0).any()
    for rule in ("kl", "two_way_kl"):
        loss = make_top_loss(rule, 3)
        top_step(loss, gap)
        assert bool(loss.state.value[0, 0].isfinite())
        assert bool(top_step(loss, calm)[1].isfinite().all())


def test_defect_a_batch_without_negatives_writes_nan() -> None:
    from libauc.losses import auc as libauc

    batch = Batch(randn(4).float(), torch.ones(4, dtype=torch.int64), torch.arange(4))
    theirs = libauc.pAUC_DRO_Loss(4)
    their_step(theirs, batch)
    assert theirs.u_pos.isnan().all()
    loss = make_top_loss("kl", 4)
    top_step(loss, batch)
    assert bool((loss.state.value == -INF).all())  # untouched


def test_defect_labels_share_one_scalar() -> None:
    from libauc.losses import auc as libauc

    options = {"device": "cpu", **PARITY["two_way_kl"][1]}
    batch = parity_batches(torch.float64, 2)[0]
    theirs = libauc.mPAUCLoss(mode="SOTAs", num_labels=2, **options)
    theirs.u_pos_all = theirs.u_pos_all.double()
    gradient = their_step(theirs, batch)[1]
    loss, apart = (
        make_top_loss("two_way_kl", 20, margin=0.7, num_labels=n, initial_state="zero",
                      state_dtype=torch.float64)
        for n in (2, None)
    )  # fmt: skip
    ours = top_step(loss, batch)[1]
    close("first label", gradient[:, 0], ours[:, 0], 1e-9)
    assert float((gradient[:, 1] - ours[:, 1]).abs().max()) > 1e-3  # v of another label
    second = batch._replace(scores=batch.scores[:, 1], labels=batch.labels[:, 1])
    close("second label", 2.0 * ours[:, 1], top_step(apart, second)[1], 1e-12)


def test_defect_top_push_does_not_run() -> None:
    from libauc.losses import perf_at_top

    # the first mention of `loss` reads it
    assert "loss > self.u_pos" in Path(perf_at_top.__file__).read_text()
    value, gradient = top_step(TopPushLoss(), make_top_batch("top_push"))
    assert bool(value.isfinite())
    assert gradient.any()


def test_defect_state_dict_is_empty() -> None:
    from libauc.losses import auc as libauc

    assert not libauc.pAUC_DRO_Loss(4).state_dict()
    assert not libauc.tpAUC_CVaR_loss(4).state_dict()
    keys = set(make_top_loss("two_way_cvar").state_dict())
    assert {"state.value", "dual.value", "outer.value", "eta"} <= keys


def test_the_reference_refuses_what_it_does_not_know() -> None:
    batch = make_top_batch("kl")
    for function in (reference.partial_auc, reference.two_way_partial_auc):
        with pytest.raises(ValueError, match="mode"):
            function(batch.scores, batch.labels, mode="sopa")
        with pytest.raises(ValueError, match="state"):
            function(batch.scores, batch.labels, batch.index, torch.zeros(2, 8))
    with pytest.raises(IndexError, match="index"):
        reference.partial_auc(batch.scores, batch.labels, batch.index + 8, torch.full((8,), -INF))
