// The fused step of the ranking losses: rows -> rule -> columns for every query of a batch, one
// call. The items of a query are a row of a matrix or a ragged list; the relevant ones among them
// are its anchors.
#pragma once

#include "core/lists.h"
#include "cpu/executor.h"
#include "cpu/pairwise.h"
#include "cpu/relevance.h"

namespace xrisk::cpu {

// K-SONG's threshold lambda of every query and the curvature s of the problem that it solves.
template <class State>
struct TopKTerms {
  int64_t k = 0;  // 0: no threshold
  double epsilon = 0.5;
  double gamma1 = 0.9, eta0 = 0.01, tau1 = 0.01, tau2 = 1e-4, alpha = 2.0;
  State* thresholds = nullptr;  // [num_queries], NaN where untouched; null: solved, no state
  State* curvatures = nullptr;  // [num_queries]
  int64_t rows = 0;
  const int64_t* query_index = nullptr;  // [Q]; null: 0, 1, ...
};

template <class T, class State>
struct RankingStep {
  RankingRule rule = RankingRule::kNDCG;
  PairwiseSpec spec;
  int options = 0;  // of RankingOption
  Lists lists;      // Q queries over T entries
  const T* scores = nullptr;
  const void* relevance = nullptr;
  RelevanceType relevance_type = RelevanceType::kFloat;
  const uint8_t* mask = nullptr;      // [T]: which entries take part; null: all
  const T* weights = nullptr;         // [T] >= 0, relative within a query; null: ones
  const double* num_items = nullptr;  // [Q] or one; null: the items given
  const double* num_relevant = nullptr;
  const double* ideal_dcg = nullptr;
  bool sizes_per_query[3] = {false, false, false};  // of the three: [Q], or one number
  const int64_t* pair_index = nullptr;              // [T], read at relevant items
  // [num_pairs] u or log u, for average precision [num_pairs, 2]; null: no state
  State* state = nullptr;
  int64_t rows = 0;
  double gamma = 1.0;
  bool write_state = true;
  TopKTerms<State> top_k;
  double* values = nullptr;  // [Q]
  double gradient_factor = 1.0;
  T* gradient =
      nullptr;  // [T]: factor times, of each query, d its value / d scores; null: not wanted

  bool has(RankingOption option) const { return (options & option) != 0; }
};

// What is wrong with an argument, and where. Nothing is written then.
struct RankingError {
  enum Kind { kNone, kPairIndex, kQueryIndex, kRelevance } kind = kNone;
  int64_t position = -1;
};

template <class T, class State>
RankingError ranking_step(const RankingStep<T, State>& call, const Executor& executor);

}  // namespace xrisk::cpu
