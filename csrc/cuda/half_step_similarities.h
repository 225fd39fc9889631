// What the contrastive step does with embeddings of 16 bits and their similarities: in blocks or
// streamed, or all at once for a small batch. Functions as cuda/step_similarities.h.
#pragma once

#include "cuda/chained_launch.h"
#include "cuda/half_embedding_kernels.h"
#include "cuda/small_similarity_kernels.h"
#include "cuda/step_similarities.h"
#include "cuda/streamed_similarity.h"

namespace xrisk::cuda {

// The rows of both views, fit for products, and what they must be multiplied by.
struct PackedViews {
  const ContrastiveViews<float>& views;
  uint16_t* rows;
  float* scales;

  PackedViews(const ContrastiveViews<float>& of, Carver& carver)
      : views(of),
        rows(carver.take<uint16_t>(2 * of.batch * of.width)),
        scales(carver.take<float>(2 * of.batch)) {}

  template <class Prepare>
  void embed(double* norms, double* dots, const Prepare& prepare, cudaStream_t stream) const {
    with_embeddings(nullptr, [&](auto half, auto e) {
      XRISK_LAUNCH((pack_kernel<decltype(half), decltype(e)::kWide, Prepare>),
                   warps_of_rows(views.batch), kEmbeddingThreads, 0, stream, views.half_view1,
                   views.half_view2, views.batch, views.width, views.normalize, rows, scales, norms,
                   dots, prepare);
    });
  }

  // f(Bfloat16 or Float16, the embeddings)
  template <class F>
  void with_embeddings(const float* fit, F&& f) const {
    const auto in_pieces = [&](auto half) {
      using Half = decltype(half);
      const auto whole = [](const uint16_t* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
      if (views.width % 8 == 0 && whole(views.half_view1) && whole(views.half_view2)) {
        f(half, HalfEmbeddings<Half, 8>{rows, views.width, scales, fit});
      } else {
        f(half, HalfEmbeddings<Half, 1>{rows, views.width, scales, fit});
      }
    };
    if (views.bfloat16) {
      in_pieces(Bfloat16{});
    } else {
      in_pieces(Float16{});
    }
  }
};

class HalfStepSimilarities {
 public:
  using Lent = HalfProducts;

  HalfStepSimilarities(const ContrastiveViews<float>& views, const int64_t* exclude, Carver& carver)
      : views_(views), packed_(views, carver), fit_(carver.take<float>(2)) {
    const int64_t batch = views.batch;
    const uint16_t* const rows = packed_.rows;
    const float* const scales = packed_.scales;
    problem_.bfloat16 = views.bfloat16;
    problem_.symmetric = !views.bimodal;
    problem_.x = rows;
    problem_.x_scales = scales;
    problem_.y = views.bimodal ? rows + batch * views.width : rows;
    problem_.y_scales = views.bimodal ? scales + batch : scales;
    problem_.largest_scale = views.normalize ? static_cast<float>(kLargestScale) : 1.0f;
    problem_.rows = problem_.columns = views.bimodal ? batch : 2 * batch;
    problem_.width = views.width;
    problem_.exclude = exclude;
    problem_.exclusions = views.bimodal ? 1 : 2;
    problem_.block =
        views.half_block > 0 ? views.half_block : block_of(problem_.rows, problem_.columns);
    problem_.keep = views.gradient != nullptr;
    space_ = carver.take<char>(
        static_cast<int64_t>(views.streamed ? streamed_workspace_bytes(problem_)
                                            : half_similarity_workspace_bytes(problem_)));
  }

