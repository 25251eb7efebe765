#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace hadal {

// Type of one KV value in the engine's memory. Numbers are part of the block format.
enum class DType : uint8_t { f16 = 0, bf16 = 1, f32 = 2, opaque = 3, f8_e4m3 = 4, f8_e5m2 = 5 };

// Of one value; of opaque 1. For GPUs too, so it is the only one.
constexpr size_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::f16:
    case DType::bf16:
      return 2;
    case DType::f32:
      return 4;
    case DType::opaque:
    case DType::f8_e4m3:
    case DType::f8_e5m2:
      return 1;
  }
  return 0;
}
absl::string_view dtype_name(DType dtype);

// What one engine's KV block means, apart from where it lies in memory (that is KvPages, in
// kernels/). Two engines that store the same values with other strides share a layout, because the
// encoded form has one canonical order: layer, head, token, value.
//
// K and V are two sides with a head_dim each. MLA is the latent as K side and the rope part as V
// side with one head. Opaque bytes have dtype opaque, and every count 0.
struct KvLayout {
  DType dtype = DType::f16;
  uint16_t layer_count = 0;
  uint16_t kv_head_count = 0;
  uint16_t key_head_dim = 0;    // values
  uint16_t value_head_dim = 0;  // values
  uint32_t block_tokens = 0;    // tokens of a full block; the last block of a sequence may be short

  // InvalidArgument names the field, its value and what is allowed.
  absl::Status validate() const;

  // 64-bit digest of every field, part of every key and echoed in every block header.
  uint64_t hash() const;

  // Raw bytes of a block of `token_count` tokens. 0 for opaque.
  uint64_t raw_bytes(uint32_t token_count) const;

  bool operator==(const KvLayout&) const = default;
};

}  // namespace hadal
