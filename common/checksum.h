#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace hadal {

// XXH3-64 of bytes (xxHash, dispatched to the best instruction set at run time).
uint64_t hash64(absl::Span<const std::byte> bytes);

// Finaliser of the cell checksum: one leaf's hash bound to its place. Plain integer maths, so that
// every backend shares the definition.
constexpr uint64_t mix_leaf(uint64_t leaf_hash, uint64_t leaf_index, uint32_t cell_id) {
  uint64_t x = leaf_hash ^ (leaf_index * 0x9E3779B97F4A7C15u + cell_id * 0xC2B2AE3D27D4EB4Fu);
  x ^= x >> 33;
  x *= 0xFF51AFD7ED558CCDu;
  x ^= x >> 33;
  x *= 0xC4CEB9FE1A85EC53u;
  x ^= x >> 33;
  return x;
}

// Checksum of one cell: the sum over its 1 KiB leaves (the last may be short) of
// mix_leaf(XXH3-64(leaf), leaf index, cell id), modulo 2^64. Addition makes it order-free, so a GPU
// computes it in one pass. `cell_id` is EncodedBlock's: side << 16 | plane << 8 | layer group.
uint64_t cell_checksum(absl::Span<const std::byte> cell, uint32_t cell_id);

}  // namespace hadal
