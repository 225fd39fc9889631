// How many parts the others are cut into, and the launchers.
#include <algorithm>

#include "cuda/streamed_similarity_kernels.h"
#include "cuda/workspace.h"

namespace xrisk::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kBlocksPerProcessor = 3;

int64_t pieces(int64_t count, int64_t size) { return (count + size - 1) / size; }

int64_t processors() {
  int device = 0, count = 1;
  if (cudaGetDevice(&device) == cudaSuccess) {
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  }
  return count;
}

// Few owners alone would leave most of the device idle.
int64_t tiles_of_split(const StreamedSimilarities& problem, int64_t owners, int64_t others) {
  const int64_t blocks = std::max<int64_t>(pieces(owners, kTile), 1);
  const int64_t tiles = std::max<int64_t>(pieces(others, kTile), 1);
  const int64_t wanted = std::max<int64_t>(kBlocksPerProcessor * processors() / blocks, 1);
  return pieces(tiles, std::min({wanted, tiles, problem.most_splits}));
}

int64_t splits_of(int64_t others, int64_t tiles) {
  return std::max<int64_t>(pieces(pieces(others, kTile), tiles), 1);
}

Stream stream_over(const StreamedSimilarities& problem, bool by_rows) {
  Stream s;
  s.owners = by_rows ? problem.x : problem.y;
  s.others = by_rows ? problem.y : problem.x;
  s.owner_scales = by_rows ? problem.x_scales : problem.y_scales;
  s.other_scales = by_rows ? problem.y_scales : problem.x_scales;
  s.owner_count = by_rows ? problem.rows : problem.columns;
  s.other_count = by_rows ? problem.columns : problem.rows;
  s.width = problem.width;
  s.exclude = problem.exclude;
  s.exclusions = problem.exclusions;
  s.owners_exclude = by_rows;
  const auto aligned = [](const uint16_t* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  s.vectors = problem.width % 8 == 0 && aligned(problem.x) && aligned(problem.y);
  s.tiles_of_split = tiles_of_split(problem, s.owner_count, s.other_count);
  return s;
}

ExpSums<float> carve_sums(Carver& carver, int64_t count) {
  ExpSums<float> sums;
  sums.masses = carver.take<double>(count);
  sums.moments = carver.take<double>(count);
  sums.peaks = carver.take<float>(count);
  return sums;
}

// launch(depth, type): the kernel's own template arguments as values of its types.
template <class F>
cudaError_t for_instance(const StreamedSimilarities& problem, F&& launch) {
  const auto with_depth = [&](auto half) {
    if (problem.width <= 32) return launch(std::integral_constant<int, 2>{}, half);
    if (problem.width <= 64) return launch(std::integral_constant<int, 4>{}, half);
    return launch(std::integral_constant<int, 8>{}, half);
  };
  if (problem.width > StreamedSimilarities::kWidest) return cudaErrorInvalidValue;
  return problem.bfloat16 ? with_depth(Bfloat16{}) : with_depth(Float16{});
}

cudaError_t sum(const StreamedSimilarities& problem, bool by_rows, const float* inverses,
                const ExpSums<float>& sums, void* workspace, cudaStream_t stream) {
  const Stream s = stream_over(problem, by_rows);
  if (s.owner_count == 0) return cudaSuccess;
  const int64_t splits = splits_of(s.other_count, s.tiles_of_split);
  Carver carver(workspace);
  const ExpSums<float> parts = carve_sums(carver, splits * s.owner_count);
  const dim3 grid(static_cast<unsigned>(pieces(s.owner_count, kTile)),
                  static_cast<unsigned>(splits));
  const cudaError_t error = for_instance(problem, [&](auto depth, auto half) {
    XRISK_LAUNCH((streamed_sums_kernel<decltype(depth)::value, decltype(half)>), grid,
                 kStreamThreads, 0, stream, s, inverses, parts);
    return cudaGetLastError();
  });
  if (error != cudaSuccess) return error;
  XRISK_LAUNCH(merge_parts_kernel, static_cast<unsigned>(pieces(s.owner_count, kThreads)), kThreads,
               0, stream, parts, s.owner_count, splits, inverses, sums);
  return cudaGetLastError();
}

cudaError_t differentiate(const StreamedSimilarities& problem, bool by_rows,
                          const PairWeights<float>& rows, const PairWeights<float>& columns,
                          float* out, void* workspace, cudaStream_t stream) {
  const Stream s = stream_over(problem, by_rows);
  const int64_t size = s.owner_count * s.width, splits = splits_of(s.other_count, s.tiles_of_split);
  if (size == 0) return cudaSuccess;
  Carver carver(workspace);
  float* const parts = splits == 1 ? out : carver.take<float>(splits * size);
  const dim3 grid(static_cast<unsigned>(pieces(s.owner_count, kTile)),
                  static_cast<unsigned>(splits));
  const cudaError_t error = for_instance(problem, [&](auto depth, auto half) {
    XRISK_LAUNCH((streamed_gradient_kernel<decltype(depth)::value, decltype(half)>), grid,
                 kStreamThreads, 0, stream, s, by_rows ? rows : columns, by_rows ? columns : rows,
                 parts);
    return cudaGetLastError();
  });
  if (error != cudaSuccess || splits == 1) return error;
  XRISK_LAUNCH(add_parts_kernel, static_cast<unsigned>(pieces(size, kThreads)), kThreads, 0, stream,
               parts, size, splits, out);
  return cudaGetLastError();
}

}  // namespace

size_t streamed_workspace_bytes(const StreamedSimilarities& problem) {
  size_t most = 0;
  for (const bool by_rows : {true, false}) {
    const Stream s = stream_over(problem, by_rows);
    const int64_t entries = splits_of(s.other_count, s.tiles_of_split) * s.owner_count;
    Carver sums(nullptr), gradient(nullptr);
    carve_sums(sums, entries);
    gradient.take<float>(entries * s.width);
    most = std::max({most, sums.used(), gradient.used()});
  }
  return most;
}

cudaError_t launch_streamed_sums(const StreamedSimilarities& problem, const float* row_inverses,
                                 const ExpSums<float>& rows, const float* column_inverses,
                                 const ExpSums<float>& columns, void* workspace,
                                 cudaStream_t stream) {
  const cudaError_t error = sum(problem, true, row_inverses, rows, workspace, stream);
  if (error != cudaSuccess || columns.peaks == nullptr) return error;
  return sum(problem, false, column_inverses, columns, workspace, stream);
}

cudaError_t launch_streamed_gradients(const StreamedSimilarities& problem,
                                      const PairWeights<float>& rows,
                                      const PairWeights<float>& columns, float* dx, float* dy,
                                      void* workspace, cudaStream_t stream) {
  const PairWeights<float> others = problem.symmetric ? rows : columns;
  cudaError_t error = cudaSuccess;
  if (dx != nullptr) error = differentiate(problem, true, rows, others, dx, workspace, stream);
  if (error != cudaSuccess || dy == nullptr) return error;
  return differentiate(problem, false, rows, others, dy, workspace, stream);
}

}  // namespace xrisk::cuda
