"""What the ranking losses refuse, and the forms in which they take their arguments.

A refusal names the argument and comes before anything is written.
"""

import inspect
from typing import Any

import pytest
import torch
from helpers import INF, NAN, assert_close
from loss_helpers import bits_equal
from ranking_helpers import (
    ITEMS,
    KINDS,
    PAIRS,
    QUERIES,
    RankingBatch,
    arguments_of,
    each_kind,
    make_batch,
    make_loss,
    same_states,
    states_of,
    step,
    versions,
    warm,
)
from torch import Tensor

RANKING = tuple(kind for kind in KINDS if kind != "map_at_k")
STEPPED = ("k_song", "k_song_practical", "map_at_k")  # lambda and s are state
each_ranking = pytest.mark.parametrize("kind", RANKING)


def _refused() -> dict[str, tuple[str, type[Exception], Any]]:
    """name: (argument, error, what becomes of the argument)."""
    every: dict[str, tuple[str, type[Exception], Any]] = {}
    for argument in ("relevance", "pair_index", "mask", "item_weights", "query_index"):
        every[f"{argument}-list"] = (argument, TypeError, lambda t: t.tolist())
        every[f"{argument}-short"] = (argument, ValueError, lambda t: t[:-1])
        every[f"{argument}-meta"] = (argument, ValueError, lambda t: t.to("meta"))
    return every | {
        "scores-int": ("scores", TypeError, lambda t: t.long()),
        "scores-1d": ("scores", ValueError, lambda t: t.reshape(-1)),
        "scores-3d": ("scores", ValueError, lambda t: t[None]),
        "scores-list": ("scores", TypeError, lambda t: t.tolist()),
        "relevance-complex": ("relevance", TypeError, lambda t: t + 0j),
        "relevance-huge": ("relevance", ValueError, lambda t: t * 1000),
        "relevance-inf": ("relevance", ValueError, lambda t: t * INF),
        "pair_index-none": ("pair_index", ValueError, lambda t: None),
        "pair_index-float": ("pair_index", TypeError, lambda t: t.float()),
        "pair_index-negative": ("pair_index", IndexError, lambda t: t * 0 - 1),
        "pair_index-past": ("pair_index", IndexError, lambda t: t * 0 + PAIRS),
        "mask-float": ("mask", TypeError, lambda t: t.float()),
        "item_weights-negative": ("item_weights", ValueError, lambda t: t - 5.0),
        "item_weights-nan": ("item_weights", ValueError, lambda t: t * NAN),
        "item_weights-learnt": ("item_weights", ValueError, lambda t: t.requires_grad_()),
        "item_weights-flat": ("item_weights", ValueError, lambda t: t.reshape(-1)),
        "offsets-both": ("scores", ValueError, None),
    }


REFUSED = _refused()


@pytest.mark.parametrize("name", [name for name in REFUSED if REFUSED[name][2] is not None])
@each_ranking
def test_a_refusal_names_the_argument_and_writes_nothing(kind: str, name: str) -> None:
    argument, error, change = REFUSED[name]
    if argument == "query_index" and kind not in STEPPED:
        return
    loss, batch = warm(kind), make_batch(kind, layout="both")
    before, version = states_of(loss), versions(loss)
    given = arguments_of(kind, batch) | {"scores": batch.scores}
    value = change(given[argument].clone())
    with pytest.raises(error, match=argument):
        loss(**(given | {argument: value}))
    assert same_states(states_of(loss), before)
    assert versions(loss) == version


@pytest.mark.parametrize(
    ("argument", "bad"),
    [
        ("offsets", torch.tensor([0, 3, 2, 55])),
        ("offsets", torch.tensor([0, 54])),
        ("offsets", torch.tensor([1, 55])),
        ("offsets", torch.tensor([[0, 55]])),
        ("num_items", 0),
        ("num_items", NAN),
        ("num_items", torch.ones(4)),
        ("num_relevant", -1),
        ("ideal_dcg", -0.5),
        ("ideal_dcg", INF),
        ("ideal_dcg", torch.ones(QUERIES, requires_grad=True)),
        ("num_items", "many"),
        ("query_index", torch.tensor([0, 1, 2, 3, 4])),
        ("query_index", torch.tensor([0, 1, -1, 3, 0])),
        ("query_index", torch.tensor([0.0] * 5)),
        ("query_index", None),
    ],
    ids=str,
)
def test_bad_sizes_offsets_and_query_ids(argument: str, bad: Any) -> None:
    loss, batch = warm("k_song"), make_batch("k_song")
    before = states_of(loss)
    given: dict[str, Any] = arguments_of("k_song", batch) | {"scores": batch.scores}
    if argument == "offsets":
        given |= {k: given[k].reshape(-1) for k in ("scores", "relevance", "pair_index")}
        given["query_index"] = torch.zeros(max(0, bad.numel() - 1), dtype=torch.int64)
    with pytest.raises((ValueError, TypeError, IndexError), match=argument):
        loss(**(given | {argument: bad}))
    assert same_states(states_of(loss), before)


