// Products of packed bfloat16 rows on AMX tiles.
//
//   c [32, 32] = sum over k of left [32, 32 k] right [32 k, 32]
//
// Mapping: two tiles by two, so that each tile that is loaded is used twice; a panel of `right`,
// 32 columns, stays in L1 while `left` streams from L2. The result goes through 4 KB on the stack,
// where it is scaled and cut to the rows and columns that exist. Bytes: the packed rows once per 32
// columns, from L2; values and gradients once. Pair weights are packed 32 x 256 at a time.
//
// Numerical hazards: see cpu/bfloat16.h. An infinite weight becomes NaN (inf - inf in the
// remainder); it was bound to become one as soon as a row of both signs took it.
#include "cpu/bfloat16_amx.h"

#if defined(XRISK_AMX)
#include <cmath>
#include <cstring>

#if !defined(__clang__)  // GCC 12 takes its own _mm512_undefined_epi32() for a mistake
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#define XRISK_ISA amx
#define XRISK_VECTOR_BYTES 64
#define XRISK_TARGET \
  "amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,popcnt"
#include "cpu/isa_begin.h"

namespace xrisk::cpu::amx {
namespace {

constexpr int64_t kGroup = kBfloat16Group;
constexpr int64_t kSide = 16;    // rows of a tile
constexpr int64_t kTile = 512;   // numbers of a tile
constexpr int64_t kRows = 32;    // of pair weights that are packed at a time
constexpr int64_t kDepth = 256;  // a multiple of kGroup

// Tiles of two rows and of two columns, k along their common side; strides in tiles.
struct Block {
  const uint16_t* left;
  const uint16_t* remainder;  // of what left holds, in the same places; or null
  int64_t left_stride;        // from row to row; tiles of one row lie side by side
  const uint16_t* right;
  int64_t right_stride;  // from column to column
  int64_t right_step;    // along k
  int64_t depth;
};

class Tiles {
 public:
  // Tiles are held by a thread between these two.
  Tiles() {
    alignas(64) static constexpr struct {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } kShapes;
    _tile_loadconfig(&kShapes);
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
  ~Tiles() { _tile_release(); }

  void multiply(const Block& block, float* c) const {
    constexpr int kLine = 64;
    const uint16_t* left = block.left;
    const uint16_t* remainder = block.remainder;
    const uint16_t* right = block.right;
    const int64_t below = block.left_stride * kTile, beside = block.right_stride * kTile;
    asm volatile("" ::: "memory");  // what the tiles read is written by now
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < block.depth; ++k) {
      _tile_loadd(6, right, kLine);
      _tile_loadd(7, right + beside, kLine);
      _tile_loadd(4, left, kLine);
      _tile_loadd(5, left + below, kLine);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      if (remainder != nullptr) {
        _tile_loadd(4, remainder, kLine);
        _tile_loadd(5, remainder + below, kLine);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        remainder += kTile;
      }
      left += kTile;
      right += block.right_step * kTile;
    }
    constexpr int kStride = kGroup * sizeof(float);
    _tile_stored(0, c, kStride);
    _tile_stored(1, c + kSide, kStride);
    _tile_stored(2, c + kSide * kGroup, kStride);
    _tile_stored(3, c + kSide * kGroup + kSide, kStride);
    asm volatile("" ::: "memory");
  }
};

// Of the next 16 lanes, those before `left`.
__mmask16 lanes(int64_t left) {
  return left >= 16 ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1u << left) - 1);
}

__m512i bits(__m512 x) { return _mm512_castps_si512(x); }

// The upper halves of a, then those of b.
__m512i upper_halves(__m512i a, __m512i b) {
  alignas(64) static constexpr uint16_t kOdd[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                                    23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                    45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  return _mm512_permutex2var_epi16(a, _mm512_load_si512(kOdd), b);
}

// The upper halves of a and b in turn.
__m512i pairs_of_halves(__m512i a, __m512i b) {
  return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(a, 16), b);
}

// x, and a half of the next place more: the upper half is then x, rounded. (A NaN may leave it, but
// stays in the remainder.)
__m512i to_round(__m512 x) { return _mm512_add_epi32(bits(x), _mm512_set1_epi32(0x8000)); }

