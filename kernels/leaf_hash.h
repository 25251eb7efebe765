#pragma once

// XXH3-64 (seed 0, xxHash's default secret) for threads of a GPU and for the tests that run the
// same code: the hash of a cell's leaves and of a block's header (docs/block_format.md).
//
// Above 240 bytes XXH3 keeps eight accumulators. What each 64-byte stripe adds to them depends on
// no other stripe, and only after every 1 KiB are they scrambled: so the 16 stripes of a leaf are
// summed in any order, by any number of threads. Here a thread has a pair of accumulators (the two
// that exchange their data) and any share of the stripes.

#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/memory_access.h"

namespace hadal::xxh3 {

inline constexpr uint32_t kStripeBytes = 64;
inline constexpr uint32_t kBlockBytes = 1024;  // between scrambles
inline constexpr uint32_t kShortMax = 240;     // up to here short_hash(), above it stripes
inline constexpr uint64_t kPrime32_1 = 0x9E3779B1u, kPrime32_2 = 0x85EBCA77u,
                          kPrime32_3 = 0xC2B2AE3Du;
inline constexpr uint64_t kPrime64_1 = 0x9E3779B185EBCA87u, kPrime64_2 = 0xC2B2AE3D27D4EB4Fu,
                          kPrime64_3 = 0x165667B19E3779F9u, kPrime64_4 = 0x85EBCA77C2B2AE63u,
                          kPrime64_5 = 0x27D4EB2F165667C5u;

// 8 bytes of the secret from any of its bytes on.
HADAL_HOST_DEVICE uint64_t secret(uint32_t offset) {
  static constexpr uint64_t kSecret[24] = {
      0xbe4ba423396cfeb8u, 0x1cad21f72c81017cu, 0xdb979083e96dd4deu, 0x1f67b3b7a4a44072u,
      0x78e5c0cc4ee679cbu, 0x2172ffcc7dd05a82u, 0x8e2443f7744608b8u, 0x4c263a81e69035e0u,
      0xcb00c391bb52283cu, 0xa32e531b8b65d088u, 0x4ef90da297486471u, 0xd8acdea946ef1938u,
      0x3f349ce33f76faa8u, 0x1d4f0bc7c7bbdcf9u, 0x3159b4cd4be0518au, 0x647378d9c97e9fc8u,
      0xc3ebd33483acc5eau, 0xeb6313faffa081c5u, 0x49daf0b751dd0d17u, 0x9e68d429265516d3u,
      0xfca1477d58be162bu, 0xce31d07ad1b8f88fu, 0x280416958f3acb45u, 0x7e404bbbcafbd7afu};
  const uint32_t word = offset / 8, shift = offset % 8 * 8;
  if (shift == 0) return kSecret[word];
  return kSecret[word] >> shift | kSecret[word + 1] << (64 - shift);
}

HADAL_HOST_DEVICE uint64_t avalanche(uint64_t h) {
  h ^= h >> 37;
  h *= 0x165667919E3779F9u;
  return h ^ (h >> 32);
}

HADAL_HOST_DEVICE uint64_t multiply_and_fold(uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH__)
  return a * b ^ __umul64hi(a, b);
#else
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
#endif
}

// Two of the eight accumulators, numbers 2 * pair and 2 * pair + 1, or what is added to them.
struct Accumulators {
  uint64_t even = 0, odd = 0;
  HADAL_HOST_DEVICE void add(const Accumulators& other) {
    even += other.even;
    odd += other.odd;
  }
};
inline constexpr uint32_t kPairs = 4;

HADAL_HOST_DEVICE Accumulators initial(uint32_t pair) {
  if (pair == 0) return {kPrime32_3, kPrime64_1};
  if (pair == 1) return {kPrime64_2, kPrime64_3};
  return pair == 2 ? Accumulators{kPrime64_4, kPrime32_2} : Accumulators{kPrime64_5, kPrime32_1};
}

// Where a stripe's secret begins: of stripe s within its 1 KiB, and of a message's last one.
HADAL_HOST_DEVICE constexpr uint32_t stripe_secret(uint32_t stripe) { return 8 * stripe; }
inline constexpr uint32_t kLastStripeSecret = 121;

// Of the 16 bytes that a pair has in every stripe.
struct PairSecret {
  uint64_t even, odd;
};
HADAL_HOST_DEVICE PairSecret pair_secret(uint32_t stripe_offset, uint32_t pair) {
  return {secret(stripe_offset + 16 * pair), secret(stripe_offset + 16 * pair + 8)};
}

