#pragma once

// What a submit refuses by itself. Every error is InvalidArgument, or ResourceExhausted where a
// block is larger than all staging memory, and names the block, the field, its value and what is
// allowed.

#include <cstddef>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "client/client.h"
#include "client/layout_registry.h"

namespace hadal {

absl::Status check_options(const RequestOptions& options);
absl::Status check_batch(size_t key_count);
// Rules and token counts are longest_prefix_tokens' to check.
absl::Status check_groups(absl::Span<const GroupLookup> groups);

// `staging_bytes`: the capacity that a block must fit in.
absl::Status check_puts(const RegisteredLayout& layout, absl::Span<const BlockPut> blocks,
                        uint64_t staging_bytes);
absl::Status check_gets(const RegisteredLayout& layout, absl::Span<const BlockGet> blocks,
                        uint64_t staging_bytes);

// Staging that one block needs, for arguments that were checked.
uint64_t put_staging_bytes(const RegisteredLayout& layout, const BlockPut& block);
uint64_t get_staging_bytes(const RegisteredLayout& layout, const BlockGet& block);

}  // namespace hadal
