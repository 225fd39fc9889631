"""NDCG and listwise cross entropy: a batch is a dict, its first ``num_pos`` items are relevant."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from xrisk_ext import losses
from xrisk_ext.libauc._arguments import device_of, surrogate_options
from xrisk_ext.libauc._attributes import OnDevice, another_name, state_part
from xrisk_ext.libauc._processes import is_distributed, rows_of_all

Device = torch.device | str | None


class ListwiseCELoss(OnDevice, losses.ListwiseCrossEntropyLoss):
    """LibAUC's ``ListwiseCELoss``; ``eps`` is not needed."""

    u = state_part("state", slice(None), log=True, column=False)

    def __init__(
        self, N: int, num_pos: int, gamma: float, eps: float = 1e-10, device: Device = None
    ) -> None:
        super().__init__(N, gamma=gamma, items="irrelevant", shift="batch", initial_state="zero")
        self.num_pos = num_pos
        self.distributed = is_distributed()
        self.to(device_of(device))

    def forward(  # type: ignore[override]
        self, predictions: Tensor, batch: dict[str, Tensor]
    ) -> Tensor:
        items = predictions.shape[1]
        relevance = torch.zeros(predictions.shape, dtype=torch.int64, device=predictions.device)
        relevance[:, : self.num_pos] = 1
        # a sum over the relevant and the other items, where the objective has means
        pairs = self.num_pos * (items - self.num_pos)
        ids = batch["user_item_id"].to(predictions.device)
        rows = rows_of_all(self, predictions, relevance, ids)
        return super().forward(*rows, num_items=1, num_relevant=pairs)


class NDCGLoss(OnDevice, losses.NDCGLoss):
    """LibAUC's ``NDCGLoss`` (SONG, and K-SONG with ``topk`` > 0)."""

    gamma0, tau_1, tau_2 = another_name("gamma"), another_name("tau1"), another_name("tau2")
    u = state_part("state", slice(None), column=False)
    lambda_q = state_part("thresholds", slice(None), column=False)
    s_q = state_part("curvatures", slice(None), column=False)

    def __init__(
        self,
        N: int,
        num_user: int,
        num_item: int,
        num_pos: int,
        gamma0: float = 0.9,
        gamma1: float = 0.9,
        eta0: float = 0.01,
        margin: Any = 1.0,
        topk: int = -1,
        topk_version: str = "theo",
        tau_1: float = 0.01,
        tau_2: float = 0.0001,
        sigmoid_alpha: float = 2.0,
        surrogate_loss: str = "squared_hinge",
        device: Device = None,
    ) -> None:
        versions = {"theo": "theoretical", "prac": "practical"}
        if topk_version not in versions:
            raise ValueError(
                f"NDCGLoss: expected topk_version 'theo' or 'prac', got {topk_version!r}"
            )
        super().__init__(
            N,
            num_user + 1,
            top_k=topk if topk > 0 else None,
            gamma=gamma0,
            gamma1=gamma1,
            eta0=eta0,
            tau1=tau_1,
            tau2=tau_2,
            sigmoid_alpha=sigmoid_alpha,
            epsilon=0.0,
            top_k_version=versions[topk_version],  # type: ignore[arg-type]
            psi_slope="published",
            initial_state="zero",
            **surrogate_options(surrogate_loss, margin),
        )
        self.num_pos = num_pos
        self.num_item = num_item
        self.topk, self.topk_version = topk, topk_version
        self.distributed = is_distributed()
        self.to(device_of(device))

    def forward(  # type: ignore[override]
        self, predictions: Tensor, batch: dict[str, Tensor]
    ) -> Tensor:
        device, items = predictions.device, predictions.shape[1]
        given = {name: value.to(device) for name, value in batch.items()}
        relevance = pad(given["rating"][:, : self.num_pos].clamp(min=0), (0, items - self.num_pos))
        # its means are over num_pos items, also where some of them have the rating 0
        share = (relevance > 0).sum(1) / self.num_pos
        predictions, relevance, pairs, queries, relevant, ideal_dcg = rows_of_all(
            self,
            predictions,
            relevance,
            given["user_item_id"],
            given["user_id"],
            given["num_pos_items"] * share,
            given["ideal_dcg"],
        )
        return super().forward(
            predictions,
            relevance,
            pairs,
            queries if self.topk > 0 else None,
            num_items=self.num_item,
            num_relevant=relevant,
            ideal_dcg=ideal_dcg,
        )
