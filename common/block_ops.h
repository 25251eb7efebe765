#pragma once

// What is asked of a store and what it answers, shared by transport (which ships these), storage
// (which answers them) and client. Plain values, and the rules that client and store must share.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/block_key.h"
#include "common/codec_spec.h"

namespace hadal {

enum class Tier : uint8_t { none = 0, hbm = 1, dram = 2, nvme = 3 };

constexpr absl::string_view tier_name(Tier tier) {
  constexpr absl::string_view kNames[] = {"none", "hbm", "dram", "nvme"};
  return kNames[static_cast<uint8_t>(tier)];
}

// Which of two requests that wait for the same thing goes first. Of equals, the older one.
enum class Priority : uint8_t { normal = 0, high = 1, low = 2 };
inline constexpr uint8_t kPriorityCount = 3;

// 0 goes first.
constexpr uint8_t priority_rank(Priority priority) {
  constexpr uint8_t kRanks[kPriorityCount] = {1, 0, 2};
  return kRanks[static_cast<uint8_t>(priority)];
}

enum class BlockState : uint8_t { absent = 0, present = 1, being_written = 2 };

// One key of a lookup's answer. Absent is an answer, not an error.
struct KeyAnswer {
  BlockState state = BlockState::absent;
  Tier tier = Tier::none;  // fastest tier that holds it
  uint32_t bytes = 0;      // of the encoded block as stored, without dropped planes
  uint8_t dropped_planes = 0;
  Precision precision;
  uint64_t generation = 0;    // changes when the block is replaced; 0 is never used
  uint64_t token_digest = 0;  // as its put said; 0 where unknown
};

// Whether a stored copy makes a put of this precision a duplicate: it is whole, and as precise.
constexpr bool makes_duplicate(uint8_t dropped_planes, const Precision& stored,
                               const Precision& offered) {
  return dropped_planes == 0 && stored.satisfies(offered);
}

// Both digests are known, and differ: two sequences of tokens have one key.
constexpr bool are_other_tokens(uint64_t digest, uint64_t other) {
  return digest != 0 && other != 0 && digest != other;
}

struct LookupOptions {
  // Pin what is present under a lease of this length; 0 pins nothing.
  uint32_t lease_ms = 0;
  // A put asks which of its blocks it must encode: a whole block at least as precise as `precision`
  // counts as a duplicate put, and nothing counts in the hit rate.
  bool for_put = false;
  Precision precision;  // of the put's blocks
};

struct LookupAnswer {
  std::vector<KeyAnswer> keys;  // as asked
  uint64_t lease = 0;           // 0: nothing was pinned
};

// What a put announces before any payload moves.
struct PutOffer {
  BlockKey key;
  uint32_t bytes = 0;  // of the encoded block, without dropped planes
  uint8_t dropped_planes = 0;
  Precision precision;
  uint64_t layout_hash = 0;
  uint64_t first_token_index = UINT64_MAX;
  uint64_t token_digest = 0;  // of the token ids, 0 where unknown
  BlockKey parent;            // all zero where unknown
  BlockKey route;             // what its owner was chosen by; all zero: its own key
};

struct ReadRequest {
  BlockKey key;
  Precision least;         // precision below this is a miss
  uint32_t max_bytes = 0;  // of the receiver's buffer; planes above the floor are left out to fit
  uint64_t token_digest = 0;  // another one known of the block is a miss; 0: not compared
};

// A stored block on its way out. `hold` keeps the bytes in place until the last copy is destroyed;
// a send in flight keeps one.
struct StoredBlock {
  absl::Span<const std::byte> bytes;
  uint8_t dropped_planes = 0;
  Precision precision;
  Tier tier = Tier::none;  // where it was served from
  uint64_t generation = 0;
  std::shared_ptr<const void> hold;
};

// Room for one incoming block. Destroying the last copy of `hold` before commit gives it back.
struct PutSlot {
  absl::Span<std::byte> bytes;
  uint64_t ticket = 0;
  std::shared_ptr<void> hold;
};

}  // namespace hadal
