"""AP in eager PyTorch: the closed-form gradient as fast as we could write it, and two others.

`eager` is what "tuned eager" means in our claims. It holds z_ij = (h_j - h_i + m)_+ of all P x B
pairs (in slices), computes value, gradient and state without autograd, and hands the gradient over
by assignment, which saves it the autograd call that every real loss pays.

What was tried on the way (two cores, AVX-512): row sums by a product with the columns [1, labels]
take 4 to 10 times as long as `vector_norm` and `sum` (MKL is slow at two columns), einsum and bmm
likewise; `vecdot` and z * z write another matrix; the positives' own columns are cheaper computed
again as a P x P block than masked; a slice that stays in the caches is 10 times faster than the
whole matrix at B = 16384, where fresh memory costs page faults.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import PAIRS_HELD, peer
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.cases import AveragePrecisionInputs

WHOLE_BELOW = 1 << 18  # pairs; beyond, slices of SLICE pairs in a buffer that is kept
SLICE = 1 << 20


class ClosedForm:
    """Value and gradient of the AP step; state [N, 2] = (u_all, u_pos), NaN where untouched.

    Ids are taken to be distinct within a batch (ours need not assume it).
    """

    def __init__(
        self, num_samples: int, gamma: float, margin: float, device: torch.device | str = "cpu"
    ) -> None:
        self.state = torch.full((num_samples, 2), torch.nan, device=device)
        self.gamma = gamma
        self.margin = margin
        self._buffer = torch.empty(0, device=device)

    def step(self, scores: Tensor, labels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            positive = labels.nonzero().squeeze_(1)  # [P]
            if positive.numel() * scores.numel() <= WHOLE_BELOW:
                return self._whole(scores, positive, index)
            return self._sliced(scores, positive, index)

    def _whole(self, h: Tensor, positive: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Few launches count: one matrix, no loop."""
        num_items, num_pos = h.numel(), positive.numel()
        edge = h.index_select(0, positive).sub_(self.margin).unsqueeze_(1)  # [P, 1]
        z = torch.sub(h, edge).relu_()  # [P, B]
        z_pos = z.index_select(1, positive)  # [P, P]
        norms = (torch.linalg.vector_norm(z, dim=1), torch.linalg.vector_norm(z_pos, dim=1))
        g = torch.stack(norms, 1).square_().mul_(1 / num_items)  # [P, 2]

        ids = index.index_select(0, positive)
        old = self.state.index_select(0, ids)
        u = torch.where(old.isnan(), g, old.lerp_(g, self.gamma))
        self.state.index_copy_(0, ids, u)

        u_all, u_pos = u.unbind(1)
        share = u_pos / u_all
        b = torch.div(-2 / (num_pos * num_items), u_all)  # slope weights: a + b [item positive]
        minus_a = share * b
        gradient = torch.mv(z.t(), minus_a).neg_()
        own = torch.mv(z_pos.t(), b)
        own.addcmul_(z.sum(1), minus_a).addcmul_(z_pos.sum(1), b, value=-1)
        gradient.index_add_(0, positive, own)
        return share.mean().neg_(), gradient

    def _sliced(self, h: Tensor, positive: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Memory counts: all passes over a slice of anchors while it is in the caches."""
        num_items, num_pos = h.numel(), positive.numel()
        h_pos = h.index_select(0, positive)
        edge = (h_pos - self.margin).unsqueeze_(1)  # [P, 1]
        ids = index.index_select(0, positive)
        old = self.state.index_select(0, ids)
        fresh = old.isnan()
        u = torch.empty_like(old)
        gradient = torch.zeros_like(h)
        own = torch.zeros_like(h_pos)
        rows = max(1, min(num_pos, SLICE // num_items))
        if self._buffer.numel() < rows * (num_items + num_pos):
            self._buffer = h.new_empty(rows * (num_items + num_pos))
        for first in range(0, num_pos, rows):
            part = slice(first, min(first + rows, num_pos))
            count = part.stop - first
            split = count * num_items
            z = self._buffer[:split].view(count, num_items)
            z_pos = self._buffer[split : split + count * num_pos].view(count, num_pos)
            torch.sub(h, edge[part], out=z).relu_()
            torch.sub(h_pos, edge[part], out=z_pos).relu_()
            norms = (torch.linalg.vector_norm(z, dim=1), torch.linalg.vector_norm(z_pos, dim=1))
            g = torch.stack(norms, 1).square_().mul_(1 / num_items)
            blend = torch.where(fresh[part], g, torch.lerp(old[part], g, self.gamma))
            u[part] = blend
            u_all, u_pos = blend.unbind(1)
            b = torch.div(-2 / (num_pos * num_items), u_all)
            a = torch.div(u_pos, u_all).mul_(b).neg_()
            gradient.addmv_(z.t(), a)
            own.addmv_(z_pos.t(), b)
            own[part].addcmul_(z.sum(1), a, value=-1).addcmul_(z_pos.sum(1), b, value=-1)
        self.state.index_copy_(0, ids, u)
        gradient.index_add_(0, positive, own)
        return torch.div(u[:, 1], u[:, 0]).mean().neg_(), gradient


class Dense(ClosedForm):
    """The same formulas on the whole P x B matrix, without slices: what one writes first."""

    def step(self, scores: Tensor, labels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self._whole(scores, labels.nonzero().squeeze_(1), index)


class Sorted(ClosedForm):
    """Our own one-sided sorting algorithm in eager PyTorch: O(B log P), no matrix.

    Nobody runs this today, but it is the strongest that PyTorch's ops allow on large batches, and
    the only peer that fits in memory at a million. Moments in float64, since prefix sums cancel.
    """

    def step(self, scores: Tensor, labels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self._sorted(scores, labels, index)

    def _sorted(self, scores: Tensor, labels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        num_items = scores.numel()
        positive = labels.nonzero().squeeze_(1)
        num_pos = positive.numel()
        h = scores.detach().double().sub_(scores.mean())  # centred, or the moments cancel
        h_pos = h.index_select(0, positive)
        edges, order = torch.sort(h_pos - self.margin)
        anchors = positive.index_select(0, order)
        above = torch.searchsorted(edges, h)  # [B] anchors that see item j
        rank = above.index_select(0, positive)  # [P]
        value_all, slope_all = _interval_sums(h, above, edges)
        value_pos, slope_pos = _interval_sums(h_pos, rank, edges)

        g = torch.stack((value_all, value_pos), 1).mul_(1 / num_items).float()
        ids = index.index_select(0, anchors)
        old = self.state.index_select(0, ids)
        u = torch.where(old.isnan(), g, old.lerp_(g, self.gamma))
        self.state.index_copy_(0, ids, u)
        u_all, u_pos = u.double().unbind(1)
        share = u_pos / u_all
        b = torch.div(-2 / (num_pos * num_items), u_all)
        a = torch.mul(share, b).neg_()

        m_a, m_ae = _exclusive_cumsum(a), _exclusive_cumsum(a * edges)
        m_b, m_be = _exclusive_cumsum(b), _exclusive_cumsum(b * edges)
        gradient = m_a.index_select(0, above).mul_(h).sub_(m_ae.index_select(0, above))
        own = m_b.index_select(0, rank).mul_(h_pos).sub_(m_be.index_select(0, rank))
        gradient.index_add_(0, positive, own)
        gradient.index_add_(0, anchors, a * slope_all + b * slope_pos, alpha=-1)
        return share.mean().neg_().float(), gradient.float()


def _interval_sums(y: Tensor, above: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Per edge, sums of (y - edge)_+^2 and (y - edge)_+, by moments per interval of edges."""
    cells = edges.numel() + 1
    moments = [
        torch.bincount(above, minlength=cells).double(),
        torch.bincount(above, y, minlength=cells),
        torch.bincount(above, y * y, minlength=cells),
    ]
    # interval c holds the items above exactly c edges: edge e sees the intervals beyond e
    m0, m1, m2 = (m.sum() - m.cumsum(0)[:-1] for m in moments)
    return m2 - 2 * edges * m1 + edges.square() * m0, m1 - edges * m0


def _exclusive_cumsum(x: Tensor) -> Tensor:
    out = x.new_zeros(x.numel() + 1)
    torch.cumsum(x, 0, out=out[1:])
    return out


def _closed_form(inputs: AveragePrecisionInputs, name: str, method: type[ClosedForm]) -> Contestant:
    scores, labels, index, num_samples, gamma, margin = inputs
    solver = method(num_samples, gamma, margin, scores.device)

    def call() -> None:
        scores.grad = solver.step(scores, labels, index)[1]

    return Contestant(
        name,
        call,
        lambda: solver.state.fill_(torch.nan),
        lambda: truth.average_precision_error(inputs, scores.grad),
    )


@peer("average_precision", "eager", max_pairs=PAIRS_HELD)
def closed_form(inputs: AveragePrecisionInputs) -> Contestant:
    return _closed_form(inputs, "eager", ClosedForm)


@peer("average_precision", "eager_dense", max_pairs=PAIRS_HELD)
def closed_form_dense(inputs: AveragePrecisionInputs) -> Contestant:
    return _closed_form(inputs, "eager_dense", Dense)


@peer("average_precision", "eager_sorted")
def closed_form_sorted(inputs: AveragePrecisionInputs) -> Contestant:
    return _closed_form(inputs, "eager_sorted", Sorted)


@peer("average_precision", "autograd_eager", max_pairs=PAIRS_HELD)
def autograd(inputs: AveragePrecisionInputs) -> Contestant:
    """The straight way: the dynamic loss written down, its gradient left to autograd."""
    scores, labels, index, num_samples, gamma, margin = inputs
    state = torch.full((num_samples, 2), torch.nan, device=scores.device)

    def call() -> None:
        scores.grad = None
        positive = labels.nonzero().squeeze(1)
        phi = torch.relu(scores - scores[positive].unsqueeze(1) + margin).square()  # [P, B]
        with torch.no_grad():
            g = torch.stack((phi.mean(1), (phi * labels).mean(1)), 1)
            ids = index[positive]
            old = state[ids]
            u = torch.where(old.isnan(), g, torch.lerp(old, g, gamma))
            state[ids] = u
            weight = (u[:, 1:] - u[:, :1] * labels) / u[:, :1].square()  # [P, B]
        (weight * phi).mean().backward()

    return Contestant(
        "autograd_eager",
        call,
        lambda: state.fill_(torch.nan),
        lambda: truth.average_precision_error(inputs, scores.grad),
    )


class _Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.size = scores.shape
        return scores.new_empty(())

    @staticmethod
    def backward(ctx, upstream: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return upstream.new_empty(ctx.size)


@peer("average_precision", "empty_function")
def empty_function(inputs: AveragePrecisionInputs) -> Contestant:
    """The floor: forward and backward of an autograd Function that does nothing."""
    scores = inputs.scores

    def call() -> None:
        scores.grad = None
        _Nothing.apply(scores).backward()

    return Contestant("empty_function", call)
