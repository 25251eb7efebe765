#include "kernels/projection.h"

#include <algorithm>
#include <cmath>

namespace hadal {
namespace {

// Cumulated probabilities, in 2^-63, of the magnitudes 0, 1, ... of integers k with probabilities
// in proportion to exp(-k^2 / 2 / 4096^2), whose variance is 4096^2. Additions, multiplications and
// one division of doubles: the same on every machine.
std::vector<uint64_t> cumulated_magnitudes() {
  constexpr double kStep = 1.0 / (2.0 * kGaussianOne * kGaussianOne);
  constexpr double kCurvature = 1 - 2 * kStep + 2 * kStep * kStep;  // exp(-2 kStep)
  double ratio = 1 - kStep + kStep * kStep / 2;  // exp(-(2 k + 1) kStep), of k + 1 to k
  double weight = 1;
  std::vector<double> sums = {0.5};  // of zero, which is not counted twice
  for (int k = 1; k <= INT16_MAX; ++k) {
    weight *= ratio;
    ratio *= kCurvature;
    sums.push_back(sums.back() + weight);
  }
  std::vector<uint64_t> cumulated;
  for (const double sum : sums) {
    cumulated.push_back(static_cast<uint64_t>(sum / sums.back() * 0x1.0p63));
  }
  return cumulated;
}

// Of 64 random bits one is the sign.
std::vector<int16_t> gaussian_matrix(int head_dim, uint64_t seed) {
  static const std::vector<uint64_t> kCumulated = cumulated_magnitudes();
  std::vector<int16_t> matrix(static_cast<size_t>(head_dim) * head_dim);
  for (int16_t& entry : matrix) {
    const uint64_t bits = split_mix64(seed);
    const auto found = std::upper_bound(kCumulated.begin(), kCumulated.end() - 1, bits >> 1);
    const auto magnitude = static_cast<int>(found - kCumulated.begin());
    entry = static_cast<int16_t>((bits & 1) != 0 ? -magnitude : magnitude);
  }
  return matrix;
}

std::vector<int16_t> transposed(int head_dim, const std::vector<int16_t>& matrix) {
  std::vector<int16_t> columns;
  columns.reserve(matrix.size());
  for (int column = 0; column < head_dim; ++column) {
    for (int row = 0; row < head_dim; ++row) columns.push_back(matrix[row * head_dim + column]);
  }
  return columns;
}

}  // namespace

absl::StatusOr<Projection> Projection::create(int head_dim, uint64_t rotation_seed,
                                              bool is_gaussian) {
  uint64_t state = ~rotation_seed;
  const uint64_t seed = split_mix64(state);
  absl::StatusOr<Rotation> rotation = Rotation::create(head_dim, seed);
  if (!rotation.ok()) return rotation.status();
  Projection projection;
  projection.head_dim = head_dim;
  if (is_gaussian) {
    projection.gaussian = gaussian_matrix(head_dim, seed);
    projection.gaussian_transposed = transposed(head_dim, projection.gaussian);
  } else {
    projection.rotation = *std::move(rotation);
  }
  return projection;
}

ProductUnits product_units(const Projection& projection, const CodeTables* tables) {
  const double head_dim = projection.head_dim;
  const double one = projection.is_gaussian() ? kGaussianOne : 1;
  ProductUnits units;
  units.signs = static_cast<float>(std::sqrt(M_PI_2 / head_dim) / (head_dim * one));
  if (tables != nullptr) {
    const double scale = tables->centroid_scales[tables->bits - 1];
    units.centroids = static_cast<float>(1 / (scale * head_dim));
  }
  return units;
}

float residual_length(const CodeTables& tables, int head_dim) {
  const double units =
      static_cast<double>(tables.centroid_scales[tables.bits - 1]) * tables.input_scale;
  return static_cast<float>(units * std::sqrt(static_cast<double>(head_dim)));
}

}  // namespace hadal
