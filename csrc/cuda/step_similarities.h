// What the contrastive step does with its embeddings and their similarities: classes with the same
// functions. Here those of floats and doubles.
//
//   embed       norms [2B], and the dots [B] of the views; prepare(anchor) for each of them
//   sums        of the anchors' similarities
//   gradients   of all embeddings by weights and pulls, back through the normalisation
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda/contrastive_step.h"
#include "cuda/embedding_kernels.h"
#include "cuda/workspace.h"

namespace xrisk::cuda {

constexpr int kEmbeddingThreads = 128;

inline unsigned warps_of_rows(int64_t rows) {
  return static_cast<unsigned>((32 * rows + kEmbeddingThreads - 1) / kEmbeddingThreads);
}

// Of the anchors [0, B) of view1, and [B, 2B) of view2: those of one modality, or of a side.
template <class T>
ExpSums<T> from_anchor(const ExpSums<T>& sums, int64_t anchor) {
  return {sums.peaks + anchor, sums.masses + anchor, sums.moments + anchor};
}
template <class T>
PairWeights<T> from_anchor(const PairWeights<T>& weights, int64_t anchor) {
  return {weights.inverse_temperatures + anchor, weights.peaks + anchor, weights.shifts + anchor,
          weights.weights + anchor};
}

template <class T>
class PlainSimilarities {
 public:
  using Lent = Products<T>;

  PlainSimilarities(const ContrastiveViews<T>& views, const int64_t* exclude, Carver& carver)
      : views_(views) {
    const int64_t batch = views.batch;
    problem_.symmetric = !views.bimodal;
    problem_.x = views.embeddings;
    problem_.y = views.bimodal ? views.embeddings + batch * views.width : views.embeddings;
    problem_.rows = problem_.columns = views.bimodal ? batch : 2 * batch;
    problem_.width = views.width;
    problem_.exclude = exclude;
    problem_.exclusions = views.bimodal ? 1 : 2;
    const int64_t side = std::min(views.block, problem_.rows);
    problem_.block_rows = problem_.block_columns = side;
    problem_.block = carver.take<T>(side * side);
  }

  template <class Prepare>
  void embed(double* norms, double* dots, const Prepare& prepare, cudaStream_t stream) const {
    const int64_t batch = views_.batch, half = batch * views_.width;
    for (int view = 0; view < 2; ++view) {
      XRISK_LAUNCH((normalize_kernel<T>), warps_of_rows(batch), kEmbeddingThreads, 0, stream,
                   view == 0 ? views_.view1 : views_.view2, batch, views_.width, views_.normalize,
                   views_.embeddings + view * half, norms + view * batch);
    }
    XRISK_LAUNCH((dots_kernel<T, Prepare>), warps_of_rows(batch), kEmbeddingThreads, 0, stream,
                 views_.embeddings, views_.embeddings + half, batch, views_.width, dots, prepare);
  }

  cudaError_t sums(const T* inverses, const ExpSums<T>& sums, const Lent& products,
                   cudaStream_t stream) const {
    const int64_t batch = views_.batch;
    return launch_similarity_sums(problem_, inverses, sums, inverses + batch,
                                  views_.bimodal ? from_anchor(sums, batch) : ExpSums<T>{},
                                  products, stream);
  }

  cudaError_t gradients(const PairWeights<T>& weights, const T* pulls, const double* norms,
                        const Lent& products, cudaStream_t stream) const {
    const int64_t batch = views_.batch;
    T* const gradient = views_.gradient;
    const cudaError_t error = launch_similarity_gradients(
        problem_, weights, views_.bimodal ? from_anchor(weights, batch) : PairWeights<T>{},
        problem_.block_rows == problem_.rows, gradient,
        views_.bimodal ? gradient + batch * views_.width : nullptr, products, stream);
    if (error != cudaSuccess) return error;
    XRISK_LAUNCH((finish_kernel<0, PlainEmbeddings<T>, T>), warps_of_rows(2 * batch),
                 kEmbeddingThreads, 0, stream, embeddings(), pulls, norms, batch, views_.normalize,
                 gradient);
    return cudaGetLastError();
  }

 private:
  PlainEmbeddings<T> embeddings() const { return {views_.embeddings, views_.width}; }

  const ContrastiveViews<T>& views_;
  Similarities<T> problem_;
};

}  // namespace xrisk::cuda
