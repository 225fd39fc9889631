"""What the global contrastive losses share: state, schedules, temperatures, the fused step."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xrisk_ext.losses._contrastive_rows import contrastive_rows
from xrisk_ext.losses._embeddings import Reduction, check_embeddings, check_integers
from xrisk_ext.losses._rows import WHOLE_BATCH, WholeBatch
from xrisk_ext.ops.contrastive_step import StepOptions, contrastive_step
from xrisk_ext.ops.surrogates import check_devices, check_tensor
from xrisk_ext.state import MovingAverage, keep_precision


def cosine_gamma(epoch: float, decay_epochs: float, minimum: float) -> float:
    """Gamma of an epoch: from 1 down to ``minimum`` along half a cosine, constant from there on.

    ``minimum + (1 - minimum) (1 + cos(pi epoch / decay_epochs)) / 2`` before ``decay_epochs``:
    averages forget fast while the embeddings change fast. To be assigned:
    ``loss.gamma = cosine_gamma(epoch, epochs // 2, 0.2)``.

    Args:
        epoch: >= 0, may be a fraction.
        decay_epochs: > 0.
        minimum: in [0, 1].

    Raises:
        ValueError: an argument out of range.

    Source: Wei et al., FastCLIP (2024).
    """
    if not epoch >= 0:
        raise ValueError(f"expected epoch >= 0, got {epoch!r}")
    if not decay_epochs > 0:
        raise ValueError(f"expected decay_epochs > 0, got {decay_epochs!r}")
    if not 0 <= minimum <= 1:
        raise ValueError(f"expected minimum in [0, 1], got {minimum!r}")
    if epoch >= decay_epochs:
        return float(minimum)
    return minimum + (1.0 - minimum) * 0.5 * (1.0 + math.cos(math.pi * epoch / decay_epochs))


class IndividualTemperatures(nn.Module):
    """Temperatures of the samples and the momenta of their slopes, buffers ``[sides, N]``.

    With Adam ``momentum`` is ``[3 sides, N]``: first moments, second moments, numbers of steps.
    Saved by ``state_dict``; ``.half()`` and ``.bfloat16()`` leave them alone.
    """

    value: Tensor
    momentum: Tensor

    def __init__(
        self, shape: tuple[int, int], initial: float, dtype: torch.dtype, adam: bool
    ) -> None:
        super().__init__()
        self._initial = initial
        sides, rows = shape
        self.register_buffer("value", torch.full(shape, initial, dtype=dtype))
        self.register_buffer(
            "momentum", torch.zeros(3 * sides if adam else sides, rows, dtype=dtype)
        )

    def reset(self) -> None:
        """Back to the first temperature, in place."""
        self.value.fill_(self._initial)
        self.momentum.zero_()

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> "IndividualTemperatures":
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        keep_precision(self, before, fixed=False)
        return self

    def extra_repr(self) -> str:
        return f"{tuple(self.value.shape)}, dtype={self.value.dtype}"


_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "gamma": (lambda x: 0 <= x <= 1, "in [0, 1]"),
    "temperature": (lambda x: 1e-30 <= x < math.inf, ">= 1e-30 and finite"),
    "eta": (lambda x: 0 <= x < math.inf, ">= 0 and finite"),
}


class ContrastiveLoss(nn.Module):
    """Base of the global contrastive losses over two embeddings per sample.

    ``gamma``, ``eta`` and ``temperature`` are 0-dim float64 buffers, assigned at any time; a
    temperature that is learned is a parameter. ``state`` is the :class:`~xrisk_ext.MovingAverage`
    ``[sides, num_samples]`` of log u, ``temperatures`` the individual ones; None without.
    """

    gamma: Tensor
    eta: Tensor
    temperature: Tensor
    state: MovingAverage | None
    temperatures: IndividualTemperatures | None

    def __init__(
        self,
        *,
        num_samples: int | None,
        temperature: float,
        gamma: float,
        eta: float,
        individual: bool,
        learned: bool,
        options: StepOptions,
        state_dtype: torch.dtype,
        reduction: Reduction,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        if num_samples is not None and (not isinstance(num_samples, int) or num_samples < 1):
            raise ValueError(
                f"{owner}: expected num_samples to be a positive integer, got {num_samples!r}"
            )
        if reduction not in ("mean", "none"):
            raise ValueError(f"{owner}: expected reduction 'mean' or 'none', got {reduction!r}")
        _check_options(owner, options)
        self.num_samples = num_samples
        self.normalize = options.normalize
        self.reduction = reduction
        self._options = options
        self.state = self.temperatures = None
        if num_samples is not None:
            shape = (2 if options.bimodal else 1, num_samples)
            self.state = MovingAverage(shape, dtype=state_dtype, log=True)
            if individual:
                self.temperatures = IndividualTemperatures(
                    shape, temperature, state_dtype, adam=options.second_beta > 0
                )
        elif individual:
            raise ValueError(f"{owner}: individual temperatures need num_samples, got None")
        elif gamma != 1:
            raise ValueError(
                f"{owner}: expected num_samples, the number of ids that the moving averages are "
                f"kept for, or gamma=1 for no state; got gamma={gamma!r}"
            )
        for name, value in (("gamma", gamma), ("eta", eta)):
            self.register_buffer(name, torch.ones((), dtype=torch.float64))
            self._set_schedule(name, value)
        if learned:
            number = _checked(owner, "temperature", temperature)
            self.temperature = nn.Parameter(torch.tensor(number))
        else:
            self.register_buffer("temperature", torch.ones((), dtype=torch.float64))
            self._set_schedule("temperature", temperature)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _RANGES and name in self.__dict__.get("_buffers", {}):
            self._set_schedule(name, value)
        else:
            super().__setattr__(name, value)

    def _set_schedule(self, name: str, value: float | Tensor) -> None:
        buffer = self._buffers[name]
        assert buffer is not None
        if isinstance(value, Tensor) and value.device.type != "cpu":
            buffer.copy_(value.detach())  # no sync
            return
        number = _checked(type(self).__name__, name, value)
        if name == "gamma" and self.state is None and number != 1:
            raise ValueError(
                f"{type(self).__name__}: without num_samples gamma is 1, got {value!r}"
            )
        buffer.fill_(number)

    def reset_state(self) -> None:
        """Forgets averages and individual temperatures, as if no batch had been seen."""
        if self.state is not None:
            self.state.reset()
        if self.temperatures is not None:
            self.temperatures.reset()

    def _step(
        self,
        names: tuple[str, str],
        views: tuple[Tensor, Tensor],
        index: Tensor | None,
        update_state: bool,
    ) -> Tensor:
        if self.reduction == "none":
            by_name = dict(zip(names, views, strict=True))
            return self.forward_rows(WHOLE_BATCH, index=index, update_state=update_state, **by_name)
        owner = type(self).__name__
        for name, view in zip(names, views, strict=True):
            check_tensor(view, name)
            if view.dim() != 2:
                raise ValueError(
                    f"{owner}: expected {name} of shape [B, D], got {tuple(view.shape)}"
                )
        if views[0].shape != views[1].shape:
            raise ValueError(
                f"{owner}: expected {names[0]} and {names[1]} of one shape, got "
                f"{tuple(views[0].shape)} and {tuple(views[1].shape)}"
            )
        if index is not None:
            check_tensor(index, "index")
        state = temperatures = momenta = None
        if self.training and self.state is not None:
            state = self.state.value
            if self.temperatures is not None:
                temperatures, momenta = self.temperatures.value, self.temperatures.momentum
        check_devices(views[0], names[0], **{names[1]: views[1]})
        check_devices(
            views[0], names[0], index=index, state=state, gamma=self.gamma,
            temperature=self.temperature,
        )  # fmt: skip
        return contrastive_step(
            views[0], views[1], index, state, temperatures, momenta, self.gamma,
            self.temperature, self.eta, self._options, update_state,
        )  # fmt: skip

    def forward_rows(
        self,
        rows: WholeBatch,
        *,
        index: Tensor | None = None,
        update_state: bool = True,
        **views: Tensor,
    ) -> Tensor:
        """As ``forward``, for a process's own rows of a batch; both views by their names."""
        first = next(iter(views))
        check_embeddings(first, **views)
        state = temperatures = momenta = None
        if self.training and self.state is not None:
            state = self.state.value
            if index is None:
                raise ValueError("expected index, the ids of the samples, got None")
            assert self.num_samples is not None
            check_integers(views[first], "index", index, self.num_samples)
            if self.temperatures is not None:
                temperatures, momenta = self.temperatures.value, self.temperatures.momentum
        view1, view2 = views.values()
        return contrastive_rows(
            self, self._options, rows, (view1, view2), index, state, temperatures, momenta,
            update_state,
        )  # fmt: skip

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ContrastiveLoss":
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        keep_precision(self, before, fixed=True)  # the schedules stay exact
        return self

    def extra_repr(self) -> str:
        return (
            f"temperature={float(self.temperature):.6g}, gamma={float(self.gamma):.6g}, "
            f"normalize={self.normalize}, reduction={self.reduction!r}"
        )


def _checked(owner: str, name: str, value: float | Tensor) -> float:
    in_range, expected = _RANGES[name]
    if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
        raise TypeError(
            f"{owner}: expected {name} to be a float or a tensor, got {type(value).__name__}"
        )
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"{owner}: expected {name} to be one number, got {value!r}")
    number = float(value)
    if not in_range(number):
        raise ValueError(f"{owner}: expected {name} {expected}, got {value!r}")
    return number


def _check_options(owner: str, options: StepOptions) -> None:
    if not 0 <= options.beta <= 1:
        raise ValueError(f"{owner}: expected beta in [0, 1], got {options.beta!r}")
    if not options.slope_limit > 0:
        raise ValueError(f"{owner}: expected max_slope > 0, got {options.slope_limit!r}")
    if not 0 < options.lowest <= options.highest < math.inf:
        raise ValueError(
            f"{owner}: expected 0 < min_temperature <= max_temperature, got "
            f"{options.lowest!r} and {options.highest!r}"
        )
    if not -math.inf < options.rho < math.inf:
        raise ValueError(f"{owner}: expected rho to be finite, got {options.rho!r}")
    if not 0 <= options.epsilon < math.inf:
        raise ValueError(f"{owner}: expected epsilon >= 0 and finite, got {options.epsilon!r}")
