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

// A norm, without its flag, or the length of a residual; at most kProjectedLengthMax.
float length_of(uint16_t scalar);

// In an order that suits registers of 4 to 16 floats and GPU threads of 16 or 32 values each: all
// backends add the same pairs, so that they round alike.
float squared_length(const std::vector<float>& values);

// (C (x) W) v, of int32_t or float.
template <typename T>
void hadamard(const Rotation& rotation, std::vector<T>& v);

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

// A value's bit of a vector's words of one plane. Bits are written in order, from value 0 on.
void write_bit(std::byte* words, int i, bool bit);
bool read_bit(const std::byte* words, int i);

// Finds the index of value i, whose rotated coordinate is given, and writes it into the planes.
uint32_t write_index(const EncodeRun& run, uint32_t token, int i, int32_t rotated);

// The centroids of a vector, as so many planes say.
std::vector<int32_t> read_centroids(const DecodeRun& run, uint32_t token, int planes);

// Scalars and words of the exact tokens are zero. Answers whether their values are finite.
bool encode_exact_tokens(const EncodeRun& run);

// Encodes a run: the mean key, exact tokens, and encode_vector(run, token, values) for every other
// one.
using EncodeVector = bool (*)(const EncodeRun&, uint32_t token, std::vector<float>& values);
bool encode_tokens(const EncodeRun& run, EncodeVector encode_vector);

// What inverse_hadamard() made, times the diagonal and `scale`.
std::vector<float> scaled(const Rotation& rotation, float scale,
                          const std::vector<int32_t>& values);

// The last step of decoding: the offset.
void store_vector(const DecodeRun& run, uint32_t token, const std::vector<float>& values);

}  // namespace hadal::reference
