"""Queues of embeddings: first in, first out, and what every state keeps."""

import copy
from typing import Any

import pytest
import torch
from baseline_helpers import DIM, QUEUE, each_queue, make_baseline, unit, views
from torch import Tensor

from xrisk_ext.losses import contrastive_queues


def entering(name: str, a: Tensor, b: Tensor) -> Tensor:
    """What a batch puts into the queue."""
    return unit((b if name == "MoCo" else a).detach())


@each_queue
def test_the_oldest_rows_are_replaced(name: str) -> None:
    loss: Any = make_baseline(name)
    slots = list(loss.queue.clone())
    torch.testing.assert_close(loss.queue.norm(dim=1), torch.ones(QUEUE).double())
    at = 0
    for seed, size in enumerate((4, 4, 5, 1, 0, QUEUE, 3)):  # the queue is not a multiple
        a, b = views(size, seed)
        loss(a, b)
        for row in entering(name, a, b):
            slots[at] = row
            at = (at + 1) % QUEUE
        torch.testing.assert_close(loss.queue, torch.stack(slots))
        assert int(loss.pointer) == at


@each_queue
def test_of_a_batch_longer_than_the_queue_the_last_stay(name: str) -> None:
    loss: Any = make_baseline(name, queue_size=5)
    loss(*views(2))
    a, b = views(13, seed=1)
    loss(a, b)
    start = (2 + 13 - 5) % 5
    order = [(start + k) % 5 for k in range(5)]
    torch.testing.assert_close(loss.queue[order], entering(name, a, b)[-5:])
    assert int(loss.pointer) == (2 + 13) % 5


@each_queue
def test_when_the_queue_is_written(name: str) -> None:
    loss: Any = make_baseline(name)
    before = loss.queue.clone()
    value = loss(*views(), update_state=False)
    loss.eval()
    assert torch.equal(loss(*views()), value)  # it is read all the same
    assert torch.equal(loss.queue, before)
    loss.train()
    version = loss.queue._version
    with torch.no_grad():
        assert torch.equal(loss(*views()), value)
    assert not torch.equal(loss.queue, before)
    assert loss.queue._version > version


@each_queue
def test_rows_that_are_not_finite_do_not_enter(name: str) -> None:
    loss: Any = make_baseline(name)
    before = loss.queue.clone()
    a, b = (x.detach().clone() for x in views())
    a[2, 0] = b[2, 0] = float("nan")
    loss(a, b)
    good = [0, 1, 3, 4, 5, 6]
    torch.testing.assert_close(loss.queue[good], entering(name, a, b)[good])
    assert torch.equal(loss.queue[2], before[2])


@each_queue
def test_training_resumes_bit_by_bit(name: str) -> None:
    loss: Any = make_baseline(name)
    loss(*views())
    resumed = make_baseline(name)
    resumed.load_state_dict(copy.deepcopy(loss.state_dict()))
    for seed in (1, 2):
        assert torch.equal(loss(*views(seed=seed)), resumed(*views(seed=seed)))
    assert torch.equal(loss.queue, resumed.queue)  # type: ignore[arg-type]
    assert set(loss.state_dict()) == {"queue", "pointer", "temperature"}


@each_queue
def test_the_queue_keeps_its_precision(name: str) -> None:
    loss: Any = make_baseline(name, state_dtype=torch.float32)
    loss.half()
    assert loss.queue.dtype == torch.float32
    loss.bfloat16().double()
    assert loss.queue.dtype == torch.float64
    before = loss.queue.clone()
    loss.reset_state()
    assert not torch.equal(loss.queue, before)
    assert int(loss.pointer) == 0


@each_queue
def test_gradients_flow_once_and_not_into_the_queue(name: str) -> None:
    loss: Any = make_baseline(name)
    a, b = views()
    value = loss(a, b)
    loss(*views(seed=1))  # overwrites rows that the first backward needs
    value.backward()
    assert a.grad is not None
    assert (b.grad is None) == (name == "MoCo")  # the key of MoCo is a constant
    assert not loss.queue.requires_grad


@each_queue
def test_bad_sizes_are_refused(name: str) -> None:
    loss = make_baseline(name)
    with pytest.raises(ValueError, match=f"dim={DIM}"):
        loss(torch.randn(3, DIM + 1), torch.randn(3, DIM + 1))
    for match, options in [("dim", {"dim": 0}), ("queue_size", {"queue_size": -1})]:
        with pytest.raises(ValueError, match=match):
            make_baseline(name, **options)
    with pytest.raises(ValueError, match="state_dtype"):
        make_baseline(name, state_dtype=torch.float16)


def test_neighbours_are_found_tile_by_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, queries = torch.randn(50, DIM), torch.randn(20, DIM)
    queue[30:] = queue[:20]  # ties: the first counts
    found = []
    for tile in (7, 64):
        monkeypatch.setattr(contrastive_queues, "TILE", tile)
        found.append(contrastive_queues._nearest(queries, queue))
    assert torch.equal(found[0], queue[(queries @ queue.T).argmax(1)])
    assert torch.equal(found[0], found[1])
