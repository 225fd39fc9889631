// Launches the losses of ranked lists: a block a list, long lists by near-linear sums where there
// are such; then the reduction over the lists.
#include "cuda/listwise_band.h"
#include "cuda/listwise_kernels.h"
#include "cuda/listwise_lambda_launch.h"
#include "cuda/listwise_near_launch.h"
#include "cuda/listwise_neural.h"
#include "cuda/workspace.h"

#include <type_traits>

namespace xrisk::cuda {
namespace {

constexpr int kThreads = 256;
constexpr double kMatrixBytes = 268'435'456.0;  // of all blocks of NeuralNDCG

template <class T>
struct ListBuffers {
  ListSpace<T> space;        // of the first block
  double* masses = nullptr;  // [Q]
};

int64_t edges_of(const ListOptions& options) {
  return options.loss == ListLoss::kFastAP ? 4 * (options.num_bins + 1) : 0;
}

int64_t vectors_of(const ListOptions& options) {
  return options.loss == ListLoss::kNeuralNDCG ? 4 * (options.max_iterations + 1) : 0;
}

template <class T>
int64_t blocks_of(const ListwiseStep<T>& call) {
  double most = static_cast<double>(call.max_blocks);
  if (call.options.loss == ListLoss::kNeuralNDCG) {
    const double length = static_cast<double>(call.length) + 32.0;
    const double fit = kMatrixBytes / (length * length * sizeof(T));
    most = fit < 1.0 ? 1.0 : fit < most ? fit : most;
  }
  const auto blocks = static_cast<int64_t>(most);
  return call.lists < blocks ? call.lists : blocks;
}

template <class T>
ListBuffers<T> carve(const ListwiseStep<T>& call, Carver& carver) {
  const int64_t blocks = blocks_of(call), items = blocks * call.length;
  const bool matrix = call.options.loss == ListLoss::kNeuralNDCG;
  ListBuffers<T> buffers;
  buffers.masses = carver.take<double>(call.lists);
  buffers.space.scores = carver.take<T>(items);
  buffers.space.relevance = carver.take<T>(items);
  buffers.space.weights = carver.take<T>(items);
  buffers.space.places = carver.take<int32_t>(items);
  for (double*& numbers : buffers.space.numbers) numbers = carver.take<double>(items);
  buffers.space.edges = carver.take<double>(blocks * edges_of(call.options));
  buffers.space.matrix = carver.take<T>(matrix ? blocks * strip_matrix_size(call.length) : 0);
  buffers.space.vectors = carver.take<T>(items * vectors_of(call.options));
  return buffers;
}

template <class T>
__device__ ListSpace<T> space_of_block(const ListwiseStep<T>& call, ListSpace<T> space,
                                       int64_t edges, int64_t vectors) {
  const int64_t block = blockIdx.x, first = block * call.length;
  space.scores += first;
  space.relevance += first;
  space.weights += first;
  space.places += first;
  for (double*& numbers : space.numbers) numbers += first;
  space.edges += block * edges;
  space.matrix += block * strip_matrix_size(call.length);
  space.vectors += first * vectors;
  return space;
}

// Kernels apart, so that a short loss does not pay for the registers of a long one.
enum class Family {
  kRankNet,
  kLambdaRank,
  kSoftRanks,
  kListNet,
  kListMLE,
  kFastAP,
  kNeuralNDCG,
  kNeuralBand
};

// More where each item meets every other.
constexpr int threads_of(Family family) {
  return family == Family::kListNet || family == Family::kFastAP ? kThreads : 2 * kThreads;
}

template <class F>
cudaError_t visit_family(ListLoss loss, F&& f) {
  switch (loss) {
    case ListLoss::kRankNet:
      return f(std::integral_constant<Family, Family::kRankNet>{});
    case ListLoss::kLambdaRank:
      return f(std::integral_constant<Family, Family::kLambdaRank>{});
    case ListLoss::kListNet:
      return f(std::integral_constant<Family, Family::kListNet>{});
    case ListLoss::kListMLE:
      return f(std::integral_constant<Family, Family::kListMLE>{});
    case ListLoss::kFastAP:
      return f(std::integral_constant<Family, Family::kFastAP>{});
    case ListLoss::kNeuralNDCG:
      return f(std::integral_constant<Family, Family::kNeuralNDCG>{});
    default:
      return f(std::integral_constant<Family, Family::kSoftRanks>{});
  }
}

// kChunks and `room` are those of BandNeural.
template <int kBlock, Family kFamily, int kChunks, class T>
__device__ ListResult solve(const BlockList<T>& list, int32_t room) {
  if constexpr (kFamily == Family::kNeuralBand) {
    XRISK_DYN_SHARED(char, shared);
    using Solver = BandNeural<kBlock, kChunks, T>;
    XRISK_SHARED(int32_t, bands, [Solver::kBandNumbers]);
    return Solver(list, shared, room, bands).run();
  } else if constexpr (kFamily == Family::kRankNet) {
    return block_pairs<kBlock, false>(list);
  } else if constexpr (kFamily == Family::kLambdaRank) {
    return block_pairs<kBlock, true>(list);
  } else if constexpr (kFamily == Family::kListNet) {
    return block_list_net<kBlock>(list);
  } else if constexpr (kFamily == Family::kListMLE) {
    return block_list_mle<kBlock>(list);
  } else if constexpr (kFamily == Family::kFastAP) {
    return block_fast_ap<kBlock>(list);
  } else if constexpr (kFamily == Family::kNeuralNDCG) {
    return BlockNeural<kBlock, T>(list).run();
  } else {
    return block_soft_ranks<kBlock>(list);
  }
}

// `near`: lists that are not for this kernel.
template <int kBlock, Family kFamily, int kChunks, class T>
__global__ void __launch_bounds__(kBlock)
    listwise_kernel(ListwiseStep<T> call, ListBuffers<T> buffers, int64_t edges, int64_t vectors,
                    NearlyLinear near, int32_t room) {
  const bool of_levels = call.options.loss <= ListLoss::kListMLE;
  for (int64_t q = blockIdx.x; q < call.lists; q += gridDim.x) {
    if (near.has(q)) continue;  // the whole block
    BlockList<T> list{call, space_of_block(call, buffers.space, edges, vectors)};
    gather_list<kBlock, 1>(list, q);
    const bool has_order = of_levels ? list.two_levels : list.relevant > 0;
    const bool counts = list.count > 0 && (has_order || !is_retrieval(call.options.loss));
    ListResult result = {0.0, counts ? 1.0 : 0.0};
    if (has_order && list.bad) {
      result.value = NAN;
      each_by_thread<kBlock>(list.count, [&](int32_t i) {
        if (list.gradient != nullptr) list.gradient[list.space.places[i]] = static_cast<T>(NAN);
      });
    } else if (has_order) {
      result = solve<kBlock, kFamily, kChunks>(list, room);
    } else if (call.options.pool_pairs) {
      result.mass = 0.0;
    }
    if (threadIdx.x == 0) {
      call.values[q] = static_cast<T>(result.value);
      buffers.masses[q] = result.mass;
    }
    __syncthreads();  // the next list takes the same memory
  }
}

// Every block sums the masses, in the same order.
template <int kBlock, class T>
__global__ void __launch_bounds__(kBlock)
    reduce_lists_kernel(ListwiseStep<T> call, const double* masses) {
  const int t = static_cast<int>(threadIdx.x);
  const bool mean = call.reduction == ListReduction::kMean;
  double mass = 0.0, total = 0.0;
  for (int64_t q = t; q < call.lists; q += kBlock) mass += masses[q];
  mass = block_sum<kBlock>(mass);
  const auto share = [&](int64_t q) { return !mean ? 1.0 : mass > 0.0 ? masses[q] / mass : 0.0; };
  for (int64_t q = t; q < call.lists; q += kBlock) {
    if (masses[q] > 0.0) total += share(q) * static_cast<double>(call.values[q]);
  }
  total = block_sum<kBlock>(total);
  if (blockIdx.x == 0 && t == 0) *call.total = static_cast<T>(total);
  if (call.gradient == nullptr || !mean) return;  // all threads
  for (int64_t q = blockIdx.x; q < call.lists; q += gridDim.x) {
    const T factor = static_cast<T>(share(q));
    for (int64_t k = t; k < call.length; k += kBlock) call.gradient[q * call.length + k] *= factor;
  }
}

template <int kBlock, Family kFamily, int kChunks, class T>
cudaError_t launch_lists(const ListwiseStep<T>& call, const ListBuffers<T>& buffers,
                         NearlyLinear near, int64_t shared, int32_t room, cudaStream_t stream) {
  XRISK_LAUNCH((listwise_kernel<kBlock, kFamily, kChunks, T>),
               static_cast<unsigned>(blocks_of(call)), kBlock, static_cast<size_t>(shared), stream,
               call, buffers, edges_of(call.options), vectors_of(call.options), near, room);
  return cudaGetLastError();
}

// NeuralNDCG of short lists; `taken` says whether the device has the shared memory for it.
template <int kBlock, int kChunks, class T>
cudaError_t launch_band(const ListwiseStep<T>& call, const ListBuffers<T>& buffers, bool& taken,
                        cudaStream_t stream) {
  constexpr int64_t kStatic = 5120, vectors = strip_vector_bytes<kBlock, kChunks, T>();
  int device, most;
  XRISK_RETURN_IF_ERROR(cudaGetDevice(&device));
  XRISK_RETURN_IF_ERROR(
      cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  const int64_t matrix = strip_matrix_size(call.length) * static_cast<int64_t>(sizeof(T));
  const int64_t left = most - kStatic - vectors, room = left < matrix ? left : matrix;
  taken = left >= 0;
  if (!taken) return cudaSuccess;
  auto* const kernel = listwise_kernel<kBlock, Family::kNeuralBand, kChunks, T>;
  XRISK_RETURN_IF_ERROR(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             static_cast<int>(vectors + room)));
  return launch_lists<kBlock, Family::kNeuralBand, kChunks>(call, buffers, {}, vectors + room,
                                                            static_cast<int32_t>(room), stream);
}

template <class T>
cudaError_t launch_neural(const ListwiseStep<T>& call, const ListBuffers<T>& buffers,
                          cudaStream_t stream) {
  bool taken = false;
  const int64_t length = call.length;
  if (length <= call.band_to && length <= 128) {
    XRISK_RETURN_IF_ERROR((launch_band<256, 4>(call, buffers, taken, stream)));
  }
  if constexpr (sizeof(T) == 4) {  // a strip of doubles so long is too much for the registers
    if (length <= call.band_to && length > 128 && length <= 320) {
      XRISK_RETURN_IF_ERROR((launch_band<512, 10>(call, buffers, taken, stream)));
    } else if (length <= call.band_to && length > 320 && length <= 512) {
      XRISK_RETURN_IF_ERROR((launch_band<512, 16>(call, buffers, taken, stream)));
    }
  }
  if (taken) return cudaSuccess;
  return launch_lists<kThreads, Family::kNeuralNDCG, 0>(call, buffers, {}, 0, 0, stream);
}

// prepare, the kernel of short lists, run: with `Near` a class of near-linear sums.
template <class Near, class T>
cudaError_t launch_all_lists(const ListwiseStep<T>& call, const ListBuffers<T>& buffers, Near* near,
                             cudaStream_t stream) {
  if (near != nullptr) XRISK_RETURN_IF_ERROR(near->prepare(stream));
  if (call.lists > 0) {
    const NearlyLinear left_out = near != nullptr ? near->lists() : NearlyLinear();
    XRISK_RETURN_IF_ERROR(visit_family(call.options.loss, [&](auto family) {
      if constexpr (decltype(family)::value == Family::kNeuralNDCG) {
        return launch_neural(call, buffers, stream);
      } else {
        constexpr Family kFamily = decltype(family)::value;
        return launch_lists<threads_of(kFamily), kFamily, 0>(call, buffers, left_out, 0, 0, stream);
      }
    }));
  }
  return near != nullptr ? near->run(buffers.masses, stream) : cudaSuccess;
}

}  // namespace

template <class T>
size_t listwise_step_workspace_bytes(const ListwiseStep<T>& call) {
  Carver carver(nullptr);
  carve(call, carver);
  const size_t near = NearListwise<T>::applies(call)     ? NearListwise<T>(call, nullptr).bytes()
                      : LambdaListwise<T>::applies(call) ? LambdaListwise<T>(call, nullptr).bytes()
                                                         : 0;
  return carver.used() + near;
}

template <class T>
cudaError_t launch_listwise_step(const ListwiseStep<T>& call, void* workspace,
                                 size_t workspace_bytes, cudaStream_t stream) {
  Carver carver(workspace);
  const ListBuffers<T> buffers = carve(call, carver);
  void* rest = static_cast<char*>(workspace) + carver.used();
  std::optional<NearListwise<T>> near;
  std::optional<LambdaListwise<T>> lambda;
  if (NearListwise<T>::applies(call)) near.emplace(call, rest);
  if (LambdaListwise<T>::applies(call)) lambda.emplace(call, rest);
  const size_t more = near ? near->bytes() : lambda ? lambda->bytes() : 0;
  if (carver.used() + more > workspace_bytes) return cudaErrorInvalidValue;
  if (lambda) {
    XRISK_RETURN_IF_ERROR(launch_all_lists(call, buffers, &*lambda, stream));
  } else {
    XRISK_RETURN_IF_ERROR(launch_all_lists(call, buffers, near ? &*near : nullptr, stream));
  }
  if (call.reduction != ListReduction::kNone) {
    const int64_t blocks = call.lists < 1                 ? 1
                           : call.lists < call.max_blocks ? call.lists
                                                          : call.max_blocks;
    XRISK_LAUNCH((reduce_lists_kernel<kThreads, T>), static_cast<unsigned>(blocks), kThreads, 0,
                 stream, call, buffers.masses);
  }
  return cudaGetLastError();
}

#define XRISK_INSTANTIATE(T)                                             \
  template size_t listwise_step_workspace_bytes(const ListwiseStep<T>&); \
  template cudaError_t launch_listwise_step(const ListwiseStep<T>&, void*, size_t, cudaStream_t);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cuda
