"""The bugs that `make test-planted` plants, one at a time, and the fast test that must fail then.

`old` occurs exactly once in its file: python_tests/test_planted_bugs.py checks that, so that a bug
whose text has moved on is written anew and not forgotten.
"""

from typing import NamedTuple


class Bug(NamedTuple):
    what: str
    path: str
    old: str
    new: str
    test: str  # of ctest; those named test_* run CUDA kernels on the host


# A `<` for `<=` at the margin of the squared hinge changes nothing (value and slope are 0 there):
# the hinge has that bug.
BUGS = (
    Bug(
        "hinge: `>=` for `>` at the margin",
        "csrc/core/surrogate.h",
        "slope = select(greater(value, V(T(0))), V(T(1)), V(T(0)));",
        "slope = select(greater(V(T(0)), d + V(margin)), V(T(0)), V(T(1)));",
        "pairwise",
    ),
    Bug(
        "sorted barrier hinge: its second kink on the wrong side",
        "csrc/cpu/sorted.cpp",
        "keys_[1] = make_keys(order_, -scale * margin / (scale - 1.0), scratch);",
        "keys_[1] = make_keys(order_, scale * margin / (scale - 1.0), scratch);",
        "pairwise",
    ),
    Bug(
        "sorted zero-one: what ties with an anchor lost",
        "csrc/cpu/sorted.cpp",
        "const bool ties = spec_.surrogate == Surrogate::kZeroOne;",
        "const bool ties = false;",
        "pairwise",
    ),
    Bug(
        "direct sums: an item's weight dropped",
        "csrc/cpu/direct_inl.h",
        "sums[a] = sums[a] + weighted(weight, value);",
        "sums[a] = sums[a] + value;",
        "pairwise",
    ),
    Bug(
        "direct sums: the last items, less than a register, missing",
        "csrc/cpu/direct_inl.h",
        "if (j < stop) {  // the lanes past the end",
        "if (j + V::kLanes <= stop) {  // the lanes past the end",
        "pairwise",
    ),
    Bug(
        "smooth sums: a chunk's moments not merged",
        "csrc/cpu/smooth.cpp",
        "for (int64_t chunk = 1; chunk < chunks; ++chunk) {",
        "for (int64_t chunk = 2; chunk < chunks; ++chunk) {",
        "smooth",
    ),
    Bug(
        "log sums: shift by the peak forgotten",
        "csrc/cpu/log_sums.cpp",
        "rows.shifts = peaks_;",
        "rows.shifts = nullptr;",
        "log_sums",
    ),
    Bug(
        "state update: a duplicate id written before its group's mean",
        "csrc/cpu/moving_average.cpp",
        "if (shared == 0 && storable && call_.write && call_.rounded) {",
        "if (storable && call_.write && call_.rounded) {",
        "moving_average",
    ),
    Bug(
        "average precision: slopes over the positives lost",
        "csrc/cpu/score_step.cpp",
        "own_slopes[i] += (positive_weights[i] - weights[i]) * positive_slopes[i];",
        "",
        "score_step",
    ),
    Bug(
        "NDCG: the most relevant item missing in the ideal order",
        "csrc/cpu/ranking_queries.h",
        "for (int64_t i = 0; i < std::min(cut, query.anchors); ++i) {",
        "for (int64_t i = 1; i < std::min(cut, query.anchors); ++i) {",
        "ranking_step",
    ),
    Bug(
        "NDCG: a relevant item's own slope missing",
        "csrc/cpu/ranking_step.cpp",
        "at = static_cast<T>(static_cast<double>(at) + own[i]);",
        "at = static_cast<T>(static_cast<double>(at) + (i > 0 ? own[i] : 0.0));",
        "ranking_step",
    ),
    Bug(
        "partial AUC: a threshold steps the wrong way",
        "csrc/cpu/partial_auc_step.cpp",
        "next[i] = cvar_next(thresholds[i], above[i], rate, now.eta);",
        "next[i] = cvar_next(thresholds[i], above[i], rate, -now.eta);",
        "partial_auc_step",
    ),
    Bug(
        "contrastive: wrong sign of the pull to the positive",
        "csrc/cpu/contrastive_step.cpp",
        "pulls[i] = pulls[batch_ + i] = static_cast<T>(-pull * share_);",
        "pulls[i] = pulls[batch_ + i] = static_cast<T>(pull * share_);",
        "contrastive",
    ),
    Bug(
        "similarities: a piece of a row's sums not merged",
        "csrc/cpu/similarity.cpp",
        "        const int64_t at = part * rows + k;\n",
        "        if (part == 1) continue;\n        const int64_t at = part * rows + k;\n",
        "contrastive",
    ),
    Bug(
        "similarities: stride of the tile for that of its block",
        "csrc/cpu/similarity.cpp",
        "product.c_stride = tile.stride;",
        "product.c_stride = tile.columns;",
        "contrastive",
    ),
    Bug(
        "entropic risk: the gradient's last logits not scaled",
        "csrc/cpu/softmax_inl.h",
        "for (; k < width; ++k) row[k] *= factors[i];",
        "",
        "query_step",
    ),
    Bug(
        "top-K: the gradient at the last of the ties",
        "csrc/cpu/select_inl.h",
        "if (found != 0) return k + __builtin_ctzll(found);",
        "if (found != 0) return k + 63 - __builtin_clzll(found);",
        "topk",
    ),
    Bug(
        "LambdaRank: slopes from below lost in a split",
        "csrc/cpu/listwise_splits.cpp",
        "columns_[k] += sorted_.scale * (from_above_[r] + from_below_[r]);",
        "columns_[k] += sorted_.scale * from_above_[r];",
        "listwise_step",
    ),
    Bug(
        "cross entropy: a chunk's losses not added",
        "csrc/cpu/entrywise.cpp",
        "for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk * labels + l];",
        "for (int64_t chunk = 1; chunk < chunks; ++chunk) sum += partial[chunk * labels + l];",
        "entrywise",
    ),
    Bug(
        "curves: a chunk starts without the weights before it",
        "csrc/cpu/curve_sums.cpp",
        "chunks[c].positives = positives;",
        "chunks[c].positives = 0;",
        "curve_sums",
    ),
    Bug(
        "descending sort: -0 below +0",
        "csrc/cpu/descending_sort.cpp",
        "const T score = scores[k] + T(0);",
        "const T score = scores[k];",
        "descending_sort",
    ),
    Bug(
        "CUDA, state update: a duplicate id updates its row again",
        "csrc/cuda/moving_average_kernels.h",
        "before = before || (meets && begin + c < first + e);",
        "before = before || (meets && begin + c + 1 < first + e);",
        "test_moving_average",
    ),
    Bug(
        "CUDA, top-K: the gradient at a thread's last tie",
        "csrc/cuda/topk_gradient.h",
        "if (wanted && first == kNone && (nan ? x != x : x == root)) {",
        "if (wanted && (nan ? x != x : x == root)) {",
        "test_topk",
    ),
    Bug(
        "CUDA, cross entropy: an entry's weight dropped in the mean",
        "csrc/cuda/entrywise.cu",
        "weight += entry.weight;",
        "weight += 1.0;",
        "test_entrywise",
    ),
)

# Of the CUDA sources what these tests link: the others would take minutes to compile.
CUDA_SOURCES = (
    "csrc/cuda/device_sort.cu",
    "csrc/cuda/entrywise.cu",
    "csrc/cuda/moving_average.cu",
)
