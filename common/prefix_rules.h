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
};

// The longest length in tokens at which every group finds what its rule needs; 0 where there is
// none. Lengths are whole blocks of every group. Pure. InvalidArgument names the group and field:
// no group, a block_tokens of 0, last_tokens with a window of 0.
// Cost: linear in the blocks of all groups.
absl::StatusOr<uint64_t> longest_prefix_tokens(absl::Span<const PrefixGroup> groups);

}  // namespace hadal
