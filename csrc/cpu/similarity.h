// Sums of exponentials of similarities <x_i, y_j>, and their gradients, without the N x M matrix.
//
//   sums:      per anchor, the largest similarity and the sums of cpu/tile_kernels.h
//   gradients: dx_i = sum_j R_ij y_j and dy_j = sum_i R_ij x_i, R the pair weights of both sides
//
// The rows are anchors; so are the columns if they get sums or weights, and then one product serves
// both. Symmetric similarities (y = x) are visited once, on and above the diagonal. Similarities
// live in blocks of at most kBlockBytes; the first ones that fit into kStoreBytes are kept from the
// sums to the gradients, the others are multiplied again.
#pragma once

#include <cstdint>
#include <vector>

#include "core/products.h"
#include "cpu/bfloat16.h"
#include "cpu/executor.h"
#include "cpu/kernel_table.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {

template <class T>
struct Similarities {
  const T* x = nullptr;  // [N, D]
  const T* y = nullptr;  // [M, D]
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t width = 0;
  bool symmetric = false;  // y is x
  // [N, E]: columns that row i leaves out, -1 for none. Where the columns are anchors too, a pair
  // is left out for both.
  const int64_t* exclude = nullptr;
  int64_t exclusions = 0;
};

// Smaller in tests, so that a few hundred rows take many blocks.
struct SimilaritySizes {
  int64_t block_rows = 256;
  int64_t tile_columns = 256;
  int64_t block_bytes = int64_t{8} << 20;
  int64_t store_bytes = int64_t{16} << 20;
};

template <class T>
class SimilarityBlocks {
 public:
  // `scratch` must outlive this.
  SimilarityBlocks(const Similarities<T>& problem, const SimilaritySizes& sizes,
                   const Products<T>& products, Scratch& scratch, const Executor& executor);

  // Multiplies these instead, which are x and y (the same ones where symmetric). For float alone;
  // block_rows must be a multiple of kBfloat16Group.
  void use(const Bfloat16Kernels& kernels, const Bfloat16Rows& x, const Bfloat16Rows& y);

  // Fills the sums of the row anchors [N] and of the column anchors [M] (null: none; symmetric
  // similarities have the row anchors alone).
  void sums(const T* row_inverse_temperatures, const ExpSums<T, double>& rows,
            const T* column_inverse_temperatures, const ExpSums<T, double>* columns);

  // Fills dx [N, D] and dy [M, D] (null: not wanted); dx alone where symmetric.
  void gradients(const PairWeights<T>& rows, const PairWeights<T>* columns, T* dx, T* dy);

 private:
  struct Block {
    int64_t row, row_end, column, column_end;
    bool diagonal;  // starts with the square on the diagonal of symmetric similarities
    T* values;
    bool kept;  // holds similarities after sums()
    int64_t stride;
  };
  // Columns [column, end) of a block, one task.
  struct Piece {
    int64_t column, end;
    bool diagonal;
  };

  std::vector<Piece> pieces_of(const Block& block) const;
  Tile<T> tile_of(const Block& block, const Piece& piece) const;
  static Bfloat16Range range_of(const Block& block, const Piece& piece);
  void multiply(const MatrixProduct<T>& product) const;
  void multiply_tile(const Block& block, const Piece& piece) const;
  MatrixProduct<T> to_gradient(int64_t m, int64_t k, const T* embeddings, int64_t from, T* out,
                               int64_t to) const;
  void add_columns(const Block& block, const Piece& piece, T* dy) const;
  void add_rows(const Block& block, const Piece& strip, T* dx) const;
  void merge_rows(const Block& block, int64_t parts, const T* inverse_temperatures,
                  const ExpSums<T, double>& sums) const;

  const Similarities<T> problem_;
  const SimilaritySizes sizes_;
  const Products<T>& products_;
  const Executor& executor_;
  std::vector<Block> blocks_;
  ExpSums<T, T> partial_;                    // [pieces, block_rows]
  const Bfloat16Kernels* packed_ = nullptr;  // of these, where not null
  Bfloat16Rows packed_x_, packed_y_;
  bool kept_ = false;  // sums() has filled the blocks that are kept
};

}  // namespace xrisk::cpu
