#include "common/codec_spec.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/limits.h"

namespace hadal {

absl::Status CodecSpec::validate() const {
  if (family == CodecFamily::raw) {
    if (key_bits == 0 && value_bits == 0) return absl::OkStatus();
    return absl::InvalidArgumentError("CodecSpec of family raw has key_bits or value_bits; set 0");
  }
  if (family != CodecFamily::turboquant_mse) {
    return absl::InvalidArgumentError(absl::StrCat("CodecSpec.family is ", static_cast<int>(family),
                                                   "; allowed are 0 (raw), 1 (turboquant_mse)"));
  }
  for (int bits : {int{key_bits}, int{value_bits}}) {
    if (bits < 1 || bits > limits::kBitsMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("CodecSpec has ", bits, " bits; allowed are 1 to ", limits::kBitsMax));
    }
  }
  if (floor.key_planes < 1 || floor.key_planes > key_bits || floor.value_planes < 1 ||
      floor.value_planes > value_bits) {
    return absl::InvalidArgumentError(
        absl::StrCat("CodecSpec.floor is K", floor.key_planes, "V", floor.value_planes,
                     "; allowed are 1 to the bits of each side, K", key_bits, "V", value_bits));
  }
  if (exact_tokens > limits::kExactTokensMax) {
    return absl::InvalidArgumentError(absl::StrCat("CodecSpec.exact_tokens is ", exact_tokens,
                                                   "; at most ", limits::kExactTokensMax));
  }
  return absl::OkStatus();
}

std::string CodecSpec::name() const {
  if (family == CodecFamily::raw) return "raw";
  return absl::StrCat("k", key_bits, "v", value_bits);
}

Precision CodecSpec::precision() const {
  if (family == CodecFamily::raw) return {Precision::kRawPlanes, Precision::kRawPlanes};
  return {key_bits, value_bits};
}

absl::StatusOr<CodecSpec> parse_codec(absl::string_view name) {
  CodecSpec spec;
  if (name == "raw") {
    spec.family = CodecFamily::raw;
    spec.key_bits = spec.value_bits = 0;
    spec.floor = {0, 0};
    spec.key_offsets = false;
    spec.exact_tokens = 0;
    return spec;
  }
  const auto is_bits = [](char c) { return c >= '1' && c <= '8'; };
  if (name.size() != 4 || name[0] != 'k' || name[2] != 'v' || !is_bits(name[1]) ||
      !is_bits(name[3])) {
    return absl::InvalidArgumentError(
        absl::StrCat("codec is '", name, "'; allowed are raw and k1v1 to k8v8, such as k5v4"));
  }
  spec.key_bits = static_cast<uint8_t>(name[1] - '0');
  spec.value_bits = static_cast<uint8_t>(name[3] - '0');
  spec.floor.key_planes = static_cast<uint8_t>(std::clamp(spec.key_bits - 1, 1, 4));
  spec.floor.value_planes = static_cast<uint8_t>(std::clamp(spec.value_bits - 1, 1, 3));
  return spec;
}

}  // namespace hadal
