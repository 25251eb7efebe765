#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "client/llama/sequence_blob.h"
#include "common/kv_layout.h"
#include "kernels/codec.h"

namespace hadal {

// One block of a sequence blob: the row pointers that its KvPages borrows, and how many tokens.
// Moving one keeps its pages valid, copying does not.
struct BlockPages {
  std::vector<std::byte*> key_rows, value_rows;
  KvPages pages;
  uint32_t token_count = 0;
};

// The blocks of `blob`, whose shape is `shape`, in order; the last one may be short. `blob` must
// outlive the answer.
std::vector<BlockPages> block_pages(const SequenceBlob& shape, const KvLayout& layout,
                                    absl::Span<std::byte> blob);

}  // namespace hadal
