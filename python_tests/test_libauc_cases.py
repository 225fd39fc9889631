"""The races against LibAUC's classes: all of them are there, and both sides compute the same."""

from typing import Any

import libauc.losses
import pytest

from xrisk_ext import libauc as dropin
from xrisk_ext.bench.peers import build_all
from xrisk_ext.testing.libauc_cases import LOSSES, NOT_RUNNING, LibaucCase


def test_every_class_races() -> None:
    raced = {getattr(dropin, loss.class_name) for loss in LOSSES.values()}
    # Behind a mode of pAUCLoss and MIDAMLoss, or in front of GCLoss_v1 and GCLoss_v2.
    behind = {
        dropin.pAUC_CVaR_Loss, dropin.pAUC_DRO_Loss, dropin.tpAUC_KL_Loss, dropin.GCLoss,
        dropin.MIDAM_softmax_pooling_loss, dropin.MIDAM_attention_pooling_loss,
    }  # fmt: skip
    assert raced | behind == {getattr(dropin, name) for name in dropin.__all__}


@pytest.mark.parametrize("loss", LOSSES)
def test_libauc_computes_what_ours_computes(loss: str) -> None:
    contestants, left_out = build_all(LibaucCase(loss, 64), ["libauc"])
    assert not left_out
    for contestant in contestants:
        contestant.reset()
        contestant.call()
        assert contestant.error is not None
        assert contestant.error() < 1e-5, contestant.name
        contestant.call()  # with state that is not fresh


def test_what_is_said_not_to_run_does_not() -> None:
    failing: dict[str, Any] = {
        "multi-label STACO": (ValueError, lambda: libauc.losses.mPAUCLoss(mode="STACO")),
        "pAUCLoss STACO": (TypeError, lambda: libauc.losses.pAUCLoss(mode="STACO", data_len=8)),
    }
    assert failing.keys() | {"top push"} == NOT_RUNNING.keys()
    assert not hasattr(libauc.losses, "Top_Push_Loss")
    for error, make in failing.values():
        with pytest.raises(error):
            make()
