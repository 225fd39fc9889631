// The ranking step's public launchers.
#include "cuda/ranking_step.h"

#include "cuda/ranking_launch.h"

namespace xrisk::cuda {

constexpr int kRankingThreads = 256;

template <class T, class State>
size_t ranking_step_workspace_bytes(const RankingStep<T, State>& call) {
  return RankingPlan<T, State>(call, nullptr).bytes;
}

template <class T, class State>
cudaError_t launch_ranking_step(const RankingStep<T, State>& call, void* workspace,
                                size_t workspace_bytes, cudaStream_t stream) {
  return run_ranking_step<kRankingThreads>(call, workspace, workspace_bytes, stream);
}

#define XRISK_INSTANTIATE(T, State)                                                     \
  template size_t ranking_step_workspace_bytes(const RankingStep<T, State>&);           \
  template cudaError_t launch_ranking_step(const RankingStep<T, State>&, void*, size_t, \
                                           cudaStream_t);
XRISK_INSTANTIATE(float, float)
XRISK_INSTANTIATE(float, double)
XRISK_INSTANTIATE(double, float)
XRISK_INSTANTIATE(double, double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cuda
