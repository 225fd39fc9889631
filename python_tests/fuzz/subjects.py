"""A subject of the contract tests: something public, how it is called, and what it promises."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

# Of shorter rows one over the length overflows in float32.
SHORTEST_ROW = 1e-37

# What becomes of scores that are not finite:
# "nan": value, gradient and no state at all, where there is anything to compare
# "lists": value NaN, gradient and state of the lists that have them alone
# "rows": one value an entry, of which the others stay as they are
# "value": the value is NaN, and no row of the state ever is
# "refused": a ValueError
# "defined": a number each, which tests of its own hold to the reference
Bad = Literal["nan", "lists", "rows", "value", "refused", "defined"]
Tensors = dict[str, Tensor]


def by_name(subject: Any, tensors: Tensors) -> Any:
    return subject(**tensors)


@dataclass(frozen=True)
class Subject:
    """What is public under a name; the names of roles are those of arguments of `draw`."""

    makes: tuple[Callable[[], Any], ...]  # modules with fresh state, or functions: the variants
    draw: Callable[..., Tensors]  # of a Draw
    call: Callable[[Any, Tensors], Any] = by_name
    leaves: tuple[str, ...] = ("scores",)
    labels: tuple[str, ...] = ("labels",)
    ids: tuple[str, ...] = ()
    among: tuple[int, ...] = ()  # how many ids there are: the size of that dimension of the state
    bad: Bad = "nan"
    empty: float = 0.0  # the value of no entries
    # largest score of the checks that need exact float32, and those that a float32 state passes
    exact_below: float = float("inf")
    exact_in_state_below: float = float("inf")
    finite_below: float = float("inf")
    finite_in_half_below: float = float("inf")
    rounds_inputs: bool = False  # what is computed of them is kept in their dtype
    terms: float = 1.0  # what cancels in value and gradient is as large as this
    rows: bool = False  # embeddings: in the gradient of a row it is that over the row's length
    shortest: float = SHORTEST_ROW
    takes_minus_infinity: bool = False  # as the logarithm of zero
    may_be_infinite: bool = False  # by definition, of finite scores
    same_bits: bool = True  # in any layout; else within the rounding
    left_out_by: tuple[str, ...] = ()  # arguments that make an entry as good as none
    entries_in: int = 0  # the dimension that they lie in


class Outcome(NamedTuple):
    """Of one call: values in one row, gradients by name, the state after it."""

    value: Tensor
    gradients: Tensors
    state: Tensors


def result_of(returned: Any) -> Tensor:
    if isinstance(returned, dict):
        returned = returned["loss"]
    parts = returned if isinstance(returned, tuple) else (returned,)
    tensors = [t for t in parts if isinstance(t, Tensor)]
    return torch.cat([t.reshape(-1) for t in tensors])


def state_of(subject: Any) -> Tensors:
    if not isinstance(subject, nn.Module):
        return {}
    state = {name: t.detach().cpu().clone() for name, t in subject.state_dict().items()}
    return {name: t if t.is_floating_point() else t.double() for name, t in state.items()}


def run(subject: Subject, module: Any, tensors: Tensors) -> Outcome:
    """One call; the gradient of a sum that weighs no two values alike."""
    leaves = {name: tensors[name].detach().requires_grad_() for name in subject.leaves}
    value = result_of(subject.call(module, {**tensors, **leaves}))
    if isinstance(module, nn.Module):
        leaves.update({n: p for n, p in module.named_parameters() if p.requires_grad})
    gradients: Tensors = {}
    if value.requires_grad:
        upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype, device=value.device)
        found = torch.autograd.grad(value, [*leaves.values()], upstream, allow_unused=True)
        gradients = {n: g.cpu() for n, g in zip(leaves, found, strict=True) if g is not None}
    return Outcome(value.detach().cpu(), gradients, state_of(module))


def drawn_subject(
    data: st.DataObject, subject: Subject, device: str
) -> tuple[Subject, Callable[[], Any]]:
    """The subject, and what makes one of its variants."""
    make = data.draw(st.sampled_from(subject.makes), label="variant")
    return subject, lambda: on_device(make(), device)


def moved(tensors: Tensors, device: str) -> Tensors:
    return {name: t.to(device) for name, t in tensors.items()}


def on_device(module: Any, device: str) -> Any:
    return module.to(device) if isinstance(module, nn.Module) else module


def twin(module: Any) -> Any:
    return copy.deepcopy(module) if isinstance(module, nn.Module) else module


def in_double(module: Any) -> Any:
    return twin(module).double() if isinstance(module, nn.Module) else module


def rows_of_ids(subject: Subject, state: Tensors) -> dict[str, tuple[str, int]]:
    """By the names of what has a row for every id: which ids, and in which dimension."""
    return {
        name: (ids, value.shape.index(count))
        for name, value in state.items()
        for ids, count in zip(subject.ids, subject.among, strict=True)
        if count in value.shape
    }


def rows_but_of(ids: Tensor, state: Tensor, dimension: int) -> Tensor:
    """The rows that belong to none of these ids."""
    others = torch.ones(state.shape[dimension], dtype=torch.bool)
    here = ids.reshape(-1).long().cpu()
    others[here[here >= 0]] = False
    return state.movedim(dimension, 0)[others]
