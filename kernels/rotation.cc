#include "kernels/rotation.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace hadal {
namespace {

template <int kOrder>
std::vector<int8_t> core_of() {
  static constexpr std::array matrix = paley_hadamard<kOrder>();
  return {matrix.begin(), matrix.end()};
}

std::vector<int8_t> matrix_of_order(int order) {
  switch (order) {
    case 12:
      return core_of<12>();
    case 20:
      return core_of<20>();
    case 28:
      return core_of<28>();
    case 36:
      return core_of<36>();
    default:
      return {};
  }
}

}  // namespace

uint64_t split_mix64(uint64_t& state) {
  state += 0x9E3779B97F4A7C15u;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

absl::StatusOr<Rotation> Rotation::create(int head_dim, uint64_t seed) {
  if (std::find(kHeadDims.begin(), kHeadDims.end(), head_dim) == kHeadDims.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim is ", head_dim, "; turboquant supports ",
                     absl::StrJoin(kHeadDims, ", "), "; use codec raw"));
  }
  Rotation rotation;
  rotation.head_dim = head_dim;
  rotation.core = core_order(head_dim);
  rotation.inner = head_dim / rotation.core;
  rotation.core_matrix = matrix_of_order(rotation.core);
  uint64_t bits = 0;
  for (int i = 0; i < head_dim; ++i) {
    if (i % 64 == 0) bits = split_mix64(seed);
    rotation.signs[i] = ((bits >> (i % 64)) & 1) != 0 ? -1 : 1;
    if (rotation.inner == 4) {
      rotation.interleaved_signs[2 * i] = rotation.signs[i];
      rotation.interleaved_signs[2 * i + 1] = rotation.signs[i];
    } else {
      rotation.interleaved_signs[i / 8 * 8 + i % 4 * 2 + i % 8 / 4] = rotation.signs[i];
    }
    const bool upper = i % 16 >= 8, butterfly = rotation.inner > 8;
    for (int copy = 0; copy < Rotation::kWeightCopies; ++copy) {
      int16_t* weights = &rotation.last_weights[i / 8 * 64 + i % 2 * 32 + copy * 8 + i % 8 / 2 * 2];
      weights[upper ? 1 : 0] = upper && butterfly ? -rotation.signs[i] : rotation.signs[i];
      weights[upper ? 0 : 1] = butterfly ? rotation.signs[i] : int16_t{0};
    }
  }
  return rotation;
}

}  // namespace hadal
