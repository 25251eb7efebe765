#include "common/encoded_block.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/block_plan.h"
#include "common/checksum.h"
#include "common/limits.h"

namespace hadal {
namespace {

constexpr size_t kCheckedHeaderBytes = sizeof(BlockHeader) - sizeof(uint64_t);

// Header without its checksum, then the table: contiguous in the digest, not in the block.
uint64_t header_checksum(const std::byte* block, size_t cell_count) {
  std::vector<std::byte> bytes(kCheckedHeaderBytes + cell_count * sizeof(CellEntry));
  std::memcpy(bytes.data(), block, kCheckedHeaderBytes);
  std::memcpy(bytes.data() + kCheckedHeaderBytes, block + sizeof(BlockHeader),
              cell_count * sizeof(CellEntry));
  return hash64(bytes);
}

KvLayout layout_of(const BlockHeader& header) {
  KvLayout layout;
  layout.dtype = static_cast<DType>(header.dtype);
  layout.layer_count = header.layer_count;
  layout.kv_head_count = header.kv_head_count;
  layout.key_head_dim = header.key_head_dim;
  layout.value_head_dim = header.value_head_dim;
  layout.block_tokens = header.block_tokens;
  return layout;
}

CodecSpec codec_of(const BlockHeader& header) {
  CodecSpec spec;
  spec.family = static_cast<CodecFamily>(header.codec);
  spec.key_bits = header.key_bits;
  spec.value_bits = header.value_bits;
  spec.floor = {header.floor_key_planes, header.floor_value_planes};
  spec.rotation_seed = header.rotation_seed;
  spec.key_offsets = (header.flags & kBlockKeyOffsets) != 0;
  spec.exact_tokens = header.exact_token_count;
  spec.gaussian_projection = (header.flags & kBlockGaussian) != 0;
  uint16_t begin = 0;
  for (const LayerGroupBits& group : header.groups) {
    if (group.end_layer == 0) break;
    spec.layer_bits.push_back({begin, group.end_layer, group.key_bits, group.value_bits});
    begin = group.end_layer;
  }
  return spec;
}

// Fewer than a layer has would make drop steps that cut its cells apart.
bool says_most_bits(const BlockPlan& plan, const BlockHeader& header) {
  if (!has_planes(plan.codec().family)) return true;
  return plan.codec().precision() == Precision{header.key_bits, header.value_bits};
}

// A header whose own checksum holds can still be nonsense from a faulty writer: the block that the
// plan makes from its fields must be the block at hand.
absl::Status check_against_plan(const BlockHeader& header, absl::Span<const CellEntry> cells) {
  const BlockShape shape = {header.token_count, header.exact_token_count, header.raw_bytes};
  absl::StatusOr<BlockPlan> plan = BlockPlan::make(layout_of(header), codec_of(header), shape);
  if (!plan.ok()) {
    return absl::DataLossError(absl::StrCat("block header is invalid: ", plan.status().message()));
  }
  if (plan->cells().size() != cells.size()) {
    return absl::DataLossError(
        absl::StrCat("block has ", cells.size(), " cells; its fields say ", plan->cells().size()));
  }
  for (size_t i = 0; i < cells.size(); ++i) {
    CellEntry cell = cells[i];
    cell.checksum = 0;
    if (std::memcmp(&cell, &plan->cells()[i], sizeof(cell)) != 0) {
      return absl::DataLossError(absl::StrCat("block cell ", i, " is not where its fields say"));
    }
  }
  const std::array<LayerGroupBits, limits::kLayerGroupsMax> groups = plan->group_bits();
  if (header.total_bytes != plan->total_bytes() ||
      header.layer_group_count != plan->layer_group_count() ||
      std::memcmp(header.groups, groups.data(), sizeof(groups)) != 0 ||
      !says_most_bits(*plan, header) || header.layout_hash != plan->layout().hash()) {
    return absl::DataLossError("block header contradicts itself in size, layer groups or layout");
  }
  return absl::OkStatus();
}

// Planes of each side after the first `dropped` steps.
Precision precision_after(const BlockHeader& header, int dropped) {
  if (!has_planes(static_cast<CodecFamily>(header.codec))) {
    return {Precision::kAllPlanes, Precision::kAllPlanes};
  }
  Precision precision = {header.key_bits, header.value_bits};
  for (int i = 0; i < dropped; ++i) {
    if (header.drop_order[i] & kDropValueSide) {
      --precision.value_planes;
    } else {
      --precision.key_planes;
    }
  }
  return precision;
}

// How many of a whole block's cells are left. They come in stored order, so those of the first
// steps are the tail.
size_t cells_after(const BlockHeader& header, absl::Span<const CellEntry> cells, int dropped) {
  const Precision left = precision_after(header, dropped);
  const auto is_left = [&](const CellEntry& cell) {
    const bool is_key = cell.side == static_cast<uint8_t>(Side::key);
    return cell.plane < (is_key ? left.key_planes : left.value_planes);
  };
  return static_cast<size_t>(std::find_if_not(cells.begin(), cells.end(), is_left) - cells.begin());
}

uint32_t end_of(const CellEntry& cell) {
  const uint32_t align = limits::kCellAlignBytes;
  return (cell.offset + cell.bytes + align - 1) / align * align;
}

}  // namespace

absl::StatusOr<EncodedBlock> EncodedBlock::parse(absl::Span<const std::byte> bytes,
                                                 int dropped_planes) {
  if (bytes.size() < sizeof(BlockHeader)) {
    return absl::DataLossError(
        absl::StrCat("block has ", bytes.size(), " bytes; the header has ", sizeof(BlockHeader)));
  }
  EncodedBlock block;
  BlockHeader& header = block.header_;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kBlockMagic) {
    return absl::DataLossError("bytes are no Hadal block: the magic is missing");
  }
  if (header.version != kBlockVersion || header.header_bytes != sizeof(BlockHeader)) {
    return absl::FailedPreconditionError(absl::StrCat("block has format version ", header.version,
                                                      "; this build reads ", kBlockVersion));
  }
  const size_t table_bytes = size_t{header.cell_count} * sizeof(CellEntry);
  if (header.cell_count == 0 || header.cell_count > limits::kCellsMax ||
      bytes.size() < sizeof(BlockHeader) + table_bytes) {
    return absl::DataLossError(absl::StrCat("block of ", bytes.size(),
                                            " bytes cannot hold its table of ", header.cell_count,
                                            " cells"));
  }
  if (header.checksum != header_checksum(bytes.data(), header.cell_count)) {
    return absl::DataLossError("block header checksum differs");
  }
  if ((header.flags & kBlockEncrypted) != 0) {
    return absl::FailedPreconditionError("block is encrypted; this build reads plain blocks");
  }
  block.cells_.resize(header.cell_count);
  std::memcpy(block.cells_.data(), bytes.data() + sizeof(BlockHeader), table_bytes);
  absl::Status status = check_against_plan(header, block.cells_);
  if (!status.ok()) return status;
  if (dropped_planes < 0 || dropped_planes > header.drop_count ||
      header.drop_count > limits::kDropStepsMax) {
    return absl::DataLossError(absl::StrCat("block is said to lack ", dropped_planes,
                                            " planes; it can lack ", header.drop_count));
  }
  block.cells_.resize(cells_after(header, block.cells_, dropped_planes));
  const uint64_t expected_bytes = end_of(block.cells_.back());
  if (bytes.size() != expected_bytes) {
    return absl::DataLossError(absl::StrCat("block has ", bytes.size(), " bytes; ", expected_bytes,
                                            " expected without ", dropped_planes, " planes"));
  }
  block.bytes_ = bytes;
  block.dropped_planes_ = dropped_planes;
  return block;
}

