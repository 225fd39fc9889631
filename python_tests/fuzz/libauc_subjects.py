"""Every drop-in class of xrisk_ext.libauc as a subject of the contract tests."""

from functools import partial
from typing import Any

import torch
from draws import LABELS, QUERIES, SAMPLES, Draw, scored, views
from hypothesis import strategies as st
from loss_subjects import LISTWISE_FLOAT32_STATE, RAW
from subjects import Subject, Tensors

from xrisk_ext import libauc

# Bags whose mean is smaller are those of a state that float32 holds as zero.
MIDAM_LEAST = 1e-30
NAMES = ("y_pred", "y_true", "index")
RELEVANT = 3  # of every list, in front
SAME = {
    "APLoss": "AveragePrecisionLoss",
    "mAPLoss": "meanAveragePrecisionLoss",
    "mAUCMLoss": "MultiLabelAUCMLoss",
    "mPAUCLoss": "MultiLabelpAUCLoss",
}  # classes of two names


def _scored(*makes: Any, labels: int = 0, index: bool = True, **options: Any) -> Subject:
    draw = scored(labels, index, weights=False, names=NAMES)
    ids = {"ids": ("index",), "among": (SAMPLES,)} if index else {}
    roles = {"leaves": ("y_pred",), "labels": ("y_true",), **ids, **options}
    return Subject(makes, draw, **roles)


def _lists(d: Draw) -> Tensors:
    size = 0 if d.size == 0 else d.data.draw(st.sampled_from((4, 1, 9)), label="lists")
    shape = (size, max(min(d.size, 70), RELEVANT + 1))
    drawn = {"predictions": d.scores(*shape)}
    drawn["rating"] = torch.randint(0, 5, shape, generator=d.generator)
    drawn["user_item_id"] = d.ids(size * shape[1], SAMPLES).reshape(shape)
    drawn["user_id"] = d.ids(size, QUERIES)
    drawn["num_pos_items"] = torch.full((size,), 6)
    drawn["ideal_dcg"] = torch.rand(size, generator=d.generator) + 5.0
    return drawn


def _with_batch(loss: Any, tensors: Tensors) -> Any:
    return loss(tensors["predictions"], {k: t for k, t in tensors.items() if k != "predictions"})


def _ranked(*makes: Any, queries: bool = True, **options: Any) -> Subject:
    ids, among = ("user_item_id", "user_id"), (SAMPLES, QUERIES + 1)
    return Subject(
        makes, _lists, _with_batch, leaves=("predictions",), labels=(), ids=ids, among=among,
        bad="lists", **options,
    )  # fmt: skip


def _views(*makes: Any, names: tuple[str, str] = ("hidden1", "hidden2"), **o: Any) -> Subject:
    return Subject(
        makes, views(names), leaves=names, labels=(), ids=("index",), among=(SAMPLES,),
        terms=100.0, rows=True, **o,
    )  # fmt: skip


def _bags(d: Draw) -> Tensors:
    """What is averaged over a bag is positive."""
    drawn: Tensors = scored(weights=False, names=NAMES)(d)
    drawn["index"] = d.ids(d.size, SAMPLES)
    least = max(float(torch.finfo(d.dtype).smallest_normal), MIDAM_LEAST)
    drawn["y_pred"] = drawn["y_pred"].abs().clamp(min=least)
    return drawn


def _pooled(d: Draw) -> Tensors:
    drawn = _bags(d)
    return drawn | {"denominator": drawn["y_pred"].flip(0).abs()}


def _as_pair(loss: Any, tensors: Tensors) -> Any:
    pair = (tensors["y_pred"], tensors["denominator"])
    return loss(y_pred=pair, y_true=tensors["y_true"], index=tensors["index"])


def _midam(*makes: Any, pair: bool = False, **options: Any) -> Subject:
    leaves = ("y_pred", "denominator") if pair else ("y_pred",)
    call = {"call": _as_pair} if pair else {}
    return Subject(
        makes, _pooled if pair else _bags, leaves=leaves, labels=("y_true",), ids=("index",),
        among=(SAMPLES,), bad="value", **call, **options,
    )  # fmt: skip


def _classes(d: Draw) -> Tensors:
    """Logits less that of the true class, which differs from row to row."""
    logits = d.scores(d.size, 9)
    target = torch.randint(9, (d.size, 1), generator=d.generator)
    logits = (logits.double() - logits.double().gather(1, target)).to(d.dtype)
    return {"logits": logits, "indices": d.ids(d.size, SAMPLES)}


def _second_call(**options: Any) -> Any:
    """Past the first call, which is PyTorch's cross entropy of probabilities."""
    loss = libauc.CompositionalAUCLoss(**options)
    loss.step = loss.k
    return loss


