"""Exact ranking metrics, O(n log n): one sort a row, then scans.

What is common to all of them:

* **Scores** float32, float64, float16 or bfloat16 (the halves are compared as they are); counts and
  results in float64, on the device of the scores. No gradient.
* **Labels** of any real dtype, positive where > 0. All tensors on one device.
* **Ties** have no order: a group of equal scores counts as a whole (``average_precision``), by the
  chord of its piece of the ROC curve (``auroc``), by the mean over all its orders (the others): as
  scikit-learn does. -0 equals +0; infinities are ordinary scores; NaN raises a ValueError.
* ``reduction``: ``"mean"`` over the labels or queries, or ``"none"`` for one value each. Flat input
  gives a 0-dim tensor either way.
* ``undefined``: the result of a label or query that has none (no positive; for ``auroc`` no
  negative too), 0 unless told otherwise. It takes part in the mean, as in scikit-learn: pass
  ``math.nan`` with ``reduction="none"`` and ``nanmean()`` to leave such rows out. Nothing else
  gives NaN.
* **Errors**: TypeError for dtypes, ValueError for shapes, devices and values, naming the argument.

On the CPU the sort is the library's own radix sort, on other devices ``torch.sort``.
"""

from xrisk_ext.metrics.classification import auroc, average_precision
from xrisk_ext.metrics.ranking import ndcg_at_k, precision_at_k, recall_at_k

__all__ = ["auroc", "average_precision", "ndcg_at_k", "precision_at_k", "recall_at_k"]
