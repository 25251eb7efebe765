#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/codec.h"

namespace hadal {
namespace {

absl::StatusOr<BlockPlan> opaque_plan(uint64_t payload_bytes) {
  KvLayout layout;
  layout.dtype = DType::opaque;
  absl::StatusOr<CodecSpec> raw = parse_codec("raw");
  if (!raw.ok()) return raw.status();
  return BlockPlan::make(layout, *raw, {0, 0, payload_bytes});
}

}  // namespace

absl::StatusOr<uint64_t> opaque_block_bytes(uint64_t payload_bytes) {
  absl::StatusOr<BlockPlan> plan = opaque_plan(payload_bytes);
  if (!plan.ok()) return plan.status();
  return plan->total_bytes();
}

absl::Status encode_opaque(absl::Span<const std::byte> payload, const BlockIdentity& identity,
                           absl::Span<std::byte> out) {
  absl::StatusOr<BlockPlan> plan = opaque_plan(payload.size());
  if (!plan.ok()) return plan.status();
  if (out.size() < plan->total_bytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("output has ", out.size(), " bytes; the block needs ", plan->total_bytes()));
  }
  out = out.subspan(0, plan->total_bytes());
  plan->write_header(identity, 0, out);
  std::memcpy(out.data() + plan->cells().front().offset, payload.data(), payload.size());
  seal_block(out);
  return absl::OkStatus();
}

absl::StatusOr<absl::Span<const std::byte>> decode_opaque(absl::Span<const std::byte> encoded,
                                                          const BlockKey& key) {
  KvLayout layout;
  layout.dtype = DType::opaque;
  absl::StatusOr<EncodedBlock> block = EncodedBlock::parse(encoded, 0);
  if (!block.ok()) return block.status();
  absl::Status status = block->expect(key, layout.hash());
  if (status.ok()) status = block->verify_cells();
  if (!status.ok()) return status;
  return block->cell_bytes(block->cells().front());
}

}  // namespace hadal