def _stays_outer(loss: Any, tensors: Tensors) -> Any:
    loss.step = loss.k
    return loss(**tensors)


_samples = {"data_len": SAMPLES}
_labels = {"num_labels": LABELS}
_sopa = {"data_len": SAMPLES, "pos_len": 40}
_ndcg = {"N": SAMPLES, "num_user": QUERIES, "num_item": 200, "num_pos": RELEVANT}
_pairs = {"N": SAMPLES, "gamma": 0.4, "tau": 0.3}
_bimodal_names = ("image_features", "text_features")
_dropin = libauc

LIBAUC: dict[str, Subject] = {
    "AveragePrecisionLoss": _scored(
        partial(libauc.APLoss, **_samples),
        partial(libauc.APLoss, **_samples, surr_loss="logistic"),
    ),
    "meanAveragePrecisionLoss": _scored(
        partial(libauc.mAPLoss, **_samples, **_labels),
        partial(libauc.mAPLoss, **_samples, **_labels, top_k=2),
        labels=LABELS,
    ),
    "PairwiseAUCLoss": _scored(
        libauc.PairwiseAUCLoss, partial(libauc.PairwiseAUCLoss, "squared"), index=False
    ),
    "AUCMLoss": _scored(
        libauc.AUCMLoss, partial(libauc.AUCMLoss, version="v2"), index=False
    ),
    "MultiLabelAUCMLoss": _scored(
        partial(libauc.mAUCMLoss, **_labels), partial(libauc.mAUCMLoss, version="v2", **_labels),
        labels=LABELS, index=False,
    ),
    "CompositionalAUCLoss": _scored(
        _second_call, partial(_second_call, version="v2"), index=False, call=_stays_outer
    ),
    "CrossEntropyLoss": _scored(libauc.CrossEntropyLoss, index=False, bad="defined",
                                rounds_inputs=True),
    "FocalLoss": _scored(libauc.FocalLoss, index=False),
    "pAUC_CVaR_Loss": _scored(partial(libauc.pAUC_CVaR_Loss, **_sopa)),
    "pAUC_DRO_Loss": _scored(partial(libauc.pAUC_DRO_Loss, **_samples)),
    "tpAUC_KL_Loss": _scored(partial(libauc.tpAUC_KL_Loss, **_samples)),
    "tpAUC_CVaR_loss": _scored(partial(libauc.tpAUC_CVaR_loss, data_length=SAMPLES)),
    "pAUCLoss": _scored(
        *(partial(libauc.pAUCLoss, mode, **_samples) for mode in ("1w", "2w", "STACO")),
        partial(libauc.pAUCLoss, "SOPA", **_sopa),
    ),
    "MultiLabelpAUCLoss": _scored(
        *(partial(libauc.mPAUCLoss, mode, **_labels, **_samples) for mode in ("1w", "2w")),
        partial(libauc.mPAUCLoss, "SOPA", **_labels, **_sopa), labels=LABELS,
    ),
    "NDCGLoss": _ranked(
        partial(libauc.NDCGLoss, **_ndcg), partial(libauc.NDCGLoss, **_ndcg, topk=10, tau_1=0.3)
    ),
    "ListwiseCELoss": _ranked(
        partial(libauc.ListwiseCELoss, N=SAMPLES, num_pos=RELEVANT, gamma=0.3),
        exact_in_state_below=LISTWISE_FLOAT32_STATE,
    ),
    "GCLoss": _views(partial(libauc.GCLoss, **_pairs)),
    "GCLoss bimodal": _views(partial(libauc.GCLoss, mode="bimodal", **_pairs), **RAW),
    "GCLoss_v1": _views(
        partial(libauc.GCLoss_v1, **_pairs),
        partial(libauc.GCLoss_v1, **_pairs, enable_isogclr=True),
    ),
    "GCLoss_v2": _views(
        partial(libauc.GCLoss_v2, **_pairs),
        partial(libauc.GCLoss_v2, **_pairs, temperature_scheme="global_learnable"),
        names=_bimodal_names, **RAW,
    ),
    "EntLossClassification": Subject(
        tuple(partial(libauc.EntLossClassification, SAMPLES, 0.4, is_scent=s)
              for s in (True, False)),
        _classes, leaves=("logits",), labels=(), ids=("indices",), among=(SAMPLES,), bad="value",
        takes_minus_infinity=True,
    ),
    "MIDAMLoss": _midam(partial(libauc.MIDAMLoss, "softmax", **_samples)),
    "MIDAM_softmax_pooling_loss": _midam(partial(libauc.MIDAM_softmax_pooling_loss, **_samples)),
    "MIDAM_attention_pooling_loss": _midam(
        partial(libauc.MIDAM_attention_pooling_loss, **_samples), pair=True
    ),
}  # fmt: skip
