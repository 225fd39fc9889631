// The blocks in their order, and the launchers of their kernels.
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
  int64_t products_stride, slot;
  uint16_t* weights;
  int64_t weights_stride;
  TileSums rows, columns;
};

TileSums carve_tiles(Carver& carver, int64_t anchors, int64_t tiles) {
  TileSums sums{};
  for (float** each : {&sums.peaks, &sums.masses, &sums.moments}) {
    *each = carver.take<float>(anchors * tiles);
  }
  return sums;
}

int64_t block_count(const HalfSimilarities& problem) {
  const int64_t down = pieces(problem.rows, problem.block);
  return problem.symmetric ? down * (down + 1) / 2 : down * pieces(problem.columns, problem.block);
}

bool keeps(const HalfSimilarities& problem) {
  const int64_t each =
      std::min(problem.block, problem.rows) * std::min(problem.block, problem.columns);
  return problem.keep && block_count(problem) * each <= problem.most_kept;
}

Space carve(const HalfSimilarities& problem, Carver& carver) {
  Space space{};
  const int64_t rows = std::min(problem.block, problem.rows);
  const int64_t columns = std::min(problem.block, problem.columns);
  space.products_stride = rounded(columns, 4);
  space.slot = rows * space.products_stride;
  space.products = carver.take<float>((keeps(problem) ? block_count(problem) : 1) * space.slot);
  space.weights_stride = rounded(columns, 8);
  space.weights = carver.take<uint16_t>(rows * space.weights_stride);
  space.rows = carve_tiles(carver, rows, pieces(columns, kPairColumns));
  space.columns = carve_tiles(carver, columns, pieces(rows, kPairRows));
  return space;
}

// f(block, where its products are), until one returns an error.
template <class F>
cudaError_t for_each_product(const HalfSimilarities& problem, const Space& space, F&& f) {
  float* products = space.products;
  return for_each_block(problem.rows, problem.columns, problem.block, problem.block,
                        problem.symmetric, [&](const SimilarityBlock& block) {
                          float* const at = products;
                          if (keeps(problem)) products += space.slot;
                          return f(block, at);
                        });
}

// Tiles of a strip: as many as leave a strip for each place of a large device.
int strip_of(const HalfSimilarities& problem, const SimilarityBlock& block) {
  if (problem.strip > 0) return static_cast<int>(problem.strip);
  const int64_t tiles = pieces(block.columns, kPairColumns) * pieces(block.rows, kPairRows);
  return static_cast<int>(std::clamp<int64_t>(tiles / 512, 1, kMostTiles));
}

dim3 strips_of(const SimilarityBlock& block, int tiles) {
  return dim3(static_cast<unsigned>(pieces(block.columns, kPairColumns)),
              static_cast<unsigned>(pieces(block.rows, kPairRows * tiles)));
}

ProductBlock product_block(const HalfSimilarities& problem, const SimilarityBlock& block,
                           const float* products, int64_t stride) {
  ProductBlock b{};
  b.products = products;
  b.stride = stride;
  b.row = block.row;
  b.rows = block.rows;
  b.column = block.column;
  b.columns = block.columns;
  b.x_scales = problem.x_scales;
  b.y_scales = problem.symmetric ? problem.x_scales : problem.y_scales;
  b.exclude = problem.exclude;
  b.exclusions = problem.exclusions;
  b.tiles = strip_of(problem, block);
  return b;
}

// The products of a block's weights with the rows of either side.
void add_gradients(const HalfSimilarities& problem, const SimilarityBlock& block,
                   const Space& space, float* dx, float* dy, const HalfProducts& products) {
  const int64_t width = problem.width;
  MatrixProduct<float, uint16_t> product;
  product.n = width;
  product.a = space.weights;
  product.a_stride = space.weights_stride;
  product.b_stride = width;
  product.c_stride = width;
  if (dx != nullptr) {
    product.m = block.rows;
    product.k = block.columns;
    product.b = problem.y + block.column * width;
    product.c = dx + block.row * width;
    product.add = block.column > 0;
    products.multiply(product);
  }
  float* const others = problem.symmetric ? dx : dy;
  if (others != nullptr && !block.diagonal) {
    product.m = block.columns;
    product.k = block.rows;
    product.a_transposed = true;
    product.b = problem.x + block.row * width;
    product.c = others + block.column * width;
    product.add = block.row > 0;
    products.multiply(product);
  }
}

}  // namespace

size_t half_similarity_workspace_bytes(const HalfSimilarities& problem) {
  Carver carver(nullptr);
  carve(problem, carver);
  return carver.used();
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
  return for_each_product(problem, space, [&](const SimilarityBlock& block, float* to) {
    const bool both = others.peaks != nullptr && !block.diagonal;
    const ProductBlock b = product_block(problem, block, to, space.products_stride);
    const dim3 grid = strips_of(block, b.tiles);
    TileSums across = space.rows, down = both ? space.columns : TileSums{};
    across.anchors = block.rows;
    down.anchors = block.columns;
    multiply_block(problem, block, to, space.products_stride, products);
    XRISK_LAUNCH_CHAINED(tile_sums_kernel, grid, kPairThreads, stream, b, row_inverses, across,
                         other_inverses, down);
    const MergedSide of_rows{across,       grid.x, block.row,        block.rows,
                             row_inverses, rows,   block.column == 0};
    const MergedSide of_columns{down,           grid.y, block.column,  both ? block.columns : 0,
                                other_inverses, others, block.row == 0};
    const int64_t merging = pieces(of_rows.count, 32) + pieces(of_columns.count, 32);
    XRISK_LAUNCH_CHAINED(merge_tiles_kernel, static_cast<unsigned>(merging), 32 * kMergeGroups,
                         stream, of_rows, of_columns);
    return cudaGetLastError();
  });
}

cudaError_t launch_half_gradients(const HalfSimilarities& problem, const PairWeights<float>& rows,
                                  const PairWeights<float>& columns, float* dx, float* dy,
                                  float* fit, const HalfProducts& products, void* workspace,
                                  cudaStream_t stream) {
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
  return for_each_product(problem, space, [&](const SimilarityBlock& block, float* at) {
    if (!keeps(problem)) {
      multiply_block(problem, block, at, space.products_stride, products);
    }
    const ProductBlock b = product_block(problem, block, at, space.products_stride);
    const dim3 grid = strips_of(block, b.tiles);
    if (problem.bfloat16) {
      XRISK_LAUNCH_CHAINED((half_weights_kernel<Bfloat16>), grid, kPairThreads, stream, b, rows,
                           others, nullptr, space.weights, space.weights_stride);
    } else {
      XRISK_LAUNCH_CHAINED((half_weights_kernel<Float16>), grid, kPairThreads, stream, b, rows,
                           others, fit, space.weights, space.weights_stride);
    }
    add_gradients(problem, block, space, dx, dy, products);
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
