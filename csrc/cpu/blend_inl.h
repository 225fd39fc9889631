// The blends of the state update, a block of entries at a time.
#pragma once

#include "core/moving_average.h"
#include "cpu/sums_inl.h"

namespace xrisk::cpu::XRISK_ISA {

// True if every rounded blend is finite.
template <class State, class Value>
bool blend_states(const StateBlock<State, Value>& block) {
  typedef State Narrow __attribute__((vector_size(D::kLanes * sizeof(State))));
  D gap(0.0);  // x - x: zero where x is finite
  for (int64_t k = 0; k < block.count; k += D::kLanes) {
    const int64_t left = block.count - k;
    const D old = widen(block.old + k, left, State(0)),
            seen = widen(block.values + k, left, Value(0));
    const D keep(D::load(block.keep + k)), add(D::load(block.add + k));
    const D blend =
        block.log_domain ? blend_log(old, seen, keep, add) : blend_linear(old, seen, keep, add);
    blend.store(block.blends + k);
    const Narrow rounded = __builtin_convertvector(blend.v, Narrow);
    memcpy(block.rounded + k, &rounded, sizeof(rounded));
    const D wide(__builtin_convertvector(rounded, D::Native));
    gap = gap + (wide - wide);
  }
  return sum(gap) == 0.0;
}

}  // namespace xrisk::cpu::XRISK_ISA