// What 16 bytes of a stripe add.
HADAL_HOST_DEVICE Accumulators accumulate(const Chunk& data, const PairSecret& secret) {
  const uint64_t even = data.words[0] | static_cast<uint64_t>(data.words[1]) << 32;
  const uint64_t odd = data.words[2] | static_cast<uint64_t>(data.words[3]) << 32;
  const uint64_t even_key = even ^ secret.even, odd_key = odd ^ secret.odd;
  return {odd + (even_key & 0xffffffffu) * (even_key >> 32),
          even + (odd_key & 0xffffffffu) * (odd_key >> 32)};
}

HADAL_HOST_DEVICE Accumulators scrambled(Accumulators a, uint32_t pair) {
  const PairSecret key = pair_secret(128, pair);
  a.even = (a.even ^ a.even >> 47 ^ key.even) * kPrime32_1;
  a.odd = (a.odd ^ a.odd >> 47 ^ key.odd) * kPrime32_1;
  return a;
}

// The hash of `bytes` bytes is finished() of the sum of the four pairs' folds.
HADAL_HOST_DEVICE uint64_t folded(const Accumulators& a, const PairSecret& merge) {
  return multiply_and_fold(a.even ^ merge.even, a.odd ^ merge.odd);
}
inline constexpr uint32_t kMergeSecret = 11;
HADAL_HOST_DEVICE uint64_t finished(uint64_t folds, uint32_t bytes) {
  return avalanche(bytes * kPrime64_1 + folds);
}

HADAL_HOST_DEVICE uint64_t mix16(const std::byte* at, uint32_t secret_offset) {
  return multiply_and_fold(load_bytes<uint64_t>(at) ^ secret(secret_offset),
                           load_bytes<uint64_t>(at + 8) ^ secret(secret_offset + 8));
}

HADAL_HOST_DEVICE uint64_t hash_to_16(const std::byte* at, uint32_t bytes) {
  if (bytes > 8) {
    const uint64_t low = load_bytes<uint64_t>(at) ^ secret(24) ^ secret(32);
    const uint64_t high = load_bytes<uint64_t>(at + bytes - 8) ^ secret(40) ^ secret(48);
    uint64_t swapped = 0;
    for (int i = 0; i < 8; ++i) swapped |= (low >> (8 * i) & 0xff) << (56 - 8 * i);
    return avalanche(bytes + swapped + high + multiply_and_fold(low, high));
  }
  if (bytes > 3) {
    const uint64_t first = load_bytes<uint32_t>(at), last = load_bytes<uint32_t>(at + bytes - 4);
    uint64_t h = (last + (first << 32)) ^ secret(8) ^ secret(16);
    h ^= std::rotl(h, 49) ^ std::rotl(h, 24);
    h *= 0x9FB21C651E98DF25u;
    h ^= (h >> 35) + bytes;
    h *= 0x9FB21C651E98DF25u;
    return h ^ (h >> 28);
  }
  const auto byte = [&](uint32_t i) { return static_cast<uint32_t>(at[i]); };
  const uint32_t combined = byte(0) << 16 | byte(bytes / 2) << 24 | byte(bytes - 1) | bytes << 8;
  uint64_t h = combined ^ ((secret(0) & 0xffffffffu) ^ (secret(0) >> 32));
  h ^= h >> 33;
  h *= kPrime64_2;
  h ^= h >> 29;
  h *= kPrime64_3;
  return h ^ (h >> 32);
}

// Of 1 to kShortMax bytes, by one thread: the last leaf of a cell may be so short.
HADAL_HOST_DEVICE uint64_t short_hash(const std::byte* at, uint32_t bytes) {
  if (bytes <= 16) return hash_to_16(at, bytes);
  uint64_t sum = bytes * kPrime64_1;
  if (bytes <= 128) {
    const uint32_t rounds = (bytes - 1) / 32;  // from both ends
    for (uint32_t i = 0; i <= rounds; ++i) {
      sum += mix16(at + 16 * i, 32 * i) + mix16(at + bytes - 16 * (i + 1), 32 * i + 16);
    }
    return avalanche(sum);
  }
  for (uint32_t i = 0; i < 8; ++i) sum += mix16(at + 16 * i, 16 * i);
  sum = avalanche(sum);
  for (uint32_t i = 8; i < bytes / 16; ++i) sum += mix16(at + 16 * i, 16 * (i - 8) + 3);
  return avalanche(sum + mix16(at + bytes - 16, 136 - 17));
}

}  // namespace hadal::xxh3
