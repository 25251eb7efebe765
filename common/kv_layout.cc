#include "common/kv_layout.h"

#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/checksum.h"
#include "common/limits.h"

namespace hadal {
namespace {

absl::Status check_range(absl::string_view field, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("KvLayout.", field, " is ", value, "; allowed are ", low, " to ", high));
}

}  // namespace

absl::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return "f16";
    case DType::bf16:
      return "bf16";
    case DType::f32:
      return "f32";
    case DType::opaque:
      return "opaque";
    case DType::f8_e4m3:
      return "f8_e4m3";
    case DType::f8_e5m2:
      return "f8_e5m2";
  }
  return "unknown";
}

absl::Status KvLayout::validate() const {
  if (dtype == DType::opaque) {
    if (layer_count != 0 || kv_head_count != 0 || key_head_dim != 0 || value_head_dim != 0 ||
        block_tokens != 0) {
      return absl::InvalidArgumentError(
          "KvLayout of dtype opaque has layers, heads, head_dims or block_tokens; set them to 0");
    }
    return absl::OkStatus();
  }
  if (static_cast<uint8_t>(dtype) > static_cast<uint8_t>(DType::f8_e5m2)) {
    return absl::InvalidArgumentError(absl::StrCat("KvLayout.dtype is ", static_cast<int>(dtype),
                                                   "; allowed are 0 (f16) to 5 (f8_e5m2)"));
  }
  absl::Status status = check_range("layer_count", layer_count, 1, limits::kLayersMax);
  if (status.ok()) status = check_range("kv_head_count", kv_head_count, 1, limits::kKvHeadsMax);
  if (status.ok()) status = check_range("key_head_dim", key_head_dim, 1, limits::kHeadDimMax);
  if (status.ok()) status = check_range("value_head_dim", value_head_dim, 1, limits::kHeadDimMax);
  if (status.ok()) status = check_range("block_tokens", block_tokens, 1, limits::kBlockMaxTokens);
  if (status.ok() && raw_bytes(block_tokens) > limits::kBlockMaxBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a block of this KvLayout has ",
                                                   raw_bytes(block_tokens), " bytes; at most ",
                                                   limits::kBlockMaxBytes, " are allowed"));
  }
  return status;
}

uint64_t KvLayout::hash() const {
  const std::array<uint32_t, 7> fields = {1,  // version of this digest
                                          static_cast<uint32_t>(dtype),
                                          layer_count,
                                          kv_head_count,
                                          key_head_dim,
                                          value_head_dim,
                                          block_tokens};
  std::array<std::byte, sizeof(fields)> bytes;
  std::memcpy(bytes.data(), fields.data(), sizeof(fields));
  return hash64(bytes);
}

uint64_t KvLayout::raw_bytes(uint32_t token_count) const {
  if (dtype == DType::opaque) return 0;
  return uint64_t{layer_count} * kv_head_count * (uint64_t{key_head_dim} + value_head_dim) *
         dtype_bytes(dtype) * token_count;
}

}  // namespace hadal
