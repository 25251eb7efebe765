#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hadal {

// Numbers are part of block format v1.
enum class CodecFamily : uint8_t { raw = 0, turboquant_mse = 1 };

// How many bit planes of K and of V a block holds or a reader wants. Raw blocks have
// kRawPlanes on both sides and satisfy every wish.
struct Precision {
  static constexpr uint8_t kRawPlanes = 255;
  uint8_t key_planes = 0;
  uint8_t value_planes = 0;

  // True when this is good enough for a reader that accepts `least`.
  bool satisfies(const Precision& least) const {
    return key_planes >= least.key_planes && value_planes >= least.value_planes;
  }
  bool operator==(const Precision&) const = default;
};

// Which codec makes a block and with which parameters. Part of the namespace of every key, except
// the bits: a block of another precision is the same content.
struct CodecSpec {
  CodecFamily family = CodecFamily::turboquant_mse;
  uint8_t key_bits = 5;      // 1 to 8; 0 for raw
  uint8_t value_bits = 4;    // 1 to 8; 0 for raw
  Precision floor = {4, 3};  // planes are never dropped below this
  uint64_t rotation_seed = 0x6861646131ULL;
  bool key_offsets = true;    // mean key removed, chosen per vector
  uint16_t exact_tokens = 4;  // first tokens of a sequence kept exact

  // InvalidArgument names the field, its value and what is allowed.
  absl::Status validate() const;

  // "raw" or "k5v4".
  std::string name() const;
  Precision precision() const;
};

// Parses "raw" or "k<bits>v<bits>" (1 to 8 each). The floor of kAvB is one plane below A and B, at
// least 1 and at most K4V3. InvalidArgument says what is allowed.
absl::StatusOr<CodecSpec> parse_codec(absl::string_view name);

}  // namespace hadal
