#pragma once

// PolarQuant (arXiv 2502.02617): what its backends know of it (docs/codec.md, "PolarQuant").
// Private to kernels/.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/value_conversion.h"

namespace hadal {

inline constexpr int kPolarRun = 16;  // values that share a radius
inline constexpr int kPolarLevels = 4;
inline constexpr int kPolarAngles = 4;  // cells of an angle in [0, pi/2]

// Vectors of this length and more make a block raw, and radii are read as at most this: the squares
// of all radii of a vector add up to a finite number.
inline constexpr float kPolarLengthMax = 0x1.0p60f;

// Lloyd-Max quantiser of an angle in [0, pi/2] with the density sin^(2^(level - 1) - 1)(2 psi),
// which the angle between two halves of 2^(level - 1) normal values has (lemma 2). At level 1,
// where it is even, signs tell the quadrants apart.
struct PolarCodebook {
  std::array<double, kPolarAngles + 1> edges = {};  // from 0 to pi/2
  std::array<double, kPolarAngles> centroids = {};  // means of the cells
};
PolarCodebook polar_codebook(int level);

// The codebooks in the integers that blocks are made of, by level from 1 on; entry 0 is unused.
// Immutable.
struct PolarTables {
  // Squared tangent of the first edge, in multiples of 2^-16; that of the last one is its inverse.
  std::array<float, kPolarLevels + 1> tangents = {};
  // Cosines of the centroids times 2^15. The sine of index i is the cosine of index 3 - i.
  std::array<std::array<int16_t, kPolarAngles>, kPolarLevels + 1> cosines = {};
};
// Made at first use, kept for the life of the process. Thread safe.
const PolarTables& polar_tables();

// What integers of vectors of a head_dim stand for. Rotated sums, |sum| <= sqrt(d) |v|, stay within
// 16 bits with what rounding adds.
struct PolarScale {
  PolarScale() = default;
  explicit PolarScale(int head_dim);
  float encoded_length = 0;   // of a vector before the rotation
  float rotated_length = 0;   // of the same after it
  float decoded_length = 0;   // of a vector's integers before they are rotated back
  float restored_length = 0;  // of the same after it
};

// The words of a vector of n runs: n times 32 bits of level 1, n times 8 of level 2, n times 6 of
// levels 3 and 4, packed. A level has its codes in order, from the least significant bit on. A code
// of level 1 is the cell's index and above it whether the first and the second value are negative.
struct PolarWords {
  uint32_t level1 = 0;
  uint8_t level2 = 0;
  uint8_t level34 = 0;
};
constexpr int polar_code_bits(int level) { return level == 1 ? 4 : 2; }
constexpr int polar_packed_bytes(int run_count) { return (6 * run_count + 7) / 8; }
void write_polar_words(const PolarWords* runs, int run_count, std::byte* words);
void read_polar_words(const std::byte* words, int run_count, PolarWords* runs);

// Byte i of levels 3 and 4 has bits of two runs: of run polar_packed_run(i) and of the next one,
// which are 0 where there is none.
constexpr int polar_packed_run(int i) { return 8 * i / 6; }
HADAL_HOST_DEVICE std::byte polar_packed_byte(int i, uint32_t level34, uint32_t next_level34) {
  return static_cast<std::byte>((level34 | next_level34 << 6) >> (8 * i % 6));
}
// The other way, of one run.
HADAL_HOST_DEVICE uint8_t polar_unpacked(const std::byte* packed, int run) {
  const auto first = static_cast<uint32_t>(packed[6 * run / 8]);
  const auto last = static_cast<uint32_t>(packed[(6 * run + 5) / 8]);  // perhaps the same
  return static_cast<uint8_t>((first | last << 8) >> (6 * run % 8) & 0x3fu);
}

// One run, in registers of a GPU's thread too.

// The codes of a level, without signs. Sums of two squares each take the place of the first half.
template <int kLevel>
HADAL_HOST_DEVICE uint32_t encode_polar_level(const PolarTables& tables,
                                              uint32_t (&squares)[kPolarRun]) {
  const float tangent = tables.tangents[kLevel];
  uint32_t codes = 0;
  HADAL_UNROLL
  for (int i = 0; i < kPolarRun >> kLevel; ++i) {
    const auto a = static_cast<float>(squares[2 * i]), b = static_cast<float>(squares[2 * i + 1]);
    // The cell of the angle whose tangent is sqrt(b / a).
    const uint32_t index = (b >= a * tangent) + (b >= a) + (b * tangent >= a);
    codes |= index << (polar_code_bits(kLevel) * i);
    squares[i] = squares[2 * i] + squares[2 * i + 1];
  }
  return codes;
}

// Of rotated values. Answers the sum of their squares.
HADAL_HOST_DEVICE uint32_t encode_polar_run(const PolarTables& tables, const uint32_t* values,
                                            PolarWords& words) {
  uint32_t squares[kPolarRun], signs = 0;
  HADAL_UNROLL
  for (int i = 0; i < kPolarRun; ++i) {
    squares[i] = values[i] * values[i];
    signs |= values[i] >> 31 << (i / 2 * 4 + 2 + i % 2);
  }
  words.level1 = encode_polar_level<1>(tables, squares) | signs;
  words.level2 = static_cast<uint8_t>(encode_polar_level<2>(tables, squares));
  words.level34 = static_cast<uint8_t>(encode_polar_level<3>(tables, squares));
  words.level34 |= static_cast<uint8_t>(encode_polar_level<4>(tables, squares) << 4);
  return squares[0];
}

// A radius as it is stored, its sign bit aside.
HADAL_HOST_DEVICE float read_polar_radius(uint32_t stored) {
  constexpr uint32_t kMax = std::bit_cast<uint32_t>(kPolarLengthMax) >> 16;
  const uint32_t bits = stored & 0x7fffu;
  return bf16_to_float(bits < kMax ? bits : kMax);
}

// Every radius becomes two, of the angle's cosine and of its sine.
template <int kLevel>
HADAL_HOST_DEVICE void decode_polar_level(const PolarTables& tables, uint32_t codes,
                                          uint32_t* radii) {
  const auto& cosines = tables.cosines[kLevel];
  HADAL_UNROLL
  for (int i = (kPolarRun >> kLevel) - 1; i >= 0; --i) {
    const uint32_t radius = radii[i], index = codes >> (polar_code_bits(kLevel) * i) & 3u;
    const auto times = [radius](int16_t factor) {
      return (radius * static_cast<uint32_t>(factor) + 0x4000u) >> 15;
    };
    radii[2 * i + 1] = times(cosines[3 - index]);
    radii[2 * i] = times(cosines[index]);
  }
}

// `radius`: of integers of PolarScale::decoded_length.
HADAL_HOST_DEVICE void decode_polar_run(const PolarTables& tables, uint32_t radius,
                                        const PolarWords& words, uint32_t* values) {
  values[0] = radius;
  decode_polar_level<4>(tables, words.level34 >> 4, values);
  decode_polar_level<3>(tables, words.level34, values);
  decode_polar_level<2>(tables, words.level2, values);
  decode_polar_level<1>(tables, words.level1, values);
  HADAL_UNROLL
  for (int i = 0; i < kPolarRun; ++i) {
    const uint32_t negative = 0u - (words.level1 >> (i / 2 * 4 + 2 + i % 2) & 1u);
    values[i] = (values[i] ^ negative) - negative;
  }
}

}  // namespace hadal
