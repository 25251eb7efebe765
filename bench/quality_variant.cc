#include "bench/quality_variant.h"

#include <ggml.h>

#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/llama/block_pages.h"
#include "common/encoded_block.h"
#include "kernels/codec.h"

namespace hadal::bench {
namespace {

constexpr ggml_type kTypes[] = {GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, GGML_TYPE_Q5_0, GGML_TYPE_Q4_1,
                                GGML_TYPE_Q4_0};

absl::Status unknown(const std::string& name) {
  std::string types;
  for (ggml_type type : kTypes) absl::StrAppend(&types, " ", ggml_type_name(type));
  return absl::InvalidArgumentError(
      absl::StrCat("variant '", name, "' is none; allowed are a codec, such as k5v4, a codec and",
                   " what to read of it, such as k5v4>k4v3, and rows:TYPE and cache:TYPE with one",
                   " of", types));
}

// How many drop steps leave just the precision that `least` names; none where it is empty.
absl::StatusOr<int> drops_to(const EncodedBlock& block, const Variant& variant) {
  if (variant.least.empty()) return 0;
  absl::StatusOr<CodecSpec> least = parse_codec(variant.least);
  if (!least.ok()) return least.status();
  const std::vector<Precision> precision = block_extents(block).precision;
  for (size_t drops = 0; drops < precision.size(); ++drops) {
    if (precision[drops] == least->precision()) return static_cast<int>(drops);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(variant.least, " is no drop step of ", variant.codec));
}

// One block there and back.
struct BlockTrip {
  const Codec& codec;
  const Variant& variant;
  uint32_t first_token_index;
  std::vector<std::byte>& buffer;

  // Answers the bytes that were stored.
  absl::StatusOr<uint64_t> run(const BlockPages& from, const BlockPages& to) const {
    EncodeRequest request = {from.pages, {{}, first_token_index}, from.token_count};
    absl::StatusOr<EncodeResult> encoded = codec.encode(request, absl::MakeSpan(buffer));
    if (!encoded.ok()) return encoded.status();
    if (encoded->non_finite) {
      return absl::FailedPreconditionError("the model's KV holds NaN or infinity");
    }
    const auto whole = absl::MakeConstSpan(buffer).subspan(0, encoded->bytes);
    absl::StatusOr<EncodedBlock> block = EncodedBlock::parse(whole, 0);
    if (!block.ok()) return block.status();
    absl::StatusOr<int> drops = drops_to(*block, variant);
    if (!drops.ok()) return drops.status();
    const uint64_t bytes = block_extents(*block).prefix_bytes[*drops];
    absl::Status status = codec.decode(whole.subspan(0, bytes), *drops, {}, to.pages);
    if (!status.ok()) return status;
    return bytes;
  }
};

absl::Status through_codec(const LlamaEngine& engine, const Variant& variant, uint32_t block_tokens,
                           StoredSequence& stored) {
  absl::StatusOr<SequenceBlob> shape = SequenceBlob::parse(stored.blob);
  absl::StatusOr<CodecSpec> spec = parse_codec(variant.codec);
  if (!shape.ok()) return shape.status();
  if (!spec.ok()) return spec.status();
  const KvLayout layout = engine.layout(block_tokens);
  auto codec = Codec::create(layout, *spec);
  if (!codec.ok()) return codec.status();
  absl::StatusOr<uint64_t> most = (*codec)->max_encoded_bytes(block_tokens);
  if (!most.ok()) return most.status();
  std::vector<std::byte> buffer(*most), back(stored.blob.size());
  shape->write_frame(absl::MakeSpan(back));
  const auto from = block_pages(*shape, layout, absl::MakeSpan(stored.blob));
  const auto to = block_pages(*shape, layout, absl::MakeSpan(back));
  uint32_t first = 0;
  for (size_t i = 0; i < from.size(); ++i) {
    absl::StatusOr<uint64_t> bytes = BlockTrip{**codec, variant, first, buffer}.run(from[i], to[i]);
    if (!bytes.ok()) return bytes.status();
    stored.stored_bytes += *bytes;
    stored.raw_bytes += layout.raw_bytes(from[i].token_count);
    first += from[i].token_count;
  }
  stored.blob = std::move(back);
  return absl::OkStatus();
}

// Rows of f16 become what they are after ggml's type.
absl::Status through_rows(ggml_type type, StoredSequence& stored) {
  absl::StatusOr<SequenceBlob> shape = SequenceBlob::parse(stored.blob);
  if (!shape.ok()) return shape.status();
  const auto value_count =
      static_cast<int64_t>(shape->layers().front().key.row_bytes / sizeof(ggml_fp16_t));
  std::vector<float> values(value_count);
  std::vector<std::byte> quantised(ggml_row_size(type, value_count));
  for (const BlobLayer& layer : shape->layers()) {
    for (const BlobRows& rows : {layer.key, layer.value}) {
      for (uint32_t token = 0; token < shape->token_count(); ++token) {
        auto* row = reinterpret_cast<ggml_fp16_t*>(stored.blob.data() + rows.offset +
                                                   token * rows.row_bytes);
        ggml_fp16_to_fp32_row(row, values.data(), value_count);
        ggml_quantize_chunk(type, values.data(), quantised.data(), 0, 1, value_count, nullptr);
        ggml_get_type_traits(type)->to_float(quantised.data(), values.data(), value_count);
        ggml_fp32_to_fp16_row(values.data(), row, value_count);
        stored.raw_bytes += rows.row_bytes;
        stored.stored_bytes += quantised.size();
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Variant> parse_variant(const std::string& name) {
  Variant variant;
  variant.name = name;
  absl::string_view rest = name;
  const bool is_rows = absl::ConsumePrefix(&rest, "rows:");
  if (is_rows || absl::ConsumePrefix(&rest, "cache:")) {
    variant.kind = is_rows ? Variant::Kind::rows : Variant::Kind::cache;
    for (ggml_type type : kTypes) {
      if (rest == ggml_type_name(type)) variant.type = type;
    }
    if (variant.type == GGML_TYPE_F16) return unknown(name);
    return variant;
  }
  const std::vector<std::string> parts = absl::StrSplit(rest, '>');
  if (parts.size() > 2) return unknown(name);
  for (const std::string& part : parts) {
    if (!parse_codec(part).ok()) return unknown(name);
  }
  variant.codec = parts[0];
  if (parts.size() == 2) variant.least = parts[1];
  return variant;
}

absl::StatusOr<StoredSequence> store_sequence(const LlamaEngine& engine, const Variant& variant,
                                              uint32_t block_tokens,
                                              const std::vector<std::byte>& blob) {
  StoredSequence stored;
  stored.blob = blob;
  absl::Status status = variant.kind == Variant::Kind::rows
                            ? through_rows(variant.type, stored)
                            : through_codec(engine, variant, block_tokens, stored);
  if (!status.ok()) return status;
  return stored;
}

double type_share(ggml_type type) {
  const auto values = ggml_blck_size(type);
  return static_cast<double>(ggml_row_size(type, values)) /
         static_cast<double>(ggml_row_size(GGML_TYPE_F16, values));
}

}  // namespace hadal::bench
