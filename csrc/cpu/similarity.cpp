#include "cpu/similarity.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cpu/flush_denormals.h"

namespace xrisk::cpu {
namespace {

// Rows of similarities that many bytes apart would share their sets of the cache.
constexpr int64_t kPad = 16;

int64_t rounded_up(int64_t size, int64_t to) { return (size + to - 1) / to * to; }

// Cuts [begin, end) into an even number of like parts of at most `size`, so that two threads get
// the same; never into one part, for a product on its own would use the threads of the BLAS and
// might round differently.
template <class F>
void cut_evenly(int64_t begin, int64_t end, int64_t size, F&& f) {
  constexpr int64_t kGrain = 16;
  const int64_t length = end - begin;
  if (length <= 0) return;
  const int64_t parts = 2 * ((length + 2 * size - 1) / (2 * size));
  int64_t step = rounded_up((length + parts - 1) / parts, kGrain);
  if (step >= length) step = std::max<int64_t>(1, (length + 1) / 2);
  for (int64_t at = begin; at < end; at += step) f(at, std::min(at + step, end));
}

template <class T>
T dot(const T* x, const T* y, int64_t size) {
  constexpr int64_t kSums = 16;  // of their own, so that the compiler can vectorise them
  T sums[kSums] = {};
  int64_t k = 0;
  for (; k + kSums <= size; k += kSums) {
    for (int64_t s = 0; s < kSums; ++s) sums[s] += x[k + s] * y[k + s];
  }
  T total = T(0);
  for (; k < size; ++k) total += x[k] * y[k];
  for (const T sum : sums) total += sum;
  return total;
}

// out [size], `stride` apart, (+)= matrix vector; the matrix [size, depth], or transposed.
template <class T>
void multiply_vector(const T* matrix, int64_t matrix_stride, bool transposed, const T* vector,
                     int64_t vector_stride, int64_t size, int64_t depth, T* out, int64_t stride,
                     bool add) {
  std::vector<T> near(static_cast<size_t>(depth)), sums(static_cast<size_t>(size), T(0));
  for (int64_t k = 0; k < depth; ++k) near[static_cast<size_t>(k)] = vector[k * vector_stride];
  if (transposed) {
    for (int64_t k = 0; k < depth; ++k) {
      const T factor = near[static_cast<size_t>(k)];
      const T* row = matrix + k * matrix_stride;
      for (int64_t i = 0; i < size; ++i) sums[static_cast<size_t>(i)] += factor * row[i];
    }
  } else {
    for (int64_t i = 0; i < size; ++i) {
      sums[static_cast<size_t>(i)] = dot(matrix + i * matrix_stride, near.data(), depth);
    }
  }
  for (int64_t i = 0; i < size; ++i) {
    T& to = out[i * stride];
    to = sums[static_cast<size_t>(i)] + (add ? to : T(0));
  }
}

}  // namespace

template <class T>
SimilarityBlocks<T>::SimilarityBlocks(const Similarities<T>& problem, const SimilaritySizes& sizes,
                                      const Products<T>& products, Scratch& scratch,
                                      const Executor& executor)
    : problem_(problem), sizes_(sizes), products_(products), executor_(executor) {
  const int64_t bytes = static_cast<int64_t>(sizeof(T));
  // The square on the diagonal is part of one block.
  const int64_t fitting = sizes.block_bytes / bytes / sizes.block_rows - kPad;
  const int64_t widest =
      std::max({sizes.tile_columns, sizes.block_rows, fitting / kBfloat16Group * kBfloat16Group});
  int64_t largest = 0, kept = 0;
  std::vector<int64_t> volumes;
  for (int64_t row = 0; row < problem.rows; row += sizes.block_rows) {
    const int64_t row_end = std::min(row + sizes.block_rows, problem.rows);
    for (int64_t column = problem.symmetric ? row : 0; column < problem.columns; column += widest) {
      const int64_t column_end = std::min(column + widest, problem.columns);
      const int64_t stride = rounded_up(column_end - column, kPad) + kPad;
      blocks_.push_back({row, row_end, column, column_end, problem.symmetric && column == row,
                         nullptr, false, stride});
      volumes.push_back((row_end - row) * stride);
    }
  }
  // Those that are kept come first; the others share one place.
  size_t count = 0;
  for (; count < blocks_.size(); ++count) {
    if ((kept + volumes[count]) * bytes > sizes.store_bytes) break;
    kept += volumes[count];
  }
  for (size_t k = count; k < blocks_.size(); ++k) largest = std::max(largest, volumes[k]);
  T* storage = scratch.allocate<T>(kept + largest);
  int64_t offset = 0;
  for (size_t k = 0; k < blocks_.size(); ++k) {
    blocks_[k].kept = k < count;
    blocks_[k].values = storage + (k < count ? offset : kept);
    if (k < count) offset += volumes[k];
  }
  size_t most = 0;
  for (const Block& block : blocks_) most = std::max(most, pieces_of(block).size());
  const int64_t partial = static_cast<int64_t>(most) * sizes.block_rows;
  partial_ = {scratch.allocate<T>(partial), scratch.allocate<T>(partial),
              scratch.allocate<T>(partial)};
}

// In an order in which any two threads that split the list in halves get the same work.
template <class T>
auto SimilarityBlocks<T>::pieces_of(const Block& block) const -> std::vector<Piece> {
  std::vector<Piece> square, rest;
  const int64_t corner = block.diagonal ? block.row_end : block.column;
  cut_evenly(block.column, std::min(corner, block.column_end), sizes_.tile_columns,
             [&](int64_t begin, int64_t end) { square.push_back({begin, end, true}); });
  cut_evenly(corner, block.column_end, sizes_.tile_columns,
             [&](int64_t begin, int64_t end) { rest.push_back({begin, end, false}); });
  std::vector<Piece> pieces(square.begin(), square.begin() + (square.size() + 1) / 2);
  pieces.insert(pieces.end(), rest.begin(), rest.end());
  pieces.insert(pieces.end(), square.begin() + (square.size() + 1) / 2, square.end());
  return pieces;
}

template <class T>
Tile<T> SimilarityBlocks<T>::tile_of(const Block& block, const Piece& piece) const {
  return {block.values + (piece.column - block.column), block.stride, block.row_end - block.row,
          piece.end - piece.column};
}

template <class T>
Bfloat16Range SimilarityBlocks<T>::range_of(const Block& block, const Piece& piece) {
  return {block.row, block.row_end, piece.column, piece.end};
}

// A BLAS that has more threads, even if it may use but one, sums in another order: where the sums
// are long, and where a vector's product is all there is to do, which it then shares out.
template <class T>
void SimilarityBlocks<T>::multiply(const MatrixProduct<T>& product) const {
  constexpr int64_t kDepth = 512;
  if (product.m == 1) {
    return multiply_vector(product.b, product.b_stride, !product.b_transposed, product.a,
                           product.a_transposed ? product.a_stride : 1, product.n, product.k,
                           product.c, 1, product.add);
  }
  if (product.n == 1) {
    return multiply_vector(product.a, product.a_stride, product.a_transposed, product.b,
                           product.b_transposed ? 1 : product.b_stride, product.m, product.k,
                           product.c, product.c_stride, product.add);
  }
  MatrixProduct<T> part = product;
  for (int64_t left = product.k;; left -= kDepth) {
    part.k = std::min(left, kDepth);
    products_.multiply(part);
    if (left <= kDepth) return;
    part.a += part.a_transposed ? kDepth * part.a_stride : kDepth;
    part.b += part.b_transposed ? kDepth : kDepth * part.b_stride;
    part.add = true;
  }
}

template <class T>
void SimilarityBlocks<T>::multiply_tile(const Block& block, const Piece& piece) const {
  const Tile<T> tile = tile_of(block, piece);
  if (packed_ != nullptr) {
    if constexpr (std::is_same_v<T, float>) {
      packed_->similarities(packed_x_, packed_y_, range_of(block, piece), tile.values, tile.stride);
    }
  } else {
    const int64_t width = problem_.width;
    MatrixProduct<T> product;
    product.m = tile.rows;
    product.n = tile.columns;
    product.k = width;
    product.a = problem_.x + block.row * width;
    product.a_stride = width;
    product.b = problem_.y + piece.column * width;
    product.b_stride = width;
    product.b_transposed = true;
    product.c = tile.values;
    product.c_stride = tile.stride;
    multiply(product);
  }
  for (int64_t i = 0; i < tile.rows; ++i) {
    const int64_t* exclude = problem_.exclude + (block.row + i) * problem_.exclusions;
    for (int64_t e = 0; e < problem_.exclusions; ++e) {
      if (exclude[e] < piece.column || exclude[e] >= piece.end) continue;
      tile.values[i * tile.stride + exclude[e] - piece.column] = static_cast<T>(-INFINITY);
    }
  }
}

// out [m rows from `to`] += weights [m, k] embeddings [k rows from `from`]: all but the weights.
template <class T>
MatrixProduct<T> SimilarityBlocks<T>::to_gradient(int64_t m, int64_t k, const T* embeddings,
                                                  int64_t from, T* out, int64_t to) const {
  const int64_t width = problem_.width;
  MatrixProduct<T> product;
  product.m = m;
  product.n = width;
  product.k = k;
  product.b = embeddings + from * width;
  product.b_stride = width;
  product.c = out + to * width;
  product.c_stride = width;
  product.add = true;
  return product;
}

// dy [the piece's columns] += weights^T x
template <class T>
void SimilarityBlocks<T>::add_columns(const Block& block, const Piece& piece, T* dy) const {
  const Tile<T> tile = tile_of(block, piece);
  if constexpr (std::is_same_v<T, float>) {
    if (packed_ != nullptr) {
      packed_->add_columns(packed_x_, range_of(block, piece), tile.values, tile.stride, dy);
      return;
    }
  }
  MatrixProduct<T> product =
      to_gradient(tile.columns, tile.rows, problem_.x, block.row, dy, piece.column);
  product.a = tile.values;
  product.a_stride = tile.stride;
  product.a_transposed = true;
  multiply(product);
}

// dx [the strip's rows] += weights y
template <class T>
void SimilarityBlocks<T>::add_rows(const Block& block, const Piece& strip, T* dx) const {
  const T* weights = block.values + (strip.column - block.row) * block.stride;
  if constexpr (std::is_same_v<T, float>) {
    if (packed_ != nullptr) {
      packed_->add_rows(packed_y_, {strip.column, strip.end, block.column, block.column_end},
                        weights, block.stride, dx);
      return;
    }
  }
  MatrixProduct<T> product = to_gradient(strip.end - strip.column, block.column_end - block.column,
                                         problem_.y, block.column, dx, strip.column);
  product.a = weights;
  product.a_stride = block.stride;
  multiply(product);
}

template <class T>
void SimilarityBlocks<T>::use(const Bfloat16Kernels& kernels, const Bfloat16Rows& x,
                              const Bfloat16Rows& y) {
  packed_ = &kernels;
  packed_x_ = x;
  packed_y_ = y;
}

// Adds the partial sums of a block's pieces, in order, to the sums of its rows.
template <class T>
void SimilarityBlocks<T>::merge_rows(const Block& block, int64_t parts,
                                     const T* inverse_temperatures,
                                     const ExpSums<T, double>& sums) const {
  constexpr int64_t kGrain = 32;
  const int64_t rows = sizes_.block_rows;
  executor_.for_range(block.row_end - block.row, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t i = block.row + k;
      T highest = sums.peaks[i];
      for (int64_t part = 0; part < parts; ++part) {
        highest = std::max(highest, partial_.peaks[part * rows + k]);
      }
      const double shift = static_cast<double>(highest);
      const double inverse = static_cast<double>(inverse_temperatures[i]);
      double mass = 0.0, moment = 0.0;
      const auto add = [&](T peak, double part_mass, double part_moment) {
        if (part_mass == 0.0) return;
        const double z = (static_cast<double>(peak) - shift) * inverse;
        const double factor = z == 0.0 ? 1.0 : std::exp(z);
        mass += factor * part_mass;
        moment += factor * (part_moment + part_mass * z);
      };
      add(sums.peaks[i], sums.masses[i], sums.moments[i]);
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t at = part * rows + k;
        add(partial_.peaks[at], static_cast<double>(partial_.masses[at]),
            static_cast<double>(partial_.moments[at]));
      }
      sums.peaks[i] = highest;
      sums.masses[i] = mass;
      sums.moments[i] = moment;
    }
  });
}

