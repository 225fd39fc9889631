// The state of the compositional entropic risk: nu of every entry, after the update.
#pragma once

#include "core/entropic.h"
#include "cpu/moving_average.h"

namespace xrisk::cpu {

template <class State>
struct EntropicState {
  State* rows = nullptr;  // [N] nu, -inf where nothing was seen; null: none, nu is what is observed
  int64_t count = 0;
  const int64_t* index = nullptr;  // [B], each in [0, count)
  EntropicSchedule schedule;
  bool write = true;

  // nu [entries], of the entries from `first` on; `log_g` are their observations.
  void update(int64_t first, int64_t entries, const double* log_g, double* nu,
              const Executor& executor) const {
    if (rows == nullptr) {
      for (int64_t b = 0; b < entries; ++b) nu[b] = log_g[b];
      return;
    }
    Scratch scratch;
    MovingAverage<State, double, double> average;
    average.state = rows;
    average.rows = count;
    average.index = index + first;
    average.values = log_g;
    average.entries = entries;
    average.gamma = &schedule.gamma;
    if (schedule.scent) {
      double* gammas = scratch.allocate<double>(entries);
      for (int64_t b = 0; b < entries; ++b) {
        gammas[b] = entropic_gamma(schedule, static_cast<double>(rows[index[first + b]]));
      }
      average.gamma = gammas;
      average.gamma_per_entry = true;
    }
    average.log_domain = true;
    average.write = write;
    average.rounded = false;
    average.stored = nu;
    moving_average_update(average, scratch, executor);
  }
};

}  // namespace xrisk::cpu