// x less what to_round keeps of it, which is exact; to be rounded too.
__m512i remainder_of(__m512 x) {
  const __m512i upper = _mm512_and_si512(to_round(x), _mm512_set1_epi32(INT32_C(-65536)));
  return to_round(_mm512_sub_ps(x, _mm512_castsi512_ps(upper)));
}

// 16 x 16 words.
void transpose(__m512i (&rows)[kSide]) {
  __m512i by_two[kSide], by_four[kSide];
  for (int i = 0; i < 16; i += 2) {
    by_two[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    by_two[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    by_four[i] = _mm512_unpacklo_epi64(by_two[i], by_two[i + 2]);
    by_four[i + 1] = _mm512_unpackhi_epi64(by_two[i], by_two[i + 2]);
    by_four[i + 2] = _mm512_unpacklo_epi64(by_two[i + 1], by_two[i + 3]);
    by_four[i + 3] = _mm512_unpackhi_epi64(by_two[i + 1], by_two[i + 3]);
  }
  constexpr int kEven = 0x88, kOdd = 0xdd;  // lanes of 128 bits
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(by_four[j], by_four[4 + j], kEven);
    const __m512i b = _mm512_shuffle_i32x4(by_four[8 + j], by_four[12 + j], kEven);
    const __m512i c = _mm512_shuffle_i32x4(by_four[j], by_four[4 + j], kOdd);
    const __m512i d = _mm512_shuffle_i32x4(by_four[8 + j], by_four[12 + j], kOdd);
    rows[j] = _mm512_shuffle_i32x4(a, b, kEven);
    rows[4 + j] = _mm512_shuffle_i32x4(c, d, kEven);
    rows[8 + j] = _mm512_shuffle_i32x4(a, b, kOdd);
    rows[12 + j] = _mm512_shuffle_i32x4(c, d, kOdd);
  }
}

void store_tile(const __m512i (&rows)[kSide], uint16_t* tile) {
  for (int i = 0; i < kSide; ++i) _mm512_storeu_si512(tile + i * kGroup, rows[i]);
}

// Words of [16 rows, 16 pairs] at two neighbouring rows -> pairs of those rows, 32 columns.
void store_rank(__m512i first, __m512i second, uint16_t* left_columns, uint16_t* right_columns) {
  const __m512i low = _mm512_unpacklo_epi16(first, second);
  const __m512i high = _mm512_unpackhi_epi16(first, second);
  alignas(64) static constexpr uint64_t kLow[8] = {0, 1, 8, 9, 2, 3, 10, 11};
  alignas(64) static constexpr uint64_t kHigh[8] = {4, 5, 12, 13, 6, 7, 14, 15};
  _mm512_storeu_si512(left_columns, _mm512_permutex2var_epi64(low, _mm512_load_si512(kLow), high));
  _mm512_storeu_si512(right_columns,
                      _mm512_permutex2var_epi64(low, _mm512_load_si512(kHigh), high));
}

bool pack(const float* const* rows, const float* factors, int64_t group,
          const Bfloat16Rows& packed) {
  const int64_t depth = packed.depth();
  __mmask16 lost = 0;
  const auto load = [&](int64_t row, int64_t column) {
    const __mmask16 mask = rows[row] == nullptr ? 0 : lanes(packed.width - column);
    const __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, mask ? rows[row] + column : nullptr),
                                   _mm512_set1_ps(factors[row]));
    const __m512i size = _mm512_and_si512(bits(x), _mm512_set1_epi32(0x7fffffff));
    lost |= _mm512_cmplt_epu32_mask(_mm512_sub_epi32(size, _mm512_set1_epi32(1)),
                                    _mm512_set1_epi32(0x7fffff));
    return bits(x);
  };
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t at = ((2 * group + half) * depth + k) * kTile;
      __m512i words[kSide];
      for (int64_t r = 0; r < kSide; ++r) {
        const int64_t row = half * kSide + r;
        words[r] = upper_halves(load(row, k * kGroup), load(row, k * kGroup + 16));
      }
      if (packed.left != nullptr) store_tile(words, packed.left + at);
      if (packed.rank != nullptr) {
        uint16_t* rank = packed.rank + (group * depth + k) * 2 * kTile + half * 8 * kGroup;
        for (int64_t r = 0; r < kSide; r += 2) {
          store_rank(words[r], words[r + 1], rank + r / 2 * kGroup, rank + kTile + r / 2 * kGroup);
        }
      }
      if (packed.right == nullptr) continue;
      transpose(words);
      store_tile(words, packed.right + at);
    }
  }
  return lost == 0;
}

