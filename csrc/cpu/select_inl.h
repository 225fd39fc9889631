// Selection in a row: see cpu/selection.h. A split is one read of the numbers, two compares and a
// compress-store of what is inside; 64 numbers are ranked by comparing all with all, without a
// branch. Bytes: one read of the row, and the few percent that are inside, a few times over.
#pragma once

#include "cpu/selection.h"
#include "cpu/simd.h"

namespace xrisk::cpu::XRISK_ISA {

// The lanes where a < b, or a <= b, as bits. A NaN is in neither.
#if XRISK_VECTOR_BYTES == 64
XRISK_HD uint64_t less_bits(Vec<float> a, Vec<float> b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ);
}
XRISK_HD uint64_t less_bits(Vec<double> a, Vec<double> b) {
  return _mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ);
}
XRISK_HD uint64_t at_most_bits(Vec<float> a, Vec<float> b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ);
}
XRISK_HD uint64_t at_most_bits(Vec<double> a, Vec<double> b) {
  return _mm512_cmp_pd_mask(a.v, b.v, _CMP_LE_OQ);
}
#else
#if XRISK_VECTOR_BYTES == 32
XRISK_HD uint64_t bits_of(Vec<float>::Integer mask) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps((__m256i)mask)));
}
XRISK_HD uint64_t bits_of(Vec<double>::Integer mask) {
  return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd((__m256i)mask)));
}
#elif defined(__x86_64__)
XRISK_HD uint64_t bits_of(Vec<float>::Integer mask) {
  return static_cast<uint32_t>(_mm_movemask_ps(_mm_castsi128_ps((__m128i)mask)));
}
XRISK_HD uint64_t bits_of(Vec<double>::Integer mask) {
  return static_cast<uint32_t>(_mm_movemask_pd(_mm_castsi128_pd((__m128i)mask)));
}
#else
template <class Integer>
XRISK_HD uint64_t bits_of(Integer mask) {
  constexpr int kLanes = sizeof(mask) / sizeof(mask[0]);
  uint64_t bits = 0;
  for (int k = 0; k < kLanes; ++k) bits |= static_cast<uint64_t>(mask[k] & 1) << k;
  return bits;
}
#endif
template <class T>
XRISK_HD uint64_t less_bits(Vec<T> a, Vec<T> b) {
  return bits_of(typename Vec<T>::Integer(a.v < b.v));
}
template <class T>
XRISK_HD uint64_t at_most_bits(Vec<T> a, Vec<T> b) {
  return bits_of(typename Vec<T>::Integer(a.v <= b.v));
}
#endif

// Stores the lanes that `bits` names one behind the other; may write a whole register.
#if XRISK_VECTOR_BYTES == 64
XRISK_HD void store_chosen(float* out, Vec<float> x, uint64_t bits) {
  _mm512_storeu_ps(out, _mm512_maskz_compress_ps(static_cast<__mmask16>(bits), x.v));
}
XRISK_HD void store_chosen(double* out, Vec<double> x, uint64_t bits) {
  _mm512_storeu_pd(out, _mm512_maskz_compress_pd(static_cast<__mmask8>(bits), x.v));
}
#elif XRISK_VECTOR_BYTES == 32
// The places of the set bits, packed into bytes, are a permutation.
XRISK_HD void store_chosen(float* out, Vec<float> x, uint64_t bits) {
  const uint64_t bytes = _pdep_u64(bits, 0x0101010101010101ull) * 0xff;
  const uint64_t places = _pext_u64(0x0706050403020100ull, bytes);
  const __m256i lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(places)));
  _mm256_storeu_ps(out, _mm256_permutevar8x32_ps(x.v, lanes));
}
XRISK_HD void store_chosen(double* out, Vec<double> x, uint64_t bits) {
  Vec<float> halves;
  memcpy(&halves, &x, sizeof(x));
  store_chosen(reinterpret_cast<float*>(out), halves, _pdep_u64(bits, 0x55) * 3);
}
#else
template <class T>
XRISK_HD void store_chosen(T* out, Vec<T> x, uint64_t bits) {
  T lanes[Vec<T>::kLanes];
  x.store(lanes);
  for (int k = 0; k < Vec<T>::kLanes; ++k) {
    *out = lanes[k];
    out += bits >> k & 1;
  }
}
#endif