template <class T>
void SimilarityBlocks<T>::sums(const T* row_inverse_temperatures, const ExpSums<T, double>& rows,
                               const T* column_inverse_temperatures,
                               const ExpSums<T, double>* columns) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const auto clear = [](const ExpSums<T, double>& sums, int64_t count) {
    std::fill(sums.peaks, sums.peaks + count, static_cast<T>(-INFINITY));
    std::fill(sums.masses, sums.masses + count, 0.0);
    std::fill(sums.moments, sums.moments + count, 0.0);
  };
  clear(rows, problem_.rows);
  if (columns != nullptr) clear(*columns, problem_.columns);
  const ExpSums<T, double>* other = problem_.symmetric ? &rows : columns;
  const T* other_inverse =
      problem_.symmetric ? row_inverse_temperatures : column_inverse_temperatures;
  for (const Block& block : blocks_) {
    const std::vector<Piece> pieces = pieces_of(block);
    executor_.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t part) {
      const Piece& piece = pieces[static_cast<size_t>(part)];
      multiply_tile(block, piece);
      const FlushDenormals flush;  // exponentials of pairs far below the peak, as below
      const Tile<T> tile = tile_of(block, piece);
      kernels.row_sums(tile, row_inverse_temperatures + block.row,
                       partial_.from(part * sizes_.block_rows));
      if (other == nullptr || piece.diagonal) return;
      kernels.column_sums(tile, other_inverse + piece.column, other->from(piece.column));
    });
    merge_rows(block, static_cast<int64_t>(pieces.size()), row_inverse_temperatures, rows);
  }
  kept_ = true;
}

