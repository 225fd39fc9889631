"""Fused ops, public as functions: what the losses are made of, for losses of your own.

Each has a float64 twin in :mod:`xrisk_ext.reference`, of the same name and arguments (that of
:func:`surrogate_values` is a pair, ``surrogate`` and ``surrogate_slope``).
"""

import xrisk_ext.ops.libauc_steps  # noqa: F401  (the fake kernels of its ops)
from xrisk_ext.ops.contrastive import contrastive_log_sums
from xrisk_ext.ops.moving_average import moving_average_update_
from xrisk_ext.ops.pairwise import pairwise_log_sums, pairwise_sums
from xrisk_ext.ops.surrogates import surrogate_values
from xrisk_ext.ops.topk import topk_threshold

__all__ = [
    "contrastive_log_sums",
    "moving_average_update_",
    "pairwise_log_sums",
    "pairwise_sums",
    "surrogate_values",
    "topk_threshold",
]
