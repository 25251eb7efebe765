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

}  // namespace hadal
