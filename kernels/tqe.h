#pragma once

// The entropy-coded trellis quantiser: what its backends know of it, threads of a GPU included
// (docs/codec.md, "tqe"). Private to kernels/.
//
// A vector of d values has a slot of d / 2 bytes: d bits of signs, d bits of trellis inputs, then
// 2d bits of quotients. Bit i is bit i % 8 of byte i / 8.

#include <cstddef>
#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/memory_access.h"
#include "kernels/rotation.h"

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
inline constexpr uint32_t kTqeMeanFirst = 189;
static_assert(uint64_t{kTqeMeanFirst} * kHeadDims.back() << 15 <= UINT32_MAX);
inline constexpr int kTqeMultiplierMax = 32000;  // what it makes is no more: 16 bits, with a margin
inline constexpr uint16_t kTqeNormMax = 0x7f7f;  // longer ones, which are not finite, read as this
inline constexpr int kTqePasses = 3;             // more follow only where nothing has fit

// The search for the largest multiplier whose quotients fit the slot, d ones at most.
class TqeSearch {
 public:
  // `magnitudes`: sum of those of the rotated integers.
  HADAL_HOST_DEVICE TqeSearch(int head_dim, uint32_t magnitudes) : head_dim_(head_dim) {
    const uint32_t sum = kTqeMeanFirst * static_cast<uint32_t>(head_dim) << 15;
    const uint32_t first = sum / (magnitudes == 0 ? 1u : magnitudes);
    multiplier_ = first < kTqeMultiplierMax ? static_cast<int32_t>(first) : kTqeMultiplierMax;
  }

  HADAL_HOST_DEVICE int32_t multiplier() const { return multiplier_; }
  HADAL_HOST_DEVICE bool fits(int32_t quotients) const { return quotients <= head_dim_; }
  HADAL_HOST_DEVICE bool done() const { return is_done_; }

  // What the multiplier made; the next one. The last that fits is the largest.
  HADAL_HOST_DEVICE void advance(int32_t quotients) {
    ++pass_;
    (fits(quotients) ? fitting_ : refused_) = multiplier_;
    const bool is_full = fits(quotients) && quotients >= head_dim_ - 1;
    const bool is_late = pass_ >= kTqePasses && fitting_ >= 0;
    is_done_ = is_full || is_late || fitting_ + 1 == refused_;
    if (is_done_) return;
    // Magnitudes add up to 8 quotients and 4 a value, and grow with the multiplier. The aim is one
    // bit short of the slot and, while nothing fits, ever lower; in the end it is 0, which always
    // fits.
    const int32_t short_by = pass_ < kTqePasses ? 1 : 2 << (pass_ - kTqePasses);
    const int32_t aim = 3 * head_dim_ - 2 * short_by;
    int32_t next = aim > 0 ? multiplier_ * aim / (2 * quotients + head_dim_) : 0;
    // It grows threefold at most, so that sums of quotients fit in 16 bits.
    const int32_t grown = 3 * multiplier_ + 1, end = refused_ < grown ? refused_ : grown;
    if (next <= fitting_ || next >= end) next = (fitting_ + end) / 2;
    multiplier_ = next;
  }

 private:
  int32_t head_dim_;
  int32_t multiplier_;
  int32_t fitting_ = -1;  // the largest known to fit, and the smallest known not to
  int32_t refused_ = kTqeMultiplierMax + 1;
  int pass_ = 0;
  bool is_done_ = false;
};

// The coset that values take between two states; bit 0 of the later one is the input.
HADAL_HOST_DEVICE int tqe_coset(uint32_t state, uint32_t next) {
  const uint32_t low = state >> 1 & 1u;
  const uint32_t high = (next ^ state ^ state >> 1 ^ state >> 2) & 1u;
  return static_cast<int>(2 * high + low);
}
// Of the two states that lead to `next` the one whose oldest input is 1 or, if not, 0.
HADAL_HOST_DEVICE uint32_t tqe_predecessor(uint32_t next, uint32_t oldest) {
  return next >> 1 | oldest << 2;
}

// The quotient of a magnitude by 8 goes into the slot.
struct TqeChoice {
  int32_t value, quotient, cost;
};
// The nearest value of 8 Z + 2 coset + 1 to a target in units, and what it costs.
HADAL_HOST_DEVICE TqeChoice nearest_tqe_value(int32_t target, int coset) {
  constexpr int32_t kPeriod = 8 * kTqeUnit;
  const int32_t from_first = target - (2 * coset + 1) * kTqeUnit;
  const int32_t multiple = (from_first + kPeriod / 2) >> (kTqeUnitBits + 3);
  const int32_t error = from_first - multiple * kPeriod;
  const int32_t quotient = multiple < 0 ? ~multiple : multiple;
  return {8 * multiple + 2 * coset + 1, quotient, error * error + kTqeQuotientCost * quotient};
}

// Viterbi's metrics: by state, what the best path to it costs.
struct TqeMetrics {
  int32_t costs[kTqeStates];

