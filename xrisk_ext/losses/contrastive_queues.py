"""Contrastive losses whose negatives or positives come from a queue of earlier embeddings."""

import math

import torch
from torch import Tensor, nn

from xrisk_ext.losses._embeddings import (
    EmbeddingLoss,
    Reduction,
    accumulated,
    check_embeddings,
    row_products,
)
from xrisk_ext.losses._rows import WHOLE_BATCH, WholeBatch
from xrisk_ext.ops.contrastive import contrastive_log_sums
from xrisk_ext.ops.query_step import enqueue_, query_step

TILE = 8192  # queue entries whose similarities are held at once


class _QueueLoss(EmbeddingLoss):
    """Base of the losses with a queue: buffers ``queue [queue_size, dim]`` and ``pointer``.

    The queue starts with random unit rows. Embeddings replace the oldest ones, in training mode
    after the loss has used the queue; where one is not finite the old row stays.
    """

    queue: Tensor
    pointer: Tensor

    def __init__(
        self,
        *,
        dim: int,
        queue_size: int,
        temperature: float,
        normalize: bool,
        state_dtype: torch.dtype,
        reduction: Reduction,
    ) -> None:
        super().__init__(temperature=temperature, normalize=normalize, reduction=reduction)
        name = type(self).__name__
        for label, size in (("dim", dim), ("queue_size", queue_size)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name}: expected {label} to be a positive integer, got {size!r}")
        if state_dtype not in (torch.float32, torch.float64):
            raise ValueError(f"expected state_dtype to be float32 or float64, got {state_dtype}")
        self.register_buffer("queue", torch.empty(queue_size, dim, dtype=state_dtype))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.reset_state()

    def reset_state(self) -> None:
        """New random unit rows, in place: no batch has been seen."""
        with torch.no_grad():
            self.queue.normal_()
            self.queue.copy_(nn.functional.normalize(self.queue, dim=1))
            self.pointer.zero_()

    def _check(self, **embeddings: Tensor | None) -> None:
        check_embeddings("view1", **embeddings)
        view1, dim = embeddings["view1"], self.queue.shape[1]
        assert view1 is not None
        if view1.shape[1] != dim:
            raise ValueError(
                f"{type(self).__name__}: expected view1 of shape [B, {dim}] (dim={dim}), got "
                f"{tuple(view1.shape)}"
            )
        if view1.device != self.queue.device:
            raise ValueError(
                f"expected queue on the device of view1 ({view1.device}), got "
                f"{self.queue.device}; move the loss that keeps it with .to()"
            )

    @torch.no_grad()
    def _enqueue(self, embeddings: Tensor) -> None:
        """The last ones where there are more than the queue is long."""
        if self.queue.is_cpu:
            enqueue_(self.queue, self.pointer, embeddings, normalize=False)
            return
        size, new = len(self.queue), len(embeddings)
        kept = embeddings[max(new - size, 0) :]
        slots = torch.arange(new - len(kept), new, device=self.queue.device)
        slots = (self.pointer + slots) % size
        finite = kept.isfinite().all(1, keepdim=True)
        rows = torch.where(finite, kept.to(self.queue.dtype), self.queue[slots])
        self.queue.index_copy_(0, slots, rows)
        self.pointer.copy_((self.pointer + new) % size)

    def extra_repr(self) -> str:
        size, dim = self.queue.shape
        return f"dim={dim}, queue_size={size}, {super().extra_repr()}"


