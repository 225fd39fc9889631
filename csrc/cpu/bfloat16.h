// Products of bfloat16 with sums in float32, on the tile unit (AMX) that some x86-64 CPUs have.
//
// Rows of embeddings are packed once into tiles of 16 x 32 numbers, 1 KB each, then
//
//   similarities: s_ij = c_i c_j <x_i, y_j>      x, y exact in bfloat16, c their scales
//   gradients:    dx_i += sum_j R_ij c_j y_j     R as a sum of two bfloat16
//
// A product of two bfloat16 is exact in float32, so similarities are as good as those of a float32
// product. A weight R, rounded to one bfloat16, would be 0.2% off; its remainder as a second one
// leaves 2^-17, at twice the products of a gradient.
//
// Hazard: the units take numbers below the normal range (1.2e-38) for zero. Embeddings that will be
// normalised are scaled by a power of two first, so theirs are safe; of others, packing tells.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cpu/executor.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {

// Rows come and go in groups of that many.
constexpr int64_t kBfloat16Group = 32;

// Rows [count, width], packed: row i is scales[i] times what the tiles hold. Zeros fill the last
// group and the last 32 columns.
struct Bfloat16Rows {
  int64_t count = 0;
  int64_t width = 0;
  float* scales = nullptr;
  uint16_t* left = nullptr;   // tiles [count / 16, width / 32] of [16 rows, 32 columns]
  uint16_t* right = nullptr;  // the same transposed, pairs of columns side by side
  uint16_t* rank = nullptr;   // tiles [count / 32, width / 16]: pairs of rows side by side

  int64_t groups() const { return (count + kBfloat16Group - 1) / kBfloat16Group; }
  int64_t depth() const { return (width + kBfloat16Group - 1) / kBfloat16Group; }
};

// A tile of pair weights [rows, columns]; `row` is a multiple of kBfloat16Group.
struct Bfloat16Range {
  int64_t row, row_end, column, column_end;
};

struct Bfloat16Kernels {
  const char* name;
  // Packs a group: 32 rows of `width` floats (null: zeros), each times its factor. False if a
  // number, not zero, is below the normal range.
  bool (*pack)(const float* const* rows, const float* factors, int64_t group,
               const Bfloat16Rows& packed);
  // values [rows, columns] of a range.
  void (*similarities)(const Bfloat16Rows& x, const Bfloat16Rows& y, const Bfloat16Range& range,
                       float* values, int64_t stride);
  // dx [row, row_end) += R y, dx being [., width] from row 0 on; columns start at a multiple of
  // kBfloat16Group.
  void (*add_rows)(const Bfloat16Rows& y, const Bfloat16Range& range, const float* weights,
                   int64_t stride, float* dx);
  // dy [column, column_end) += R^T x
  void (*add_columns)(const Bfloat16Rows& x, const Bfloat16Range& range, const float* weights,
                      int64_t stride, float* dy);
};

// The best that this machine has, or what XRISK_BFLOAT16 or select_bfloat16 named; null: float32 is
// as good as it gets. Part of the SIMD variant "avx512": null under another one.
const Bfloat16Kernels* bfloat16_kernels();
// "amx", "float32" or "auto"; false if this CPU, system or build does not have it.
bool select_bfloat16(const char* name);
// The names that this build has, best first.
std::vector<std::string> bfloat16_built();

// Where rows come from: `split` rows at first, the others at second. All hold numbers that bfloat16
// has.
struct Bfloat16Source {
  const float* first = nullptr;
  const float* second = nullptr;
  int64_t split = 0;
  const double* norms = nullptr;  // to be normalised by; null: not
};

// Allocates and packs; `left`, `right` and `rank` say what for. `whole` is false if a number got
// lost, see above; never where rows are normalised.
struct PackedRows {
  Bfloat16Rows rows;
  bool whole = true;
};
struct Bfloat16Uses {
  bool left, right, rank;
};
PackedRows pack_bfloat16(const Bfloat16Kernels& kernels, const Bfloat16Source& source,
                         int64_t count, int64_t width, const Bfloat16Uses& uses, Scratch& scratch,
                         const Executor& executor);

}  // namespace xrisk::cpu