  HADAL_HOST_DEVICE TqeMetrics() {
    HADAL_UNROLL
    for (int32_t& cost : costs) cost = kTqeBarred;
    costs[0] = 0;
  }
  // One value on. Bit k says that the path to state k comes from the state whose oldest input is 1.
  HADAL_HOST_DEVICE uint32_t advance(int32_t target) {
    int32_t of_coset[kTqeCosets], next[kTqeStates];
    HADAL_UNROLL
    for (int i = 0; i < kTqeCosets; ++i) of_coset[i] = nearest_tqe_value(target, i).cost;
    uint32_t oldest = 0;
    HADAL_UNROLL
    for (uint32_t state = 0; state < kTqeStates; ++state) {
      const uint32_t before0 = tqe_predecessor(state, 0), before1 = tqe_predecessor(state, 1);
      const int32_t through0 = costs[before0] + of_coset[tqe_coset(before0, state)];
      const int32_t through1 = costs[before1] + of_coset[tqe_coset(before1, state)];
      oldest |= static_cast<uint32_t>(through1 < through0) << state;
      next[state] = through1 < through0 ? through1 : through0;
    }
    HADAL_UNROLL
    for (int i = 0; i < kTqeStates; ++i) costs[i] = next[i];
    return oldest;
  }
  // The first of the best states.
  HADAL_HOST_DEVICE uint32_t best() const {
    uint32_t state = 0;
    int32_t least = costs[0];
    HADAL_UNROLL
    for (uint32_t i = 1; i < kTqeStates; ++i) {
      if (costs[i] < least) {
        least = costs[i];
        state = i;
      }
    }
    return state;
  }
};

// The path of the least cost, squared error and bits, through targets[i] in units: the coset of
// every value, in memory that has what advance() says meanwhile. Answers the sum of quotients.
template <typename Targets>
HADAL_HOST_DEVICE int32_t find_tqe_path(const Targets& targets, int head_dim, uint8_t* cosets) {
  TqeMetrics metrics;
  for (int i = 0; i < head_dim; ++i) cosets[i] = static_cast<uint8_t>(metrics.advance(targets[i]));
  uint32_t state = metrics.best();
  int32_t quotients = 0;
  for (int i = head_dim - 1; i >= 0; --i) {
    const uint32_t before = tqe_predecessor(state, cosets[i] >> state & 1u);
    const int coset = tqe_coset(before, state);
    quotients += nearest_tqe_value(targets[i], coset).quotient;
    cosets[i] = static_cast<uint8_t>(coset);
    state = before;
  }
  return quotients;
}

// Of values[i] that a path through the trellis allows, whose quotients fit.
template <typename Values>
HADAL_HOST_DEVICE void write_tqe_slot(const Values& values, int head_dim, std::byte* slot) {
  BitWriter signs(slot), inputs(slot + head_dim / 8), quotients(slot + head_dim / 4);
  uint32_t state = 0;
  int left = 2 * head_dim;  // bits of quotients
  for (int i = 0; i < head_dim; ++i) {
    const int32_t value = values[i];
    const uint32_t sign = value < 0;
    const auto magnitude = static_cast<uint32_t>(value < 0 ? -value : value);
    const uint32_t input = (magnitude >> 2 ^ sign ^ state ^ state >> 1 ^ state >> 2) & 1u;
    state = (state << 1 | input) % kTqeStates;
    signs.put(sign);
    inputs.put(input);
    const auto quotient = static_cast<int>(magnitude >> 3);
    for (int k = 0; k < quotient; ++k) quotients.put(1);
    quotients.put(0);
    left -= quotient + 1;
  }
  for (; left > 0; --left) quotients.put(1);
}

// The other way. Any bytes make some odd values, whose magnitudes add up to 23 head_dim at most.
template <typename Value>
HADAL_HOST_DEVICE void read_tqe_slot(const std::byte* slot, int head_dim, Value* values) {
  BitReader signs(slot), inputs(slot + head_dim / 8), quotients(slot + head_dim / 4);
  uint32_t state = 0;
  int left = 2 * head_dim;  // bits of quotients, which end the last one where none of them is 0
  for (int i = 0; i < head_dim; ++i) {
    const uint32_t sign = signs.take(), input = inputs.take();
    int32_t quotient = 0;
    while (left > 0) {
      --left;
      if (quotients.take() == 0) break;
      ++quotient;
    }
    const uint32_t low = (state >> 1 ^ sign) & 1u;
    const uint32_t high = (input ^ state ^ state >> 1 ^ state >> 2 ^ sign) & 1u;
    const auto magnitude = 8 * quotient + static_cast<int32_t>(4 * high + 2 * low + 1);
    values[i] = static_cast<Value>(sign != 0 ? -magnitude : magnitude);
    state = (state << 1 | input) % kTqeStates;
  }
}

// What a vector is while its slot is searched for.
struct TqeVector {
  int head_dim;
  const int16_t* rotated;  // integers
  uint8_t* cosets;         // memory for as many
};
HADAL_HOST_DEVICE void encode_tqe_slot(const TqeVector& vector, uint32_t magnitudes,
                                       std::byte* slot) {
  struct Targets {
    const int16_t* rotated;
    int32_t multiplier;
    HADAL_HOST_DEVICE int32_t operator[](int i) const {
      return (rotated[i] * multiplier + (1 << 14)) >> 15;
    }
  };
  struct OnPath {
    Targets targets;
    const uint8_t* cosets;
    HADAL_HOST_DEVICE int32_t operator[](int i) const {
      return nearest_tqe_value(targets[i], cosets[i]).value;
    }
  };
  TqeSearch search(vector.head_dim, magnitudes);
  while (!search.done()) {
    const Targets targets = {vector.rotated, search.multiplier()};
    const int32_t quotients = find_tqe_path(targets, vector.head_dim, vector.cosets);
    if (search.fits(quotients)) {
      write_tqe_slot(OnPath{targets, vector.cosets}, vector.head_dim, slot);
    }
    search.advance(quotients);
  }
}

}  // namespace hadal
