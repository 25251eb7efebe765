#pragma once

// Checks a batch and lays out what kernels read of it. Host code without CUDA, so that arguments
// are refused, and kernels tested, where there is no GPU.

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/block_plan.h"
#include "common/codec_spec.h"
#include "common/kv_layout.h"
#include "kernels/cuda/batch.h"
#include "kernels/cuda/family_tables.h"
#include "kernels/cuda/launch.h"

namespace hadal::cuda {

// Sides of equal head_dim are one kernel's work. head_dim 0: of a family whose kernels take any.
struct SideRange {
  uint8_t first = 0, end = 2;
  int head_dim = 0;
};

struct PlannedWork {
  Launch launch;            // pointers into the workspace's device part
  uint64_t copy_bytes = 0;  // from the workspace's host part to its device part
};

// Immutable, thread safe.
class Planner {
 public:
  // InvalidArgument where Codec::create would answer it, and for head_dims that have no kernels.
  static absl::StatusOr<Planner> create(const KvLayout& layout, const CodecSpec& spec);

  // Blocks have a shape each: how many tokens, and how many of them exact.
  uint64_t workspace_bytes(uint32_t block_count, uint32_t shape_count) const;

  // Of an encoded block, all planes; InvalidArgument where plan() would refuse its tokens.
  absl::StatusOr<uint64_t> block_bytes(const Block& block) const;

  // Most bytes of an encoded block of this layout.
  uint64_t block_bytes_max() const { return block_bytes_max_; }

  // Checks everything that the host can see and fills workspace.host. InvalidArgument names what is
  // wrong; then nothing was written.
  absl::StatusOr<PlannedWork> plan(const Batch& batch, const Workspace& workspace) const;

  // InvalidArgument where layers do not ascend to the last one, or an event is null.
  absl::Status check_marks(absl::Span<const LayerMark> marks) const;

  absl::Span<const SideRange> side_ranges() const { return side_ranges_; }
  const KvLayout& layout() const { return layout_; }
  const CodecSpec& spec() const { return spec_; }

 private:
  Planner(const KvLayout& layout, const CodecSpec& spec) : layout_(layout), spec_(spec) {}
  absl::Status check(const Batch& batch) const;
  absl::Status prepare();
  BlockShape shape_of(const Block& block) const;
  BlockForm form_of(const BlockPlan& plan) const;
  absl::StatusOr<std::vector<BlockForm>> place_blocks(const Batch& batch,
                                                      absl::Span<BlockEntry> entries) const;

  KvLayout layout_;
  CodecSpec spec_;
  uint64_t block_bytes_max_ = 0;
  std::vector<SideRange> side_ranges_;
  FamilyTables tables_;
};

}  // namespace hadal::cuda
