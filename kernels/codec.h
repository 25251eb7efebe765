#pragma once

// The codec: paged KV -> encoded block (docs/block_format.md) and back.
//
// Not here: no memory of its own beyond tables made at construction, no I/O, no keys made.
// Threads: a Codec is immutable; encode and decode may run on any number of threads at once, each
// with a workspace of its own. Errors: absl codes; nothing is written to the destination of a
// decode that answers an error.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/block_plan.h"
#include "common/codec_spec.h"
#include "common/encoded_block.h"
#include "common/kv_layout.h"

namespace hadal {

// Which implementation computes. All decode the same bytes to the same values.
enum class CodecBackend : uint8_t { reference, cpu };

// One side (K or V) of a block in the caller's memory. Value i of (layer, head, token) lies at
// layers[layer] + token * token_stride_bytes + head * head_stride_bytes + i * dtype_bytes.
struct KvSidePages {
  absl::Span<std::byte* const> layers;  // layer_count pointers to the block's first token
  size_t token_stride_bytes = 0;
  size_t head_stride_bytes = 0;
};

// A block of KV in the caller's memory, which is borrowed for the call. Encode only reads it.
struct KvPages {
  KvSidePages key;
  KvSidePages value;
};

struct EncodeRequest {
  KvPages pages;
  BlockIdentity identity;  // first_token_index 0 starts a sequence: its first tokens stay exact
  uint32_t token_count = 0;
};

struct EncodeResult {
  uint64_t bytes = 0;       // written to `out`
  bool non_finite = false;  // K or V holds NaN or infinity: nothing usable was written; the caller
                            // encodes the block with a raw codec (encode_raw) and counts it
};

class Codec {
 public:
  // InvalidArgument names what the codec does not support: head_dims other than kHeadDims
  // (rotation.h) for codecs that rotate, no multiple of 16 for FP8; any for raw.
  static absl::StatusOr<std::unique_ptr<const Codec>> create(
      const KvLayout& layout, const CodecSpec& spec, CodecBackend backend = CodecBackend::cpu);
  virtual ~Codec() = default;

  const KvLayout& layout() const { return layout_; }
  const CodecSpec& spec() const { return spec_; }

  // Most bytes that encode or encode_raw writes for a block of this many tokens: the size of an
  // output buffer. InvalidArgument for 0 tokens or more than the layout's block_tokens.
  absl::StatusOr<uint64_t> max_encoded_bytes(uint32_t token_count) const;

  // Writes a sealed block to `out`. InvalidArgument where `out` is too small or the token count is
  // not allowed.
  absl::StatusOr<EncodeResult> encode(const EncodeRequest& request,
                                      absl::Span<std::byte> out) const;

  // The same block with codec raw: values copied as they are. `flags` are BlockFlags.
  absl::StatusOr<EncodeResult> encode_raw(const EncodeRequest& request, uint32_t flags,
                                          absl::Span<std::byte> out) const;

  // Verifies key, layout and every checksum, then writes the block's tokens to `pages`. A block
  // that was stored raw, or with other bits, decodes too. DataLoss or FailedPrecondition as
  // EncodedBlock says; then nothing was written. Works on a block that lacks dropped planes.
  absl::Status decode(absl::Span<const std::byte> encoded, int dropped_planes, const BlockKey& key,
                      const KvPages& pages) const;

 protected:
  Codec(const KvLayout& layout, const CodecSpec& spec) : layout_(layout), spec_(spec) {}

 private:
  KvLayout layout_;
  CodecSpec spec_;
};

// A raw block of opaque bytes (hadalctl's files, engines that hold FP8). `out` has
// opaque_block_bytes(payload.size()).
absl::StatusOr<uint64_t> opaque_block_bytes(uint64_t payload_bytes);
absl::Status encode_opaque(absl::Span<const std::byte> payload, const BlockIdentity& identity,
                           absl::Span<std::byte> out);
// The payload inside a verified opaque block; points into `encoded`.
absl::StatusOr<absl::Span<const std::byte>> decode_opaque(absl::Span<const std::byte> encoded,
                                                          const BlockKey& key);

}  // namespace hadal
