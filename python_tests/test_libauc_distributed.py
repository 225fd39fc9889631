"""xrisk_ext.libauc on two processes (gloo), against LibAUC on two, or on one that has all rows.

Where LibAUC is right on several processes it runs beside ours there. Where it is not (its bimodal
loss takes other pairs for the positives on ranks > 0, its temperatures and shifts stay where they
were computed, its listwise loss shifts by a maximum of each process) it has the whole batch in one
process: there, a gradient is half of what a process gives to an average over two.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from process_helpers import process_group, record_checks, run_checks_in_processes
from test_libauc_dropin import CASES, STEPS, Case, Step, make_both, run, scored, views
from torch import Tensor, nn

from xrisk_ext import libauc as dropin
from xrisk_ext.distributed import DistributedLoss

BESIDE = (
    "APLoss", "APLoss columns", "SOPA", "SOPAs", "SOTAs", "mPAUC", "pAUC 2w", "SONG", "K-SONG",
    "K-SONG practical", "SogCLR",
)  # fmt: skip
ALONE = ("ListwiseCE", "iSogCLR", "bimodal", "bimodal iSogCLR")


def half(step: Step) -> Step:
    """This process's rows of all that has rows."""
    rows = len(step.leaves[0]) // 2
    here = slice(dist.get_rank() * rows, (dist.get_rank() + 1) * rows)

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: cut(each) for name, each in value.items()}
        return value[here] if isinstance(value, Tensor) else value

    return Step(tuple(map(cut, step.leaves)), tuple(map(cut, step.rest)), cut(step.keywords))


def set_distributed(loss: nn.Module, distributed: bool) -> None:
    for module in loss.modules():
        if hasattr(module, "distributed"):
            module.distributed = distributed


def both_of(case: Case) -> tuple[nn.Module, nn.Module]:
    if not case.name.startswith("GCLoss"):
        return make_both(case)
    options = {"distributed": True}
    if "v2" in case.name or case.options.get("mode") == "bimodal":
        options |= {"rank": dist.get_rank(), "world_size": 2}
    return make_both(case._replace(options=case.options | options))


def close(what: str, actual: Tensor, expected: Tensor) -> None:
    size = float(expected.abs().max())
    torch.testing.assert_close(
        actual, expected, rtol=3e-5, atol=3e-5 * max(size, 1e-6), msg=lambda m: f"{what}: {m}"
    )


def check_beside(name: str) -> None:
    theirs, ours = both_of(CASES[name])
    for k in range(STEPS):
        step = half(CASES[name].make_step(k))
        for a, e in zip(run(ours, step)[1:], run(theirs, step)[1:], strict=True):
            assert e.any()
            close(f"step {k}", a, e)


def check_alone(name: str) -> None:
    case = CASES[name]
    theirs, whole = make_both(case)
    ours = both_of(case)[1]
    for loss in (theirs, whole):
        set_distributed(loss, distributed=False)
    for k in range(STEPS):
        step = case.make_step(k)
        rows = half(step)
        found = run(ours, rows)
        for expected in (run(theirs, step), run(whole, step)):
            for a, e in zip(found[1:], half(Step(expected[1:], ())).leaves, strict=True):
                close(f"step {k}", a, 2 * e)
        close("value", found[0], expected[0])
    for name_of, value in whole.state_dict().items():
        if value.is_floating_point() and value.dim():
            close(name_of, ours.state_dict()[name_of].nan_to_num(), value.nan_to_num())


def check_bimodal_positives_of_theirs_are_wrong() -> None:
    """The defect: rank 1 takes the pairs of rank 0 for its own positives."""
    case = CASES["bimodal"]
    theirs, ours = both_of(case)
    step = half(views(0, True))
    expected, found = run(theirs, step)[1], run(ours, step)[1]
    assert float((expected - found).abs().max()) > 0.01 * float(found.abs().max())


def check_state_is_the_same_on_both() -> None:
    _, ours = both_of(CASES["SOTAs"])
    for k in range(2):
        run(ours, half(scored(k)))
    state = torch.cat([v.reshape(-1) for n, v in ours.state_dict().items() if n.endswith("value")])
    others = [torch.empty_like(state) for _ in range(2)]
    dist.all_gather(others, state)
    assert torch.equal(others[0], others[1])


def check_nothing_gathers_twice() -> None:
    for loss in (dropin.APLoss(8), dropin.pAUCLoss(data_len=8), dropin.GCLoss(distributed=True)):
        with pytest.raises(ValueError, match="gathers by itself"):
            DistributedLoss(loss)
    DistributedLoss(dropin.PairwiseAUCLoss())


def _run_rank(rank: int, folder: str) -> None:
    checks: dict[str, Callable[[], None]] = {
        f"beside {name}": lambda name=name: check_beside(name) for name in BESIDE
    }
    checks |= {f"alone {name}": lambda name=name: check_alone(name) for name in ALONE}
    checks |= {
        check.__name__: check
        for check in (
            check_bimodal_positives_of_theirs_are_wrong,
            check_state_is_the_same_on_both,
            check_nothing_gathers_twice,
        )
    }
    with process_group(rank, 2, folder):
        record_checks(checks, Path(folder, f"{rank}.txt"))


def test_two_processes(subtests: pytest.Subtests) -> None:
    names = run_checks_in_processes(2, _run_rank, subtests)
    assert len(names) == len(BESIDE) + len(ALONE) + 3
