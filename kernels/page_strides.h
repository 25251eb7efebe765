#pragma once

// How the vectors of one side lie in a page: what every codec checks of its caller. Private to
// kernels/.

#include <cstdint>

namespace hadal {

inline constexpr uint64_t kAddressBytesMax = uint64_t{1} << 47;  // more than any machine has

// Vector (token, head) begins at token * token_stride_bytes + head * head_stride_bytes.
struct PageStrides {
  uint64_t token_stride_bytes = 0;
  uint64_t head_stride_bytes = 0;
  uint64_t token_count = 0;
  uint64_t head_count = 0;
  uint64_t vector_bytes = 0;

  // From the first value to past the last one; 0 where vectors overlap or pass kAddressBytesMax. A
  // stride of which there is but one does not matter.
  constexpr uint64_t span_bytes() const {
    const bool tokens_first = token_stride_bytes <= head_stride_bytes;
    const uint64_t strides[] = {tokens_first ? token_stride_bytes : head_stride_bytes,
                                tokens_first ? head_stride_bytes : token_stride_bytes};
    const uint64_t counts[] = {tokens_first ? token_count : head_count,
                               tokens_first ? head_count : token_count};
    uint64_t bytes = vector_bytes;
    for (int axis = 0; axis < 2; ++axis) {
      if (counts[axis] <= 1) continue;
      if (strides[axis] < bytes || strides[axis] > kAddressBytesMax / counts[axis]) return 0;
      bytes += (counts[axis] - 1) * strides[axis];
    }
    return bytes;
  }
};

}  // namespace hadal
