#pragma once

// The entropy-coded trellis quantiser: what its backends know of it (docs/codec.md, "tqe"). Private
// to kernels/.
//
// A vector of d values has a slot of d / 2 bytes: d bits of signs, d bits of trellis inputs, then
// 2d bits of quotients. Bit i is bit i % 8 of byte i / 8.

#include <cstddef>
#include <cstdint>

namespace hadal {

inline constexpr int kTqeStates = 8;  // the last three inputs: bit k is the one k values ago
inline constexpr int kTqeCosets = 4;  // of 8 Z: 1, 3, 5 and 7

// What the encoder searches with. Rotated values times a multiplier of 2^-15 are in units of 2^-4.
inline constexpr int kTqeUnitBits = 4;
inline constexpr int kTqeUnit = 1 << kTqeUnitBits;
inline constexpr int32_t kTqeQuotientCost = 320;  // of one bit, in squared units
// By what the nearest values of cosets differ in cost at most: (4 units)^2 and one bit.
inline constexpr int32_t kTqeCostRange = 16 * kTqeUnit * kTqeUnit + kTqeQuotientCost;
// Metric of states that a vector does not start in. Three values after the start every state has a
// path from the right one, and that is ahead of all others; 16 bits still tell which.
inline constexpr int32_t kTqeBarred = 1 << 14;
static_assert(3 * kTqeCostRange < kTqeBarred && kTqeBarred + 3 * kTqeCostRange <= INT16_MAX);
// The search's first multiplier makes the mean magnitude this many units; quotients then are one
// bit in the mean where values are normal.
inline constexpr uint64_t kTqeMeanFirst = 189;
inline constexpr int kTqeMultiplierMax = 32000;  // what it makes is no more: 16 bits, with a margin
inline constexpr uint16_t kTqeNormMax = 0x7f7f;  // longer ones, which are not finite, read as this
inline constexpr int kTqePasses = 3;             // more follow only where nothing has fit

// The search for the largest multiplier whose quotients fit the slot, d ones at most.
class TqeSearch {
 public:
  // `magnitudes`: sum of those of the rotated integers.
  TqeSearch(int head_dim, uint32_t magnitudes);

  int32_t multiplier() const { return multiplier_; }
  bool fits(int32_t quotients) const { return quotients <= head_dim_; }
  bool done() const { return is_done_; }

  // What the multiplier made; the next one. The last that fits is the largest.
  void advance(int32_t quotients);

 private:
  int32_t head_dim_;
  int32_t multiplier_;
  int32_t fitting_ = -1;  // the largest known to fit, and the smallest known not to
  int32_t refused_ = kTqeMultiplierMax + 1;
  int pass_ = 0;
  bool is_done_ = false;
};

// Of values that a path through the trellis allows, whose quotients fit.
void write_tqe_slot(const int32_t* values, int head_dim, std::byte* slot);
// The other way. Any bytes make some odd values, whose magnitudes add up to 23 head_dim at most.
void read_tqe_slot(const std::byte* slot, int head_dim, int32_t* values);

// The path of the least cost, squared error and bits, through values in units.
void quantise_tqe(const int32_t* targets, int head_dim, int32_t* values);
int32_t tqe_quotients(const int32_t* values, int head_dim);  // their sum

}  // namespace hadal
