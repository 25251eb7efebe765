#pragma once

// What a saved sequence is after it was stored in some form and came back.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/llama/llama_engine.h"

namespace hadal::bench {

// `k5v4`: a codec of Hadal. `k5v4>k4v3`: encoded as the first and read as the second, without the
// planes above it. `rows:q4_0`: every row as ggml's type holds it. `cache:q4_0`: the engine's own
// cache of that type, prefill included.
struct Variant {
  enum class Kind { codec, rows, cache };
  Kind kind = Kind::codec;
  std::string name;   // as above
  std::string codec;  // of codec: what encodes
  std::string least;  // of codec: what is read, or empty
  ggml_type type = GGML_TYPE_F16;
};

// InvalidArgument says what is allowed.
absl::StatusOr<Variant> parse_variant(const std::string& name);

struct StoredSequence {
  std::vector<std::byte> blob;  // as it came back
  uint64_t raw_bytes = 0;
  uint64_t stored_bytes = 0;  // headers, tables, offsets and exact tokens counted
};

// The whole sequence in `blob`, in blocks of block_tokens, through a variant of kind codec or rows.
absl::StatusOr<StoredSequence> store_sequence(const LlamaEngine& engine, const Variant& variant,
                                              uint32_t block_tokens,
                                              const std::vector<std::byte>& blob);

// Bytes of values of a type beside those of f16.
double type_share(ggml_type type);

}  // namespace hadal::bench
