// The groups and their blocks in their order, and the launchers of their kernels.
#include "cuda/half_similarity_kernels.h"
#include "cuda/similarity_blocks.h"
#include "cuda/workspace.h"

namespace xrisk::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kOneBlock = 512;

int64_t pieces(int64_t count, int64_t size) { return (count + size - 1) / size; }
int64_t rounded(int64_t count, int64_t size) { return pieces(count, size) * size; }

struct Space {
  float* products;  // first, so that the gradients find it where the sums had it
  uint16_t* weights;
  TileSums rows, columns;
  int64_t products_stride, weights_stride;
};

TileSums carve_tiles(Carver& carver, int64_t anchors, int64_t tiles) {
  TileSums sums{};
  for (float** each : {&sums.peaks, &sums.masses, &sums.moments}) {
    *each = carver.take<float>(anchors * tiles);
  }
  sums.tiles = tiles;
  return sums;
}

Space carve(const HalfSimilarities& problem, Carver& carver) {
  Space space{};
  const int64_t block_columns = std::min(problem.block, problem.columns);
  const int64_t group_rows = std::min(problem.group, problem.rows);
  const int64_t group_columns = std::min(problem.group, problem.columns);
  space.products_stride = rounded(block_columns, 4);
  space.weights_stride = rounded(group_columns, 8);
  space.products =
      carver.take<float>(std::min(problem.block, problem.rows) * space.products_stride);
  space.weights = carver.take<uint16_t>(group_rows * space.weights_stride);
  space.rows = carve_tiles(carver, group_rows, pieces(group_columns, kPairColumns));
  space.columns = carve_tiles(carver, group_columns, pieces(group_rows, kPairRows));
  return space;
}

// f(block, row and column in its group), the blocks of a group.
template <class F>
cudaError_t for_each_inside(const HalfSimilarities& problem, const SimilarityBlock& group, F&& f) {
  return for_each_block(group.rows, group.columns, problem.block, problem.block, false,
                        [&](SimilarityBlock block) {
                          const int64_t row = block.row, column = block.column;
                          block.row += group.row;
                          block.column += group.column;
                          return f(block, row, column);
                        });
}

template <class F>
cudaError_t for_each_group(const HalfSimilarities& problem, F&& f) {
  return for_each_block(problem.rows, problem.columns, problem.group, problem.group,
                        problem.symmetric, f);
}

ProductBlock product_block(const HalfSimilarities& problem, const SimilarityBlock& block,
                           const Space& space) {
  ProductBlock b{};
  b.products = space.products;
  b.stride = space.products_stride;
  b.row = block.row;
  b.rows = block.rows;
  b.column = block.column;
  b.columns = block.columns;
  b.x_scales = problem.x_scales;
  b.y_scales = problem.symmetric ? problem.x_scales : problem.y_scales;
  b.exclude = problem.exclude;
  b.exclusions = problem.exclusions;
  return b;
}

dim3 tiles_of(const SimilarityBlock& block) {
  return dim3(static_cast<unsigned>(pieces(block.columns, kPairColumns)),
              static_cast<unsigned>(pieces(block.rows, kPairRows)));
}

// The products of a group's weights with the rows of either side.
void add_gradients(const HalfSimilarities& problem, const SimilarityBlock& group,
                   const Space& space, float* dx, float* dy, const HalfProducts& products) {
  const int64_t width = problem.width;
  MatrixProduct<float, uint16_t> product;
  product.n = width;
  product.a = space.weights;
  product.a_stride = space.weights_stride;
  product.b_stride = width;
  product.c_stride = width;
  if (dx != nullptr) {
    product.m = group.rows;
    product.k = group.columns;
    product.b = problem.y + group.column * width;
    product.c = dx + group.row * width;
    product.add = group.column > 0;
    products.multiply(product);
  }
  float* const others = problem.symmetric ? dx : dy;
  if (others != nullptr && !group.diagonal) {
    product.m = group.columns;
    product.k = group.rows;
    product.a_transposed = true;
    product.b = problem.x + group.row * width;
    product.c = others + group.column * width;
    product.add = group.row > 0;
    products.multiply(product);
  }
}

}  // namespace

size_t half_similarity_workspace_bytes(const HalfSimilarities& problem) {
  Carver carver(nullptr);
  carve(problem, carver);
  return carver.used();
}

bool one_block(const HalfSimilarities& problem) {
  return problem.rows <= problem.block && problem.columns <= problem.block;
}