BAD_HYPER_PARAMETERS: list[tuple[str, dict[str, Any]]] = [
    ("num_pairs", {"num_pairs": 0}),
    ("num_pairs", {"num_pairs": None, "gamma": 0.5}),
    ("gamma", {"gamma": 1.5}),
    ("state_dtype", {"state_dtype": torch.float16}),
    ("initial_state", {"initial_state": "one"}),
    ("reduction", {"reduction": "sum"}),
]
BAD_OF_NDCG: list[tuple[str, dict[str, Any]]] = [
    ("surrogate", {"surrogate": "square"}),
    ("margin", {"margin": -1.0}),
    ("algorithm", {"algorithm": "fast"}),
    ("sort", {"algorithm": "sort", "surrogate": "sigmoid"}),
    ("scale", {"scale": 0.5, "surrogate": "barrier_hinge"}),
    ("top_k", {"top_k": 0}),
    ("top_k", {"top_k": 2.5}),
    ("epsilon", {"epsilon": 1.0}),
    ("threshold", {"threshold": "guess"}),
    ("top_k_version", {"top_k_version": "theo"}),
    ("psi_slope", {"psi_slope": "flat"}),
    ("tau1", {"top_k": 2, "tau1": 0.0}),
    ("gamma1", {"top_k": 2, "gamma1": 2.0}),
]


@pytest.mark.parametrize(
    ("kind", "named", "options"),
    [(kind, *bad) for kind in ("song", "listwise") for bad in BAD_HYPER_PARAMETERS]
    + [("song", *bad) for bad in BAD_OF_NDCG],
    ids=str,
)
def test_a_bad_hyper_parameter_is_named(kind: str, named: str, options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=named):
        make_loss(kind, **options)


def test_k_song_needs_num_queries_unless_it_solves() -> None:
    loss_type = type(make_loss("song"))
    with pytest.raises(ValueError, match="num_queries"):
        loss_type(4, top_k=2)
    assert loss_type(4, top_k=2, threshold="solve").thresholds is None
    with pytest.raises(ValueError, match="items"):
        make_loss("listwise", items="negatives")
    with pytest.raises(ValueError, match="shift"):
        make_loss("listwise", shift="max")
    with pytest.raises(ValueError, match="num_items"):
        make_loss("map_at_k", num_items=0)


@each_ranking
def test_the_signature_is_the_public_one(kind: str) -> None:
    forward = list(inspect.signature(type(make_loss(kind)).forward).parameters)[1:]
    assert forward[:4] == ["scores", "relevance", "pair_index", "query_index"]
    assert {"mask", "offsets", "num_items", "num_relevant", "ideal_dcg"} <= set(forward)
    assert {"item_weights", "update_state"} <= set(forward)
    constructor = list(inspect.signature(type(make_loss(kind)).__init__).parameters)[1:]
    assert constructor[0] == "num_pairs"
    assert kind == "listwise" or constructor[1] == "num_queries"


@each_ranking
def test_ids_may_be_int32_and_layouts_strided(kind: str) -> None:
    batch = make_batch(kind, layout="both")

    def strided(t: Tensor) -> Tensor:
        return torch.stack([t, t], dim=-1)[..., 0]

    other = RankingBatch(
        strided(batch.scores),
        strided(batch.relevance),
        strided(batch.pair_index).int(),
        strided(batch.query_index).int(),
        None if batch.mask is None else strided(batch.mask).to(torch.uint8),
        None,
        None if batch.weights is None else strided(batch.weights),
    )
    for a, b in zip(step(make_loss(kind), other), step(make_loss(kind), batch), strict=True):
        assert bits_equal(a, b)


@each_kind
def test_weights_are_relative_and_zero_removes(kind: str) -> None:
    batch = make_batch(kind, layout="weighted")
    assert batch.weights is not None
    expected = step(make_loss(kind), batch)
    for a, b in zip(
        step(make_loss(kind), batch._replace(weights=batch.weights * 4.0)), expected, strict=True
    ):
        assert_close(a, b, rtol=1e-6, atol=1e-8)
    ones = torch.ones_like(batch.weights)
    plain = batch._replace(weights=None)
    for a, b in zip(
        step(make_loss(kind), batch._replace(weights=ones)),
        step(make_loss(kind), plain),
        strict=True,
    ):
        assert_close(a, b, rtol=1e-6, atol=1e-8)
    if kind == "map_at_k":
        return
    present = ones * (torch.arange(ITEMS) != 3)
    masked = plain._replace(mask=present.bool())
    for a, b in zip(
        step(make_loss(kind), plain._replace(weights=present)),
        step(make_loss(kind), masked),
        strict=True,
    ):
        assert_close(a, b, rtol=1e-6, atol=1e-8)
