"""NDCG over whole lists (SONG) and over the top 5 (K-SONG): image retrieval among the digits.

A query is an image; the relevance of another is 2 if it shows the same digit, 1 if a neighbouring
one. An embedding is learned whose inner products rank the images.
"""

import torch
from common import digits, endless, network, steps
from torch import Tensor

import xrisk_ext as xr
from xrisk_ext.data import QueryBatchSampler

QUERIES, TOP = 60, 5


def relevance(of: Tensor, among: Tensor) -> Tensor:
    """[Q, N]: 2 for the same digit, 1 for a neighbour."""
    return (2 - (of[:, None] - among).abs()).clamp(min=0)


def main(argv: list[str] | None = None) -> None:
    count = steps(__doc__, argv, default=300)
    train, test = digits()
    graded = relevance(train.digit[:QUERIES], train.digit[QUERIES:])
    items = graded.shape[1]
    # the table of all (query, item) rows
    query = torch.arange(QUERIES).repeat_interleave(items)
    sampler = QueryBatchSampler(query, graded.view(-1), 16, num_positives=10, num_negatives=30)
    losses = {
        "SONG": xr.NDCGLoss(sampler.num_pairs, gamma=0.5),
        "K-SONG": xr.NDCGLoss(sampler.num_pairs, sampler.num_queries, top_k=TOP, gamma=0.5),
    }
    for name, loss_fn in losses.items():
        encoder = network(outputs=16)
        optimizer = torch.optim.Adam(encoder.parameters(), lr=0.003)
        for _, rows in zip(range(count), endless(sampler), strict=False):
            batch = sampler.inputs(rows)
            picked = torch.tensor(rows)
            anchors = encoder(train.x[query[picked]])
            others = encoder(train.x[QUERIES + picked % items])
            scores = batch.layout(torch.cosine_similarity(anchors, others))
            loss = loss_fn(
                scores, batch.relevance, batch.pair_index, batch.query_index, mask=batch.mask,
                num_items=batch.num_items, num_relevant=batch.num_relevant,
                ideal_dcg=batch.ideal_dcg,
            )  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            embedded = torch.nn.functional.normalize(encoder(test.x), dim=1)
            scores = embedded[:QUERIES] @ embedded[QUERIES:].T
        truth = relevance(test.digit[:QUERIES], test.digit[QUERIES:])
        ndcg = xr.metrics.ndcg_at_k(scores, truth, TOP)
        print(f"{name}: test NDCG@{TOP} {float(ndcg.mean()):.3f}")


if __name__ == "__main__":
    main()