// Splits x [count]; what is inside goes to `out` as far as `capacity` allows, but is counted in
// full. `out` may hold anything beyond the numbers inside, up to `capacity`.
template <class T>
SplitCounts split_range(const T* x, int64_t count, Bracket<T> bracket, T* out, int64_t capacity) {
  using V = Vec<T>;
  constexpr int kLanes = V::kLanes, kVectors = 4;
  const V low(bracket.low), high(bracket.high);
  int64_t below = 0, inside = 0;
  const auto keep = [&](V value, uint64_t bits) {
    if (inside + kLanes <= capacity) {
      store_chosen(out + inside, value, bits);
      inside += __builtin_popcountll(bits);
      return;
    }
    T lanes[kLanes];
    value.store(lanes);
    for (; bits != 0; bits &= bits - 1, ++inside) {
      if (inside < capacity) out[inside] = lanes[__builtin_ctzll(bits)];
    }
  };
  int64_t k = 0;
  for (; k + kVectors * kLanes <= count; k += kVectors * kLanes) {
    V values[kVectors];
    uint64_t under = 0, chosen = 0;
    for (int v = 0; v < kVectors; ++v) {
      values[v] = V::load(x + k + v * kLanes);
      under |= less_bits(values[v], high) << (v * kLanes);
      chosen |= at_most_bits(values[v], low) << (v * kLanes);
    }
    chosen = under & ~chosen;
    below += __builtin_popcountll(under);
    if (chosen == 0) continue;
    constexpr uint64_t kOne = (uint64_t{1} << kLanes) - 1;
    for (int v = 0; v < kVectors; ++v) keep(values[v], chosen >> (v * kLanes) & kOne);
  }
  for (; k < count; k += kLanes) {  // a NaN in the lanes past the end: neither below nor inside
    const int64_t left = count - k;
    const V value =
        left >= kLanes ? V::load(x + k) : V::load_partial(x + k, left, static_cast<T>(NAN));
    const uint64_t under = less_bits(value, high);
    below += __builtin_popcountll(under);
    keep(value, under & ~at_most_bits(value, low));
  }
  return {count - below, inside};
}

// #{x <= x_j} for each of x [kRanked], of which `count` exist; x is padded with NaN.
constexpr int kRanked = 64;
template <class T>
XRISK_HD void count_at_most(const T* x, int64_t count, T* counts) {
  using V = Vec<T>;
  // as many as the registers hold
  constexpr int kVectors = kRanked / V::kLanes < 8 ? kRanked / V::kLanes : 8;
  for (int64_t start = 0; start < count; start += kVectors * V::kLanes) {
    V values[kVectors];
    typename V::Integer sums[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      values[v] = V::load(x + start + v * V::kLanes);
      sums[v] = typename V::Integer{};
    }
    for (int64_t k = 0; k < count; ++k) {
      const V other(x[k]);
      for (int v = 0; v < kVectors; ++v) sums[v] -= (other.v <= values[v].v);
    }
    for (int v = 0; v < kVectors; ++v) {
      Vec<T>(__builtin_convertvector(sums[v], typename V::Native))
          .store(counts + start + v * V::kLanes);
    }
  }
}

// The (rank+1)-th largest: of the numbers with at most `rank` larger ones that with the most. None
// has that few where NaN are in the way: then it is one of them.
template <class T>
XRISK_HD T pick(const T* x, const T* counts, int64_t count, int64_t rank) {
  using V = Vec<T>;
  const T none = static_cast<T>(count + 1);
  const V limit(static_cast<T>(count - rank) - T(0.5)), nothing(none);  // #{<= x} >= count - rank
  V fewest(none);
  for (int64_t j = 0; j < count; j += V::kLanes) {
    const V y = V::load(counts + j);
    const V candidate = select(greater(y, limit), y, nothing);
    fewest = select(greater(fewest, candidate), candidate, fewest);
  }
  T lanes[V::kLanes], least = none;
  fewest.store(lanes);
  for (int k = 0; k < V::kLanes; ++k) least = lanes[k] < least ? lanes[k] : least;
  for (int64_t j = 0; j < count; j += V::kLanes) {
    const uint64_t same =
        at_most_bits(V::load(counts + j), V(least)) & at_most_bits(V(least), V::load(counts + j));
    if (same != 0) return x[j + __builtin_ctzll(same)];
  }
  return static_cast<T>(NAN);
}

