// What the contrastive step does with its embeddings and their similarities, in floats and doubles
// or in 16-bit numbers: two classes with the same functions.
//
//   embed       norms [2B], and the dots [B] of the views
//   sums        of the anchors' similarities
//   gradients   of all embeddings by weights and pulls, back through the normalisation
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda/contrastive_step.h"
#include "cuda/embedding_kernels.h"
#include "cuda/half_embedding_kernels.h"
#include "cuda/streamed_similarity.h"
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

  void embed(double* norms, double* dots, cudaStream_t stream) const {
    const int64_t batch = views_.batch, half = batch * views_.width;
    for (int view = 0; view < 2; ++view) {
      XRISK_LAUNCH((normalize_kernel<T>), warps_of_rows(batch), kEmbeddingThreads, 0, stream,
                   view == 0 ? views_.view1 : views_.view2, batch, views_.width, views_.normalize,
                   views_.embeddings + view * half, norms + view * batch);
    }
    XRISK_LAUNCH((dots_kernel<T>), warps_of_rows(batch), kEmbeddingThreads, 0, stream,
                 views_.embeddings, views_.embeddings + half, batch, views_.width, dots);
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
    XRISK_LAUNCH((finish_kernel<PlainEmbeddings<T>, T>), warps_of_rows(2 * batch),
                 kEmbeddingThreads, 0, stream, embeddings(), pulls, norms, batch, views_.normalize,
                 gradient);
    return cudaGetLastError();
  }

 private:
  PlainEmbeddings<T> embeddings() const { return {views_.embeddings, views_.width}; }

  const ContrastiveViews<T>& views_;
  Similarities<T> problem_;
};

class HalfStepSimilarities {
 public:
  using Lent = HalfProducts;

  HalfStepSimilarities(const ContrastiveViews<float>& views, const int64_t* exclude, Carver& carver)
      : views_(views) {
    const int64_t batch = views.batch;
    rows_ = carver.take<uint16_t>(2 * batch * views.width);
    scales_ = carver.take<float>(2 * batch);
    fit_ = carver.take<float>(2);
    problem_.bfloat16 = views.bfloat16;
    problem_.symmetric = !views.bimodal;
    problem_.x = rows_;
    problem_.x_scales = scales_;
    const bool there = views.bimodal && rows_ != nullptr;  // else to learn the size of it all
    problem_.y = there ? rows_ + batch * views.width : rows_;
    problem_.y_scales = there ? scales_ + batch : scales_;
    problem_.largest_scale = views.normalize ? static_cast<float>(kLargestScale) : 1.0f;
    problem_.rows = problem_.columns = views.bimodal ? batch : 2 * batch;
    problem_.width = views.width;
    problem_.exclude = exclude;
    problem_.exclusions = views.bimodal ? 1 : 2;
    problem_.block = views.half_block;
    problem_.group = views.half_group;
    space_ = carver.take<char>(
        static_cast<int64_t>(views.streamed ? streamed_workspace_bytes(problem_)
                                            : half_similarity_workspace_bytes(problem_)));
  }

  void embed(double* norms, double* dots, cudaStream_t stream) const {
    with_embeddings([&](auto half, auto e) {
      XRISK_LAUNCH((pack_kernel<decltype(half), decltype(e)::kWide>), warps_of_rows(views_.batch),
                   kEmbeddingThreads, 0, stream, views_.half_view1, views_.half_view2, views_.batch,
                   views_.width, views_.normalize, rows_, scales_, norms, dots);
    });
  }

  cudaError_t sums(const float* inverses, const ExpSums<float>& sums, const Lent& products,
                   cudaStream_t stream) const {
    const float* others = inverses + views_.batch;
    const ExpSums<float> columns =
        views_.bimodal ? from_anchor(sums, views_.batch) : ExpSums<float>{};
    if (views_.streamed) {
      return launch_streamed_sums(problem_, inverses, sums, others, columns, space_, stream);
    }
    return launch_half_sums(problem_, inverses, sums, others, columns, products, space_, stream);
  }

  cudaError_t gradients(const PairWeights<float>& weights, const float* pulls, const double* norms,
                        const Lent& products, cudaStream_t stream) const {
    const int64_t batch = views_.batch;
    float* const gradient = views_.gradient;
    float* const others = views_.bimodal ? gradient + batch * views_.width : nullptr;
    const PairWeights<float> columns =
        views_.bimodal ? from_anchor(weights, batch) : PairWeights<float>{};
    const cudaError_t error =
        views_.streamed ? launch_streamed_gradients(problem_, weights, columns, gradient, others,
                                                    space_, stream)
                        : launch_half_gradients(problem_, weights, columns, one_block(problem_),
                                                gradient, others, fit_, products, space_, stream);
    if (error != cudaSuccess) return error;
    with_embeddings([&](auto, auto e) {
      XRISK_LAUNCH((finish_kernel<decltype(e), float>), warps_of_rows(2 * batch), kEmbeddingThreads,
                   0, stream, e, pulls, norms, batch, views_.normalize, gradient);
    });
    return cudaGetLastError();
  }

 private:
  // f(Bfloat16 or Float16, the embeddings)
  template <class F>
  void with_embeddings(F&& f) const {
    const auto in_pieces = [&](auto half) {
      using Half = decltype(half);
      const float* fit = views_.bfloat16 || views_.streamed ? nullptr : fit_;
      const auto whole = [](const uint16_t* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
      if (views_.width % 8 == 0 && whole(views_.half_view1) && whole(views_.half_view2)) {
        f(half, HalfEmbeddings<Half, 8>{rows_, views_.width, scales_, fit});
      } else {
        f(half, HalfEmbeddings<Half, 1>{rows_, views_.width, scales_, fit});
      }
    };
    if (views_.bfloat16) {
      in_pieces(Bfloat16{});
    } else {
      in_pieces(Float16{});
    }
  }

  const ContrastiveViews<float>& views_;
  StreamedSimilarities problem_;
  uint16_t* rows_;
  float* scales_;
  float* fit_;
  char* space_;
};

}  // namespace xrisk::cuda
