// The stateless losses of ranked lists: value and gradient of every list, in one call.
#pragma once

#include "core/list_losses.h"
#include "cpu/executor.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {

template <class T>
struct ListwiseStep {
  ListOptions options;
  ListReduction reduction = ListReduction::kMean;
  double temperature = 1.0;
  double rank_temperature = 1.0;  // RecallAtK
  int64_t lists = 0, length = 0;
  const T* scores = nullptr;      // [Q, S]
  const T* relevance = nullptr;   // [Q, S]; negative: padding, but for the retrieval losses
  const uint8_t* mask = nullptr;  // [Q, S] or null; 0: padding
  const T* weights = nullptr;     // [Q, S] or null; of the retrieval losses
  double* values = nullptr;       // [Q]
  double* total = nullptr;        // the mean or the sum; null without reduction
  T* gradient = nullptr;          // [Q, S]: of the total, or row q of value q; null: not wanted
};

template <class T>
void listwise_step(const ListwiseStep<T>& call, const Executor& executor);

// The items of one list that take part, without gaps; every score is finite.
template <class T>
struct RankedList {
  int64_t count = 0;
  const T* scores = nullptr;
  const T* relevance = nullptr;
  const T* weights = nullptr;  // null: ones
  T* gradient = nullptr;       // [count], zero; null: not wanted

  double weight(int64_t k) const {
    return weights == nullptr ? 1.0 : static_cast<double>(weights[k]);
  }
};

// One list of one loss: RankNet and LambdaRank; ListNet, ListMLE and FastAP; ApproxNDCG, SmoothAP
// and RecallAtK; NeuralNDCG.
template <class T>
ListResult pairwise_list(const ListwiseStep<T>&, const RankedList<T>&, const Executor&);
template <class T>
ListResult scanned_list(const ListwiseStep<T>&, const RankedList<T>&);
template <class T>
ListResult soft_rank_list(const ListwiseStep<T>&, const RankedList<T>&, const Executor&);
template <class T>
ListResult neural_list(const ListwiseStep<T>&, const RankedList<T>&);

// Places of the values in descending order, ties as they stand. The values are finite.
template <class T>
const int32_t* descending_places(const T* values, int64_t count, Scratch& scratch,
                                 const Executor& executor);

// Gains of a list, relative to each other, and 1 / max DCG of the first top_k ranks (0: all); 0
// where nothing is relevant.
template <class T>
double relative_gains(const T* relevance, int64_t count, int64_t top_k, double* gains,
                      const Executor& executor);

}  // namespace xrisk::cpu
