#include "common/block_plan.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/limits.h"

namespace hadal {
namespace {

constexpr uint64_t round_up(uint64_t value, uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

int side_planes(const CodecSpec& codec, Side side) {
  if (codec.family == CodecFamily::raw) return 1;
  return side == Side::key ? codec.key_bits : codec.value_bits;
}

absl::Status check_shape(const KvLayout& layout, const CodecSpec& codec, const BlockShape& shape) {
  if (layout.dtype == DType::opaque) {
    if (codec.family != CodecFamily::raw) {
      return absl::InvalidArgumentError("opaque bytes can only be stored with codec raw");
    }
    if (shape.opaque_bytes == 0 || shape.opaque_bytes > limits::kBlockMaxBytes / 2) {
      return absl::InvalidArgumentError(absl::StrCat("opaque block has ", shape.opaque_bytes,
                                                     " bytes; allowed are 1 to ",
                                                     limits::kBlockMaxBytes / 2));
    }
    return absl::OkStatus();
  }
  if (shape.token_count == 0 || shape.token_count > layout.block_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("block has ", shape.token_count,
                                                   " tokens; allowed are 1 to block_tokens, ",
                                                   layout.block_tokens));
  }
  if (shape.exact_token_count > shape.token_count) {
    return absl::InvalidArgumentError(absl::StrCat("block has ", shape.exact_token_count,
                                                   " exact tokens of ", shape.token_count));
  }
  for (Side side : {Side::key, Side::value}) {
    if (codec.family != CodecFamily::raw && side_head_dim(layout, side) % 16 != 0) {
      return absl::InvalidArgumentError(absl::StrCat("head_dim is ", side_head_dim(layout, side),
                                                     "; turboquant needs a multiple of 16"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

uint32_t side_head_dim(const KvLayout& layout, Side side) {
  return side == Side::key ? layout.key_head_dim : layout.value_head_dim;
}

uint32_t BlockPlan::vector_plane_bytes(Side side) const { return side_head_dim(layout_, side) / 8; }

int BlockPlan::group_begin(int layer_group) const {
  return layer_group * layout_.layer_count / layer_group_count_;
}

PlaneZeroSections BlockPlan::plane_zero(Side side, int layer_group) const {
  const uint64_t runs =
      uint64_t(group_end(layer_group) - group_begin(layer_group)) * layout_.kv_head_count;
  const uint64_t head_dim = side_head_dim(layout_, side);
  const bool has_offsets = side == Side::key && codec_.key_offsets;
  const uint64_t exact_bytes =
      runs * shape_.exact_token_count * head_dim * dtype_bytes(layout_.dtype);
  const uint64_t offsets = round_up(runs * shape_.token_count * 2, 16);
  const uint64_t exact = offsets + (has_offsets ? round_up(runs * head_dim * 2, 16) : 0);
  const uint64_t words = exact + round_up(exact_bytes, 16);
  const uint64_t end = words + runs * shape_.token_count * vector_plane_bytes(side);
  return {0, offsets, exact, words, end};
}

absl::StatusOr<BlockPlan> BlockPlan::make(const KvLayout& layout, const CodecSpec& codec,
                                          const BlockShape& shape) {
  absl::Status status = layout.validate();
  if (status.ok()) status = codec.validate();
  if (status.ok()) status = check_shape(layout, codec, shape);
  if (!status.ok()) return status;
  BlockPlan plan;
  plan.layout_ = layout;
  plan.codec_ = codec;
  plan.shape_ = shape;

  const bool raw = codec.family == CodecFamily::raw;
  const bool opaque = layout.dtype == DType::opaque;
  const uint64_t vectors = uint64_t{layout.layer_count} * layout.kv_head_count * shape.token_count;
  const auto side_cell_bytes = [&](Side side, int plane, int group) -> uint64_t {
    if (opaque) return side == Side::key ? shape.opaque_bytes : 0;
    const uint64_t share =
        vectors / layout.layer_count * (plan.group_end(group) - plan.group_begin(group));
    if (raw) return share * side_head_dim(layout, side) * dtype_bytes(layout.dtype);
    if (plane == 0) return plan.plane_zero(side, group).end;
    return share * plan.vector_plane_bytes(side);
  };
  if (!opaque) {
    // The smallest cell decides; halving keeps group sizes even.
    const uint64_t least_dim = std::min(layout.key_head_dim, layout.value_head_dim);
    const uint64_t plane_bytes =
        vectors * least_dim * (raw ? dtype_bytes(layout.dtype) * 8 : 1) / 8;
    int groups = limits::kLayerGroupsMax;
    while (groups > 1 &&
           (groups > layout.layer_count || plane_bytes / groups < limits::kCellMinBytes)) {
      groups /= 2;
    }
    plan.layer_group_count_ = groups;
  }

  const int key_planes = side_planes(codec, Side::key);
  const int value_planes = opaque ? 0 : side_planes(codec, Side::value);
  const uint64_t cell_count = uint64_t(key_planes + value_planes) * plan.layer_group_count_;
  uint64_t offset =
      round_up(sizeof(BlockHeader) + cell_count * sizeof(CellEntry), limits::kCellAlignBytes);
  for (int plane = 0; plane < std::max(key_planes, value_planes); ++plane) {
    for (Side side : {Side::key, Side::value}) {
      if (plane >= (side == Side::key ? key_planes : value_planes)) continue;
      for (int group = 0; group < plan.layer_group_count_; ++group) {
        const uint64_t bytes = side_cell_bytes(side, plane, group);
        if (offset + bytes > limits::kBlockMaxBytes) {
          return absl::InvalidArgumentError(absl::StrCat("encoded block needs more than ",
                                                         limits::kBlockMaxBytes,
                                                         " bytes; use fewer tokens"));
        }
        CellEntry cell = {};
        cell.offset = static_cast<uint32_t>(offset);
        cell.bytes = static_cast<uint32_t>(bytes);
        cell.side = static_cast<uint8_t>(side);
        cell.plane = static_cast<uint8_t>(plane);
        cell.layer_group = static_cast<uint8_t>(group);
        plan.cells_.push_back(cell);
        offset = round_up(offset + bytes, limits::kCellAlignBytes);
      }
    }
  }
  plan.total_bytes_ = offset;
  return plan;
}

const CellEntry& BlockPlan::cell(Side side, int plane, int layer_group) const {
  for (const CellEntry& cell : cells_) {
    if (cell.side == static_cast<uint8_t>(side) && cell.plane == plane &&
        cell.layer_group == layer_group) {
      return cell;
    }
  }
  return cells_.front();  // unreachable for planes and groups of this plan
}

void BlockPlan::write_header(const BlockIdentity& identity, uint32_t flags,
                             absl::Span<std::byte> out) const {
  BlockHeader header = {};
  header.magic = kBlockMagic;
  header.version = kBlockVersion;
  header.header_bytes = sizeof(BlockHeader);
  header.codec = static_cast<uint8_t>(codec_.family);
  header.dtype = static_cast<uint8_t>(layout_.dtype);
  header.key_bits = codec_.key_bits;
  header.value_bits = codec_.value_bits;
  header.floor_key_planes = codec_.floor.key_planes;
  header.floor_value_planes = codec_.floor.value_planes;
  header.layer_group_count = static_cast<uint8_t>(layer_group_count_);
  header.flags = flags | (codec_.key_offsets ? uint32_t{kBlockKeyOffsets} : 0u);
  header.token_count = shape_.token_count;
  header.exact_token_count = shape_.exact_token_count;
  header.layer_count = layout_.layer_count;
  header.kv_head_count = layout_.kv_head_count;
  header.key_head_dim = layout_.key_head_dim;
  header.value_head_dim = layout_.value_head_dim;
  header.cell_count = static_cast<uint16_t>(cells_.size());
  header.block_tokens = layout_.block_tokens;
  header.layout_hash = layout_.hash();
  header.rotation_seed = codec_.rotation_seed;
  std::memcpy(header.key, identity.key.bytes.data(), sizeof(header.key));
  header.total_bytes = total_bytes_;
  header.raw_bytes =
      layout_.dtype == DType::opaque ? shape_.opaque_bytes : layout_.raw_bytes(shape_.token_count);
  header.first_token_index = identity.first_token_index;
  // The tail first: the cells are stored so that each step cuts the end of the block.
  for (int plane = std::max(codec_.key_bits, codec_.value_bits) - 1; plane >= 1; --plane) {
    if (plane < codec_.value_bits) {
      header.drop_order[header.drop_count++] = static_cast<uint8_t>(kDropValueSide | plane);
    }
    if (plane < codec_.key_bits)
      header.drop_order[header.drop_count++] = static_cast<uint8_t>(plane);
  }
  const size_t table_bytes = cells_.size() * sizeof(CellEntry);
  std::memcpy(out.data(), &header, sizeof(header));
  std::memcpy(out.data() + sizeof(header), cells_.data(), table_bytes);
  size_t end = sizeof(header) + table_bytes;
  for (const CellEntry& cell : cells_) {
    std::memset(out.data() + end, 0, cell.offset - end);
    end = cell.offset + cell.bytes;
  }
  std::memset(out.data() + end, 0, total_bytes_ - end);
}

}  // namespace hadal
