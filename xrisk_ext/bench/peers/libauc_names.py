"""LibAUC's classes, and ours of the same names, called alike."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import warnings
from typing import Any

import torch
from torch import Tensor

from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import PAIRS_HELD, UnavailableError, peer
from xrisk_ext.bench.peers.ours import check_device
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.libauc_cases import RELEVANT, LibaucInputs

MODULES = ("auc", "losses", "ranking", "contrastive", "mil", "xc")
# Not at the start, where they are 0 and what they weigh could be anything.
PARAMETERS = {"a": 0.4, "b": 0.2, "alpha": 0.3}


def _arguments(inputs: LibaucInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    first, second, labels, ids, loss = inputs
    if loss.form == "lists":
        queries = len(first)
        batch = {
            "rating": labels,
            "user_item_id": ids,
            "user_id": torch.arange(queries, device=ids.device),
            "num_pos_items": torch.full((queries,), 2 * RELEVANT, device=ids.device),
            "ideal_dcg": torch.full((queries,), 20.0, device=ids.device),
        }
        return (first, batch), {}
    if loss.form == "bags":
        pooled = first if second is None else (first, second)
        return (), {"y_pred": pooled, "y_true": labels, "index": ids}
    return {
        "scores": (first, labels),
        "indexed": (first, labels, ids),
        "views": (first, second, ids),
        "classes": (first, ids),
    }[loss.form], {}


def _value(result: Any) -> Tensor:
    """Some return a dict, some the mean temperatures as well."""
    if isinstance(result, dict):
        result = result["loss"]
    value: Tensor = result[0] if isinstance(result, tuple) else result
    return value


class _Steps:
    """`call`: forward and backward. The compositional AUC alternates: one step of each kind."""

    def __init__(self, loss: Any, inputs: LibaucInputs) -> None:
        if all(isinstance(getattr(loss, name, None), Tensor) for name in PARAMETERS):
            for name, number in PARAMETERS.items():
                getattr(loss, name).data.fill_(number)
        self.loss = loss
        self.inputs = inputs
        self.arguments, self.keywords = _arguments(inputs)
        self.repeats = 2 if inputs.loss.class_name == "CompositionalAUCLoss" else 1
        self.start = copy.deepcopy(vars(loss))

    def forward(self) -> Tensor:
        return _value(self.loss(*self.arguments, **self.keywords))

    def call(self) -> None:
        self.inputs.first.grad = None
        if self.inputs.second is not None:
            self.inputs.second.grad = None
        for _ in range(self.repeats):
            self.forward().backward()

    def reset(self) -> None:
        vars(self.loss).update(copy.deepcopy(self.start))

    def found(self) -> list[Tensor | None]:
        """The gradients of the last call and, where it can be compared, the value of a first."""
        found = [x.grad for x in self.inputs[:2] if isinstance(x, Tensor)]
        if self.inputs.loss.with_value:
            self.reset()
            found.append(self.forward().detach().reshape(()))
        return found


class _TheirSteps(_Steps):
    """LibAUC's iSogCLR keeps every step's graph: the second backward fails unless it is cut."""

    def call(self) -> None:
        super().call()
        for name in ("grad_tau", "learnable_tau"):
            kept = getattr(self.loss, name, None)
            if isinstance(kept, Tensor) and kept.grad_fn is not None:
                setattr(self.loss, name, kept.detach())


def _error(steps: _Steps) -> float:
    """Of the gradients of a first step, and of its value, against ours in float64."""
    from xrisk_ext import libauc

    inputs = truth.on_cpu(steps.inputs)
    second = None if inputs.second is None else inputs.second.double().requires_grad_()
    inputs = inputs._replace(first=inputs.first.double().requires_grad_(), second=second)

    def compute() -> list[Tensor | None]:
        with contextlib.redirect_stdout(io.StringIO()):
            loss = getattr(libauc, inputs.loss.class_name)(**inputs.loss.options).cpu()
        exact = _Steps(loss, inputs)
        exact.call()
        return exact.found()

    tensors = tuple(x.detach() for x in steps.inputs[:4] if isinstance(x, Tensor))
    exact = truth.once_for("libauc", tensors, repr(inputs.loss), compute)
    return max(truth.relative_error(x, y) for x, y in zip(steps.found(), exact, strict=True))


def _contestant(name: str, steps: _Steps) -> Contestant:
    return Contestant(name, steps.call, steps.reset, lambda: _error(steps))


@peer("libauc", "ours", own=True)
def ours(inputs: LibaucInputs) -> Contestant:
    from xrisk_ext import libauc

    check_device(inputs.first)
    loss = getattr(libauc, inputs.loss.class_name)(**inputs.loss.options)
    return _contestant("ours", _Steps(loss.to(inputs.first.device), inputs))


@peer("libauc", "libauc", max_pairs=PAIRS_HELD)
def theirs(inputs: LibaucInputs) -> Contestant:
    name = inputs.loss.class_name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            modules = [importlib.import_module(f"libauc.losses.{module}") for module in MODULES]
    except ImportError as error:
        raise UnavailableError(str(error)) from error
    make = next(getattr(module, name) for module in modules if hasattr(module, name))
    with contextlib.redirect_stdout(io.StringIO()):  # some print in the constructor
        return _contestant("libauc", _TheirSteps(make(**inputs.loss.options), inputs))
