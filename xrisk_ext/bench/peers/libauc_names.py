"""LibAUC's classes, and ours of the same names, called alike."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor

from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import PAIRS_HELD, UnavailableError, peer
from xrisk_ext.bench.peers.ours import check_device
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.libauc_cases import LibaucInputs

# The others take scores and labels alone.
WITH_INDEX = ("APLoss", "pAUCLoss", "tpAUC_CVaR_loss")


def _calls(loss: Any, inputs: LibaucInputs, scores: Tensor) -> Callable[[], None]:
    index = (inputs.ids,) if inputs.class_name in WITH_INDEX else ()

    def call() -> None:
        scores.grad = None
        loss(scores, inputs.labels, *index).backward()

    return call


def _error(inputs: LibaucInputs) -> float:
    """Of the gradient of a first step, against ours in float64."""
    from xrisk_ext import libauc

    on_cpu = truth.on_cpu(inputs)
    scores = on_cpu.scores.detach().double().requires_grad_()
    loss = getattr(libauc, inputs.class_name)(**inputs.options).cpu()
    _calls(loss, on_cpu, scores)()
    assert scores.grad is not None
    return truth.relative_error(inputs.scores.grad, scores.grad)


def _contestant(name: str, loss: Any, inputs: LibaucInputs) -> Contestant:
    start = copy.deepcopy(vars(loss))

    def reset() -> None:
        vars(loss).update(copy.deepcopy(start))

    return Contestant(name, _calls(loss, inputs, inputs.scores), reset, lambda: _error(inputs))


@peer("libauc", "ours")
def ours(inputs: LibaucInputs) -> Contestant:
    from xrisk_ext import libauc

    check_device(inputs.scores)
    loss = getattr(libauc, inputs.class_name)(**inputs.options).to(inputs.scores.device)
    return _contestant("ours", loss, inputs)


@peer("libauc", "libauc", max_pairs=PAIRS_HELD)
def theirs(inputs: LibaucInputs) -> Contestant:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module("libauc.losses.auc")
            others = importlib.import_module("libauc.losses.losses")
    except ImportError as error:
        raise UnavailableError(str(error)) from error
    make = getattr(module, inputs.class_name, None) or getattr(others, inputs.class_name)
    return _contestant("libauc", make(**inputs.options), inputs)
