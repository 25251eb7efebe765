#pragma once

#include <array>
#include <cstddef>

#include "common/limits.h"

namespace hadal {

inline constexpr size_t kCodebookMaxSize = size_t{1} << limits::kBitsMax;

// Lloyd-Max scalar quantiser of N(0, 1) (Max 1960, Lloyd 1982) with 2^bits cells, the codebook of
// TurboQuant-MSE (arXiv 2504.19874, section 3.1). The index of a cell is its rank, so that its most
// significant bits name a merged cell and planes can be dropped from the end. Above kRefinedBits
// the cells of that many bits are cut, each by Lloyd's iteration within it: at most 2.1 % from the
// optimum, while of the optimum's own merged cells 2 or 3 planes would be up to 5.8 % from theirs.
inline constexpr int kRefinedBits = 5;

struct Codebook {
  int bits = 0;

  // Binary search by planes: at plane p, with i the index bits found so far, the next bit is
  // value >= thresholds[2^p + i]. Entry 0 is unused.
  std::array<double, kCodebookMaxSize> thresholds = {};

  // centroids[p - 1][i]: what index prefix i of p planes decodes to, the mean of N(0, 1) over the
  // merged cell. For p == bits these are the Lloyd-Max centroids.
  std::array<std::array<double, kCodebookMaxSize>, limits::kBitsMax> centroids = {};

  // Mean squared error on N(0, 1) when `planes` of the bits are read.
  std::array<double, limits::kBitsMax> distortion = {};
};

// The codebook of 1 to 8 bits; made at first use, kept for the life of the process. Thread safe.
const Codebook& codebook(int bits);

// Up to so many bits are encoded, and up to so many planes decoded, in integers of 16 bits. What
// they lose is below 2 % (docs/codec.md, "Integers").
constexpr int narrow_bits_max(int head_dim) {
  return head_dim <= 80 ? limits::kBitsMax : head_dim <= 128 ? 7 : head_dim <= 256 ? 6 : 4;
}
// Whether some number of bits is encoded in more.
constexpr bool is_ever_wide(int head_dim) { return narrow_bits_max(head_dim) < limits::kBitsMax; }
constexpr int narrow_planes_max(int head_dim) { return head_dim <= 256 ? 5 : 4; }

// What a rotated coordinate's deviation is in units of an encoder's integers: the largest for which
// the rotation's sums stay within 16 bits, since |sum| <= sqrt(d) |x| and rounding adds d / 2.
int encoded_deviation(int head_dim);

// More bits are encoded with so many binary places, which are cut after the rotation.
inline constexpr int kWideShift = 8;

inline constexpr int kBinCount = 64;
inline constexpr int kBinBitsMax = 5;

// A codebook in the integers that blocks of one head_dim are made of (docs/codec.md, "Integers").
// Everything between the norm and the last multiplication is exact, in any order and on any
// machine. Immutable.
struct CodeTables {
  int bits = 0;
  int input_scale = 0;  // of the thresholds: encoded_deviation()
  // Binary places: a vector's length is input_scale * 2^input_shift when it is rounded to integers.
  int input_shift = 0;
  // As Codebook's, times input_scale.
  alignas(64) std::array<int16_t, kCodebookMaxSize> thresholds = {};
  // As Codebook's, times a scale of their own for each plane count, which cancels where decoding
  // matches the norm.
  alignas(64) std::array<std::array<int16_t, kCodebookMaxSize>, limits::kBitsMax> centroids = {};
  std::array<int32_t, limits::kBitsMax> centroid_scales = {};

  // The index of a coordinate y in one step, of up to kBinBitsMax bits: bin n is where
  // y * bin_factor >> 16 is n or, for the first and the last one, lies beyond. It has one threshold
  // at most, and the index is bin_ranks[n & 63], and one more where y > bin_thresholds[n & 63].
  int16_t bin_factor = 0;
  alignas(64) std::array<int16_t, kBinCount> bin_thresholds = {};
  alignas(64) std::array<int16_t, kBinCount> bin_ranks = {};

  static CodeTables make(int bits, int head_dim);

 private:
  void make_bins();
};

}  // namespace hadal
