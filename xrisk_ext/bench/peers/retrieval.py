"""Average precision of every item's own ranking of the others: ours and pytorch-metric-learning's.

Its SmoothAP and FastAP replace the ranks in other ways than ours, so their gradients are theirs and
have no error against our truth; what is compared is the time of the same work: embeddings in, their
gradient out. SmoothAP holds B^3 sigmoids and insists on classes of one size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import xrisk_ext
from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import PAIRS_HELD, UnavailableError, peer
from xrisk_ext.bench.peers.ours import check_device
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.cases import RetrievalInputs

MARGIN = 0.2  # of cosine similarities


@peer("retrieval_average_precision", "ours", own=True)
def ours(inputs: RetrievalInputs) -> Contestant:
    check_device(inputs.embeddings)
    embeddings, classes = inputs
    loss_fn = xrisk_ext.MeanAveragePrecisionLoss(None, len(classes), margin=MARGIN, gamma=1.0)
    others = 1.0 - torch.eye(len(classes), device=embeddings.device)  # not the query itself

    def call() -> None:
        embeddings.grad = None
        unit = torch.nn.functional.normalize(embeddings)
        same = classes.unsqueeze(1) == classes
        loss_fn(unit @ unit.t(), same, item_weights=others).backward()

    return Contestant(
        "ours", call, error=lambda: truth.retrieval_error(inputs, embeddings.grad, MARGIN)
    )


def _metric_learning(name: str, make: Callable[[Any], Any], inputs: RetrievalInputs) -> Contestant:
    try:
        from pytorch_metric_learning import losses
    except ImportError as error:
        raise UnavailableError(str(error)) from error
    loss_fn = make(losses)
    embeddings, classes = inputs

    def call() -> None:
        embeddings.grad = None
        loss_fn(embeddings, classes).backward()

    return Contestant(name, call)


@peer("retrieval_average_precision", "metric_learning_smooth_ap", max_pairs=PAIRS_HELD)
def smooth_ap(inputs: RetrievalInputs) -> Contestant:
    return _metric_learning("metric_learning_smooth_ap", lambda m: m.SmoothAPLoss(), inputs)


@peer("retrieval_average_precision", "metric_learning_fast_ap", max_pairs=PAIRS_HELD)
def fast_ap(inputs: RetrievalInputs) -> Contestant:
    return _metric_learning("metric_learning_fast_ap", lambda m: m.FastAPLoss(), inputs)
