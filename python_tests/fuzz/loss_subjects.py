"""Every loss of the package as a subject of the contract tests."""

from collections.abc import Callable
from functools import partial
from typing import Any

import baseline_helpers
import contrastive_helpers
import label_helpers
import listwise_helpers
import ranking_helpers
import torch
from draws import BAGS, LABELS, SAMPLES, WIDTH, Draw, bags, lists, ranked, scored, views
from strategies import EXTREMES
from subjects import Subject, Tensors
from top_loss_helpers import make_top_loss

import xrisk_ext as xr

# Where float32 has too few digits for logarithms as large as these: finite, but not exact.
LISTWISE_FLOAT32_STATE = 1e3
RAW_EMBEDDINGS = 30.0
POOLING_FLOAT32 = 1.0

AVERAGE_PRECISION_FLOAT64 = 10.0 ** EXTREMES[torch.float64]

RAW_FLOAT16 = 1e3

RAW_FINITE = 1e17  # products of these fit float32


def _scored(
    makes: list[Callable[[], Any]], labels: int = 0, index: bool = True, **options: Any
) -> Subject:
    anchors = options.pop("anchors", 1)
    ids = {"ids": ("index",), "among": (SAMPLES,)} if index else {}
    draw = scored(labels, index, anchors=anchors)
    return Subject(tuple(makes), draw, left_out_by=("item_weights",), **ids, **options)


def _top(*rules: str, **options: Any) -> Subject:
    one = [partial(make_top_loss, rule, SAMPLES) for rule in rules]
    zero = [
        partial(make_top_loss, rule, SAMPLES, initial_state="zero")
        for rule in rules
        if "kl" in rule
    ]
    return _scored([*one, *zero], index="top_push" not in rules, **options)


def _labels(*kinds: str) -> Subject:
    makes = [partial(label_helpers.make, kind) for kind in kinds]
    return _scored(makes, index=False)


def _listwise(kind: str) -> Subject:
    retrieval = kind in listwise_helpers.RETRIEVAL
    labels = "labels" if retrieval else "relevance"
    makes = [partial(listwise_helpers.make_loss, kind, **o)
             for o in listwise_helpers.KINDS[kind].options]  # fmt: skip
    return Subject(
        tuple(makes), lists(weights=retrieval, labels=labels), labels=(labels,), bad="lists",
        left_out_by=("mask", "item_weights") if retrieval else ("mask",), entries_in=1,
    )  # fmt: skip


def _ranking(*kinds: str, **options: Any) -> Subject:
    makes = []
    for kind in kinds:
        own = {} if kind == "listwise" else {"algorithm": "direct"}
        makes += [partial(ranking_helpers.make_loss, kind, SAMPLES, **o) for o in ({}, own)]
    return Subject(
        tuple(makes), ranked(ranking_helpers.USERS), labels=("relevance",),
        ids=("pair_index", "query_index"), among=(SAMPLES, ranking_helpers.USERS), bad="lists",
        left_out_by=("mask", "item_weights"), entries_in=1,
        **options,
    )  # fmt: skip


def _contrastive(bimodal: bool, normalize: bool = True, **options: Any) -> Subject:
    kinds = [k for k, (two, _) in contrastive_helpers.KINDS.items() if two == bimodal]
    makes = [partial(contrastive_helpers.make, k, SAMPLES, normalize=normalize) for k in kinds]

    def call(loss: Any, tensors: Tensors) -> Any:
        return loss(*tensors.values())

    return Subject(
        tuple(makes), views(), call, leaves=("view1", "view2"), labels=(), ids=("index",),
        among=(SAMPLES,), terms=100.0, rows=True, **options,
    )  # fmt: skip


def _baseline(name: str, normalize: bool = True, **options: Any) -> Subject:
    variants: list[dict[str, Any]] = [{}, {"reduction": "none"}]
    if name in baseline_helpers.WITH_QUEUE:
        variants.append({"state_dtype": torch.float32})
    makes = [partial(baseline_helpers.make_baseline, name, normalize=normalize, **o)
             for o in variants]  # fmt: skip
    supervised = name == "SupCon"
    return Subject(
        tuple(makes), views(index=False, classes=supervised), leaves=("view1", "view2"),
        labels=(), rounds_inputs=True, same_bits=False, terms=10.0, rows=True,
        **{"bad": "value", **options},
    )  # fmt: skip


def _classified(d: Draw) -> Tensors:
    size, classes = min(d.size, 300), 9
    return {
        "features": d.scores(size, WIDTH),
        "class_weights": d.scores(classes, WIDTH),
        "targets": torch.randint(classes, (size,), generator=d.generator),
        "index": d.ids(size, SAMPLES),
    }


def _entropic(**options: Any) -> Any:
    return partial(xr.CompositionalEntropicLoss, SAMPLES, **options)


def _pooling(mode: str) -> Subject:
    attention = mode == "attention"
    leaves = ("scores", "attention") if attention else ("scores",)
    make = partial(xr.MultiInstancePooling, BAGS, gamma=0.3, temperature=0.4)
    makes = [partial(make, mode=mode, initial_state=start) for start in ("assign", "zero")]
    return Subject(
        tuple(makes), bags(attention), leaves=leaves, labels=(), ids=("index",), among=(BAGS,),
        bad="rows", takes_minus_infinity=True, same_bits=False, exact_below=POOLING_FLOAT32,
        exact_in_state_below=POOLING_FLOAT32,
    )  # fmt: skip


