"""Cases of LibAUC's losses by name: its own class against the drop-in of the same name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from xrisk_ext.testing.case import SEED, Case, Limit

NUM_SAMPLES = 100_000
LABELS = 5  # of the multi-label losses
ITEMS, RELEVANT = 32, 10  # of a query; a batch is a number of pairs of a query and an item
WIDTH = 256  # of the embeddings
CLASSES = 1000  # of extreme classification
SIZES = (256, 1024, 4096)

Form = Literal["scores", "indexed", "lists", "views", "classes", "bags"]


class LibaucLoss(NamedTuple):
    """How a loss is made and called; `matrix` / B^2 numbers are in each matrix that theirs holds.

    scores: (scores, labels); indexed: with the samples' ids; lists: (scores [Q, 32], a dict);
    views: (embeddings, embeddings, ids); classes: (logits, ids); bags: what is pooled, labels, ids.
    """

    class_name: str
    options: dict[str, Any]
    form: Form = "indexed"
    matrix: float = 0.1  # a tenth are positives
    labels: int = 1
    inputs: int = 1  # tensors that get gradients
    with_value: bool = False  # the number returned is theirs too, and not the objective's estimate


_SAMPLES: dict[str, Any] = {"data_len": NUM_SAMPLES}
_LABELS: dict[str, Any] = {"num_labels": LABELS}
_LISTS: dict[str, Any] = {
    "N": NUM_SAMPLES, "num_user": 2 * max(SIZES) // ITEMS, "num_item": 1000, "num_pos": RELEVANT,
}  # fmt: skip
_PAIRS: dict[str, Any] = {"N": NUM_SAMPLES, "gamma": 0.4}

# By the names in the tables: every class that LibAUC exports, in each of its modes.
LOSSES: dict[str, LibaucLoss] = {
    "AP": LibaucLoss("APLoss", _SAMPLES),
    "mAP": LibaucLoss("mAPLoss", _SAMPLES | _LABELS, matrix=0.5, labels=LABELS),
    "mAP, top_k": LibaucLoss(
        "mAPLoss", _SAMPLES | _LABELS | {"top_k": 20}, matrix=0.5, labels=LABELS
    ),
    "pairwise AUC": LibaucLoss(
        "PairwiseAUCLoss", {"surr_loss": "squared_hinge"}, "scores", with_value=True
    ),
    "AUC-M": LibaucLoss("AUCMLoss", {}, "scores", 0, with_value=True),
    "AUC-M v2": LibaucLoss("AUCMLoss", {"version": "v2"}, "scores", 0, with_value=True),
    "mAUC-M": LibaucLoss("mAUCMLoss", _LABELS, "scores", 0, LABELS, with_value=True),
    "mAUC-M v2": LibaucLoss(
        "mAUCMLoss", _LABELS | {"version": "v2"}, "scores", 0, LABELS, with_value=True
    ),
    # a step of cross entropy and one of AUC-M
    "compositional AUC": LibaucLoss("CompositionalAUCLoss", {}, "scores", 0),
    "SOPA": LibaucLoss("pAUCLoss", _SAMPLES | {"mode": "SOPA", "pos_len": NUM_SAMPLES}),
    "SOPA-s": LibaucLoss("pAUCLoss", _SAMPLES | {"mode": "1w"}),
    "SOTA-s": LibaucLoss("pAUCLoss", _SAMPLES | {"mode": "2w"}),
    "STACO": LibaucLoss("tpAUC_CVaR_loss", {"data_length": NUM_SAMPLES}),
    "multi-label SOPA": LibaucLoss(
        "mPAUCLoss",
        _SAMPLES | _LABELS | {"mode": "SOPA", "pos_len": NUM_SAMPLES},
        matrix=0.5,
        labels=LABELS,
    ),
    "multi-label SOPA-s": LibaucLoss("mPAUCLoss", _SAMPLES | _LABELS, matrix=0.5, labels=LABELS),
    # Theirs has one outer average for all labels: with gamma 1 it forgets, and the two are equal.
    "multi-label SOTA-s": LibaucLoss(
        "mPAUCLoss",
        _SAMPLES | _LABELS | {"mode": "2w", "gammas": (0.9, 1.0)},
        matrix=0.5,
        labels=LABELS,
    ),
    "SONG": LibaucLoss("NDCGLoss", _LISTS, "lists", 0),
    "K-SONG": LibaucLoss("NDCGLoss", _LISTS | {"topk": 50, "tau_1": 0.1}, "lists", 0),
    "K-SONG, practical": LibaucLoss(
        "NDCGLoss", _LISTS | {"topk": 50, "tau_1": 0.1, "topk_version": "prac"}, "lists", 0
    ),
    "listwise CE": LibaucLoss(
        "ListwiseCELoss", {"N": NUM_SAMPLES, "num_pos": RELEVANT, "gamma": 0.9}, "lists", 0
    ),
    "SogCLR": LibaucLoss("GCLoss_v1", _PAIRS, "views", 4, inputs=2),
    "iSogCLR": LibaucLoss("GCLoss_v1", _PAIRS | {"enable_isogclr": True}, "views", 4, inputs=2),
    "bimodal SogCLR": LibaucLoss("GCLoss_v2", _PAIRS | {"tau": 0.05}, "views", 1, inputs=2),
    "bimodal iSogCLR": LibaucLoss(
        "GCLoss_v2",
        _PAIRS | {"tau": 0.04, "temperature_scheme": "individual_learnable"},
        "views",
        1,
        inputs=2,
    ),
    "MIDAM, softmax": LibaucLoss(
        "MIDAMLoss", _SAMPLES | {"mode": "softmax"}, "bags", 0, with_value=True
    ),
    "MIDAM, attention": LibaucLoss("MIDAMLoss", _SAMPLES, "bags", 0, inputs=2, with_value=True),
    "SCENT": LibaucLoss(
        "EntLossClassification",
        {"data_size": NUM_SAMPLES, "alpha": 0.4},
        "classes",
        0,
        with_value=True,
    ),
    "SOX": LibaucLoss(
        "EntLossClassification",
        {"data_size": NUM_SAMPLES, "is_scent": False},
        "classes",
        0,
        with_value=True,
    ),
    "cross entropy": LibaucLoss("CrossEntropyLoss", {}, "scores", 0, with_value=True),
    # of theirs, all weights meet all losses
    "focal": LibaucLoss("FocalLoss", {"alpha": 0.5}, "scores", 1, with_value=True),
}

# What LibAUC has and cannot run: the call that fails, and how.
NOT_RUNNING = {
    "multi-label STACO": ("mPAUCLoss(mode='STACO')", "a ValueError"),
    "pAUCLoss STACO": ("pAUCLoss(mode='STACO', data_len=...)", "a TypeError"),
    "top push": (
        "perf_at_top.Top_Push_Loss",
        "not exported; for CUDA alone, and its forward reads a name that is not set",
    ),
}


@dataclass(frozen=True)
class LibaucCase(Case):
    """One step of a loss: forward, gradients of its inputs, state."""

    work: ClassVar[str] = "libauc"
    share: ClassVar[float] = 0.25
    loss: str
    batch: int

    @property
    def kind(self) -> LibaucLoss:
        return LOSSES[self.loss]

    @property
    def name(self) -> str:
        return f"{self.loss}, B={self.batch}"

    @property
    def quick(self) -> bool:
        return self.batch == 256 and self.loss in ("SOPA-s", "AUC-M", "focal")

    @property
    def pairs(self) -> int:
        return int(self.kind.matrix * self.batch**2)

    @property
    def under_o(self) -> tuple[str, ...]:
        return ("libauc",)

    @property
    def notes(self) -> dict[str, Any]:
        return {"batch": self.batch, "loss": self.loss}

    def inputs(self) -> LibaucInputs:
        generator = torch.Generator().manual_seed(SEED)
        make = {"lists": _lists, "views": _views, "classes": _classes, "bags": _bags}
        return make.get(self.kind.form, _scores)(self.kind, self.batch, generator)

    def limit(self) -> Limit:
        """What is read and written once; of two views, the products alone."""
        if self.kind.form == "views":
            products = 8 if self.kind.class_name == "GCLoss_v1" else 4
            return Limit(math.inf, products * self.batch**2 * WIDTH)
        columns = CLASSES if self.kind.form == "classes" else self.kind.labels
        return Limit(12 * self.batch * columns)


class LibaucInputs(NamedTuple):
    first: Tensor  # float32, requires grad, as all that are not labels or ids
    second: Tensor | None  # the other view, or what the numerators are divided by
    labels: Tensor | None  # 0 or 1 as float32; of lists: ratings [Q, 32]
    ids: Tensor  # int64, distinct: [B]; of lists: [Q, 32]
    loss: LibaucLoss


def _ids(count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(NUM_SAMPLES, generator=generator)[:count]


def _scores(loss: LibaucLoss, batch: int, generator: torch.Generator) -> LibaucInputs:
    shape = (batch,) if loss.labels == 1 else (batch, loss.labels)
    ranks = torch.rand(shape, generator=generator).argsort(0).argsort(0)
    labels = (ranks < batch // 10).float()
    scores = torch.sigmoid(torch.randn(shape, generator=generator) + labels)
    return LibaucInputs(scores.requires_grad_(), None, labels, _ids(batch, generator), loss)


def _lists(loss: LibaucLoss, batch: int, generator: torch.Generator) -> LibaucInputs:
    """The relevant items come first."""
    shape = (batch // ITEMS, ITEMS)
    ratings = torch.randint(1, 5, shape, generator=generator)
    ratings[:, RELEVANT:] = 0
    scores = torch.randn(shape, generator=generator) + 0.3 * ratings
    ids = _ids(batch, generator).reshape(shape)
    return LibaucInputs(scores.requires_grad_(), None, ratings, ids, loss)


def _views(loss: LibaucLoss, batch: int, generator: torch.Generator) -> LibaucInputs:
    """Two noisy views of each sample, of length 1: the bimodal loss takes them as they come."""
    sample = torch.randn(batch, WIDTH, generator=generator)
    first, second = (
        normalize(sample + torch.randn(batch, WIDTH, generator=generator)).requires_grad_()
        for _ in range(2)
    )
    return LibaucInputs(first, second, None, _ids(batch, generator), loss)


def _classes(loss: LibaucLoss, batch: int, generator: torch.Generator) -> LibaucInputs:
    """Logits less that of the true class."""
    logits = torch.randn(batch, CLASSES, generator=generator)
    target = torch.randint(CLASSES, (batch, 1), generator=generator)
    logits = logits - logits.gather(1, target)
    return LibaucInputs(logits.requires_grad_(), None, None, _ids(batch, generator), loss)


def _bags(loss: LibaucLoss, batch: int, generator: torch.Generator) -> LibaucInputs:
    scores, _, labels, ids, _ = _scores(loss, batch, generator)
    first = (scores.detach() + 0.5).requires_grad_()
    second = torch.rand(batch, generator=generator) + 0.5 if loss.inputs == 2 else None
    return LibaucInputs(
        first, None if second is None else second.requires_grad_(), labels, ids, loss
    )


LIBAUC = [LibaucCase(loss, batch) for loss in LOSSES for batch in SIZES]
