#pragma once

#include <array>
#include <cstddef>

#include "common/limits.h"

namespace hadal {

inline constexpr size_t kCodebookMaxSize = size_t{1} << limits::kBitsMax;

// Lloyd-Max scalar quantiser of N(0, 1) (Max 1960, Lloyd 1982) with 2^bits cells, the codebook of
// TurboQuant-MSE (arXiv 2504.19874, section 3.1). The index of a cell is its rank, so that its most
// significant bits name a merged cell and planes can be dropped from the end.
struct Codebook {
  int bits = 0;

  // Binary search by planes: at plane p, with i the index bits found so far, the next bit is
  // value >= thresholds[2^p + i]. Entry 0 is unused.
  alignas(64) std::array<float, kCodebookMaxSize> thresholds = {};

  // centroids[p - 1][i]: what index prefix i of p planes decodes to, the mean of N(0, 1) over the
  // merged cell. For p == bits these are the Lloyd-Max centroids.
  alignas(64) std::array<std::array<float, kCodebookMaxSize>, limits::kBitsMax> centroids = {};

  // Mean squared error on N(0, 1) when `planes` of the bits are read.
  std::array<double, limits::kBitsMax> distortion = {};
};

// The codebook of 1 to 8 bits; made at first use, kept for the life of the process. Thread safe.
const Codebook& codebook(int bits);

}  // namespace hadal