class MoCoLoss(_QueueLoss):
    r"""MoCo's loss: a query's key among it and a queue of the keys of earlier batches.

    .. math:: F = \frac{1}{B} \sum_i \log \Big( 1 + \sum_{k \in queue}
        e^{(\langle q_i, k \rangle - \langle q_i, k_i^+ \rangle) / \tau} \Big)

    The gradient goes to the queries alone; keys come from a momentum encoder, and enter the queue
    after the step.

    Args:
        dim: D, of the embeddings.
        queue_size: keys kept; the batch size need not divide it.
        temperature: tau, 0.2 in MoCo v2; a 0-dim buffer, may be assigned at any time.
        normalize: similarities are cosines, and the queue keeps unit rows.
        state_dtype: of the queue, float32 or float64.
        reduction: ``"mean"`` or ``"none"`` (``[B]``).

    In ``eval()`` the queue is read and not written. On the CPU the gradient of the mean is taken in
    the forward. Otherwise memory beyond inputs and queue is, in training, a copy of the queue, kept
    for the backward, since the new keys overwrite it.

    Source: He et al., "Momentum contrast for unsupervised visual representation learning" (CVPR
    2020); Chen et al., "Improved baselines with momentum contrastive learning" (2020).
    """

    def __init__(
        self,
        *,
        dim: int = 128,
        queue_size: int = 65536,
        temperature: float = 0.2,
        normalize: bool = True,
        state_dtype: torch.dtype = torch.float32,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(
            dim=dim,
            queue_size=queue_size,
            temperature=temperature,
            normalize=normalize,
            state_dtype=state_dtype,
            reduction=reduction,
        )

    def forward(self, view1: Tensor, view2: Tensor, *, update_state: bool = True) -> Tensor:
        """The loss of a batch.

        Args:
            view1: queries ``[B, D]``, float32, float64, float16 or bfloat16.
            view2: their keys ``[B, D]``; no gradient flows to them.
            update_state: False leaves the queue as it is.

        Raises:
            ValueError: a shape or device that is not as above.
            TypeError: an argument that is not a tensor, or of a dtype that is not as above.
        """
        return self.forward_rows(WHOLE_BATCH, view1, view2, update_state=update_state)

    def forward_rows(
        self, rows: WholeBatch, view1: Tensor, view2: Tensor, *, update_state: bool = True
    ) -> Tensor:
        """As ``forward``, for the own rows of a batch."""
        self._check(view1=view1, view2=view2)
        write = update_state and self.training
        # in the dtype of the queries, for fast products
        queue = self.queue if view1.dtype == torch.float64 else self.queue.to(view1.dtype)
        if self._is_fused(rows) and view1.is_cpu:
            value = query_step(
                view1, queue, self.temperature, positives=view2.detach(), normalize=self.normalize
            )
            if write:
                enqueue_(self.queue, self.pointer, view2, normalize=self.normalize)
            return value
        k = self._unit(view2.detach())
        value = self._composed(rows, view1, k, queue.clone() if write else queue)
        if write:
            (keys,) = rows.gather_constants(k)
            self._enqueue(keys)
        return value

    def _composed(self, rows: WholeBatch, view1: Tensor, k: Tensor, queue: Tensor) -> Tensor:
        """The queue is read again in the backward."""
        q = self._unit(view1)
        log_mean = contrastive_log_sums(q, queue, temperature=self.temperature)
        similarity = row_products(q, k) / self.temperature
        values = nn.functional.softplus(log_mean + math.log(len(queue)) - similarity)
        values = values + 0.0 * similarity  # NaN where it is infinite, as in the fused step
        return self._reduce(rows, values, rows.count(len(q)))


class NNCLRLoss(_QueueLoss):
    r"""NNCLR's loss: the nearest neighbour of one view in a queue is the anchor of the other.

    .. math:: F = \frac{1}{2B} \sum_i \Big( \log \sum_k e^{\langle n_i, z'_k \rangle / \tau}
        - \langle n_i, z'_i \rangle / \tau \Big), \qquad
        n_i = \arg\max_{n \in queue} \langle z_i, n \rangle,

    summed over both roles of the views. The gradient goes to z' alone. The rows of view 1 enter the
    queue after the step.

    Args:
        dim: D, of the embeddings.
        queue_size: embeddings kept; the batch size need not divide it.
        temperature: tau; a 0-dim buffer, may be assigned at any time.
        normalize: similarities are cosines, and the queue keeps unit rows.
        state_dtype: of the queue, float32 or float64.
        reduction: ``"mean"`` or ``"none"`` (``[2B]``: neighbours of view 1, then of view 2).

    In ``eval()`` the queue is read and not written.

    Source: Dwibedi et al., "With a little help from my friends: nearest-neighbor contrastive
    learning of visual representations" (ICCV 2021).
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        queue_size: int = 98304,
        temperature: float = 0.1,
        normalize: bool = True,
        state_dtype: torch.dtype = torch.float32,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(
            dim=dim,
            queue_size=queue_size,
            temperature=temperature,
            normalize=normalize,
            state_dtype=state_dtype,
            reduction=reduction,
        )

    def forward(
        self,
        view1: Tensor,
        view2: Tensor,
        *,
        predicted1: Tensor | None = None,
        predicted2: Tensor | None = None,
        update_state: bool = True,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            view1, view2: projections ``[B, D]`` of two views of the same samples, row by row, which
                find their neighbours; float32, float64, float16 or bfloat16.
            predicted1, predicted2: what a prediction head makes of them, z' in the formula; the
                views themselves if None.
            update_state: False leaves the queue as it is.

        Raises:
            ValueError: a shape or device that is not as above.
            TypeError: an argument that is not a tensor, or of a dtype that is not as above.
        """
        return self.forward_rows(
            WHOLE_BATCH,
            view1,
            view2,
            predicted1=predicted1,
            predicted2=predicted2,
            update_state=update_state,
        )

    def forward_rows(
        self,
        rows: WholeBatch,
        view1: Tensor,
        view2: Tensor,
        *,
        predicted1: Tensor | None = None,
        predicted2: Tensor | None = None,
        update_state: bool = True,
    ) -> Tensor:
        """As ``forward``, for the own rows of a batch."""
        self._check(view1=view1, view2=view2, predicted1=predicted1, predicted2=predicted2)
        z1, z2 = self._unit(view1), self._unit(view2)
        p1 = z1 if predicted1 is None else self._unit(predicted1)
        p2 = z2 if predicted2 is None else self._unit(predicted2)
        all_p1, all_p2 = rows.gather(p1, p2)
        count = len(all_p1)
        anchors = _nearest(torch.cat((z1, z2)).detach(), self.queue).to(p1.dtype)
        n1, n2 = anchors[: len(z1)], anchors[len(z1) :]
        values = []
        for nearest, own, keys in ((n1, p2, all_p2), (n2, p1, all_p1)):
            log_mean = contrastive_log_sums(nearest, keys, temperature=self.temperature)
            similarity = row_products(nearest, own) / self.temperature
            values.append(log_mean + math.log(max(count, 1)) - similarity)
        if update_state and self.training:
            (entering,) = rows.gather_constants(z1)
            self._enqueue(entering)
        return self._reduce(rows, torch.cat(values), 2 * count)


@torch.no_grad()
def _nearest(queries: Tensor, queue: Tensor) -> Tensor:
    """The row of the queue with the largest inner product, for each query. [B, D]

    A tile of the queue at a time; of equal ones the first. In float32 or better: an operation
    under autocast would compare what bfloat16 leaves.
    """
    dtype = torch.promote_types(accumulated(queries).dtype, queue.dtype)
    x = queries.to(dtype)
    with torch.autocast(queries.device.type, enabled=False):
        best = torch.full((len(x),), -math.inf, dtype=dtype, device=x.device)
        position = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for start in range(0, len(queue), TILE):
            largest, where = (x @ queue[start : start + TILE].to(dtype).T).max(1)
            better = largest > best
            best = torch.where(better, largest, best)
            position = torch.where(better, where + start, position)
    return queue[position]
