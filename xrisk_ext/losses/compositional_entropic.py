"""Extreme classification: the softmax loss over very many classes as a compositional risk."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from xrisk_ext.losses._embeddings import FLOATING, Reduction, check_integers, row_products
from xrisk_ext.losses._rows import WHOLE_BATCH, WholeBatch
from xrisk_ext.losses._schedules import Schedules
from xrisk_ext.ops.contrastive import contrastive_log_sums
from xrisk_ext.ops.query_step import query_step
from xrisk_ext.ops.surrogates import as_scalar, check_devices, check_tensor
from xrisk_ext.state import MovingAverage


class CompositionalEntropicLoss(Schedules):
    r"""Softmax cross entropy whose partition function is tracked per sample: SOX or SCENT.

    With logits :math:`s_{ik} = \langle x_i, w_k \rangle` and y the sample's class

    .. math:: F = \frac{1}{n} \sum_i \log \sum_k e^{s_{ik} - s_{iy}}, \qquad
        e^{\nu_i} \leftarrow (1 - \gamma_i) \, e^{\nu_i}
        + \gamma_i \frac{1}{K - 1} \sum_k e^{s_{ik} - s_{iy}} .

    The value is the current estimate of F, :math:`\nu_i + \log(K - 1)` averaged over the batch; the
    gradient weighs class k of sample i by :math:`e^{s_{ik} - s_{iy} - \nu_i} / (K - 1)`, with
    :math:`\nu` after the update. With gamma = 1 this is softmax cross entropy. No [B, K] matrix of
    logits is stored, but for 16 MiB of it that are kept from the value to the gradients.

    Args:
        num_samples: ids that may occur in ``index``. ``None`` keeps no state and needs
            ``method="sox"`` with ``gamma=1``.
        method: ``"sox"``: every gamma_i is ``gamma``. ``"scent"``: gamma_i = sigmoid(alpha + kappa
            nu_i), of the nu before the update: a proximal step of size exp(alpha).
        gamma: weight of the new observation, in [0, 1]; of ``"sox"`` only.
        alpha, kappa: of ``"scent"`` only: the logarithm of its step size, and how it follows nu.
        state_dtype: float32 or float64.
        reduction: ``"mean"`` or ``"none"`` (``[B]``).

    ``gamma``, ``alpha`` and ``kappa`` are 0-dim buffers, and may be assigned at any time. The state
    is a :class:`~xrisk_ext.MovingAverage` ``[num_samples]`` of nu; -inf where there is none yet,
    and then the first observation is taken as it is. In ``eval()`` it is neither read nor written,
    and the loss is softmax cross entropy.

    Source: Wang & Yang, "Finite-sum coupled compositional stochastic optimization" (SOX, ICML
    2022); Wei et al., "A geometry-aware efficient algorithm for compositional entropic risk
    minimization" (SCENT, 2026).
    """

    gamma: Tensor
    alpha: Tensor
    kappa: Tensor
    state: MovingAverage | None
    not_by_row = ("class_weights",)  # what a process has that is not its rows of a batch

    def __init__(
        self,
        num_samples: int | None,
        *,
        method: Literal["sox", "scent"] = "sox",
        gamma: float = 0.9,
        alpha: float = 10.0,
        kappa: float = 1.0,
        state_dtype: torch.dtype = torch.float32,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if method not in ("sox", "scent"):
            raise ValueError(f"{name}: expected method 'sox' or 'scent', got {method!r}")
        if reduction not in ("mean", "none"):
            raise ValueError(f"{name}: expected reduction 'mean' or 'none', got {reduction!r}")
        self.method = method
        self.reduction = reduction
        self.num_samples = num_samples
        if num_samples is None:
            if gamma != 1 or method != "sox":
                raise ValueError(
                    f"{name}: expected num_samples, the number of ids that the moving averages are "
                    "kept for, or method='sox' with gamma=1 for no state"
                )
            self.state = None
        elif isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError(
                f"{name}: expected num_samples to be a positive integer, got {num_samples!r}"
            )
        else:
            self.state = MovingAverage((num_samples,), dtype=state_dtype, log=True)
        self._add_schedules(gamma=gamma, alpha=alpha, kappa=kappa)

    def _set_schedule(self, name: str, value: float | Tensor) -> None:
        if name == "gamma" and self.state is None and value != 1:
            raise ValueError(
                f"{type(self).__name__}: without num_samples gamma is 1, got {value!r}"
            )
        super()._set_schedule(name, value)

    def reset_state(self) -> None:
        """Forgets the moving averages, as if no batch had been seen."""
        if self.state is not None:
            self.state.reset()

    def forward(
        self,
        features: Tensor,
        class_weights: Tensor,
        targets: Tensor,
        index: Tensor | None = None,
        *,
        update_state: bool = True,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            features: ``[B, D]``, float32, float64, float16 or bfloat16.
            class_weights: ``[K, D]``, the classifier: the same on every process.
            targets: the samples' classes ``[B]``, int64 or int32, in [0, K).
            index: the samples' ids ``[B]``, int64 or int32, in [0, num_samples).
            update_state: False blends with the state but writes nothing.

        Raises:
            IndexError: a class or an id out of range.
            ValueError: a shape or device that is not as above, or no index where there is state.
            TypeError: an argument that is not a tensor, or of a dtype that is not as above.

        Where it raises, nothing has been written.
        """
        return self.forward_rows(
            WHOLE_BATCH, features, class_weights, targets, index, update_state=update_state
        )

    def forward_rows(
        self,
        rows: WholeBatch,
        features: Tensor,
        class_weights: Tensor,
        targets: Tensor,
        index: Tensor | None = None,
        *,
        update_state: bool = True,
    ) -> Tensor:
        """As ``forward``, for the own rows of a batch."""
        self._check(features, class_weights, targets, index)
        state = self.state if self.training else None
        if rows.is_whole and self.reduction == "mean" and features.is_cpu:
            scent = (self.alpha, self.kappa)
            return query_step(
                features,
                class_weights,
                as_scalar(1.0, "temperature", features),
                targets=targets,
                index=index if state is not None else None,
                state=None if state is None else state.value,
                schedules=scent if self.method == "scent" else (self.gamma,),
                update_state=update_state,
            )
        classes = len(class_weights)
        positive = nn.functional.embedding(targets.clamp(0, classes - 1), class_weights)
        log_mean = contrastive_log_sums(features, class_weights, temperature=1.0)
        log_rest = math.log(max(classes - 1, 1))
        log_g = log_mean + (math.log(classes) - log_rest) - row_products(features, positive)

        observed = log_g.detach()
        nu = observed
        if state is not None:
            assert index is not None
            gamma = self.gamma
            if self.method == "scent":
                before = rows.read(state.value, index).double()
                gamma = torch.sigmoid(self.alpha + self.kappa * before)
            nu = rows.update(state.value, index, observed, gamma, write=update_state)
            nu = nu.to(observed.dtype)
        moved = torch.exp(observed - nu) * (log_g - observed)  # zero, with the dynamic gradient
        values = nu + log_rest + moved
        if self.reduction == "none":
            return values
        return rows.total(values.sum() / max(rows.count(len(values)), 1))

    def _check(
        self, features: Tensor, class_weights: Tensor, targets: Tensor, index: Tensor | None
    ) -> None:
        for name, x in (("features", features), ("class_weights", class_weights)):
            check_tensor(x, name)
            if x.dtype not in FLOATING:
                raise TypeError(
                    f"expected {name} to be float32, float64, float16 or bfloat16, got {x.dtype}"
                )
            if x.dim() != 2:
                raise ValueError(f"expected {name} to have two dimensions, got {tuple(x.shape)}")
        if class_weights.shape[1] != features.shape[1] or len(class_weights) == 0:
            raise ValueError(
                f"expected class_weights of shape [K, {features.shape[1]}], got "
                f"{tuple(class_weights.shape)}"
            )
        check_devices(features, "features", class_weights=class_weights)
        check_integers(features, "targets", targets, len(class_weights))
        if self.state is None or not self.training:
            return
        if index is None:
            raise ValueError("expected index, which is needed where there is state, got None")
        assert self.num_samples is not None
        check_integers(features, "index", index, self.num_samples)
        check_devices(features, "features", state=self.gamma)

    def extra_repr(self) -> str:
        schedule = (
            f"gamma={float(self.gamma):g}"
            if self.method == "sox"
            else f"alpha={float(self.alpha):g}, kappa={float(self.kappa):g}"
        )
        return f"{self.num_samples}, method={self.method!r}, {schedule}"
