"""LibAUC 2.0.1, run as it is; the same file serves the race under `python -O`."""

from __future__ import annotations

import warnings

from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import PAIRS_HELD, UnavailableError, peer
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.cases import AveragePrecisionInputs


@peer("average_precision", "libauc", max_pairs=PAIRS_HELD)
def average_precision(inputs: AveragePrecisionInputs) -> Contestant:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from libauc.losses import APLoss
    except ImportError as error:
        raise UnavailableError(str(error)) from error

    scores, labels, index, num_samples, gamma, margin = inputs
    loss_fn = APLoss(data_len=num_samples, gamma=gamma, margin=margin, device=scores.device)

    def call() -> None:
        scores.grad = None
        loss_fn(scores, labels, index).backward()

    def reset() -> None:
        loss_fn.u_all.zero_()
        loss_fn.u_pos.zero_()

    # Its averages start at zero where ours are assigned on first touch: it is held to its own rule.
    return Contestant(
        "libauc",
        call,
        reset,
        lambda: truth.average_precision_error(inputs, scores.grad, start=0.0),
    )
