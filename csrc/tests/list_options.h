// The options that the tests of the listwise losses run them with.
#pragma once

#include "core/list_losses.h"

namespace xrisk::test {

inline ListOptions options_of(ListLoss loss) {
  ListOptions options;
  options.loss = loss;
  options.max_iterations = 4;
  options.tolerance = 0.0;
  options.low = -4.1;
  options.high = 4.3;
  options.cutoffs[0] = 3;
  options.cutoff_count = 1;
  return options;
}

}  // namespace xrisk::test
