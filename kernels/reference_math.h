#pragma once

// What the scalar codecs share: single values, sums, rotations, and the steps of a vector that do
// not depend on how its indices are chosen. Plain and slow, the definition that the fast backends
// are tested against. Private to kernels/.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/vector_codec.h"

namespace hadal::reference {

// One value in memory. Stored f16 are clamped to +-kHalfMax.
float load(const std::byte* at, DType dtype);
void store(std::byte* at, float value, DType dtype);

float bf16_value(uint16_t bits);
uint16_t bf16_of(float value);

// In an order that suits registers of 4 to 16 floats and GPU threads of 16 or 32 values each: all
// backends add the same pairs, so that they round alike.
float squared_length(const std::vector<float>& values);

// (C (x) W) v.
void hadamard(const Rotation& rotation, std::vector<int32_t>& v);

// (C (x) W)^T v. `narrow`: modulo 2^16, but for the last butterflies, which are those of stride 8.
void inverse_hadamard(const Rotation& rotation, bool narrow, std::vector<int32_t>& v);

std::vector<float> load_vector(const EncodeRun& run, uint32_t token);

// Mean key of the tokens that are not exact, rounded to bf16 (codec.md: the sink token would poison
// it), into run.offsets.
void write_mean_key(const EncodeRun& run);

// Removes the offset where that makes the vector shorter, and writes run.norms[token]. Answers the
// norm before its rounding, or NaN where the vector or its norm is not finite.
float write_norm(const EncodeRun& run, uint32_t token, std::vector<float>& values);

// Times `scale`, rounded to integers and rotated.
std::vector<int32_t> rotated(const Rotation& rotation, float scale,
                             const std::vector<float>& values);

// The last step of decoding: the diagonal, `scale` and the offset, of what inverse_hadamard() made.
void store_vector(const DecodeRun& run, uint32_t token, float scale,
                  const std::vector<int32_t>& values);

}  // namespace hadal::reference
