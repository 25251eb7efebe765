#include "kernels/direct_product.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/plan_codec.h"
#include "kernels/projection.h"
#include "kernels/reference_math.h"

namespace hadal {
namespace {

// (C (x) W) S v.
std::vector<float> rotated(const Rotation& rotation, std::vector<float> v) {
  for (int i = 0; i < rotation.head_dim; ++i) v[i] *= rotation.signs[i];
  reference::hadamard(rotation, v);
  return v;
}

// P v.
std::vector<float> projected(const Projection& projection, const std::vector<float>& v) {
  if (!projection.is_gaussian()) return rotated(projection.rotation, v);
  std::vector<float> sums;
  const int16_t* entry = projection.gaussian.data();
  for (int row = 0; row < projection.head_dim; ++row) {
    double sum = 0;
    for (const float value : v) sum += double{value} * *entry++;
    sums.push_back(static_cast<float>(sum));
  }
  return sums;
}

// What values in memory, or offsets in bf16, give with the query.
double product(absl::Span<const float> query, const std::byte* values, DType dtype) {
  double sum = 0;
  for (size_t i = 0; i < query.size(); ++i) {
    sum += double{query[i]} * reference::load(values + i * dtype_bytes(dtype), dtype);
  }
  return sum;
}

int group_of(const BlockPlan& plan, int layer) {
  int group = 0;
  while (layer >= plan.group_end(group)) ++group;
  return group;
}

absl::Status check(const PlanCodec& codec, const EncodedBlock& block, const RunIndex& index,
                   size_t score_count) {
  const KvLayout& layout = codec.layout();
  const BlockHeader& header = block.header();
  if (header.layout_hash != layout.hash()) {
    return absl::FailedPreconditionError(absl::StrCat("block has layout ",
                                                      absl::Hex(header.layout_hash), "; expected ",
                                                      absl::Hex(layout.hash())));
  }
  if (index.layer < 0 || index.layer >= layout.layer_count || index.head < 0 ||
      index.head >= layout.kv_head_count) {
    return absl::InvalidArgumentError(absl::StrCat(
        "layer ", index.layer, " and head ", index.head, " are asked for; the layout has ",
        layout.layer_count, " layers and ", layout.kv_head_count, " heads"));
  }
  if (score_count != header.token_count) {
    return absl::InvalidArgumentError(absl::StrCat("there is room for ", score_count,
                                                   " scores; the block has ", header.token_count,
                                                   " tokens"));
  }
  const CodecSpec spec = block.codec();
  return spec.family == CodecFamily::raw ? absl::OkStatus() : codec.expect(spec);
}

}  // namespace

absl::StatusOr<DirectQuery> DirectQuery::create(const Codec& codec, absl::Span<const float> query) {
  const CodecFamily family = codec.spec().family;
  const PlanCodec& self = implementation(codec);
  if (family != CodecFamily::raw && self.vectors().score == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat("codec ", codec.spec().name(),
                     " has no direct products; use raw, kAvB, kAvB-prod or qjl, or decode"));
  }
  const DType dtype = codec.layout().dtype;
  if (dtype != DType::f16 && dtype != DType::bf16 && dtype != DType::f32) {
    return absl::UnimplementedError(
        absl::StrCat("keys of dtype ", dtype_name(dtype), " have no direct products"));
  }
  if (query.size() != codec.layout().key_head_dim) {
    return absl::InvalidArgumentError(absl::StrCat(
        "query has ", query.size(), " values; keys have ", codec.layout().key_head_dim));
  }
  DirectQuery made(codec);
  made.query_.assign(query.begin(), query.end());
  if (is_rotated(family)) made.rotated_ = rotated(self.rotation(Side::key), made.query_);
  if (is_projected(family)) {
    made.projected_ = projected(*self.projection(Side::key), made.rotated_);
  }
  return made;
}

absl::Status DirectQuery::scores(const EncodedBlock& block, int layer, int head,
                                 absl::Span<float> scores) const {
  const PlanCodec& self = implementation(*codec_);
  RunIndex index = {layer, head, 0};
  if (const absl::Status status = check(self, block, index, scores.size()); !status.ok()) {
    return status;
  }
  const KvLayout& layout = self.layout();
  const BlockHeader& header = block.header();
  const CodecSpec spec = block.codec();
  const absl::StatusOr<BlockPlan> plan =
      BlockPlan::make(layout, spec, {header.token_count, header.exact_token_count, 0});
  if (!plan.ok()) return plan.status();
  const CellEntry& first = block.cells().front();
  auto* bytes = const_cast<std::byte*>(block.cell_bytes(first).data()) - first.offset;  // only read
  const EncodedSide keys = {*plan, Side::key, bytes};
  index.group = group_of(*plan, layer);
  const auto dense_scores = [&](const std::byte* values, uint32_t count) {
    for (uint32_t token = 0; token < count; ++token) {
      scores[token] =
          static_cast<float>(product(query_, values + token * keys.vector_bytes(), layout.dtype));
    }
  };
  if (spec.family == CodecFamily::raw) {
    dense_scores(keys.raw_values(index), header.token_count);
    return absl::OkStatus();
  }
  dense_scores(keys.exact_values(index), header.exact_token_count);
  const int planes =
      std::min<int>(plan->plane_count(Side::key, index.group), block.precision().key_planes);
  ScoreRun run;
  run.vectors = encoded_run<DecodeRun>(self, keys, index, planes);
  run.rotated = rotated_.data();
  run.projected = projected_.data();
  run.scores = scores.data();
  self.vectors().score(run);
  if (run.vectors.offsets == nullptr) return absl::OkStatus();
  const auto offset = static_cast<float>(
      product(query_, reinterpret_cast<const std::byte*>(run.vectors.offsets), DType::bf16));
  for (uint32_t token = header.exact_token_count; token < header.token_count; ++token) {
    if ((run.vectors.norms[token] & kNormOffsetFlag) != 0) scores[token] += offset;
  }
  return absl::OkStatus();
}

}  // namespace hadal
