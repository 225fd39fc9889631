// The kernels of ranked lists, compiled per SIMD variant: pairs with a weight each, one by one or
// all at once, and the relaxed permutation of NeuralSort.
#pragma once

#include <cstdint>

namespace xrisk::cpu {

// Every pair of an anchor i with an item j above it in the arrays counts w_ij log(1 + exp(scale *
// (y_j - x_i))). The weight is 1, that of the item, or |(g_i - g_j) (d_i - d_j)|.
template <class T>
struct WeightedPairs {
  T scale = 1;
  const T* scores = nullptr;     // [n] in descending order of relevance
  const T* weights = nullptr;    // [n] of the items, or null
  const T* gains = nullptr;      // [n]; not null: the weight of LambdaRank
  const T* discounts = nullptr;  // [n]
  double* own_slopes = nullptr;  // [n]: of an anchor, sum_j w_ij slope_ij (written)
  T* pulls = nullptr;            // [n]: of an item, sum_i w_ij slope_ij (added)
};

// A list, or part of one, in descending order of its scores, in two sets of relevance; one side and
// one set of targets at a time (cpu/lambda_scan_inl.h).
template <class T>
struct LambdaScan {
  const T* scores = nullptr;           // [n] descending
  const double* discounts = nullptr;   // [n] descending
  const double* gains = nullptr;       // [n]
  const uint8_t* is_higher = nullptr;  // [n]: in the set of the higher gains
  int64_t count = 0;                   // at least one
  double scale = 1.0;
  double base = 0.0;         // a gain between those of the two sets
  bool graded = true;        // whether the sources' gains differ from the base
  bool from_above = true;    // sources of higher scores, else of lower ones
  bool to_higher = true;     // targets of higher relevance, else of lower
  double* slopes = nullptr;  // [n]: d value / d (scale * score) of the targets
};

// Rows of T, `stride` apart; what lies between `size` and `stride` is zero.
template <class T>
struct SquareMatrix {
  T* data = nullptr;
  int64_t size = 0;
  int64_t stride = 0;  // a multiple of 64 bytes
  T* row(int64_t k) const { return data + k * stride; }
};

template <class T>
struct ListKernels {
  // Anchors [begin, end) against items [item_begin, item_end); returns the sum of the pair terms.
  // At most a hundred or so anchors a call: their pulls add up in T.
  double (*weighted_pairs)(const WeightedPairs<T>&, int64_t begin, int64_t end, int64_t item_begin,
                           int64_t item_end);
  // The value, which is counted with the targets of higher relevance.
  double (*lambda_scan)(const LambdaScan<T>&);
  // -sum_j softmax(y)_j log softmax(h)_j; out = softmax(h) - softmax(y), `powers` is scratch.
  double (*cross_entropy)(const T* h, const T* y, int64_t count, T* out, T* powers);
  // Row k: softmax over j of inverse_temperature * ((n - 1 - 2 k) h_j - distance_j), k from 0.
  void (*neural_sort)(const double* scores, const double* distances, double inverse_temperature,
                      const SquareMatrix<T>&);
  // coefficient_k = 1 / <row k, x>, or -<row k, x> square_k^2; out = sum_k coefficient_k row k.
  void (*dot_and_add)(const SquareMatrix<T>&, const T* x, const T* square, T* coefficients, T* out);
  // Row k of b = sum_t left_tk right_t; then the gradient through the softmax of p's rows,
  // p * (b - <p, b>), summed over k: plain and times (n - 1 - 2 k).
  // `rows` is scratch: [4, stride].
  void (*softmax_gradient)(const SquareMatrix<T>& p, int64_t depth, const T* left, const T* right,
                           T* rows, double* plain, double* ranked);
};

}  // namespace xrisk::cpu
