#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/limits.h"

namespace hadal {

// Randomised Hadamard rotation of order head_dim = core x 2^k: y = (C (x) W) S x, with S a seeded
// +-1 diagonal, C a Hadamard matrix of order core (1, 12, 20 or 28; Paley 1933) and W Sylvester's
// of order 2^k. Not normalised: |y| = sqrt(head_dim) |x|, and
// integers stay integers. Immutable, thread safe.
struct Rotation {
  int head_dim = 0;
  int core = 1;   // order of C
  int inner = 0;  // 2^k, the contiguous runs that W works on
  // signs[i] is +1 or -1: bit i % 64 of the (i / 64)th number of SplitMix64 from the seed, 1 for
  // -1.
  alignas(64) std::array<int16_t, limits::kHeadDimMax> signs = {};
  // The same with 8 at a time in the order 0 4 1 5 2 6 3 7.
  alignas(64) std::array<int16_t, limits::kHeadDimMax> interleaved_signs = {};
  std::vector<int8_t> core_matrix;  // core x core, rows first

  // The diagonal and the butterflies of stride 8 of the inverse, as sums of products of two values
  // u and v that lie 8 apart: the lower one is (u + v) signs[i], the upper one (u - v) signs[i +
  // 8]; u and v times their signs where inner is 4 or 8. Of values 8n to 8n + 7 weights 16n on, two
  // a value, in the order 0 2 4 6 1 3 5 7.
  alignas(64) std::array<int16_t, 2 * limits::kHeadDimMax> last_weights = {};

  // InvalidArgument for head_dims other than 64, 80, 96, 112, 128, 192, 256.
  static absl::StatusOr<Rotation> create(int head_dim, uint64_t seed);
};

// A Hadamard matrix of order 12 or 20 (Paley's first construction) or 28 (his second), rows first.
std::vector<int8_t> paley_hadamard(int order);

}  // namespace hadal
