"""What is one op on the CPU and composed of several on CUDA, composed as there, on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import test_fuzz_contracts as contracts
import test_fuzz_magnitudes as magnitudes
import torch

COMPOSED = (
    "losses.CompositionalEntropicLoss",
    "losses.MoCoLoss",
    "losses.SupConLoss",
    "libauc.EntLossClassification",
    "libauc.MIDAM_attention_pooling_loss",
    "libauc.MIDAM_softmax_pooling_loss",
    "libauc.meanAveragePrecisionLoss",
)
CHECKS = (
    contracts.test_a_layout_changes_nothing,
    contracts.test_an_empty_batch_does_nothing,
    contracts.test_types_of_labels_ids_and_weights,
    magnitudes.test_finite_scores_of_any_size,
    magnitudes.test_scores_that_are_not_finite,
)
# Sums of pairs with weights that are NaN are refused where values are looked at: on the CPU.
REFUSED_ON_THE_CPU = {
    ("libauc.meanAveragePrecisionLoss", magnitudes.test_scores_that_are_not_finite)
}


# The steps of the CPU, which must not run.
FUSED = (
    "xrisk_ext.losses.compositional_entropic.query_step",
    "xrisk_ext.losses.contrastive_queues.query_step",
    "xrisk_ext.libauc._classification.entropic_step",
    "xrisk_ext.libauc._multi_instance.pooled_margin_step",
    "xrisk_ext.libauc._auc.ranked_precision_step",
)


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("this is the step of the CPU")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", COMPOSED)
def test_as_composed_on_cuda(
    name: str, check: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if (name, check) in REFUSED_ON_THE_CPU:
        pytest.skip("weights that are NaN are refused on the CPU, by design")
    monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda _: False))
    for step in FUSED:
        monkeypatch.setattr(step, refuse)
    check(name=name, device="cpu")
