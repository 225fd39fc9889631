// The fused step of the ranking losses on CUDA: rows -> rule -> columns for every query of a batch,
// on one stream, without asking the device for anything. Torch-free; semantics as
// cpu/ranking_step.h, but that squares of float scores are float, as in cuda/score_step.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/lists.h"
#include "core/params.h"

namespace xrisk::cuda {

// Schedules are single numbers on the device.
template <class State>
struct TopKTerms {
  int64_t k = 0;  // 0: no threshold
  double epsilon = 0.5;
  const double *gamma1 = nullptr, *eta0 = nullptr, *tau1 = nullptr, *tau2 = nullptr;
  const double* alpha = nullptr;
  State* thresholds = nullptr;  // [num_queries]; null: solved, no state
  State* curvatures = nullptr;
  int64_t rows = 0;
  const int64_t* query_index = nullptr;  // [Q]; null: 0, 1, ...
};

template <class T, class State>
struct RankingStep {
  RankingRule rule = RankingRule::kNDCG;
  Surrogate surrogate = Surrogate::kSquaredHinge;
  int options = 0;
  double margin = 1.0;
  const double* scale = nullptr;
  const double* gamma = nullptr;
  Lists lists;  // offsets on the device, kept within [0, entries]
  int64_t entries = 0;
  const T* scores = nullptr;
  const double* relevance = nullptr;
  const uint8_t* mask = nullptr;
  const T* weights = nullptr;
  const double* num_items = nullptr;  // [Q] or one; null: the items given
  const double* num_relevant = nullptr;
  const double* ideal_dcg = nullptr;
  bool sizes_per_query[3] = {false, false, false};
  const int64_t* pair_index = nullptr;  // [T]; of average precision [S]
  State* state = nullptr;               // [num_pairs], or [L, N, 2]; null: no state
  int64_t rows = 0;
  bool write_state = true;
  bool mean_reduction = true;  // the gradient of the mean over the queries
  TopKTerms<State> top_k;
  T* values = nullptr;      // [Q]
  T* mean_value = nullptr;  // one number, or null
  T* gradient = nullptr;    // [T]; null: not wanted

  __host__ __device__ bool has(RankingOption option) const { return (options & option) != 0; }
};

template <class T, class State>
size_t ranking_step_workspace_bytes(const RankingStep<T, State>& call);

template <class T, class State>
cudaError_t launch_ranking_step(const RankingStep<T, State>& call, void* workspace,
                                size_t workspace_bytes, cudaStream_t stream);

}  // namespace xrisk::cuda
