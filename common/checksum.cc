#include "common/checksum.h"

#include <algorithm>

#include "common/limits.h"
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

namespace hadal {

uint64_t hash64(absl::Span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

uint64_t cell_checksum(absl::Span<const std::byte> cell, uint32_t cell_id) {
  uint64_t sum = 0;
  for (size_t leaf = 0; leaf * limits::kChecksumLeafBytes < cell.size(); ++leaf) {
    const size_t begin = leaf * limits::kChecksumLeafBytes;
    const size_t bytes = std::min(limits::kChecksumLeafBytes, cell.size() - begin);
    sum += mix_leaf(hash64(cell.subspan(begin, bytes)), leaf, cell_id);
  }
  return sum;
}

}  // namespace hadal