absl::Status EncodedBlock::verify_cells() const {
  for (const CellEntry& cell : cells_) {
    if (cell_checksum(cell_bytes(cell), cell.id()) != cell.checksum) {
      return absl::DataLossError(absl::StrCat("checksum differs in cell ",
                                              cell.side == 0 ? "K" : "V", " plane ", cell.plane,
                                              " layer group ", cell.layer_group));
    }
  }
  return absl::OkStatus();
}

absl::Status EncodedBlock::expect(const BlockKey& key, uint64_t layout_hash) const {
  if (std::memcmp(header_.key, key.bytes.data(), sizeof(header_.key)) != 0) {
    BlockKey found;
    std::memcpy(found.bytes.data(), header_.key, sizeof(header_.key));
    return absl::FailedPreconditionError(
        absl::StrCat("block is of key ", found.hex(), ", not of ", key.hex()));
  }
  if (header_.layout_hash != layout_hash) {
    return absl::FailedPreconditionError(absl::StrCat("block has layout ",
                                                      absl::Hex(header_.layout_hash), "; expected ",
                                                      absl::Hex(layout_hash)));
  }
  return absl::OkStatus();
}

Precision EncodedBlock::precision() const { return precision_after(header_, dropped_planes_); }
KvLayout EncodedBlock::layout() const { return layout_of(header_); }
CodecSpec EncodedBlock::codec() const { return codec_of(header_); }

BlockExtents block_extents(const EncodedBlock& block) {
  BlockExtents extents;
  const BlockHeader& header = block.header();
  const Precision floor = {header.floor_key_planes, header.floor_value_planes};
  for (int dropped = block.dropped_planes(); dropped <= header.drop_count; ++dropped) {
    const size_t count = cells_after(header, block.cells(), dropped);
    extents.prefix_bytes.push_back(end_of(block.cells()[count - 1]));
    extents.precision.push_back(precision_after(header, dropped));
    if (extents.precision.back().satisfies(floor)) {
      extents.floor_drops = static_cast<int>(extents.prefix_bytes.size()) - 1;
    }
  }
  return extents;
}

void seal_block(absl::Span<std::byte> block) {
  BlockHeader header;
  std::memcpy(&header, block.data(), sizeof(header));
  for (size_t i = 0; i < header.cell_count; ++i) {
    std::byte* entry = block.data() + sizeof(BlockHeader) + i * sizeof(CellEntry);
    CellEntry cell;
    std::memcpy(&cell, entry, sizeof(cell));
    cell.checksum = cell_checksum(block.subspan(cell.offset, cell.bytes), cell.id());
    std::memcpy(entry, &cell, sizeof(cell));
  }
  header.checksum = header_checksum(block.data(), header.cell_count);
  std::memcpy(block.data(), &header, sizeof(header));
}

}  // namespace hadal
