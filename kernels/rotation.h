#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/limits.h"

namespace hadal {

// What turboquant supports. 512 and 576 are MLA's latent without and with its rope values.
inline constexpr std::array kHeadDims = {64, 80, 96, 112, 128, 160, 192, 256, 320, 512, 576};

// Order of the matrix C below: four times the odd factor of head_dim, or 1.
constexpr int core_order(int head_dim) {
  int odd = head_dim;
  while (odd % 2 == 0) odd /= 2;
  return odd == 1 ? 1 : 4 * odd;
}

// The next number of SplitMix64, whose state starts as its seed.
uint64_t split_mix64(uint64_t& state);

// A Hadamard matrix of order 12 or 20 (Paley's first construction), or 28 or 36 (his second), rows
// first.
template <int kOrder>
constexpr std::array<int8_t, kOrder * kOrder> paley_hadamard();

// Randomised Hadamard rotation of order head_dim = core x 2^k: y = (C (x) W) S x, with S a seeded
// +-1 diagonal, C a Hadamard matrix of order core (1, 12, 20, 28 or 36; Paley 1933) and W
// Sylvester's of order 2^k. Not normalised: |y| = sqrt(head_dim) |x|, and integers stay integers.
// Immutable, thread safe.
struct Rotation {
  int head_dim = 0;
  int core = 1;   // order of C
  int inner = 0;  // 2^k, at least 4: the contiguous runs that W works on
  // signs[i] is +1 or -1: bit i % 64 of the (i / 64)th number of SplitMix64 from the seed, 1 for
  // -1.
  alignas(64) std::array<int16_t, limits::kHeadDimMax> signs = {};
  // The same with 8 at a time in the order 0 4 1 5 2 6 3 7; or, where inner is 4, each twice.
  alignas(64) std::array<int16_t, 2 * limits::kHeadDimMax> interleaved_signs = {};
  std::vector<int8_t> core_matrix;  // core x core, rows first; empty where core is 1

  // The diagonal and the butterflies of stride 8 of the inverse, as sums of products of two values
  // u and v that lie 8 apart: the lower one is (u + v) signs[i], the upper one (u - v) signs[i +
  // 8]; u and v times their signs where inner is 4 or 8. Two a value; of values 8n to 8n + 7 those
  // of 0 2 4 6 from 64n on and those of 1 3 5 7 from 64n + 32 on, four times each: for as many
  // tokens as go side by side.
  static constexpr int kWeightCopies = 4;
  alignas(64) std::array<int16_t, 2 * kWeightCopies* limits::kHeadDimMax> last_weights = {};

  // InvalidArgument for other head_dims than kHeadDims.
  static absl::StatusOr<Rotation> create(int head_dim, uint64_t seed);
};

namespace paley {

// Legendre symbol of a modulo the prime q.
constexpr int quadratic_character(int a, int q) {
  a = ((a % q) + q) % q;
  if (a == 0) return 0;
  for (int i = 1; i < q; ++i) {
    if (i * i % q == a) return 1;
  }
  return -1;
}

// Paley's matrix bordered with a row and a column: entry (i, j) for 0 <= i, j <= q.
constexpr int bordered(int i, int j, int q) {
  if (i == 0 && j == 0) return 0;
  if (i == 0) return 1;
  if (j == 0) return q % 4 == 3 ? -1 : 1;
  return quadratic_character(i - j, q);
}

}  // namespace paley

template <int kOrder>
constexpr std::array<int8_t, kOrder * kOrder> paley_hadamard() {
  std::array<int8_t, kOrder* kOrder> matrix = {};
  for (int i = 0; i < kOrder; ++i) {
    for (int j = 0; j < kOrder; ++j) {
      int value = 0;
      if (kOrder == 12 || kOrder == 20) {  // q = order - 1, a prime of 3 modulo 4: I + S
        value = (i == j) + paley::bordered(i, j, kOrder - 1);
      } else {  // q = 13 or 17, 1 modulo 4: C (x) [1 1; 1 -1] + I (x) [1 -1; -1 -1]
        const int c = paley::bordered(i / 2, j / 2, kOrder / 2 - 1);
        const bool both_odd = i % 2 == 1 && j % 2 == 1;
        const bool both_even = i % 2 == 0 && j % 2 == 0;
        value = c * (both_odd ? -1 : 1) + (i / 2 == j / 2) * (both_even ? 1 : -1);
      }
      matrix[i * kOrder + j] = static_cast<int8_t>(value);
    }
  }
  return matrix;
}

}  // namespace hadal
