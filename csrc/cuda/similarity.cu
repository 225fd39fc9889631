// The blocks of similarities in their order, and the launchers of their kernels.
#include "cuda/similarity_blocks.h"
#include "cuda/similarity_kernels.h"

namespace xrisk::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRowThreads = 128;
constexpr int kStrips = 16;

unsigned blocks_for(int64_t count, int64_t size = kThreads) {
  return static_cast<unsigned>((count + size - 1) / size);
}

// f(block), until one returns an error.
template <class T, class F>
cudaError_t for_each_block_of(const Similarities<T>& problem, F&& f) {
  return for_each_block(problem.rows, problem.columns, problem.block_rows, problem.block_columns,
                        problem.symmetric, f);
}

// The similarities of a block, without the excluded keys.
template <class T>
cudaError_t form_block(const Similarities<T>& problem, const SimilarityBlock& block,
                       const Products<T>& products, cudaStream_t stream) {
  multiply_block(problem, block, problem.block, block.columns, products);
  if (problem.exclusions == 0) return cudaSuccess;
  XRISK_LAUNCH((exclude_kernel<T>), blocks_for(block.rows), kThreads, 0, stream, problem.exclude,
               problem.exclusions, block.row, block.rows, block.column, block.columns,
               problem.block);
  return cudaGetLastError();
}

template <class T>
cudaError_t clear(const ExpSums<T>& sums, int64_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  XRISK_LAUNCH((clear_sums_kernel<T>), blocks_for(count), kThreads, 0, stream, sums, count);
  return cudaGetLastError();
}

}  // namespace

template <class T>
cudaError_t launch_similarity_sums(const Similarities<T>& problem, const T* row_inverses,
                                   const ExpSums<T>& rows, const T* column_inverses,
                                   const ExpSums<T>& columns, const Products<T>& products,
                                   cudaStream_t stream) {
  cudaError_t error = clear(rows, problem.rows, stream);
  if (error == cudaSuccess && columns.peaks != nullptr) {
    error = clear(columns, problem.columns, stream);
  }
  if (error != cudaSuccess) return error;
  const ExpSums<T> others = problem.symmetric ? rows : columns;
  const T* other_inverses = problem.symmetric ? row_inverses : column_inverses;
  return for_each_block_of(problem, [&](const SimilarityBlock& block) {
    const cudaError_t failed = form_block(problem, block, products, stream);
    if (failed != cudaSuccess) return failed;
    XRISK_LAUNCH((row_sums_kernel<kRowThreads, T>), static_cast<unsigned>(block.rows), kRowThreads,
                 0, stream, problem.block, block.row, block.columns, row_inverses, rows);
    if (others.peaks != nullptr && !block.diagonal) {
      XRISK_LAUNCH((column_sums_kernel<kStrips, T>), blocks_for(block.columns, 32), 32 * kStrips, 0,
                   stream, problem.block, block.rows, block.column, block.columns, other_inverses,
                   others);
    }
    return cudaGetLastError();
  });
}

template <class T>
cudaError_t launch_similarity_gradients(const Similarities<T>& problem, const PairWeights<T>& rows,
                                        const PairWeights<T>& columns, bool kept, T* dx, T* dy,
                                        const Products<T>& products, cudaStream_t stream) {
  const int64_t width = problem.width;
  const auto zero = [&](T* gradient, int64_t count) {
    if (gradient == nullptr || count * width == 0) return cudaSuccess;
    return cudaMemsetAsync(gradient, 0, static_cast<size_t>(count * width) * sizeof(T), stream);
  };
  cudaError_t error = zero(dx, problem.rows);
  if (error == cudaSuccess) error = zero(dy, problem.columns);
  if (error != cudaSuccess) return error;
  const PairWeights<T> others = problem.symmetric ? rows : columns;
  T* const other_gradient = problem.symmetric ? dx : dy;
  return for_each_block_of(problem, [&](const SimilarityBlock& block) {
    if (!kept) {
      const cudaError_t failed = form_block(problem, block, products, stream);
      if (failed != cudaSuccess) return failed;
    }
    const dim3 grid(blocks_for(block.columns), static_cast<unsigned>(block.rows));
    XRISK_LAUNCH((weights_kernel<T>), grid, kThreads, 0, stream, block.row, block.column,
                 block.columns, rows, others, problem.block);
    MatrixProduct<T> product;
    product.n = width;
    product.a = problem.block;
    product.a_stride = block.columns;
    product.b_stride = width;
    product.c_stride = width;
    product.add = true;
    if (other_gradient != nullptr && !block.diagonal) {
      product.m = block.columns;
      product.k = block.rows;
      product.a_transposed = true;
      product.b = problem.x + block.row * width;
      product.c = other_gradient + block.column * width;
      products.multiply(product);
    }
    if (dx != nullptr) {
      product.m = block.rows;
      product.k = block.columns;
      product.a_transposed = false;
      product.b = problem.y + block.column * width;
      product.c = dx + block.row * width;
      products.multiply(product);
    }
    return cudaGetLastError();
  });
}

template <class T>
cudaError_t launch_inverse_temperatures(const double* temperatures, bool per_anchor, int64_t count,
                                        T* out, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  XRISK_LAUNCH((inverse_temperatures_kernel<T>), blocks_for(count), kThreads, 0, stream,
               temperatures, per_anchor, count, out);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_log_means(const Similarities<T>& problem, const T* inverses,
                             const ExpSums<T>& sums, T* log_means, T* exponents, T* masses,
                             cudaStream_t stream) {
  if (problem.rows == 0) return cudaSuccess;
  XRISK_LAUNCH((log_means_kernel<T>), blocks_for(problem.rows), kThreads, 0, stream, problem,
               inverses, sums, log_means, exponents, masses);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_log_mean_weights(const T* upstream, const T* inverses, const T* masses,
                                    int64_t count, T* weights, T* shifts, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  XRISK_LAUNCH((log_mean_weights_kernel<T>), blocks_for(count), kThreads, 0, stream, upstream,
               inverses, masses, count, weights, shifts);
  return cudaGetLastError();
}

#define XRISK_INSTANTIATE(T)                                                                       \
  template cudaError_t launch_similarity_sums(const Similarities<T>&, const T*, const ExpSums<T>&, \
                                              const T*, const ExpSums<T>&, const Products<T>&,     \
                                              cudaStream_t);                                       \
  template cudaError_t launch_similarity_gradients(const Similarities<T>&, const PairWeights<T>&,  \
                                                   const PairWeights<T>&, bool, T*, T*,            \
                                                   const Products<T>&, cudaStream_t);              \
  template cudaError_t launch_inverse_temperatures(const double*, bool, int64_t, T*,               \
                                                   cudaStream_t);                                  \
  template cudaError_t launch_log_means(const Similarities<T>&, const T*, const ExpSums<T>&, T*,   \
                                        T*, T*, cudaStream_t);                                     \
  template cudaError_t launch_log_mean_weights(const T*, const T*, const T*, int64_t, T*, T*,      \
                                               cudaStream_t);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cuda
