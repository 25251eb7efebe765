#pragma once

// What a backend computes: the vectors of one (layer, head) of one side, called a run. Private to
// kernels/.

#include <array>
#include <cstddef>
#include <cstdint>

#include "common/kv_layout.h"
#include "common/limits.h"
#include "kernels/codebook.h"
#include "kernels/rotation.h"

namespace hadal {

struct EncodeRun {
  const std::byte* values = nullptr;  // of token 0; value i at + i * dtype_bytes
  // This run's share of the layer that follows, to be fetched ahead; only a hint.
  const std::byte* ahead = nullptr;
  size_t ahead_bytes = 0;
  size_t token_stride_bytes = 0;
  DType dtype = DType::f16;
  uint32_t token_count = 0;
  uint32_t exact_token_count = 0;  // first tokens: norm and words stay 0
  const Rotation* rotation = nullptr;
  const CodeTables* tables = nullptr;
  uint16_t* norms = nullptr;    // bf16 [token]; sign bit: the offset was removed
  uint16_t* offsets = nullptr;  // bf16 [head_dim]; null where the side has none
  std::array<std::byte*, limits::kBitsMax> planes = {};  // words of token 0, by plane
};

struct DecodeRun {
  std::byte* values = nullptr;
  // This run's share of the layer that will be written next; only a hint.
  const std::byte* ahead = nullptr;
  size_t ahead_bytes = 0;
  size_t token_stride_bytes = 0;
  DType dtype = DType::f16;
  uint32_t token_count = 0;
  uint32_t exact_token_count = 0;  // first tokens are left alone
  const Rotation* rotation = nullptr;
  const CodeTables* tables = nullptr;
  int plane_count = 0;  // planes present, at most the tables' bits
  const uint16_t* norms = nullptr;
  const uint16_t* offsets = nullptr;
  std::array<const std::byte*, limits::kBitsMax> planes = {};
};

// False where a value, or the length of a vector, is NaN or infinite; then what was written is
// rubbish.
using EncodeRunFunction = bool (*)(const EncodeRun&);
using DecodeRunFunction = void (*)(const DecodeRun&);

struct VectorCodec {
  EncodeRunFunction encode;
  DecodeRunFunction decode;
};

VectorCodec reference_vector_codec();
VectorCodec simd_vector_codec();  // for the best instruction set of this machine

// bf16 with round to nearest, ties to even; NaN and infinity are the caller's business.
constexpr uint16_t bf16_from_bits(uint32_t bits) {
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
// Round to nearest, ties away from zero: one addition, for the values that a decoder makes.
constexpr uint16_t bf16_rounded_away(uint32_t bits) {
  return static_cast<uint16_t>((bits + 0x8000u) >> 16);
}
inline constexpr uint16_t kNormOffsetFlag = 0x8000;
inline constexpr float kNormMin = 0x1.0p-64f;  // a shorter vector is stored as zero
inline constexpr float kHalfMax = 65504.0f;  // decoded f16 values are clamped: never a new infinity

// Sums run over 16 lanes (value i in lane i % 16) that are then added as a tree, in every backend,
// so that all compute the same bits.
inline constexpr int kSumLanes = 16;
inline float sum_lanes(float* lanes) {
  for (int step = kSumLanes / 2; step >= 1; step /= 2) {
    for (int i = 0; i < step; ++i) lanes[i] += lanes[i + step];
  }
  return lanes[0];
}

}  // namespace hadal