void similarities(const Bfloat16Rows& x, const Bfloat16Rows& y, const Bfloat16Range& range,
                  float* values, int64_t stride) {
  const Tiles tiles_held;
  const int64_t depth = x.depth();
  alignas(64) float c[kGroup * kGroup];
  for (int64_t column = range.column / kGroup * kGroup; column < range.column_end;
       column += kGroup) {
    const __m512 scales[2] = {_mm512_loadu_ps(y.scales + column),
                              _mm512_loadu_ps(y.scales + column + kSide)};
    __mmask16 there[2];
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t begin = column + half * kSide;
      there[half] =
          static_cast<__mmask16>(lanes(range.column_end - begin) & ~lanes(range.column - begin));
    }
    for (int64_t row = range.row; row < range.row_end; row += kGroup) {
      tiles_held.multiply({x.left + row / kSide * depth * kTile, nullptr, depth,
                           y.right + column / kSide * depth * kTile, depth, 1, depth},
                          c);
      const int64_t end = row + kGroup < range.row_end ? row + kGroup : range.row_end;
      for (int64_t i = row; i < end; ++i) {
        float* out = values + (i - range.row) * stride + (column - range.column);
        for (int64_t half = 0; half < 2; ++half) {
          const __m512 s = _mm512_loadu_ps(c + (i - row) * kGroup + half * kSide);
          _mm512_mask_storeu_ps(
              out + half * kSide, there[half],
              _mm512_mul_ps(_mm512_mul_ps(s, _mm512_set1_ps(x.scales[i])), scales[half]));
        }
      }
    }
  }
}

// Pair weights as left tiles: [kRows / 16, kDepth / 32], and their remainders.
struct PackedWeights {
  alignas(64) uint16_t upper[kRows * kDepth];
  alignas(64) uint16_t remainder[kRows * kDepth];
};

// A tile from 16 rows (those at `count` and beyond: zeros) and `left` columns, each column times
// its scale.
void pack_rows(const float* weights, int64_t stride, int64_t count, int64_t left,
               const float* scales, uint16_t* upper, uint16_t* remainder) {
  const __m512 first = _mm512_loadu_ps(scales), second = _mm512_loadu_ps(scales + 16);
  for (int64_t r = 0; r < kSide; ++r) {
    const __mmask16 low = r < count ? lanes(left) : 0, high = r < count ? lanes(left - 16) : 0;
    const float* from = weights + (r < count ? r : 0) * stride;
    const __m512 a = _mm512_mul_ps(_mm512_maskz_loadu_ps(low, from), first);
    const __m512 b = _mm512_mul_ps(_mm512_maskz_loadu_ps(high, from + 16), second);
    _mm512_storeu_si512(upper + r * kGroup, upper_halves(to_round(a), to_round(b)));
    _mm512_storeu_si512(remainder + r * kGroup, upper_halves(remainder_of(a), remainder_of(b)));
  }
}

// The same of the transposed: from `left` rows, each times its scale, and 16 columns, of which
// `count` exist.
void pack_columns(const float* weights, int64_t stride, int64_t count, int64_t left,
                  const float* scales, uint16_t* upper, uint16_t* remainder) {
  const __mmask16 mask = lanes(count);
  __m512i words[kSide], rest[kSide];
  const auto load = [&](int64_t row) {
    const bool there = row < left;
    return _mm512_mul_ps(
        _mm512_maskz_loadu_ps(there ? mask : 0, weights + (there ? row : 0) * stride),
        _mm512_set1_ps(scales[row]));
  };
  for (int64_t pair = 0; pair < kSide; ++pair) {
    const __m512 a = load(2 * pair), b = load(2 * pair + 1);
    words[pair] = pairs_of_halves(to_round(a), to_round(b));
    rest[pair] = pairs_of_halves(remainder_of(a), remainder_of(b));
  }
  transpose(words);
  store_tile(words, upper);
  transpose(rest);
  store_tile(rest, remainder);
}

