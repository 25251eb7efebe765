#include "kernels/tqe.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace hadal {
namespace {

constexpr int kQuotientShift = 3;  // magnitudes are 8 q + 4 l + 2 s + 1

bool bit_at(const std::byte* bits, int i) {
  return (static_cast<uint32_t>(bits[i / 8]) >> (i % 8) & 1u) != 0;
}
void put_bit(std::byte* bits, int i, uint32_t bit) {
  bits[i / 8] |= static_cast<std::byte>(bit << (i % 8));
}

}  // namespace

TqeSearch::TqeSearch(int head_dim, uint32_t magnitudes) : head_dim_(head_dim) {
  const uint64_t sum = kTqeMeanFirst * static_cast<uint64_t>(head_dim) << 15;
  multiplier_ =
      static_cast<int32_t>(std::min<uint64_t>(sum / std::max(magnitudes, 1u), kTqeMultiplierMax));
}

void TqeSearch::advance(int32_t quotients) {
  ++pass_;
  (fits(quotients) ? fitting_ : refused_) = multiplier_;
  const bool is_full = fits(quotients) && quotients >= head_dim_ - 1;
  const bool is_late = pass_ >= kTqePasses && fitting_ >= 0;
  is_done_ = is_full || is_late || fitting_ + 1 == refused_;
  if (is_done_) return;
  // Magnitudes add up to 8 quotients and 4 a value, and grow with the multiplier. The aim is one
  // bit short of the slot and, while nothing fits, ever lower; in the end it is 0, which always
  // fits.
  const int32_t short_by = 1 << std::max(pass_ - kTqePasses + 1, 0);
  const int32_t aim = std::max(3 * head_dim_ - 2 * short_by, 0);
  int32_t next = multiplier_ * aim / (2 * quotients + head_dim_);
  // It grows threefold at most, so that sums of quotients fit in 16 bits.
  const int32_t end = std::min(refused_, 3 * multiplier_ + 1);
  if (next <= fitting_ || next >= end) next = (fitting_ + end) / 2;
  multiplier_ = next;
}

void write_tqe_slot(const int32_t* values, int head_dim, std::byte* slot) {
  std::byte* inputs = slot + head_dim / 8;
  std::byte* quotients = inputs + head_dim / 8;
  std::memset(slot, 0, head_dim / 4);
  std::memset(quotients, 0xff, head_dim / 4);
  uint32_t state = 0;
  int end = 0;  // of the last quotient
  for (int i = 0; i < head_dim; ++i) {
    const uint32_t sign = values[i] < 0;
    const auto magnitude = static_cast<uint32_t>(sign != 0 ? -values[i] : values[i]);
    const uint32_t input = (magnitude >> 2 ^ sign ^ state ^ state >> 1 ^ state >> 2) & 1u;
    state = (state << 1 | input) % kTqeStates;
    put_bit(slot, i, sign);
    put_bit(inputs, i, input);
    end += static_cast<int>(magnitude >> kQuotientShift);
    quotients[end / 8] &= static_cast<std::byte>(~(1u << (end % 8)));
    ++end;
  }
}

void read_tqe_slot(const std::byte* slot, int head_dim, int32_t* values) {
  const std::byte* inputs = slot + head_dim / 8;
  const std::byte* quotients = inputs + head_dim / 8;
  uint32_t state = 0;
  int at = 0;  // in the bits of quotients, which end with the last one where none of them is 0
  for (int i = 0; i < head_dim; ++i) {
    const uint32_t sign = bit_at(slot, i), input = bit_at(inputs, i);
    int32_t quotient = 0;
    for (; at < 2 * head_dim && bit_at(quotients, at); ++at) ++quotient;
    ++at;
    const uint32_t low = (state >> 1 ^ sign) & 1u;
    const uint32_t high = (input ^ state ^ state >> 1 ^ state >> 2 ^ sign) & 1u;
    const auto magnitude = quotient * 8 + static_cast<int32_t>(4 * high + 2 * low + 1);
    values[i] = sign != 0 ? -magnitude : magnitude;
    state = (state << 1 | input) % kTqeStates;
  }
}

int32_t tqe_quotients(const int32_t* values, int head_dim) {
  int32_t sum = 0;
  for (int i = 0; i < head_dim; ++i) sum += std::abs(values[i]) >> kQuotientShift;
  return sum;
}

}  // namespace hadal
