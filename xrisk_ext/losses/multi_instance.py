"""Multi-instance learning: scores of bags from a few of their instances, with a memory per bag."""

from typing import Literal

import torch
from torch import Tensor

from xrisk_ext.losses._rows import blends
from xrisk_ext.losses._schedules import Schedules
from xrisk_ext.ops.moving_average import moving_average_update_
from xrisk_ext.ops.surrogates import check_devices, check_tensor
from xrisk_ext.state import InitialState, MovingAverage, first_occurrences

PoolingMode = Literal["softmax", "attention"]


class MultiInstancePooling(Schedules):
    r"""Stochastic pooling of MIDAM: the score of a bag from a sample of its instances.

    A bag (a patient's slides, a patch set) is too large for a batch; K of its instances are drawn.
    What the pooling needs of all of them is tracked by a moving average per bag. With
    :math:`h_{ij}` the score of instance j of bag i, and in mode "attention" :math:`g_{ij}` its
    attention logit,

    .. math::
        \text{softmax:}\quad & \tau \log s_i,
        & s_i \leftarrow (1 - \gamma) s_i + \gamma \, \mathrm{mean}_j \, e^{h_{ij} / \tau}
        \\ \text{attention:}\quad & \sigma(n_i / q_i),
        & (n_i, q_i) \leftarrow (1 - \gamma) (n_i, q_i)
        + \gamma \, \mathrm{mean}_j \, (e^{g_{ij}} h_{ij}, e^{g_{ij}})

    The pooled scores go into any loss over scores and labels; the published MIDAM is AUC margin on
    them. Their gradient is the dynamic one: the slope of the outer function at the moving average,
    times the slope of the sample's mean. Everything is kept as logarithms and ratios, so that no
    score can overflow it.

    Args:
        num_bags: ids that may occur in ``index``; ``None`` keeps no state and needs ``gamma=1``.
        mode: ``"softmax"`` (a smooth maximum, the smaller the temperature the closer) or
            ``"attention"``.
        temperature: tau of "softmax", > 0, in the units of the scores; may be assigned at any time.
        gamma: weight of the new observation, in [0, 1]; may be assigned at any time.
        state_dtype: float32 or float64.
        initial_state: ``"assign"``: the first observation of a bag is taken as it is. ``"zero"``:
            it is averaged with what LibAUC starts from: s = 0, or n = q = 1.

    In ``eval()`` the state is neither read nor written. Where a score is NaN or infinite, the
    bag's pooled score is NaN, and its state is left alone; in mode "softmax" a score of -inf adds
    exp(-inf) = 0, as an instance that is masked, if one of its bag is not.

    Source: Zhu et al., "Provable multi-instance deep AUC maximization with stochastic pooling"
    (ICML 2023).
    """

    gamma: Tensor
    temperature: Tensor
    state: MovingAverage | None
    ratio: MovingAverage | None

    def __init__(
        self,
        num_bags: int | None = None,
        *,
        mode: PoolingMode = "softmax",
        temperature: float = 0.1,
        gamma: float = 0.9,
        state_dtype: torch.dtype = torch.float32,
        initial_state: InitialState = "assign",
    ) -> None:
        super().__init__()
        if mode not in ("softmax", "attention"):
            raise ValueError(
                f"MultiInstancePooling: expected mode 'softmax' or 'attention', got {mode!r}"
            )
        if num_bags is not None and (not isinstance(num_bags, int) or num_bags < 1):
            raise ValueError(
                "MultiInstancePooling: expected num_bags to be a positive integer, "
                f"got {num_bags!r}"
            )
        if num_bags is None and gamma != 1:
            raise ValueError(
                "MultiInstancePooling: expected num_bags, the number of bags that averages are "
                f"kept for, or gamma=1 for no state; got gamma={gamma!r}"
            )
        self.mode = mode
        self.num_bags = num_bags
        self.state = self.ratio = None
        if num_bags is not None:
            ones = mode == "attention" and initial_state == "zero"  # log q = 0, n / q = 1
            self.state = MovingAverage(
                (num_bags,), dtype=state_dtype, log=True, initial=0.0 if ones else initial_state
            )
            if mode == "attention":
                self.ratio = MovingAverage(
                    (num_bags,), dtype=state_dtype, initial=1.0 if ones else initial_state
                )
        self._add_schedules(gamma=gamma, temperature=temperature)

    def _check_schedule(self, name: str, number: float) -> None:
        if name == "gamma" and self.state is None and number != 1:
            raise ValueError(f"MultiInstancePooling: without num_bags gamma is 1, got {number!r}")

    def reset_state(self) -> None:
        """Forgets the moving averages, as if no batch had been seen."""
        for module in (self.state, self.ratio):
            if module is not None:
                module.reset()

    def forward(
        self,
        scores: Tensor,
        index: Tensor | None = None,
        attention: Tensor | None = None,
        *,
        update_state: bool = True,
    ) -> Tensor:
        """The bags' scores ``[B]``, float32 or (of float64 scores) float64.

        Args:
            scores: of the sampled instances ``[B, K]``, K > 0, any floating dtype.
            index: ids of the bags ``[B]``, int64 or int32, in [0, num_bags).
            attention: logits ``[B, K]``, mode "attention" alone.
            update_state: False blends with the state but writes nothing.

        Raises:
            IndexError: an id out of range.
            ValueError: a shape or device that is not as above, or no index where there is state.
            TypeError: an argument that is not a floating (``index``: integer) tensor.
        """
        self._check(scores, index, attention)
        state = self.state if self.training else None
        wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
        with torch.autocast(scores.device.type, enabled=False):
            h = scores.to(wide)
            if attention is None:
                return self._softmax(h, index, state, update_state)
            return self._attention(h, attention.to(wide), index, state, update_state)

    def _softmax(
        self, h: Tensor, index: Tensor | None, state: MovingAverage | None, update_state: bool
    ) -> Tensor:
        temperature = self.temperature.to(h.dtype)
        log_v = _log_mean(h / temperature)
        seen = log_v.detach().double()
        seen = log_s = torch.where(seen == -torch.inf, torch.nan, seen)
        if state is not None:
            assert index is not None
            log_s = blends(state.value, index, seen, self.gamma, log=True, write=update_state)
        weight = (self.temperature * (seen - log_s).exp()).to(h.dtype)
        pooled = (self.temperature * log_s).to(h.dtype)
        return pooled + weight * (log_v - log_v.detach())

    def _attention(
        self,
        h: Tensor,
        logits: Tensor,
        index: Tensor | None,
        state: MovingAverage | None,
        update_state: bool,
    ) -> Tensor:
        log_q = _log_mean(logits)
        mean = (torch.softmax(logits, dim=1) * h).sum(dim=1)  # of the sample, n / q
        # one NaN keeps both averages of its bag as they are
        seen = (log_q + 0.0 * mean).detach().double()
        log_all, ratio = seen, mean.detach().double()
        if state is not None:
            assert index is not None
            assert self.ratio is not None
            log_all = blends(state.value, index, seen, self.gamma, log=True, write=update_state)
            places = first_occurrences(index, state.value.shape[0])
            log_bag, of_bag = _bags(places, seen, ratio)
            # n / q moves as an average whose gamma is the samples' share in q
            gamma = (self.gamma.log() + log_bag - log_all).exp()
            first = self.ratio.value.index_select(0, index).isnan()
            gamma = torch.where(first | gamma.isnan(), 1.0, gamma).clamp(0.0, 1.0)
            ratio = blends(self.ratio.value, index, of_bag, gamma, write=update_state)
        pooled = torch.sigmoid(ratio)
        weight = pooled * (1.0 - pooled) * (seen - log_all).exp()
        off = (mean.detach() - ratio).to(h.dtype)
        change = mean - mean.detach() + off * (log_q - log_q.detach())
        return pooled.to(h.dtype) + weight.to(h.dtype) * change

    def _check(self, scores: Tensor, index: Tensor | None, attention: Tensor | None) -> None:
        check_tensor(scores, "scores")
        if not scores.is_floating_point():
            raise TypeError(f"expected scores to be floating, got {scores.dtype}")
        if scores.dim() != 2 or scores.shape[1] == 0:
            raise ValueError(f"expected scores of shape [B, K], K > 0, got {tuple(scores.shape)}")
        if (attention is not None) != (self.mode == "attention"):
            raise ValueError(f"mode {self.mode!r}: expected attention in mode 'attention' alone")
        if attention is not None:
            check_tensor(attention, "attention")
            if not attention.is_floating_point():
                raise TypeError(f"expected attention to be floating, got {attention.dtype}")
            if attention.shape != scores.shape:
                raise ValueError(
                    f"expected attention of the scores' shape {tuple(scores.shape)}, got "
                    f"{tuple(attention.shape)}"
                )
        check_devices(scores, "scores", attention=attention, state=self.gamma)
        if self.state is None or not self.training:
            return
        if index is None:
            raise ValueError("expected index, the ids of the bags, got None")
        check_tensor(index, "index")
        check_devices(scores, "scores", index=index)
        if index.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"expected index to be int64 or int32, got {index.dtype}")
        if index.shape != scores.shape[:1]:
            raise ValueError(
                f"expected index of shape [{scores.shape[0]}], got {tuple(index.shape)}"
            )

    def extra_repr(self) -> str:
        return (
            f"mode={self.mode!r}, temperature={float(self.temperature)}, gamma={float(self.gamma)}"
        )


def _log_mean(z: Tensor) -> Tensor:
    count = torch.full((), float(z.shape[1]), dtype=z.dtype, device=z.device)
    return torch.logsumexp(z, dim=1) - count.log()


def _bags(places: Tensor, log_q: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """log q and n / q of each entry's bag: of all its samples, where an id comes more than once."""
    unseen = torch.full_like(log_q, -torch.inf)
    log_bag = moving_average_update_(unseen, places, log_q, 1.0, log=True)
    shares = (log_q - log_bag).exp()
    return log_bag, moving_average_update_(unseen * torch.nan, places, shares * ratio, 1.0)
