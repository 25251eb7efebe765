#pragma once

// Every bound that more than one folder relies on, in one place, with the relations between them
// proven at compile time. A limit is a promise to users: docs/block_format.md and
// docs/wire_protocol.md quote them.

#include <cstddef>
#include <cstdint>

namespace hadal::limits {

inline constexpr size_t kEngineHashMaxBytes = 64;
inline constexpr size_t kBlockKeyBytes = 32;

inline constexpr uint64_t kBlockMaxBytes = (uint64_t{1} << 31) - 1;
inline constexpr uint32_t kBlockMaxTokens = 65536;
inline constexpr int kLayerGroupsMax = 8;
inline constexpr int kBitsMax = 8;
inline constexpr int kLayersMax = 1024;
inline constexpr int kKvHeadsMax = 1024;
inline constexpr int kHeadDimMax = 1024;
inline constexpr uint32_t kExactTokensMax = 64;
inline constexpr size_t kCellMinBytes = 16 * 1024;  // wanted, where the block allows it
inline constexpr size_t kCellAlignBytes = 64;
inline constexpr size_t kChecksumLeafBytes = 1024;
inline constexpr size_t kCellsMax = size_t{2} * kBitsMax * kLayerGroupsMax;
inline constexpr size_t kDropStepsMax = size_t{2} * (kBitsMax - 1);

inline constexpr size_t kBatchMaxKeys = 4096;  // keys in one lookup, put or get

static_assert(kCellMinBytes % kChecksumLeafBytes == 0, "a wanted cell holds whole leaves");
static_assert(kDropStepsMax <= 16, "the header has room for 16 drop steps");
static_assert(kBlockMaxBytes <= UINT32_MAX, "cell offsets are 32-bit");

}  // namespace hadal::limits
