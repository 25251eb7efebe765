#pragma once

// Loads and stores of raw bytes, for the host and for the GPU. Types never alias: memory is only
// ever read and written through these.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/host_device.h"

namespace hadal {

// What one load or store of a GPU's thread moves at most.
struct alignas(16) Chunk {
  uint32_t words[4];
};

// At a multiple of T's alignment.
template <typename T>
HADAL_HOST_DEVICE T load_aligned(const std::byte* at) {
  T value;
  std::memcpy(&value, __builtin_assume_aligned(at, alignof(T)), sizeof(T));
  return value;
}
template <typename T>
HADAL_HOST_DEVICE void store_aligned(std::byte* at, const T& value) {
  std::memcpy(__builtin_assume_aligned(at, alignof(T)), &value, sizeof(T));
}

// At any address.
template <typename T>
HADAL_HOST_DEVICE T load_bytes(const std::byte* at) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value |= static_cast<T>(at[i]) << (8 * i);
  return value;
}
template <typename T>
HADAL_HOST_DEVICE void store_bytes(std::byte* at, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) at[i] = static_cast<std::byte>(value >> (8 * i));
}

// Bits in order, from the least significant one of a byte on. A marker behind those that are
// pending tells when a byte is whole.
class BitWriter {
 public:
  HADAL_HOST_DEVICE explicit BitWriter(std::byte* at) : at_(at) {}
  HADAL_HOST_DEVICE void put(uint32_t bit) {
    const bool is_whole = (pending_ & 1u) != 0;
    pending_ = pending_ >> 1 | bit << 7;
    if (!is_whole) return;
    *at_++ = static_cast<std::byte>(pending_);
    pending_ = kMarker;
  }

 private:
  static constexpr uint32_t kMarker = 0x80;
  std::byte* at_;
  uint32_t pending_ = kMarker;
};
class BitReader {
 public:
  HADAL_HOST_DEVICE explicit BitReader(const std::byte* at) : at_(at) {}
  HADAL_HOST_DEVICE uint32_t take() {
    if (pending_ == 1) pending_ = static_cast<uint32_t>(*at_++) | 0x100u;
    const uint32_t bit = pending_ & 1u;
    pending_ >>= 1;
    return bit;
  }

 private:
  const std::byte* at_;
  uint32_t pending_ = 1;  // the marker alone
};

}  // namespace hadal
