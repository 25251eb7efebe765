#pragma once

// Inner products of a query with encoded keys, which are not decoded: attention's scores of a block
// that stays as it is (docs/codec.md, "Direct products").
//
// Not here: no softmax, no scale of 1 / sqrt(head_dim), no values (V). Threads: a DirectQuery is
// immutable; scores() may run on any number of threads at once. Errors: absl codes; then no score
// was written.

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/encoded_block.h"
#include "kernels/codec.h"

namespace hadal {

// One query, rotated once for all the blocks of a sequence. Borrows the codec.
class DirectQuery {
 public:
  // InvalidArgument where the query has not the keys' head_dim. Unimplemented where the codec is
  // none of raw, TurboQuant-MSE, TurboQuant-prod and QJL, or values are none of f16, bf16 and f32.
  static absl::StatusOr<DirectQuery> create(const Codec& codec, absl::Span<const float> query);

  // Writes <query, key> for every token of the block: but for rounding what the decoded key would
  // give, and so without bias where a correction or QJL's signs are there, and with the bias of
  // matched norms where they are not. A block that was stored raw, or lacks dropped planes, has
  // scores too.
  //
  // The caller has verified the block's cells. InvalidArgument for a layer or head that the layout
  // has not, or other than token_count scores; FailedPrecondition where codec, seed or layout are
  // others than the codec's. Costs about head_dim * planes operations a token.
  absl::Status scores(const EncodedBlock& block, int layer, int head,
                      absl::Span<float> scores) const;

 private:
  explicit DirectQuery(const Codec& codec) : codec_(&codec) {}

  const Codec* codec_;
  std::vector<float> query_;
  std::vector<float> rotated_;    // R q; empty for codecs that do not rotate
  std::vector<float> projected_;  // P R q; empty for codecs that do not project
};

}  // namespace hadal
