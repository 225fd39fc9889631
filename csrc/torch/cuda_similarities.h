// How the contrastive ops on CUDA form their products: the BLAS that they lend to the kernels, and
// the choice among the ways. Included by torch/cuda_contrastive_ops.h only.
#pragma once

#include <ATen/ops/addmm.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include <array>
#include <cstdlib>
#include <string>

#include "cuda/half_similarity.h"
#include "cuda/streamed_similarity.h"
#include "torch/cuda_common.h"

namespace xrisk {

// Factors of `factor`, whose numbers are Factor's size.
template <class T, class Factor = T>
class CudaProducts final : public Products<T, Factor> {
 public:
  CudaProducts(const at::Tensor& like, at::ScalarType factor)
      : sums_(like.options().dtype(c10::CppTypeToScalarType<T>::value)),
        factors_(like.options().dtype(factor)) {}
  explicit CudaProducts(const at::Tensor& like)
      : CudaProducts(like, c10::CppTypeToScalarType<T>::value) {}

  void multiply(const MatrixProduct<T, Factor>& p) const override {
    if (p.m == 0 || p.n == 0) return;
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    at::Tensor c = view(p.c, p.m, p.n, p.c_stride, false, sums_);
    const at::Tensor a = view(p.a, p.m, p.k, p.a_stride, p.a_transposed, factors_);
    const at::Tensor b = view(p.b, p.k, p.n, p.b_stride, p.b_transposed, factors_);
    if constexpr (std::is_same_v<T, Factor>) {
      if (p.add) {
        at::addmm_out(c, c, a, b);
      } else {
        at::mm_out(c, a, b);
      }
    } else if (p.add) {  // sums of halves never become halves
      at::addmm_out(c, c, a, b, c.scalar_type());
    } else {
      at::mm_out(c, a, b, c.scalar_type());
    }
  }

 private:
  static at::Tensor view(const void* data, int64_t rows, int64_t columns, int64_t stride,
                         bool transposed, const at::TensorOptions& options) {
    const std::array<int64_t, 2> strides = {transposed ? 1 : stride, transposed ? stride : 1};
    return at::for_blob(const_cast<void*>(data), {rows, columns})
        .strides(strides)
        .options(options)
        .target_device(options.device())  // known: the driver is not asked for it
        .make_tensor();
  }

  at::TensorOptions sums_, factors_;
};

// How similarities are formed: of 16-bit embeddings as such, in blocks (cuda/half_similarity.h) or
// streamed (cuda/streamed_similarity.h); all else, and 16-bit numbers where neither is to be had or
// wanted, in blocks of float32 or float64.
struct SimilarityWay {
  enum Kind { kFloats, kBlocks, kStreamed } kind = kFloats;
  int64_t block = 0;   // 0: cuda::block_of
  bool chosen = true;  // by default, so that small steps may take their own kernels
};

// Rows up to that wide are streamed, which writes no similarities, but multiplies 14 N M D flops
// where blocks have 8. On an H200 the sums of one side took 0.7 and 0.85 (4096 and 1024 keys, 64
// wide) of the time of blocks, both gradients with them 0.5 and 0.85; the fused steps, which have
// sums of both sides, were slower streamed from 128 wide on, and not faster at 64.
constexpr int64_t kStreamedLogSums = 64, kStreamedSteps = 0;

// The one place that chooses, from dtypes and shapes. XRISK_SIMILARITIES=streamed|blocks|float32,
// read at each call, overrides it where there is a choice; blocks:128 also sets the size of a
// block, so that small tests have several. benchmarks/streamed_similarities.py checks and races the
// ways.
inline SimilarityWay similarity_way(const at::Tensor& x, const at::Tensor& y,
                                    int64_t streamed_widest) {
  const at::ScalarType type = x.scalar_type();
  const bool halves = type == y.scalar_type() && (type == at::kBFloat16 || type == at::kHalf);
  if (!halves || x.dim() != 2 || y.dim() != 2) return {};
  const char* named = std::getenv("XRISK_SIMILARITIES");
  const std::string whole = named == nullptr ? "" : named, name = whole.substr(0, whole.find(':'));
  SimilarityWay way;
  if (name.size() < whole.size()) {
    char* end = nullptr;
    way.block = std::strtoll(whole.c_str() + name.size() + 1, &end, 10);
    TORCH_CHECK_VALUE(name == "blocks" && *end == 0 && way.block > 0 && way.block % 128 == 0 &&
                          way.block <= 32768,
                      "XRISK_SIMILARITIES: expected blocks of a multiple of 128, up to 32768, got ",
                      whole);
  }
  TORCH_CHECK_VALUE(name.empty() || name == "streamed" || name == "blocks" || name == "float32",
                    "XRISK_SIMILARITIES: expected streamed, blocks or float32, got ", whole);
  int major = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, x.get_device()));
  if (name == "float32" || major < 8) return {};
  way.chosen = name.empty();
  const int64_t width = x.size(1);
  const bool streamed = name.empty() ? width <= streamed_widest : name == "streamed";
  const bool fits = width <= cuda::StreamedSimilarities::kWidest;
  way.kind = streamed && fits ? SimilarityWay::kStreamed : SimilarityWay::kBlocks;
  return way;
}

inline const uint16_t* halves_of(const at::Tensor& t) {
  return static_cast<const uint16_t*>(t.const_data_ptr());
}

}  // namespace xrisk
