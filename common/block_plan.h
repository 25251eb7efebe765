#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/encoded_block.h"
#include "common/limits.h"

namespace hadal {

uint32_t side_head_dim(const KvLayout& layout, Side side);  // values

// What varies between blocks of one layout and codec.
struct BlockShape {
  uint32_t token_count = 0;
  uint16_t exact_token_count = 0;
  uint64_t opaque_bytes = 0;  // for dtype opaque only
};

// Byte offsets of the sections inside a cell, from its start. Each begins at a multiple of 16; one
// that the cell does not have is empty. 64 bits, since BlockPlan::make asks for them before it
// knows that the block is small enough.
struct CellSections {
  uint64_t scalars;  // 16 bits each [layer, head, token, PlaneVector::scalar_count]: norms first
  uint64_t offsets;  // bf16 [layer, head, head_dim], in plane 0 of K where flagged
  uint64_t exact;    // source dtype [layer, head, exact token, head_dim], in plane 0
  uint64_t words;    // [layer, head, token, PlaneVector::word_bytes]
  uint64_t end;
};

// What one vector has in a plane.
struct PlaneVector {
  uint32_t scalar_count = 0;  // of 16 bits: norms, or the like
  uint32_t word_bytes = 0;
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
  const CellEntry& cell(Side side, int plane, int layer_group) const {
    return cells_[cell_index(side, plane, layer_group)];
  }

  int layer_group_count() const { return layer_group_count_; }
  // Layers [begin, end) of a group.
  int group_begin(int layer_group) const {
    return layer_group == 0 ? 0 : group_ends_[layer_group - 1];
  }
  int group_end(int layer_group) const { return group_ends_[layer_group]; }
  // Planes that a group has of a side: its bits, or 1 for a family without planes.
  int plane_count(Side side, int layer_group) const;
  // For the header: all 0 where the codec has no bits by layer.
  std::array<LayerGroupBits, limits::kLayerGroupsMax> group_bits() const;

  // A raw block's are words alone.
  const CellSections& sections(Side side, int plane, int layer_group) const {
    return sections_[cell_index(side, plane, layer_group)];
  }
  PlaneVector plane_vector(Side side, int plane, int layer_group) const;

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
  absl::Status place_groups();
  absl::Status check_bits() const;
  absl::Status place_cells();
  CellSections place_sections(Side side, int plane, int layer_group) const;
  size_t cell_index(Side side, int plane, int layer_group) const {
    return cell_index_[static_cast<int>(side)][plane][layer_group];
  }

  int layer_group_count_ = 1;
  std::array<uint16_t, limits::kLayerGroupsMax> group_ends_ = {};
  uint64_t total_bytes_ = 0;
  std::vector<CellEntry> cells_;
  std::vector<CellSections> sections_;  // by cell
  // Index in cells_ by side, plane and group.
  std::array<std::array<std::array<uint8_t, limits::kLayerGroupsMax>, limits::kBitsMax>, 2>
      cell_index_ = {};
};

}  // namespace hadal