  template <class Prepare>
  void embed(double* norms, double* dots, const Prepare& prepare, cudaStream_t stream) const {
    packed_.embed(norms, dots, prepare, stream);
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
    const cudaError_t error = views_.streamed
                                  ? launch_streamed_gradients(problem_, weights, columns, gradient,
                                                              others, space_, stream)
                                  : launch_half_gradients(problem_, weights, columns, gradient,
                                                          others, fit_, products, space_, stream);
    if (error != cudaSuccess) return error;
    const float* fit = views_.bfloat16 || views_.streamed ? nullptr : fit_;
    packed_.with_embeddings(fit, [&](auto, auto e) {
      using Embeddings = decltype(e);
      constexpr int kHeld = Embeddings::kWide == 8 ? 4 : 1;  // pieces of a row in registers
      const auto finish = [&](auto held) {
        XRISK_LAUNCH_CHAINED((finish_kernel<decltype(held)::value, Embeddings, float>),
                             warps_of_rows(2 * batch), kEmbeddingThreads, stream, e, pulls, norms,
                             batch, views_.normalize, gradient);
      };
      if (kHeld > 1 && views_.width <= 32 * kHeld * Embeddings::kWide) {
        finish(std::integral_constant<int, kHeld>{});
      } else {
        finish(std::integral_constant<int, 0>{});
      }
    });
    return cudaGetLastError();
  }

 private:
  const ContrastiveViews<float>& views_;
  PackedViews packed_;
  StreamedSimilarities problem_;
  float* fit_;
  char* space_;
};

// Of a small batch (cuda/small_similarity_kernels.h).
class SmallStepSimilarities {
 public:
  using Lent = HalfProducts;

  // Rows of whole pieces of 16 bytes. Up to 2048 anchors a launch is latency: its largest number of
  // thread blocks is one for each processor of a large device.
  static bool fits(const ContrastiveViews<float>& views) {
    return views.half_view1 != nullptr && views.width <= 128 && views.width % 8 == 0 &&
           2 * views.batch <= views.small_anchors;
  }

  SmallStepSimilarities(const ContrastiveViews<float>& views, const int64_t*, Carver& carver)
      : views_(views), packed_(views, carver) {}

  template <class Prepare>
  void embed(double* norms, double* dots, const Prepare& prepare, cudaStream_t stream) const {
    packed_.embed(norms, dots, prepare, stream);
  }

  cudaError_t sums(const float* inverses, const ExpSums<float>& sums, const Lent&,
                   cudaStream_t stream) const {
    for_instance([&](auto depth, auto half) {
      XRISK_LAUNCH_CHAINED((small_sums_kernel<decltype(depth)::value, decltype(half)>), grid(),
                           kSmallThreads, stream, batch(), inverses, sums);
    });
    return cudaGetLastError();
  }

  cudaError_t gradients(const PairWeights<float>& weights, const float* pulls, const double* norms,
                        const Lent&, cudaStream_t stream) const {
    for_instance([&](auto depth, auto half) {
      XRISK_LAUNCH_CHAINED((small_gradient_kernel<decltype(depth)::value, decltype(half)>), grid(),
                           kSmallThreads, stream, batch(), weights, pulls, norms, views_.normalize,
                           views_.gradient);
    });
    return cudaGetLastError();
  }

 private:
  SmallBatch batch() const {
    return {packed_.rows, packed_.scales, static_cast<int>(views_.batch),
            static_cast<int>(views_.width), views_.bimodal};
  }
  dim3 grid() const {
    const int64_t owners = (views_.bimodal ? 1 : 2) * views_.batch;
    return dim3(static_cast<unsigned>((owners + kSmallRows - 1) / kSmallRows),
                views_.bimodal ? 2 : 1);
  }

  // launch(depth, type): the kernel's own template arguments as values of its types.
  template <class F>
  void for_instance(F&& launch) const {
    const auto with_depth = [&](auto half) {
      if (views_.width <= 32) {
        launch(std::integral_constant<int, 2>{}, half);
      } else if (views_.width <= 64) {
        launch(std::integral_constant<int, 4>{}, half);
      } else {
        launch(std::integral_constant<int, 8>{}, half);
      }
    };
    if (views_.bfloat16) {
      with_depth(Bfloat16{});
    } else {
      with_depth(Float16{});
    }
  }

  const ContrastiveViews<float>& views_;
  PackedViews packed_;
};

}  // namespace xrisk::cuda