cudaError_t launch_half_sums(const HalfSimilarities& problem, const float* row_inverses,
                             const ExpSums<float>& rows, const float* column_inverses,
                             const ExpSums<float>& columns, const HalfProducts& products,
                             void* workspace, cudaStream_t stream) {
  if (problem.columns == 0 && problem.rows > 0) {
    XRISK_LAUNCH((clear_sums_kernel<float>), static_cast<unsigned>(pieces(problem.rows, kThreads)),
                 kThreads, 0, stream, rows, problem.rows);
    return cudaGetLastError();
  }
  Carver carver(workspace);
  const Space space = carve(problem, carver);
  const ExpSums<float> others = problem.symmetric ? rows : columns;
  const float* other_inverses = problem.symmetric ? row_inverses : column_inverses;
  return for_each_group(problem, [&](const SimilarityBlock& group) {
    const bool both = others.peaks != nullptr && !group.diagonal;
    TileSums across = space.rows, down = both ? space.columns : TileSums{};
    across.tiles = pieces(group.columns, kPairColumns);
    down.tiles = pieces(group.rows, kPairRows);
    const cudaError_t failed = for_each_inside(
        problem, group, [&](const SimilarityBlock& block, int64_t row, int64_t column) {
          multiply_block(problem, block, space.products, space.products_stride, products);
          XRISK_LAUNCH(tile_sums_kernel, tiles_of(block), kPairThreads, 0, stream,
                       product_block(problem, block, space), row, column, row_inverses, across,
                       other_inverses, down);
          return cudaGetLastError();
        });
    if (failed != cudaSuccess) return failed;
    const int64_t column_count = both ? group.columns : 0;
    const int64_t threads = 32 * (group.rows + column_count);
    XRISK_LAUNCH(merge_tiles_kernel, static_cast<unsigned>(pieces(threads, kThreads)), kThreads, 0,
                 stream, across, group.row, group.rows, row_inverses, rows, group.column == 0, down,
                 group.column, column_count, other_inverses, others, group.row == 0);
    return cudaGetLastError();
  });
}

cudaError_t launch_half_gradients(const HalfSimilarities& problem, const PairWeights<float>& rows,
                                  const PairWeights<float>& columns, bool kept, float* dx,
                                  float* dy, float* fit, const HalfProducts& products,
                                  void* workspace, cudaStream_t stream) {
  if (problem.rows == 0 || problem.columns == 0) {
    const auto zero = [&](float* gradient, int64_t count) {
      if (gradient == nullptr || count * problem.width == 0) return cudaSuccess;
      return cudaMemsetAsync(gradient, 0,
                             static_cast<size_t>(count * problem.width) * sizeof(float), stream);
    };
    const cudaError_t error = zero(dx, problem.rows);
    return error == cudaSuccess ? zero(dy, problem.columns) : error;
  }
  Carver carver(workspace);
  const Space space = carve(problem, carver);
  const PairWeights<float> others = problem.symmetric ? rows : columns;
  if (!problem.bfloat16) {
    XRISK_LAUNCH((fit_kernel<kOneBlock>), 1, kOneBlock, 0, stream, rows, problem.rows, others,
                 problem.columns, problem.largest_scale * problem.largest_scale, fit);
  }
  return for_each_group(problem, [&](const SimilarityBlock& group) {
    const cudaError_t failed = for_each_inside(
        problem, group, [&](const SimilarityBlock& block, int64_t row, int64_t column) {
          if (!kept)
            multiply_block(problem, block, space.products, space.products_stride, products);
          uint16_t* const out = space.weights + row * space.weights_stride + column;
          const ProductBlock b = product_block(problem, block, space);
          if (problem.bfloat16) {
            XRISK_LAUNCH((half_weights_kernel<Bfloat16>), tiles_of(block), kPairThreads, 0, stream,
                         b, rows, others, nullptr, out, space.weights_stride);
          } else {
            XRISK_LAUNCH((half_weights_kernel<Float16>), tiles_of(block), kPairThreads, 0, stream,
                         b, rows, others, fit, out, space.weights_stride);
          }
          return cudaGetLastError();
        });
    if (failed != cudaSuccess) return failed;
    add_gradients(problem, group, space, dx, dy, products);
    return cudaGetLastError();
  });
}

cudaError_t launch_rescale(const float* fit, int64_t count, int64_t width, float* gradient,
                           cudaStream_t stream) {
  const int64_t size = count * width;
  if (size == 0) return cudaSuccess;
  XRISK_LAUNCH(rescale_kernel, static_cast<unsigned>(pieces(size, kThreads)), kThreads, 0, stream,
               fit, size, gradient);
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
