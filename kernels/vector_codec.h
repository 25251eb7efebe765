#pragma once

// What a backend computes: the vectors of one (layer, head) of one side, called a run, and of the
// heads of a layer one after the other. Private to kernels/.

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "common/block_plan.h"
#include "common/codec_spec.h"
#include "common/kv_layout.h"
#include "common/limits.h"
#include "kernels/codebook.h"
#include "kernels/codec.h"
#include "kernels/projection.h"
#include "kernels/rotation.h"

namespace hadal {

struct EncodeRun {
  const std::byte* values = nullptr;  // of token 0; value i at + i * dtype_bytes
  // As many bytes as this run has, its share of the layer that follows, to be fetched ahead; only a
  // hint. Null: none.
  const std::byte* ahead = nullptr;
  size_t token_stride_bytes = 0;
  size_t head_stride_bytes = 0;  // to the values of the next head
  DType dtype = DType::f16;
  uint32_t token_count = 0;
  uint32_t exact_token_count = 0;  // first tokens: scalars and words stay 0
  int head_dim = 0;
  const Rotation* rotation = nullptr;      // empty for families that do not rotate
  const CodeTables* tables = nullptr;      // null for families without a codebook
  const Projection* projection = nullptr;  // null for families that do not project
  int plane_count = 0;
  PlaneVector vector;  // what plane 0 has of one; words of other planes are as long
  // 16 bits each [token, PlaneVector::scalar_count] of plane 0; of the first the sign bit says that
  // the offset was removed.
  uint16_t* norms = nullptr;
  uint16_t* residual_norms = nullptr;  // the same of a later plane that has scalars
  uint16_t* offsets = nullptr;         // bf16 [head_dim]; null where the side has none
  std::array<std::byte*, limits::kBitsMax> planes = {};  // words of token 0, by plane
};

struct DecodeRun {
  std::byte* values = nullptr;
  const std::byte* ahead = nullptr;  // the same of the layer that will be written next
  size_t token_stride_bytes = 0;
  size_t head_stride_bytes = 0;
  uint32_t head_count = 1;  // runs to decode: this one and those of the heads that follow
  DType dtype = DType::f16;
  uint32_t token_count = 0;
  uint32_t exact_token_count = 0;  // first tokens are left alone
  int head_dim = 0;
  const Rotation* rotation = nullptr;
  const CodeTables* tables = nullptr;
  const Projection* projection = nullptr;
  int plane_count = 0;  // planes present: perhaps fewer than were encoded
  PlaneVector vector;   // as EncodeRun's
  const uint16_t* norms = nullptr;
  const uint16_t* residual_norms = nullptr;  // null where the plane that has them is not present
  const uint16_t* offsets = nullptr;
  std::array<const std::byte*, limits::kBitsMax> planes = {};
};

// Makes an EncodeRun or a DecodeRun that of the head which follows in its layer. Where heads lie
// side by side in a token's row, going row by row through the next layer suits the memory better
// than going to what the next head needs.
template <typename Run>
void to_next_head(Run& run) {
  const size_t tokens = run.token_count;
  run.values += run.head_stride_bytes;
  if (run.ahead != nullptr) {
    run.ahead += tokens * static_cast<size_t>(run.head_dim) * dtype_bytes(run.dtype);
  }
  run.norms += tokens * run.vector.scalar_count;
  if (run.residual_norms != nullptr) run.residual_norms += tokens;
  if (run.offsets != nullptr) run.offsets += run.head_dim;
  for (int p = 0; p < run.plane_count; ++p) run.planes[p] += tokens * run.vector.word_bytes;
}

// For backends that decode heads one by one.
template <typename Decode>
void for_each_head(DecodeRun run, Decode decode) {
  const uint32_t head_count = std::exchange(run.head_count, 1);
  for (uint32_t head = 0; head < head_count; ++head) {
    if (head != 0) to_next_head(run);
    decode(run);
  }
}

// Inner products of a query with a run's vectors, those of exact tokens left out, before offsets.
struct ScoreRun {
  DecodeRun vectors;                 // which are not decoded: without values
  const float* rotated = nullptr;    // R q
  const float* projected = nullptr;  // P R q; null for families that do not project
  float* scores = nullptr;           // of token 0
};

// False where a value, or the length of a vector, is NaN or infinite; then what was written is
// rubbish.
using EncodeRunFunction = bool (*)(const EncodeRun&);
using DecodeRunFunction = void (*)(const DecodeRun&);  // of all its heads
using ScoreRunFunction = void (*)(const ScoreRun&);

struct VectorCodec {
  EncodeRunFunction encode = nullptr;
  DecodeRunFunction decode = nullptr;
  ScoreRunFunction score = nullptr;  // null for families that have to be decoded
};

// Null functions where this build has none.
VectorCodec vector_codec(CodecFamily family, CodecBackend backend);

VectorCodec reference_vector_codec();  // of TurboQuant-MSE
VectorCodec simd_vector_codec();       // the same, for the best instruction set of this machine
VectorCodec reference_e4m3_codec();    // of FP8, and so on
VectorCodec reference_e5m2_codec();
VectorCodec simd_e4m3_codec();
VectorCodec simd_e5m2_codec();
VectorCodec reference_polar_codec();
VectorCodec simd_polar_codec();
VectorCodec reference_prod_codec();
VectorCodec reference_qjl_codec();
VectorCodec simd_prod_codec();
VectorCodec simd_qjl_codec();
void reference_score_run(const ScoreRun& run);  // of TurboQuant-MSE, TurboQuant-prod and QJL
void simd_score_run(const ScoreRun& run);
VectorCodec reference_tqe_codec();
VectorCodec simd_tqe_codec();

// Families that need a Rotation, and so one of its head_dims.
constexpr bool is_rotated(CodecFamily family) {
  return family != CodecFamily::raw && family != CodecFamily::fp8_e4m3 &&
         family != CodecFamily::fp8_e5m2;
}

// Families with signs of projected values.
constexpr bool is_projected(CodecFamily family) {
  return family == CodecFamily::turboquant_prod || family == CodecFamily::qjl;
}

// Of the codebook that a side with so many planes uses; 0 for none.
constexpr int codebook_bits(CodecFamily family, int planes) {
  if (family == CodecFamily::turboquant_mse) return planes;
  return family == CodecFamily::turboquant_prod ? planes - 1 : 0;
}

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

// How sums are halved: the largest power of two below `count`, which is at least 2.
constexpr int largest_power_below(int count) {
  int power = 1;
  while (2 * power < count) power *= 2;
  return power;
}

}  // namespace hadal
