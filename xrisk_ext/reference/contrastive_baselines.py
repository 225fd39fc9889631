"""The contrastive baselines of the literature, dense in float64, differentiable by autograd.

Each takes the rows [B, D] of two views as they are (normalise before) and returns one value per
row: [2B] (the rows of view 1, then those of view 2) or [B]. The loss is their mean.
"""

import math

import torch
from torch import Tensor


def nt_xent(view1: Tensor, view2: Tensor, temperature: float | Tensor) -> Tensor:
    """SimCLR: cross entropy of a row's positive among the other 2B - 1. [2B]

    Chen et al., A simple framework for contrastive learning of visual representations (ICML 2020).
    """
    s, positive = _similarities(view1, view2, temperature)
    others = s.masked_fill(_eye(s), -math.inf)
    return others.logsumexp(1) - positive


def flat_nce(view1: Tensor, view2: Tensor, temperature: float | Tensor) -> Tensor:
    """v = log of the sum over negatives of exp((s_neg - s_pos) / temperature). [2B]

    The paper's loss is exp(v - stop_gradient(v)), whose value is 1 and whose gradient that of v.
    Without negatives (B = 1): 0. Chen et al., Simpler, faster, stronger: breaking the log-K curse
    on contrastive learners with FlatNCE (2021).
    """
    s, positive = _similarities(view1, view2, temperature)
    if len(s) <= 2:
        return 0.0 * positive
    return _negatives(s).logsumexp(1) - positive


def eqco(
    view1: Tensor, view2: Tensor, temperature: float | Tensor, alpha: float | Tensor
) -> Tensor:
    """InfoNCE with the margin temperature * log(alpha / K), K the number of negatives. [2B]

    Zhu et al., EqCo: equivalent rules for self-supervised contrastive learning (2020).
    """
    s, positive = _similarities(view1, view2, temperature)
    if len(s) <= 2:
        return 0.0 * positive
    shift = math.log(float(alpha) / (len(s) - 2))
    negative = _negatives(s).logsumexp(1) + shift
    return torch.logaddexp(positive, negative) - positive


def moco(query: Tensor, key: Tensor, queue: Tensor, temperature: float | Tensor) -> Tensor:
    """Cross entropy of a row's key among it and the queue; gradient to the query alone. [B]

    He et al., Momentum contrast for unsupervised visual representation learning (CVPR 2020).
    """
    q, k, negatives = query.double(), key.detach().double(), queue.detach().double()
    positive = (q * k).sum(1) / temperature
    logits = torch.cat((positive[:, None], q @ negatives.T / temperature), 1)
    return logits.logsumexp(1) - positive


def nnclr(
    view1: Tensor,
    view2: Tensor,
    queue: Tensor,
    temperature: float | Tensor,
    predicted1: Tensor | None = None,
    predicted2: Tensor | None = None,
) -> Tensor:
    """InfoNCE from the nearest neighbour of one view in the queue to the other view. [2B]

    Dwibedi et al., With a little help from my friends: nearest-neighbor contrastive learning of
    visual representations (ICCV 2021).
    """
    support = queue.detach().double()
    rows = []
    for view, other in (
        (view1, view2 if predicted2 is None else predicted2),
        (view2, view1 if predicted1 is None else predicted1),
    ):
        nearest = support[(view.detach().double() @ support.T).argmax(1)]
        logits = nearest @ other.double().T / temperature
        rows.append(logits.logsumexp(1) - logits.diagonal())
    return torch.cat(rows)


def sup_con(view1: Tensor, view2: Tensor, labels: Tensor, temperature: float | Tensor) -> Tensor:
    """Log sum over all other rows minus the mean over those of the same label. [2B]

    Khosla et al., Supervised contrastive learning (NeurIPS 2020), the sum outside the logarithm.
    """
    s, _ = _similarities(view1, view2, temperature)
    y = torch.cat((labels, labels))
    same = (y[:, None] == y) & ~_eye(s)
    mean = (s * same).sum(1) / same.sum(1)
    return s.masked_fill(_eye(s), -math.inf).logsumexp(1) - mean


def clip(image: Tensor, text: Tensor, temperature: float | Tensor) -> Tensor:
    """Mean of the cross entropies of a pair among its row and its column. [B]

    Radford et al., Learning transferable visual models from natural language supervision (ICML
    2021).
    """
    s = image.double() @ text.double().T / temperature
    return (s.logsumexp(1) + s.logsumexp(0)) / 2 - s.diagonal()


def _similarities(
    view1: Tensor, view2: Tensor, temperature: float | Tensor
) -> tuple[Tensor, Tensor]:
    """[2B, 2B] of all rows, and [2B] with the positives."""
    z = torch.cat((view1, view2)).double()
    positive = (view1.double() * view2.double()).sum(1)
    return z @ z.T / temperature, torch.cat((positive, positive)) / temperature


def _eye(s: Tensor) -> Tensor:
    return torch.eye(len(s), dtype=torch.bool, device=s.device)


def _negatives(s: Tensor) -> Tensor:
    """The rows without themselves and their positives."""
    eye = _eye(s)
    return s.masked_fill(eye | eye.roll(len(s) // 2, 0), -math.inf)
