"""Global contrastive losses: every sample against the whole data set, from small batches."""

import math
from typing import Literal

import torch
from torch import Tensor

from xrisk_ext.losses._contrastive_loss import ContrastiveLoss
from xrisk_ext.losses._embeddings import Reduction
from xrisk_ext.ops.contrastive_step import StepOptions

TemperatureMode = Literal["constant", "individual", "global"]


class GlobalContrastiveLoss(ContrastiveLoss):
    r"""Contrastive learning of two views without large batches: SogCLR, and iSogCLR.

    Anchors are the samples of both views; with :math:`s` the cosine similarity and the mean over
    the :math:`2(B-1)` embeddings of the other samples of the batch,

    .. math:: F = \frac{1}{B} \sum_i \sum_{views} \tau \log u_i - s_i^+, \qquad
        u_i \leftarrow (1 - \gamma) u_i + \gamma \, \mathrm{mean}_j \, e^{s_{ij} / \tau}.

    The moving average u stands for the mean over the whole data set. It is kept as a logarithm: no
    temperature overflows. The returned value is the estimate of F; its gradient is the method's,
    with u taken after the update. Memory is linear in the batch: no B x B matrix.

    Args:
        num_samples: ids that may occur in ``index``. ``None`` keeps no state and needs ``gamma=1``.
        temperature: > 0; may be assigned at any time. With individual temperatures, where they
            start, and what ``eval()`` uses.
        gamma: weight of the new observation, in [0, 1]; may be assigned at any time, see
            :func:`~xrisk_ext.losses.cosine_gamma`.
        individual_temperature: each sample has its own temperature (iSogCLR), which minimises
            ``tau_i log u_i + rho tau_i`` by momentum steps along its slope, the mean of both views.
        normalize: divide embeddings by their length (the gradient passes through it). A row of
            zeros stays zero and gets no gradient.
        denominator: ``"shared"``: one u for both views, the mean of the two. ``"per_view"``: each
            view divides by its own, as LibAUC does; the stored average is the same.
        rho, eta, beta, min_temperature, max_temperature: of individual temperatures: the weight of
            the regularizer, the step, the weight of a new slope in the momentum, the bounds.
            ``eta`` may be assigned at any time.
        relative_to_positive: individual temperatures see ``s_ij - s_i^+`` as the paper has it;
            False: ``s_ij``, as LibAUC does.
        state_dtype: float32 or float64.
        reduction: ``"mean"`` (a scalar) or ``"none"`` (``[B]``: of each sample, whose mean F is).

    In ``eval()`` the state is neither read nor written: value and gradient are those of the batch
    alone. A batch of one gives zero and leaves the state alone. If an embedding is NaN or infinite,
    value and gradients are NaN and the state is left alone.

    Source: Yuan et al., "Provable stochastic optimization for global contrastive learning: small
    batch does not harm performance" (ICML 2022); individual temperatures: Qiu et al., "Not all
    semantics are created equal" (ICML 2023).
    """

    def __init__(
        self,
        num_samples: int | None = None,
        *,
        temperature: float = 0.1,
        gamma: float = 0.9,
        individual_temperature: bool = False,
        normalize: bool = True,
        denominator: Literal["shared", "per_view"] = "shared",
        rho: float = 0.3,
        eta: float = 0.01,
        beta: float = 0.9,
        min_temperature: float = 0.05,
        max_temperature: float = 0.7,
        relative_to_positive: bool = True,
        state_dtype: torch.dtype = torch.float32,
        reduction: Reduction = "mean",
    ) -> None:
        if denominator not in ("shared", "per_view"):
            raise ValueError(
                "GlobalContrastiveLoss: expected denominator 'shared' or 'per_view', got "
                f"{denominator!r}"
            )
        super().__init__(
            num_samples=num_samples,
            temperature=temperature,
            gamma=gamma,
            eta=eta,
            individual=individual_temperature,
            learned=False,
            options=StepOptions(
                beta=beta,
                second_beta=0.0,
                slope_limit=math.inf,
                lowest=min_temperature,
                highest=max_temperature,
                rho=rho if individual_temperature else 0.0,
                epsilon=0.0,
                bimodal=False,
                normalize=normalize,
                per_view=denominator == "per_view",
                relative=individual_temperature and relative_to_positive,
                temperature_weighted=True,
            ),
            state_dtype=state_dtype,
            reduction=reduction,
        )
        self.individual_temperature = individual_temperature
        self.denominator = denominator

    def forward(
        self,
        view1: Tensor,
        view2: Tensor,
        index: Tensor | None = None,
        *,
        update_state: bool = True,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            view1, view2: embeddings ``[B, D]`` of the same samples, float32, float64, float16 or
                bfloat16. Similarities are in float32 at least, also under autocast.
            index: the samples' ids ``[B]``, int64 or int32, in [0, num_samples). Entries of one id
                share the mean of their observations.
            update_state: False blends with the state but writes nothing.

        Raises:
            IndexError: an id is out of range.
            ValueError: a shape or device that is not as above, or no index where there is state.
            TypeError: an argument that is not a tensor, or of a dtype that is not as above.

        Where it raises, nothing has been written.
        """
        return self._step(("view1", "view2"), (view1, view2), index, update_state)


class BimodalGlobalContrastiveLoss(ContrastiveLoss):
    r"""Contrastive learning of image-text pairs without large batches: SogCLR, iSogCLR, FastCLIP.

    Image i is an anchor against the other texts of the batch, text i against the other images; with
    :math:`h_{ij}` the cosine similarity of a negative less that of the pair, per side,

    .. math:: F = \frac{1}{2B} \sum_i \sum_{sides} \tau \, (\log u_i + \rho), \qquad
        u_i \leftarrow (1 - \gamma) u_i + \gamma \, \mathrm{mean}_{j \ne i} \, e^{h_{ij} / \tau}.

    Averages are kept as logarithms. Memory is linear in the batch: no B x B matrix.

    Args:
        num_samples: ids that may occur in ``index``. ``None`` keeps no state and needs ``gamma=1``.
        temperature: > 0. Constant (rho is 0 then), or where it starts.
        gamma: weight of the new observation, in [0, 1]; may be assigned at any time, see
            :func:`~xrisk_ext.losses.cosine_gamma`.
        temperature_mode: ``"constant"`` (FastCLIP-v1); ``"individual"``: each image and each text
            has its own, stepped by ``temperature_optimizer`` (iSogCLR, FastCLIP-v2);
            ``"global"``: ``temperature`` is a parameter with its gradient, for any torch optimizer
            (FastCLIP-v3); keep it positive.
        normalize: as in :class:`GlobalContrastiveLoss`.
        temperature_weighted: False leaves out the factor :math:`\tau` (and :math:`\rho`) of F;
            with ``"global"`` that is FastCLIP-v0.
        rho: weight of the temperature in F; None: 6 for individual, 6.5 for a global temperature.
        eta, beta, min_temperature, max_temperature: of individual temperatures, as in
            :class:`GlobalContrastiveLoss`.
        temperature_optimizer: of individual temperatures. ``"momentum"``: as in
            :class:`GlobalContrastiveLoss` (iSogCLR); ``"adam"``: Adam for each sample, of step size
            ``eta`` and with ``betas`` instead of ``beta``, which counts the steps of that sample.
        betas: decays of Adam's moments, in [0, 1).
        max_slope: slopes by individual temperatures stop at +-max_slope.
        epsilon: added to u, >= 0; FastCLIP has 1e-14.
        state_dtype: float32 or float64.
        reduction: ``"mean"`` (a scalar) or ``"none"`` (``[B]``: of each pair, whose mean F is).

    FastCLIP-v2 is ``temperature_mode="individual", temperature_optimizer="adam", temperature=0.03,
    rho=7, eta=0.0133, max_slope=5, min_temperature=0.01, max_temperature=1, epsilon=1e-14``.

    In ``eval()``, for a batch of one and for embeddings that are not finite: as
    :class:`GlobalContrastiveLoss`.

    Source: Yuan et al., SogCLR (ICML 2022); Qiu et al., iSogCLR (ICML 2023); Wei et al., "FastCLIP:
    a suite of optimization techniques to accelerate CLIP training with limited resources" (2024).
    """

    def __init__(
        self,
        num_samples: int | None = None,
        *,
        temperature: float = 0.01,
        gamma: float = 0.9,
        temperature_mode: TemperatureMode = "constant",
        normalize: bool = True,
        temperature_weighted: bool = True,
        rho: float | None = None,
        eta: float = 0.01,
        beta: float = 0.9,
        min_temperature: float = 0.005,
        max_temperature: float = 0.05,
        temperature_optimizer: Literal["momentum", "adam"] = "momentum",
        betas: tuple[float, float] = (0.9, 0.999),
        max_slope: float = math.inf,
        epsilon: float = 0.0,
        state_dtype: torch.dtype = torch.float32,
        reduction: Reduction = "mean",
    ) -> None:
        if temperature_mode not in ("constant", "individual", "global"):
            raise ValueError(
                "BimodalGlobalContrastiveLoss: expected temperature_mode 'constant', 'individual' "
                f"or 'global', got {temperature_mode!r}"
            )
        if temperature_mode == "individual" and not temperature_weighted:
            raise ValueError(
                "BimodalGlobalContrastiveLoss: individual temperatures need "
                "temperature_weighted=True, got False"
            )
        if temperature_optimizer not in ("momentum", "adam"):
            raise ValueError(
                "BimodalGlobalContrastiveLoss: expected temperature_optimizer 'momentum' or "
                f"'adam', got {temperature_optimizer!r}"
            )
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"BimodalGlobalContrastiveLoss: expected betas in [0, 1), got {betas!r}"
            )
        adam = temperature_optimizer == "adam" and temperature_mode == "individual"
        if rho is None:
            rho = {"constant": 0.0, "individual": 6.0, "global": 6.5}[temperature_mode]
        super().__init__(
            num_samples=num_samples,
            temperature=temperature,
            gamma=gamma,
            eta=eta,
            individual=temperature_mode == "individual",
            learned=temperature_mode == "global",
            options=StepOptions(
                beta=1.0 - betas[0] if adam else beta,
                second_beta=1.0 - betas[1] if adam else 0.0,
                slope_limit=max_slope,
                lowest=min_temperature,
                highest=max_temperature,
                rho=rho,
                epsilon=epsilon,
                bimodal=True,
                normalize=normalize,
                per_view=False,
                relative=True,
                temperature_weighted=temperature_weighted,
            ),
            state_dtype=state_dtype,
            reduction=reduction,
        )
        self.temperature_mode = temperature_mode
        self.temperature_optimizer = temperature_optimizer

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        index: Tensor | None = None,
        *,
        update_state: bool = True,
    ) -> Tensor:
        """The loss of a batch; arguments, errors as in :class:`xrisk_ext.GlobalContrastiveLoss`."""
        return self._step(("image", "text"), (image, text), index, update_state)
