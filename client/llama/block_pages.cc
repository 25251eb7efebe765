#include "client/llama/block_pages.h"

#include <algorithm>

namespace hadal {

std::vector<BlockPages> block_pages(const SequenceBlob& shape, const KvLayout& layout,
                                    absl::Span<std::byte> blob) {
  std::vector<BlockPages> blocks;
  for (uint32_t begin = 0; begin < shape.token_count(); begin += layout.block_tokens) {
    BlockPages block;
    block.token_count = std::min(layout.block_tokens, shape.token_count() - begin);
    for (const BlobLayer& layer : shape.layers()) {
      block.key_rows.push_back(blob.data() + layer.key.offset + begin * layer.key.row_bytes);
      block.value_rows.push_back(blob.data() + layer.value.offset + begin * layer.value.row_bytes);
    }
    const size_t row_bytes = shape.layers().front().key.row_bytes;
    const size_t head_bytes = layout.key_head_dim * dtype_bytes(layout.dtype);
    block.pages.key = {block.key_rows, row_bytes, head_bytes};
    block.pages.value = {block.value_rows, row_bytes, head_bytes};
    blocks.push_back(std::move(block));  // moving a vector keeps its elements in place
  }
  return blocks;
}

}  // namespace hadal
