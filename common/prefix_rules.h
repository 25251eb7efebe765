#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace hadal {

// What a layer group of a hybrid model needs of its blocks before a sequence can go on at a length.
enum class PrefixRule : uint8_t {
  full_prefix,     // full attention: every block from the start
  last_tokens,     // sliding window: the blocks that hold the last `window_tokens`
  boundary_state,  // recurrent state: the one block that ends at the length
};

struct PrefixGroup {
  PrefixRule rule = PrefixRule::full_prefix;
  uint32_t block_tokens = 0;
  uint64_t window_tokens = 0;  // of last_tokens
  std::vector<bool> present;   // by block, from the start of the sequence
  // Tokens of all these blocks together, where the last one may be short; 0: every block is whole.
  uint64_t token_count = 0;
};

// The longest length in tokens at which every group finds what its rule needs; 0 where there is
// none. Every group has a block that ends at it: a whole one, or its short last one, which nobody
// can go on from but at its end. Pure. InvalidArgument names the group and field: no group, a
// block_tokens of 0, last_tokens with a window of 0, a token_count that is not of so many blocks.
// Cost: linear in the blocks of all groups.
absl::StatusOr<uint64_t> longest_prefix_tokens(absl::Span<const PrefixGroup> groups);

}  // namespace hadal
