// The fused step of a loss of queries against keys, one of which, or one of its own, is a query's
// positive: similarities -> sums -> rule and state -> gradients.
//
//   InfoNCE against a queue (MoCo): log(1 + sum_j exp((<q_i, k_j> - <q_i, p_i>) / tau))
//   SOX and SCENT (core/entropic.h): keys are the classes, the positive is that of the sample
//
// The products are those of the similarities, once, and of each gradient that is wanted: blocks
// that fit are kept in between (cpu/similarity.h).
#pragma once

#include <cstdint>

#include "core/info_nce.h"
#include "cpu/entropic_average.h"
#include "cpu/executor.h"
#include "cpu/similarity.h"

namespace xrisk::cpu {

template <class T, class State>
struct QueryStep {
  const T* queries = nullptr;  // [B, D]
  const T* keys = nullptr;     // [M, D], M > 0
  int64_t batch = 0;
  int64_t keys_count = 0;
  int64_t width = 0;
  bool normalize = false;  // queries and positives; keys are taken as they are
  // Queries and keys hold numbers that bfloat16 has: products may run on units for it (T = float).
  bool bfloat16 = false;
  // The positives: rows of their own, InfoNCE; or keys, of the entropic risk, in [0, keys_count).
  const T* positives = nullptr;      // [B, D], constants
  const int64_t* targets = nullptr;  // [B]
  double temperature = 1.0;
  EntropicState<State> state;  // entropic risk alone

  T* by_queries = nullptr;  // [B, D] and [M, D], or null: not wanted
  T* by_keys = nullptr;
};

struct QueryResult {
  double value = 0.0;
  double temperature_slope = 0.0;
};

// The mean over the queries; an empty batch gives zero. A query that is not finite makes the value
// NaN and its own gradient, and leaves its state alone.
template <class T, class State>
QueryResult query_step(const QueryStep<T, State>& call, const SimilaritySizes& sizes,
                       const Products<T>& products, const Executor& executor);

}  // namespace xrisk::cpu