// out [0, rows) += W z, W [rows, depth] the weights, packed a part at a time by
// pack_tile(row, k, upper, remainder), k counted from `start`, a row of z.
template <class Pack>
void add_product(const Bfloat16Rows& z, int64_t rows, int64_t start, int64_t depth, float* out,
                 Pack&& pack_tile) {
  const Tiles tiles_held;
  const int64_t width = z.width, columns = 2 * z.depth();  // tiles
  static_assert(kDepth % kGroup == 0 && kRows % kGroup == 0);
  Scratch scratch;
  PackedWeights& packed = *scratch.allocate<PackedWeights>(1);
  alignas(64) float c[kGroup * kGroup];
  for (int64_t k = 0; k < depth; k += kDepth) {
    const int64_t tiles = ((depth - k < kDepth ? depth - k : kDepth) + kGroup - 1) / kGroup;
    const uint16_t* rank = z.rank + (start + k) / kGroup * columns * kTile;
    for (int64_t row = 0; row < rows; row += kRows) {
      const int64_t count = rows - row < kRows ? rows - row : kRows;
      const int64_t groups = (count + kGroup - 1) / kGroup;
      for (int64_t i = 0; i < 2 * groups; ++i) {
        for (int64_t t = 0; t < tiles; ++t) {
          const int64_t at = (i * tiles + t) * kTile;
          pack_tile(row + i * kSide, k + t * kGroup, packed.upper + at, packed.remainder + at);
        }
      }
      for (int64_t column = 0; column < columns; column += 2) {
        const int64_t first = column * kSide;
        const __mmask16 low = lanes(width - first), high = lanes(width - first - kSide);
        for (int64_t group = 0; group < groups; ++group) {
          const int64_t at = 2 * group * tiles * kTile;
          tiles_held.multiply({packed.upper + at, packed.remainder + at, tiles,
                               rank + column * kTile, 1, columns, tiles},
                              c);
          const int64_t top = row + group * kGroup;
          const int64_t end = top + kGroup < rows ? top + kGroup : rows;
          for (int64_t i = top; i < end; ++i) {
            float* to = out + i * width + first;
            const float* from = c + (i - top) * kGroup;
            _mm512_mask_storeu_ps(
                to, low, _mm512_add_ps(_mm512_maskz_loadu_ps(low, to), _mm512_load_ps(from)));
            _mm512_mask_storeu_ps(to + kSide, high,
                                  _mm512_add_ps(_mm512_maskz_loadu_ps(high, to + kSide),
                                                _mm512_load_ps(from + kSide)));
          }
        }
      }
    }
  }
}

void add_rows(const Bfloat16Rows& y, const Bfloat16Range& range, const float* weights,
              int64_t stride, float* dx) {
  const int64_t rows = range.row_end - range.row, depth = range.column_end - range.column;
  add_product(y, rows, range.column, depth, dx + range.row * y.width,
              [&](int64_t row, int64_t k, uint16_t* upper, uint16_t* remainder) {
                pack_rows(weights + row * stride + k, stride, rows - row, depth - k,
                          y.scales + range.column + k, upper, remainder);
              });
}

void add_columns(const Bfloat16Rows& x, const Bfloat16Range& range, const float* weights,
                 int64_t stride, float* dy) {
  const int64_t columns = range.column_end - range.column, depth = range.row_end - range.row;
  add_product(x, columns, range.row, depth, dy + range.column * x.width,
              [&](int64_t column, int64_t k, uint16_t* upper, uint16_t* remainder) {
                pack_columns(weights + k * stride + column, stride, columns - column, depth - k,
                             x.scales + range.row + k, upper, remainder);
              });
}

constexpr Bfloat16Kernels kKernels = {"amx", pack, similarities, add_rows, add_columns};

}  // namespace

const Bfloat16Kernels& kernels() { return kKernels; }

}  // namespace xrisk::cpu::amx

#include "cpu/isa_end.h"
#endif  // XRISK_AMX