_ap = partial(xr.AveragePrecisionLoss, SAMPLES, gamma=0.3)
_map = partial(xr.MeanAveragePrecisionLoss, SAMPLES, LABELS, gamma=0.3)
_auc = xr.PairwiseAUCLoss
_smooth = {"surrogate": "logistic"}
_log = {"surrogate": "sigmoid", "scale": 1.5, "reduction": "none"}
_hinge = {"surrogate": "barrier_hinge", "scale": 2.0, "initial_state": "zero"}

RAW: dict[str, Any] = {
    "exact_below": RAW_EMBEDDINGS,
    "exact_in_state_below": RAW_EMBEDDINGS,
    "finite_below": RAW_FINITE,
}
RAW_BASELINE = {"finite_below": RAW_FINITE, "finite_in_half_below": RAW_FLOAT16}
# A public class may be several subjects: those after a space have arguments of their own.
LOSSES: dict[str, Subject] = {
    "AveragePrecisionLoss": _scored(
        [_ap, partial(_ap, **_smooth), partial(_ap, **_log), partial(_ap, **_hinge)],
        finite_below=AVERAGE_PRECISION_FLOAT64,
    ),
    "MeanAveragePrecisionLoss": _scored(
        [_map, partial(_map, algorithm="direct"), partial(_map, **_log)], LABELS,
        finite_below=AVERAGE_PRECISION_FLOAT64,
    ),
    "MeanAveragePrecisionLoss top_k": _scored(
        [partial(_map, top_k=2, tau1=0.2), partial(_map, top_k=5, top_k_version="practical"),
         partial(_map, top_k=2, threshold="solve")],
        LABELS,
    ),
    "PairwiseAUCLoss": _scored(
        [_auc, partial(_auc, **_smooth), partial(_auc, algorithm="direct"),
         partial(_auc, surrogate="barrier_hinge", scale=2.0)],
        index=False,
    ),
    "AUCMarginLoss": _labels("v2", "v1"),
    "MinMaxAUCLoss": _labels("min-max"),
    "FocalLoss": _labels("focal"),
    "ClassBalancedCrossEntropyLoss": _labels("balanced"),
    "LDAMLoss": _labels("ldam"),
    "PartialAUCLoss": _top("kl", "cvar", "exact"),
    "TwoWayPartialAUCLoss": _top("two_way_kl", "two_way_cvar", "two_way_exact"),
    "TopPushLoss": _top("top_push"),
    "PNormPushLoss": _top("p_norm_push", anchors=0, may_be_infinite=True),
    "SmoothAPLoss": _listwise("smooth_ap"),
    "FastAPLoss": _listwise("fast_ap"),
    "RecallAtKLoss": _listwise("recall_at_k"),
    "RankNetLoss": _listwise("rank_net"),
    "LambdaRankLoss": _listwise("lambda_rank"),
    "ListNetLoss": _listwise("list_net"),
    "ListMLELoss": _listwise("list_mle"),
    "ApproxNDCGLoss": _listwise("approx_ndcg"),
    "NeuralNDCGLoss": _listwise("neural_ndcg"),
    "NDCGLoss": _ranking("song", "k_song", "k_song_practical", "k_song_solved"),
    "ListwiseCrossEntropyLoss": _ranking(
        "listwise", exact_in_state_below=LISTWISE_FLOAT32_STATE
    ),
    "GlobalContrastiveLoss": _contrastive(False),
    "GlobalContrastiveLoss raw": _contrastive(False, False, **RAW),
    "BimodalGlobalContrastiveLoss": _contrastive(True),
    "BimodalGlobalContrastiveLoss raw": _contrastive(True, False, **RAW),
    "NTXentLoss": _baseline("NTXent"),
    "NTXentLoss raw": _baseline("NTXent", False, **RAW_BASELINE),
    "FlatNCELoss": _baseline("FlatNCE"),
    "FlatNCELoss raw": _baseline("FlatNCE", False, **RAW_BASELINE),
    "EqCoLoss": _baseline("EqCo"),
    "EqCoLoss raw": _baseline("EqCo", False, **RAW_BASELINE),
    "SupConLoss": _baseline("SupCon"),
    "SupConLoss raw": _baseline("SupCon", False, **RAW_BASELINE),
    "CLIPLoss": _baseline("CLIP"),
    "CLIPLoss raw": _baseline("CLIP", False, **RAW_BASELINE),
    "MoCoLoss": _baseline("MoCo"),
    "MoCoLoss raw": _baseline("MoCo", False, **RAW_BASELINE),
    "NNCLRLoss": _baseline("NNCLR"),
    "NNCLRLoss raw": _baseline("NNCLR", False, **RAW_BASELINE),
    "CompositionalEntropicLoss": Subject(
        (_entropic(gamma=0.6), _entropic(method="scent", alpha=0.4, kappa=1.3)), _classified,
        leaves=("features", "class_weights"), labels=(), ids=("index",), among=(SAMPLES,),
        bad="value", terms=300.0, finite_below=RAW_FINITE,
    ),
    "MultiInstancePooling": _pooling("softmax"),
    "MultiInstancePooling attention": _pooling("attention"),
}  # fmt: skip
