"""Compositional AUC: the AUC of the network that one cross entropy step would give.

    min over w of  L_AUC(w - step * grad L_CE(w))

Published as PDSCA: cross entropy and AUC margin in turn, each smoothed by a buffer of its own.

- a cross entropy step moves w to a running mean of where such steps lead;
- an AUC step follows a running mean of its gradients. a and b go along, alpha ascends by PESG's
  rule.

Source: Yuan et al., "Compositional training for end-to-end deep AUC maximization" (ICLR 2022).
"""

import torch
from common import endless, network, rare_eight, steps
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

import xrisk_ext as xr
from xrisk_ext.data import PositiveBatchSampler

INNER, OUTER, BETA_INNER, BETA_OUTER = 0.2, 0.1, 0.9, 0.9


def main(argv: list[str] | None = None) -> None:
    count = steps(__doc__, argv, default=600)
    train, test = rare_eight()
    model, auc = network(), xr.AUCMarginLoss(margin=1.0)
    weights = list(model.parameters())
    duals = [auc.a, auc.b]
    anchors = [w.detach().clone() for w in weights]
    momentum = [torch.zeros_like(p) for p in [*weights, *duals]]
    sampler = PositiveBatchSampler(train.digit, batch_size=64, num_positives=16)
    batches = endless(DataLoader(TensorDataset(train.x, train.digit), batch_sampler=sampler))
    for step, (x, y) in zip(range(count), batches, strict=False):
        logits = model(x).squeeze(1)
        if step % 2 == 0:  # the inner function
            loss = binary_cross_entropy_with_logits(logits, y.float())
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for w, gradient, anchor in zip(weights, gradients, anchors, strict=True):
                    anchor.lerp_(w - INNER * gradient, BETA_INNER)
                    w.copy_(anchor)
            continue
        loss = auc(torch.sigmoid(logits), y)
        gradients = torch.autograd.grad(loss, [*weights, *duals])
        auc.ascend_alpha_(OUTER)
        with torch.no_grad():
            for p, gradient, mean in zip([*weights, *duals], gradients, momentum, strict=True):
                mean.lerp_(gradient, BETA_OUTER)
                p.sub_(mean, alpha=OUTER)
    with torch.no_grad():
        area = xr.metrics.auroc(model(test.x).squeeze(1), test.digit)
    a, b, alpha = (p.item() for p in (auc.a, auc.b, auc.alpha))
    print(f"a {a:.2f}, b {b:.2f}, alpha {alpha:.2f}, test AUROC {float(area):.4f}")


if __name__ == "__main__":
    main()
