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

// Bytes of a vector's words in a PolarQuant block: of every 16 values a word of 32 bits, one of 8,
// and 6 bits, which are packed.
constexpr uint32_t polar_word_bytes(uint32_t head_dim) {
  const uint32_t runs = head_dim / 16;
  return runs * 5 + (runs * 6 + 7) / 8;
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
                                                     "; codecs but raw need a multiple of 16"));
    }
  }
  if (codec.family != CodecFamily::raw && dtype_bytes(layout.dtype) == 1) {
    return absl::InvalidArgumentError(absl::StrCat("values of dtype ", dtype_name(layout.dtype),
                                                   " can only be stored with codec raw"));
  }
  if (!codec.layer_bits.empty() && codec.layer_bits.back().end_layer > layout.layer_count) {
    return absl::InvalidArgumentError(absl::StrCat(
        "codec ", codec.name(), " has bits for layer ", codec.layer_bits.back().end_layer - 1,
        "; the layout has layers 0 to ", layout.layer_count - 1));
  }
  return absl::OkStatus();
}

}  // namespace

uint32_t side_head_dim(const KvLayout& layout, Side side) {
  return side == Side::key ? layout.key_head_dim : layout.value_head_dim;
}

int BlockPlan::plane_count(Side side, int layer_group) const {
  if (layout_.dtype == DType::opaque) return side == Side::key ? 1 : 0;
  if (!has_planes(codec_.family)) return 1;
  const LayerBits bits = codec_.bits_of_layer(group_begin(layer_group));
  return side == Side::key ? bits.key_bits : bits.value_bits;
}

std::array<LayerGroupBits, limits::kLayerGroupsMax> BlockPlan::group_bits() const {
  std::array<LayerGroupBits, limits::kLayerGroupsMax> groups = {};
  if (codec_.layer_bits.empty()) return groups;
  for (int group = 0; group < layer_group_count_; ++group) {
    groups[group] = {group_ends_[group], static_cast<uint8_t>(plane_count(Side::key, group)),
                     static_cast<uint8_t>(plane_count(Side::value, group))};
  }
  return groups;
}

PlaneVector BlockPlan::plane_vector(Side side, int plane, int layer_group) const {
  const uint32_t head_dim = side_head_dim(layout_, side);
  switch (codec_.family) {
    case CodecFamily::raw:
      return {};
    case CodecFamily::turboquant_prod:  // the correction has the residual's length
      if (plane == plane_count(side, layer_group) - 1) return {1, head_dim / 8};
      [[fallthrough]];
    case CodecFamily::turboquant_mse:
      return {plane == 0 ? 1u : 0u, head_dim / 8};
    case CodecFamily::qjl:
      return {1, head_dim / 8};
    case CodecFamily::polar:  // a radius for every 16 values
      return {head_dim / 16, polar_word_bytes(head_dim)};
    case CodecFamily::fp8_e4m3:
    case CodecFamily::fp8_e5m2:
      return {1, head_dim};
    case CodecFamily::tqe:
      return {1, head_dim / 2};
  }
  return {};
}

CellSections BlockPlan::place_sections(Side side, int plane, int layer_group) const {
  if (layout_.dtype == DType::opaque) return {0, 0, 0, 0, shape_.opaque_bytes};
  const uint64_t runs =
      uint64_t(group_end(layer_group) - group_begin(layer_group)) * layout_.kv_head_count;
  const uint64_t head_dim = side_head_dim(layout_, side);
  if (codec_.family == CodecFamily::raw) {
    return {0, 0, 0, 0, runs * shape_.token_count * head_dim * dtype_bytes(layout_.dtype)};
  }
  const PlaneVector vector = plane_vector(side, plane, layer_group);
  const bool has_offsets = plane == 0 && side == Side::key && codec_.key_offsets;
  const uint64_t exact_bytes =
      plane == 0 ? runs * shape_.exact_token_count * head_dim * dtype_bytes(layout_.dtype) : 0;
  const uint64_t offsets = round_up(runs * shape_.token_count * vector.scalar_count * 2, 16);
  const uint64_t exact = offsets + (has_offsets ? round_up(runs * head_dim * 2, 16) : 0);
  const uint64_t words = exact + round_up(exact_bytes, 16);
  const uint64_t end = words + runs * shape_.token_count * vector.word_bytes;
  return {0, offsets, exact, words, end};
}

