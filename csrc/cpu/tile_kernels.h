// The interface of the tile kernels: what is done to a tile of similarities between the product
// that makes it and the products that consume it.
#pragma once

#include <cstdint>

namespace xrisk::cpu {

// Similarities s_ij of row anchors i and column anchors j. An excluded pair holds -inf.
template <class T>
struct Tile {
  T* values = nullptr;
  int64_t stride = 0;
  int64_t rows = 0;
  int64_t columns = 0;
};

// Of each anchor, over its similarities: the largest, and relative to it the sum of e^z and of
// e^z z, z = (s - peak) / temperature. Without similarities: -inf, 0, 0.
template <class T, class Sum>
struct ExpSums {
  T* peaks = nullptr;
  Sum* masses = nullptr;
  Sum* moments = nullptr;

  ExpSums from(int64_t anchor) const { return {peaks + anchor, masses + anchor, moments + anchor}; }
};

// The pair weights of each anchor: weight * exp((s - peak) / temperature + shift).
template <class T>
struct PairWeights {
  const T* inverse_temperatures = nullptr;
  const T* peaks = nullptr;  // finite
  const T* shifts = nullptr;
  const T* weights = nullptr;

  PairWeights from(int64_t anchor) const {
    return {inverse_temperatures + anchor, peaks + anchor, shifts + anchor, weights + anchor};
  }
};

template <class T>
struct TileKernels {
  // The sums of the tile's rows.
  void (*row_sums)(const Tile<T>&, const T* inverse_temperatures, const ExpSums<T, T>&);
  // The sums of the tile's columns, merged into those of earlier tiles.
  void (*column_sums)(const Tile<T>&, const T* inverse_temperatures, const ExpSums<T, double>&);
  // Replaces similarities by weights: of the row anchors, plus of the column anchors unless null.
  void (*weights)(const Tile<T>&, const PairWeights<T>& rows, const PairWeights<T>* columns);

  // Rows of embeddings [rows, width], see cpu/embedding_inl.h.
  void (*dots)(const T* a, const T* b, int64_t rows, int64_t width, double* out);
  void (*normalize_rows)(const T* x, int64_t rows, int64_t width, bool normalize, T* e,
                         double* norms);
  void (*finish_gradients)(const T* e, const T* partners, const T* p, const double* norms,
                           int64_t rows, int64_t width, T* gradients);
};

}  // namespace xrisk::cpu