template <class T>
struct Ranked {
  alignas(64) T values[kRanked];
  alignas(64) T counts[kRanked];
  int64_t count;

  XRISK_HD void rank(int64_t size) {
    count = size;
    for (int64_t k = count; k < kRanked; ++k) values[k] = static_cast<T>(NAN);
    count_at_most(values, count, counts);
  }
  XRISK_HD T largest(int64_t rank) const { return pick(values, counts, count, rank); }
};

// The numbers of one row, on one thread. `buffers`: two of the row's length and a register more.
template <class T>
class RowSource {
 public:
  static constexpr int64_t kFew = kRanked;

  XRISK_HD RowSource(const T* x, int64_t count, T* buffers)
      : x_(x),
        count_(count),
        capacity_(count + Vec<T>::kLanes),
        out_(buffers),
        other_(buffers + capacity_) {}

  XRISK_HD int64_t count() const { return count_; }
  XRISK_HD Bracket<T> bracket(int64_t rank, int pass) const {
    Ranked<T> sample;
    for (int64_t k = 0; k < kRanked; ++k) {
      sample.values[k] = x_[sample_place(k, kRanked, count_, pass)];
    }
    sample.rank(kRanked);
    const SampleRanks ranks = sample_ranks(count_, rank, kRanked, 2.0);
    return {ranks.low >= kRanked ? static_cast<T>(-INFINITY) : edge_of(sample.largest(ranks.low)),
            ranks.high < 0 ? static_cast<T>(INFINITY) : edge_of(sample.largest(ranks.high))};
  }
  XRISK_HD SplitCounts split(Bracket<T> bracket) {
    const SplitCounts counts = split_range(x_, count_, bracket, out_, capacity_);
    inside_ = counts.inside;
    return counts;
  }
  XRISK_HD void keep_inside() {
    x_ = out_;
    count_ = inside_;
    out_ = other_;
    other_ = const_cast<T*>(x_);
  }
  XRISK_HD int64_t nans() const {
    int64_t result = 0;
    for (int64_t k = 0; k < count_; ++k) result += x_[k] != x_[k];
    return result;
  }
  XRISK_HD T finish(int64_t rank) const {
    Ranked<T> few;
    memcpy(few.values, x_, count_ * sizeof(T));
    few.rank(count_);
    return few.largest(rank);
  }

 private:
  const T* x_;
  int64_t count_, capacity_, inside_ = 0;
  T *out_, *other_;
};

template <class T>
T select_in_row(const T* x, int64_t count, int64_t rank, T* buffers) {
  RowSource<T> source(x, count, buffers);
  return select_largest<T>(source, rank);
}

// The first place that holds `value` (any NaN for a NaN), or `count`.
template <class T>
int64_t find_first(const T* x, int64_t count, T value) {
  using V = Vec<T>;
  const V wanted(value);
  const bool nan = value != value;
  const auto differs = [&](V y) {
    return nan ? at_most_bits(y, y) : ~(at_most_bits(y, wanted) & at_most_bits(wanted, y));
  };
  constexpr uint64_t kAll = (uint64_t{1} << V::kLanes) - 1;
  int64_t k = 0;
  for (; k + V::kLanes <= count; k += V::kLanes) {
    const uint64_t found = ~differs(V::load(x + k)) & kAll;
    if (found != 0) return k + __builtin_ctzll(found);
  }
  for (; k < count; ++k) {
    if (nan ? x[k] != x[k] : x[k] == value) return k;
  }
  return count;
}

}  // namespace xrisk::cpu::XRISK_ISA
