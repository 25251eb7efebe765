#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/encoded_block.h"

namespace hadal {

uint32_t side_head_dim(const KvLayout& layout, Side side);  // values

// What varies between blocks of one layout and codec.
struct BlockShape {
  uint32_t token_count = 0;
  uint16_t exact_token_count = 0;
  uint64_t opaque_bytes = 0;  // for dtype opaque only
};

// Byte offsets of the sections inside a cell of plane 0. Each starts at a multiple of 16; every
// later plane is plane words alone. All counts in bytes from the start of the cell: 64 bits, since
// BlockPlan::make asks for them before it knows that the block is small enough.
struct PlaneZeroSections {
  uint64_t norms;    // bf16 [layer, head, token]; sign bit set: the key offset was removed
  uint64_t offsets;  // bf16 [layer, head, head_dim], K only where flagged; else empty
  uint64_t exact;    // source dtype [layer, head, exact token, head_dim]
  uint64_t words;    // plane words [layer, head, token, head_dim / 32 or / 16]
  uint64_t end;
};

// Where everything lies in an encoded block: a pure function of layout, codec and shape, so that
// writer and reader agree without trusting stored offsets. Immutable, thread safe.
class BlockPlan {
 public:
  // InvalidArgument names what is wrong: zero tokens, more tokens than the layout's block, a block
  // above limits::kBlockMaxBytes, a head_dim that is no multiple of 16.
  static absl::StatusOr<BlockPlan> make(const KvLayout& layout, const CodecSpec& codec,
                                        const BlockShape& shape);

  uint64_t total_bytes() const { return total_bytes_; }
  // Stored order: planes ascending, K before V, layer groups ascending; so that drops cut the tail.
  absl::Span<const CellEntry> cells() const { return cells_; }
  const CellEntry& cell(Side side, int plane, int layer_group) const;

  int layer_group_count() const { return layer_group_count_; }
  // Layers [begin, end) of a group.
  int group_begin(int layer_group) const;
  int group_end(int layer_group) const { return group_begin(layer_group + 1); }

  PlaneZeroSections plane_zero(Side side, int layer_group) const;

  // Bytes of plane words of one vector: head_dim / 8.
  uint32_t vector_plane_bytes(Side side) const;

  // Writes header and table (checksums still 0) and zeroes padding between cells. `out` has
  // total_bytes.
  void write_header(const BlockIdentity& identity, uint32_t flags, absl::Span<std::byte> out) const;

  const KvLayout& layout() const { return layout_; }
  const CodecSpec& codec() const { return codec_; }
  const BlockShape& shape() const { return shape_; }

 private:
  KvLayout layout_;
  CodecSpec codec_;
  BlockShape shape_;
  int layer_group_count_ = 1;
  uint64_t total_bytes_ = 0;
  std::vector<CellEntry> cells_;
};

}  // namespace hadal
