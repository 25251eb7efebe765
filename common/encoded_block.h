#pragma once

// Block format v2 (docs/block_format.md): 256-byte header, cell table, cells. Little endian.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/block_key.h"
#include "common/codec_spec.h"
#include "common/kv_layout.h"

namespace hadal {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the block format is little endian");

inline constexpr uint32_t kBlockMagic = 0x31424448;  // "HDB1"
inline constexpr uint16_t kBlockVersion = 2;
inline constexpr uint8_t kDropValueSide = 0x80;

enum class Side : uint8_t { key = 0, value = 1 };

enum BlockFlags : uint32_t {
  kBlockEncrypted = 1u << 0,   // reserved: version 2 readers refuse it
  kBlockKeyOffsets = 1u << 1,  // plane 0 of K has an offset section
  kBlockNonFinite = 1u << 2,   // raw because the values held NaN or infinity
  kBlockGaussian = 1u << 3,    // the projection of codecs 2 and 3 is Gaussian
};

// Bits of a layer group, whose layers end before end_layer.
struct LayerGroupBits {
  uint16_t end_layer;
  uint8_t key_bits;
  uint8_t value_bits;
};
static_assert(sizeof(LayerGroupBits) == 4);

// First 256 bytes of a block. Never changes when planes are dropped.
struct BlockHeader {
  uint32_t magic;
  uint16_t version;
  uint16_t header_bytes;  // 256
  uint8_t codec;          // CodecFamily
  uint8_t dtype;          // DType of the source
  uint8_t key_bits;       // most of any layer
  uint8_t value_bits;
  uint8_t floor_key_planes;
  uint8_t floor_value_planes;
  uint8_t layer_group_count;
  uint8_t drop_count;  // entries used of drop_order
  uint32_t flags;      // BlockFlags
  uint32_t token_count;
  uint16_t exact_token_count;
  uint16_t layer_count;
  uint16_t kv_head_count;
  uint16_t key_head_dim;
  uint16_t value_head_dim;
  uint16_t cell_count;
  uint32_t block_tokens;  // of the layout; token_count is less in the last block of a sequence
  uint64_t layout_hash;
  uint64_t rotation_seed;
  uint8_t key[32];
  uint64_t total_bytes;        // header, table and all cells
  uint64_t raw_bytes;          // of the values it encodes
  uint64_t first_token_index;  // position in its sequence; UINT64_MAX where unknown
  uint8_t nonce[12];           // 0 unless encrypted
  uint32_t reserved0;          // 0
  uint8_t drop_order[16];      // first to go first; kDropValueSide | plane; unused entries 0
  LayerGroupBits groups[8];    // all 0 where every layer has the bits above
  uint8_t reserved1[72];       // 0
  uint64_t checksum;           // XXH3-64 of the 248 bytes before it and the cell table
};
static_assert(sizeof(BlockHeader) == 256);

// One contiguous run of bytes: one plane of one side for one layer group.
struct CellEntry {
  uint32_t offset;  // from the start of the block, a multiple of 64
  uint32_t bytes;   // without padding
  uint8_t side;     // Side
  uint8_t plane;    // 0 is the most significant
  uint8_t layer_group;
  uint8_t reserved0;
  uint32_t reserved1;
  uint64_t checksum;  // cell_checksum(bytes, id())
  uint8_t tag[16];    // 0 unless encrypted

  constexpr uint32_t id() const {
    return uint32_t{side} << 16 | uint32_t{plane} << 8 | layer_group;
  }
};
static_assert(sizeof(CellEntry) == 40);

// Identity that a block carries and its reader checks.
struct BlockIdentity {
  BlockKey key;
  uint64_t first_token_index = UINT64_MAX;
};

// Read-only view of an encoded block, whole or a prefix that lacks dropped planes. Holds a pointer
// to the caller's bytes, which outlive it. Immutable, thread safe.
class EncodedBlock {
 public:
  // Checks everything but the cells: magic, version, header checksum, that the table is exactly the
  // one BlockPlan makes for these fields, and that `bytes` is the prefix with `dropped_planes`
  // drops. DataLoss where the bytes are damaged or cut; FailedPrecondition where version or a flag
  // is not ours. Copies the header, so unaligned bytes are fine.
  static absl::StatusOr<EncodedBlock> parse(absl::Span<const std::byte> bytes, int dropped_planes);

  // DataLoss names the first cell whose checksum differs.
  absl::Status verify_cells() const;

  // FailedPrecondition where the key echo or layout hash is another's.
  absl::Status expect(const BlockKey& key, uint64_t layout_hash) const;

  const BlockHeader& header() const { return header_; }
  absl::Span<const CellEntry> cells() const { return cells_; }  // those present
  absl::Span<const std::byte> cell_bytes(const CellEntry& cell) const {
    return bytes_.subspan(cell.offset, cell.bytes);
  }
  int dropped_planes() const { return dropped_planes_; }
  Precision precision() const;

  KvLayout layout() const;
  CodecSpec codec() const;

 private:
  BlockHeader header_;
  std::vector<CellEntry> cells_;
  absl::Span<const std::byte> bytes_;
  int dropped_planes_ = 0;
};

// Sizes of a stored block by drop step, all a store needs to know of it: prefix_bytes[n] is its
// size with the first n drop steps gone; floor_drops is how many may go.
struct BlockExtents {
  std::vector<uint32_t> prefix_bytes;
  std::vector<Precision> precision;  // by drop step, as prefix_bytes
  int floor_drops = 0;
};
BlockExtents block_extents(const EncodedBlock& block);

// Fills every cell checksum and the header checksum of a written block: the last step of an encode.
void seal_block(absl::Span<std::byte> block);

}  // namespace hadal
