"""Samplers that fix what a batch contains, weights that undo it, and data sets that carry ids.

Everything here follows the conventions of ``torch.utils.data``, and needs none of the losses; they
need nothing of it.
"""

from xrisk_ext.data.dataset import IndexedDataset, positive_ids
from xrisk_ext.data.positives import MultiLabelBatchSampler, PositiveBatchSampler, PositiveSampler
from xrisk_ext.data.queries import QueryBatch, QueryBatchSampler
from xrisk_ext.data.weights import stratified_weights

__all__ = [
    "IndexedDataset",
    "MultiLabelBatchSampler",
    "PositiveBatchSampler",
    "PositiveSampler",
    "QueryBatch",
    "QueryBatchSampler",
    "positive_ids",
    "stratified_weights",
]
