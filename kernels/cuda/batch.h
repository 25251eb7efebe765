#pragma once

// A batch of blocks for the GPU: what a caller says of them. Nothing here needs CUDA.

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "common/encoded_block.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/outcome.h"

// As cuda_runtime_api.h declares them.
typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;

namespace hadal::cuda {

struct Block {
  BlockIdentity identity;  // first_token_index 0 starts a sequence: its first tokens are exact
  uint32_t token_count = 0;
  uint32_t flags = 0;      // to encode: kBlockNonFinite for a raw block in place of another codec's
  int dropped_planes = 0;  // to decode: so many first drop steps are gone
  // Where the encoded block is, or room for it: a multiple of 64. Blocks to encode do not overlap.
  std::byte* encoded = nullptr;
  uint64_t encoded_bytes = 0;
};

// Blocks of one layout and codec. Memory that is not a span is read and written by the GPU: of the
// device, pinned or managed. All of it is the caller's, and in use until the work is done.
struct Batch {
  absl::Span<const Block> blocks;  // of the host, read before the call returns

  // pages[(i * layer_count + layer) * 2 + side] is block i's first token of that layer: value v of
  // (token, head) lies at page + token * token_bytes + head * head_bytes + v * dtype_bytes.
  std::byte* const* pages = nullptr;
  std::array<SideStrides, 2> strides = {};  // of K and V

  uint32_t* outcomes = nullptr;  // Outcome of every block, written by the work
};

// Memory that a call works in. The GPU's part is filled by one copy from the host's, which should
// be pinned: then the copy waits for nothing. They may be the same memory, of which the host must
// then see that no earlier work reads it any more. Multiples of 64.
struct Workspace {
  std::byte* device = nullptr;
  std::byte* host = nullptr;
  uint64_t bytes = 0;  // of each
};

// Recorded once all layers before `end_layer` are decoded, of every block.
struct LayerMark {
  uint16_t end_layer = 0;
  cudaEvent_t event = nullptr;
};

}  // namespace hadal::cuda
