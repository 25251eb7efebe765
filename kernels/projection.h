#pragma once

// The second random matrix of TurboQuant-prod (arXiv 2504.19874, algorithm 2) and QJL (arXiv
// 2406.03482): signs of a projection, with the length of what was projected, tell inner products
// without bias (docs/codec.md, "TurboQuant-prod and QJL"). Private to kernels/.

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/codebook.h"
#include "kernels/rotation.h"

namespace hadal {

inline constexpr int kGaussianOne = 4096;  // entries of the Gaussian matrix are multiples of 1/4096

// P, head_dim x head_dim: what rotated integers are multiplied with before their signs are taken.
// Immutable, thread safe.
struct Projection {
  int head_dim = 0;
  // Orthogonal, P P^T = head_dim: a randomised Hadamard with signs of its own.
  Rotation rotation;
  // Else N(0, 1) times kGaussianOne, rows first; empty where P is orthogonal. Magnitudes of a row
  // add up to less than 2^21.5, since 4096 sqrt(2 / pi) is the mean of one.
  std::vector<int16_t> gaussian;
  std::vector<int16_t> gaussian_transposed;

  bool is_gaussian() const { return !gaussian.empty(); }

  // Both matrices are made of SplitMix64 from the first number of SplitMix64 from ~rotation_seed.
  // InvalidArgument as Rotation::create.
  static absl::StatusOr<Projection> create(int head_dim, uint64_t rotation_seed, bool is_gaussian);
};

// Longer vectors, which no encoder writes since the sum of their squares is infinite, are read as
// this long: so any bytes decode to finite values.
inline constexpr float kProjectedLengthMax = 0x1.0p66f;

// What turns a decoder's integers into a vector, or into inner products: `centroids` times the norm
// those of R^T z, with R the codec's rotation and z the centroids, `signs` times the residual's
// length, or QJL's norm, those of R^T P^T s, with s the signs. Of QJL, whose tables are null,
// `centroids` is 0.
struct ProductUnits {
  float centroids = 0;
  float signs = 0;
};
ProductUnits product_units(const Projection& projection, const CodeTables* tables);

// What TurboQuant-prod projects: a rotated coordinate less its centroid, all bits read, in units of
// 1 / (input_scale * centroid_scale) of the coordinate's deviation. `rotated` is what the encoder
// has before it cuts input_shift places off.
//
// Residuals are no longer than the vector of max(|coordinate|, 0.81), so below 1.28 * 32767 *
// centroid_scale, and sqrt(d) times that, which bounds any sum of a rotation, below 2^30.
constexpr int32_t residual_of(const CodeTables& tables, int32_t rotated, int32_t centroid) {
  const int shift = tables.input_shift;
  const int64_t scaled = int64_t{tables.centroid_scales[tables.bits - 1]} * rotated -
                         (int64_t{tables.input_scale} * centroid << shift);
  return static_cast<int32_t>((scaled + (int64_t{1} << shift >> 1)) >> shift);
}
// The length of a vector of length 1 in these units.
float residual_length(const CodeTables& tables, int head_dim);

}  // namespace hadal
