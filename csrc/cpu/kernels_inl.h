// All kernels of one SIMD variant and their table. Included by cpu/isa_*.cpp only.
#pragma once

#include "cpu/blend_inl.h"
#include "cpu/cross_entropy_inl.h"
#include "cpu/direct_inl.h"
#include "cpu/embedding_inl.h"
#include "cpu/interval_inl.h"
#include "cpu/list_kernels_inl.h"
#include "cpu/near_inl.h"
#include "cpu/relevance_inl.h"
#include "cpu/scan_inl.h"
#include "cpu/select_inl.h"
#include "cpu/smooth_inl.h"
#include "cpu/soft_inl.h"
#include "cpu/softmax_inl.h"
#include "cpu/sums_inl.h"
#include "cpu/threshold_inl.h"
#include "cpu/tile_inl.h"
#include "cpu/translate_inl.h"

namespace xrisk::cpu::XRISK_ISA {

template <class T>
XRISK_HD constexpr Kernels<T> make_kernels() {
  return {direct_rows<T>,     direct_columns<T>,      threshold_rows<T>,      threshold_columns<T>,
          rank_items<T>,      accumulate_moments<T>,  evaluate_intervals<T>,  power_sums<T>,
          exponential_sum<T>, scaled_exponentials<T>, largest_magnitude<T>,   score_range<T>,
          smooth_bins<T>,     smooth_moments<T>,      smooth_translate<T>,    smooth_rows<T>,
          smooth_columns<T>,  smooth_scan<T>,         surrogate<T>,           split_range<T>,
          select_in_row<T>,   find_first<T>,          soft_sums<T>,           soft_slopes<T>,
          near_items<T>,      make_list_kernels<T>(), cross_entropy_range<T>, row_exponentials<T>,
          scale_rows<T>};
}

template <class T>
XRISK_HD constexpr TileKernels<T> make_tile_kernels() {
  return {row_sums<T>, column_sums<T>, weights<T>, dots<T>, normalize_rows<T>, finish_gradients<T>};
}

const KernelTable& kernel_table() {
  static constexpr KernelTable kTable = {XRISK_STRINGIFY_EXPANDED(XRISK_ISA),
                                         Vec<float>::kLanes,
                                         make_kernels<float>(),
                                         make_kernels<double>(),
                                         blend_states<float, float>,
                                         blend_states<float, double>,
                                         blend_states<double, float>,
                                         blend_states<double, double>,
                                         make_tile_kernels<float>(),
                                         make_tile_kernels<double>(),
                                         relevant_items};
  return kTable;
}

}  // namespace xrisk::cpu::XRISK_ISA
