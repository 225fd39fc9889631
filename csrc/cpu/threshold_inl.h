// Direct sums of what lies above a threshold of the anchor, O(P M): rows and columns of
// cpu/direct_inl.h on the terms of core/pair_term.h. 8 surrogates x 2 types x 2 terms = 32
// instances of the rows, 16 of the columns.
#pragma once

#include "cpu/direct_inl.h"

namespace xrisk::cpu::XRISK_ISA {

template <class T, class Term>
void threshold_rows_of(const DirectRows<T>& call, const Term& term, int64_t anchor_begin,
                       int64_t anchor_end, int64_t item_begin, int64_t item_end) {
  constexpr int64_t kAnchors = 4;
  int64_t i = anchor_begin;
  for (; i + kAnchors <= anchor_end; i += kAnchors) {
    rows_of_anchors<Channels::kOne, kAnchors>(call, term, i, item_begin, item_end);
  }
  for (; i < anchor_end; ++i) {
    rows_of_anchors<Channels::kOne, 1>(call, term, i, item_begin, item_end);
  }
}

template <class T>
void threshold_rows(const DirectRows<T>& call, int64_t anchor_begin, int64_t anchor_end,
                    int64_t item_begin, int64_t item_end) {
  visit_surrogate<T>(call.term.surrogate, call.term.params, [&](auto phi) {
    using Phi = decltype(phi);
    if (call.term.above == Above::kExcess) {
      threshold_rows_of(call, ExcessTerm<T, Phi>{phi}, anchor_begin, anchor_end, item_begin,
                        item_end);
    } else {
      threshold_rows_of(call, AboveTerm<T, Phi>{phi}, anchor_begin, anchor_end, item_begin,
                        item_end);
    }
  });
}

template <class T>
void threshold_columns(const DirectColumns<T>& call, int64_t item_begin, int64_t item_end) {
  constexpr int64_t kWidth = 4 * Vec<T>::kLanes;
  visit_surrogate<T>(call.term.surrogate, call.term.params, [&](auto phi) {
    const ExcessTerm<T, decltype(phi)> term{phi};
    for (int64_t j = item_begin; j < item_end; j += kWidth) {
      const int64_t stop = j + kWidth < item_end ? j + kWidth : item_end;
      columns_of_items<Channels::kOne, 4>(call, term, j, stop);
    }
  });
}

}  // namespace xrisk::cpu::XRISK_ISA
