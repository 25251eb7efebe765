#pragma once

// The codec on a GPU: a batch of paged blocks -> encoded blocks, byte for byte what Codec::encode
// writes, and back. docs/kernels.md says how, and what has been verified.
//
// Work goes to the caller's stream in the caller's workspace: nothing is allocated, and no call
// waits for the device. Threads: immutable; calls may run at once, each with a workspace and
// outcomes of its own. Errors: InvalidArgument names a bad argument, and nothing was started;
// Internal is an error of the CUDA runtime, after which part of the work may be on the stream. What
// only the device can see is in the batch's outcomes, block by block.
//
// Built where nvcc is there (CMake target cuda_codec).

#include "absl/status/statusor.h"
#include "kernels/cuda/planner.h"

namespace hadal::cuda {

struct StreamWork {
  cudaStream_t stream = nullptr;  // null: the default one
  Workspace workspace;            // of planner().workspace_bytes()
  // CTAs of 128 threads that a kernel has at most, so that other work finds room; the device
  // spreads them over its multiprocessors. 0: as many as it holds at once.
  uint32_t cta_limit = 0;
};

class CudaCodec {
 public:
  // As Planner::create.
  static absl::StatusOr<CudaCodec> create(const KvLayout& layout, const CodecSpec& spec);

  // One kernel gathers, encodes and checksums all layers of all blocks, K and V; two where K and V
  // differ in head_dim. A block whose outcome is not ok holds nothing usable: of non_finite ones a
  // raw codec makes a batch with flag kBlockNonFinite.
  absl::Status encode(const Batch& batch, const StreamWork& work) const;

  // Verifies all blocks, then scatters their values: a kernel up to each mark, or one for all
  // layers without marks. Pages of a block whose outcome is not ok stay as they were. Outcomes are
  // written before the first mark. A block is expected to be of this codec, with these bits.
  absl::Status decode(const Batch& batch, const StreamWork& work,
                      absl::Span<const LayerMark> marks) const;

  const Planner& planner() const { return planner_; }

 private:
  explicit CudaCodec(Planner planner) : planner_(std::move(planner)) {}

  Planner planner_;
};

}  // namespace hadal::cuda