template <class T>
void SimilarityBlocks<T>::gradients(const PairWeights<T>& rows, const PairWeights<T>* columns,
                                    T* dx, T* dy) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const PairWeights<T>* other = problem_.symmetric ? &rows : columns;
  T* const other_gradient = problem_.symmetric ? dx : dy;
  if (dx != nullptr) std::fill(dx, dx + problem_.rows * problem_.width, T(0));
  if (dy != nullptr) std::fill(dy, dy + problem_.columns * problem_.width, T(0));
  for (const Block& block : blocks_) {
    const std::vector<Piece> pieces = pieces_of(block);
    executor_.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t part) {
      const Piece& piece = pieces[static_cast<size_t>(part)];
      if (!kept_ || !block.kept) multiply_tile(block, piece);
      const FlushDenormals flush;  // a product with such weights is slow, too
      const Tile<T> tile = tile_of(block, piece);
      const PairWeights<T> mine = rows.from(block.row);
      const PairWeights<T> theirs = other == nullptr ? mine : other->from(piece.column);
      kernels.weights(tile, mine, other == nullptr ? nullptr : &theirs);
      if (other_gradient == nullptr || piece.diagonal) return;
      add_columns(block, piece, other_gradient);
    });
    if (dx == nullptr) continue;
    std::vector<Piece> strips;
    cut_evenly(block.row, block.row_end, sizes_.block_rows / 2,
               [&](int64_t begin, int64_t end) { strips.push_back({begin, end, false}); });
    executor_.for_each(static_cast<int64_t>(strips.size()), [&](int64_t part) {
      const FlushDenormals flush;
      add_rows(block, strips[static_cast<size_t>(part)], dx);
    });
  }
  kept_ = false;  // the similarities have become weights
}

template class SimilarityBlocks<float>;
template class SimilarityBlocks<double>;

}  // namespace xrisk::cpu