// Equal groups, and cuts where the bits change. Equal ones are as many as keep the smallest cell of
// a plane large enough; halving keeps their sizes even.
absl::Status BlockPlan::place_groups() {
  if (layout_.dtype == DType::opaque) return absl::OkStatus();
  const int layers = layout_.layer_count;
  const uint64_t vectors = uint64_t(layers) * layout_.kv_head_count * shape_.token_count;
  const auto vector_bytes = [&](Side side) -> uint64_t {
    if (codec_.family != CodecFamily::raw) return plane_vector(side, 0, 0).word_bytes;
    return side_head_dim(layout_, side) * dtype_bytes(layout_.dtype);
  };
  const uint64_t plane_bytes =
      vectors * std::min(vector_bytes(Side::key), vector_bytes(Side::value));
  const auto ends_with = [&](int equal_groups) {
    std::vector<uint16_t> ends;
    for (int end = 1; end <= layers; ++end) {
      const LayerBits before = codec_.bits_of_layer(end - 1), after = codec_.bits_of_layer(end);
      bool ends_here = before.key_bits != after.key_bits || before.value_bits != after.value_bits;
      for (int g = 1; g <= equal_groups; ++g) ends_here |= g * layers / equal_groups == end;
      if (ends_here) ends.push_back(static_cast<uint16_t>(end));
    }
    return ends;
  };
  constexpr size_t kMost = limits::kLayerGroupsMax;
  int equal_groups = limits::kLayerGroupsMax;
  while (equal_groups > 1 &&
         (equal_groups > layers || plane_bytes / equal_groups < limits::kCellMinBytes ||
          ends_with(equal_groups).size() > kMost)) {
    equal_groups /= 2;
  }
  const std::vector<uint16_t> ends = ends_with(equal_groups);
  if (ends.size() > kMost) {
    return absl::InvalidArgumentError(absl::StrCat("codec ", codec_.name(), " makes ", ends.size(),
                                                   " layer groups; at most ", kMost));
  }
  layer_group_count_ = static_cast<int>(ends.size());
  std::copy(ends.begin(), ends.end(), group_ends_.begin());
  return check_bits();
}

// The header says the most bits that any layer has, and the drop order begins with them.
absl::Status BlockPlan::check_bits() const {
  if (!has_planes(codec_.family)) return absl::OkStatus();
  Precision most;
  for (int group = 0; group < layer_group_count_; ++group) {
    const auto planes = [&](Side side) { return static_cast<uint8_t>(plane_count(side, group)); };
    most.key_planes = std::max(most.key_planes, planes(Side::key));
    most.value_planes = std::max(most.value_planes, planes(Side::value));
  }
  if (most == codec_.precision()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("codec ", codec_.name(), " gives no layer more than K", most.key_planes, "V",
                   most.value_planes, "; let it begin with bits that some layer has"));
}

absl::Status BlockPlan::place_cells() {
  std::vector<CellEntry> cells;
  for (int plane = 0; plane < limits::kBitsMax; ++plane) {
    for (Side side : {Side::key, Side::value}) {
      for (int group = 0; group < layer_group_count_; ++group) {
        if (plane >= plane_count(side, group)) continue;
        CellEntry cell = {};
        cell.side = static_cast<uint8_t>(side);
        cell.plane = static_cast<uint8_t>(plane);
        cell.layer_group = static_cast<uint8_t>(group);
        cell_index_[cell.side][plane][group] = static_cast<uint8_t>(cells.size());
        cells.push_back(cell);
      }
    }
  }
  uint64_t offset =
      round_up(sizeof(BlockHeader) + cells.size() * sizeof(CellEntry), limits::kCellAlignBytes);
  for (CellEntry& cell : cells) {
    sections_.push_back(place_sections(static_cast<Side>(cell.side), cell.plane, cell.layer_group));
    const uint64_t bytes = sections_.back().end;
    if (offset + bytes > limits::kBlockMaxBytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "encoded block needs more than ", limits::kBlockMaxBytes, " bytes; use fewer tokens"));
    }
    cell.offset = static_cast<uint32_t>(offset);
    cell.bytes = static_cast<uint32_t>(bytes);
    offset = round_up(offset + bytes, limits::kCellAlignBytes);
  }
  cells_ = std::move(cells);
  total_bytes_ = offset;
  return absl::OkStatus();
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
  status = plan.place_groups();
  if (status.ok()) status = plan.place_cells();
  if (!status.ok()) return status;
  return plan;
}

void BlockPlan::write_header(const BlockIdentity& identity, uint32_t flags,
                             absl::Span<std::byte> out) const {
  BlockHeader header = {};
  header.magic = kBlockMagic;
  header.version = kBlockVersion;
  header.header_bytes = sizeof(BlockHeader);
  header.codec = static_cast<uint8_t>(codec_.family);
  header.dtype = static_cast<uint8_t>(layout_.dtype);
  if (has_planes(codec_.family)) {
    header.key_bits = codec_.precision().key_planes;
    header.value_bits = codec_.precision().value_planes;
  }
  header.floor_key_planes = codec_.floor.key_planes;
  header.floor_value_planes = codec_.floor.value_planes;
  header.layer_group_count = static_cast<uint8_t>(layer_group_count_);
  header.flags = flags | (codec_.key_offsets ? uint32_t{kBlockKeyOffsets} : 0u) |
                 (codec_.gaussian_projection ? uint32_t{kBlockGaussian} : 0u);
  std::memcpy(header.groups, group_bits().data(), sizeof(header.groups));
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
  for (int plane = std::max(header.key_bits, header.value_bits) - 1; plane >= 1; --plane) {
    if (plane < header.value_bits) {
      header.drop_order[header.drop_count++] = static_cast<uint8_t>(kDropValueSide | plane);
    }
    if (plane < header.key_bits)
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
