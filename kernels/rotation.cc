#include "kernels/rotation.h"

#include "absl/strings/str_cat.h"

namespace hadal {
namespace {

// Legendre symbol of a modulo the prime q.
int quadratic_character(int a, int q) {
  a = ((a % q) + q) % q;
  if (a == 0) return 0;
  for (int i = 1; i < q; ++i) {
    if (i * i % q == a) return 1;
  }
  return -1;
}

// Paley's matrix bordered with a row and a column: entry (i, j) for 0 <= i, j <= q.
int bordered_paley(int i, int j, int q, int corner_column) {
  if (i == 0 && j == 0) return 0;
  if (i == 0) return 1;
  if (j == 0) return corner_column;
  return quadratic_character(i - j, q);
}

uint64_t split_mix64(uint64_t& state) {
  state += 0x9E3779B97F4A7C15u;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

}  // namespace

std::vector<int8_t> paley_hadamard(int order) {
  std::vector<int8_t> matrix(static_cast<size_t>(order) * order);
  for (int i = 0; i < order; ++i) {
    for (int j = 0; j < order; ++j) {
      int value = 0;
      if (order != 28) {  // q = order - 1 is 3 modulo 4: I + S
        value = (i == j) + bordered_paley(i, j, order - 1, -1);
      } else {  // q = 13 is 1 modulo 4: C (x) [1 1; 1 -1] + I (x) [1 -1; -1 -1]
        const int c = bordered_paley(i / 2, j / 2, 13, 1);
        const bool both_odd = i % 2 == 1 && j % 2 == 1;
        const bool both_even = i % 2 == 0 && j % 2 == 0;
        value = c * (both_odd ? -1 : 1) + (i / 2 == j / 2) * (both_even ? 1 : -1);
      }
      matrix[static_cast<size_t>(i) * order + j] = static_cast<int8_t>(value);
    }
  }
  return matrix;
}

absl::StatusOr<Rotation> Rotation::create(int head_dim, uint64_t seed) {
  Rotation rotation;
  rotation.head_dim = head_dim;
  switch (head_dim) {
    case 64:
    case 128:
    case 256:
      rotation.core = 1;
      break;
    case 96:
    case 192:
      rotation.core = 12;
      break;
    case 80:
      rotation.core = 20;
      break;
    case 112:
      rotation.core = 28;
      break;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("head_dim is ", head_dim,
                       "; turboquant supports 64, 80, 96, 112, 128, 192 and 256; use codec raw"));
  }
  rotation.inner = head_dim / rotation.core;
  if (rotation.core > 1) rotation.core_matrix = paley_hadamard(rotation.core);
  uint64_t bits = 0;
  for (int i = 0; i < head_dim; ++i) {
    if (i % 64 == 0) bits = split_mix64(seed);
    rotation.signs[i] = ((bits >> (i % 64)) & 1) != 0 ? -1 : 1;
    rotation.interleaved_signs[i / 8 * 8 + i % 4 * 2 + i % 8 / 4] = rotation.signs[i];
    const bool upper = i % 16 >= 8, butterfly = rotation.inner > 8;
    int16_t* weights = &rotation.last_weights[i / 8 * 16 + i % 2 * 8 + i % 8 / 2 * 2];
    weights[upper ? 1 : 0] = upper && butterfly ? -rotation.signs[i] : rotation.signs[i];
    weights[upper ? 0 : 1] = butterfly ? rotation.signs[i] : int16_t{0};
  }
  return rotation;
}

}  // namespace hadal
