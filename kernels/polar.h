#pragma once

// PolarQuant (arXiv 2502.02617): what both backends know of it (docs/codec.md, "PolarQuant").
// Private to kernels/.

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/vector_codec.h"

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
  explicit PolarScale(int head_dim);
  float encoded_length;   // of a vector before the rotation
  float rotated_length;   // of the same after it
  float decoded_length;   // of a vector's integers before they are rotated back
  float restored_length;  // of the same after it
};

// The words of a vector of n runs: n times 32 bits of level 1, n times 8 of level 2, n times 6 of
// levels 3 and 4, packed. A level has its codes in order, from the least significant bit on. A code
// of level 1 is the cell's index and above it whether the first and the second value are negative.
struct PolarWords {
  uint32_t level1 = 0;
  uint8_t level2 = 0;
  uint8_t level34 = 0;
};
void write_polar_words(const PolarWords* runs, int run_count, std::byte* words);
void read_polar_words(const std::byte* words, int run_count, PolarWords* runs);

}  // namespace hadal
