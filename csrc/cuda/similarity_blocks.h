// The blocks that a matrix of similarities is worked through in.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/similarity.h"

namespace xrisk::cuda {

struct SimilarityBlock {
  int64_t row, rows, column, columns;
  bool diagonal;  // both sides are the same anchors
};

// The similarities of a block, to c; Problem: x, y [.., width].
template <class T, class Factor, class Problem>
void multiply_block(const Problem& problem, const SimilarityBlock& block, T* c, int64_t c_stride,
                    const Products<T, Factor>& products) {
  MatrixProduct<T, Factor> product;
  product.m = block.rows;
  product.n = block.columns;
  product.k = problem.width;
  product.a = problem.x + block.row * problem.width;
  product.a_stride = problem.width;
  product.b = problem.y + block.column * problem.width;
  product.b_stride = problem.width;
  product.b_transposed = true;
  product.c = c;
  product.c_stride = c_stride;
  products.multiply(product);
}

// f(block), until one returns an error; `symmetric`: of the blocks on and above the diagonal.
template <class F>
cudaError_t for_each_block(int64_t rows, int64_t columns, int64_t block_rows, int64_t block_columns,
                           bool symmetric, F&& f) {
  for (int64_t row = 0; row < rows; row += block_rows) {
    for (int64_t column = symmetric ? row : 0; column < columns; column += block_columns) {
      const cudaError_t error =
          f(SimilarityBlock{row, std::min(block_rows, rows - row), column,
                            std::min(block_columns, columns - column), symmetric && column == row});
      if (error != cudaSuccess) return error;
    }
  }
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
