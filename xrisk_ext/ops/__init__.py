"""Fused ops, public as functions. Each has a float64 twin of the same name in `reference`."""

from xrisk_ext.ops.moving_average import moving_average_update_
from xrisk_ext.ops.pairwise import pairwise_log_sums, pairwise_sums
from xrisk_ext.ops.surrogates import surrogate_values

__all__ = [
    "moving_average_update_",
    "pairwise_log_sums",
    "pairwise_sums",
    "surrogate_values",
]
