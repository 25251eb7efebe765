#include "common/codec_spec.h"

#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/limits.h"

namespace hadal {
namespace {

// Families that take no bits. QJL's matrix and the bits of the others are in suffixes.
constexpr std::pair<absl::string_view, CodecFamily> kNamedFamilies[] = {
    {"raw", CodecFamily::raw},       {"qjl", CodecFamily::qjl},       {"polar", CodecFamily::polar},
    {"e4m3", CodecFamily::fp8_e4m3}, {"e5m2", CodecFamily::fp8_e5m2}, {"tqe", CodecFamily::tqe}};

constexpr int bits_min(CodecFamily family) {
  return family == CodecFamily::turboquant_prod ? 2 : 1;
}

// Those that quantise rotated vectors, which a shorter vector makes better.
constexpr bool has_offsets(CodecFamily family) {
  return family != CodecFamily::raw && family != CodecFamily::fp8_e4m3 &&
         family != CodecFamily::fp8_e5m2;
}

absl::Status check_bits(CodecFamily family, int key_bits, int value_bits) {
  for (const int bits : {key_bits, value_bits}) {
    if (bits < bits_min(family) || bits > limits::kBitsMax) {
      return absl::InvalidArgumentError(absl::StrCat("CodecSpec has ", bits, " bits; allowed are ",
                                                     bits_min(family), " to ", limits::kBitsMax));
    }
  }
  return absl::OkStatus();
}

std::string layers_text(const LayerBits& layers) {
  return absl::StrCat(layers.begin_layer, "-", layers.end_layer - 1);
}

absl::Status check_layer_bits(const CodecSpec& spec) {
  if (spec.layer_bits.size() > limits::kLayerGroupsMax) {
    return absl::InvalidArgumentError(absl::StrCat("CodecSpec has ", spec.layer_bits.size(),
                                                   " ranges of layers; at most ",
                                                   limits::kLayerGroupsMax));
  }
  int free_from = 0;
  for (const LayerBits& layers : spec.layer_bits) {
    if (layers.begin_layer < free_from || layers.end_layer <= layers.begin_layer) {
      return absl::InvalidArgumentError(absl::StrCat("CodecSpec has bits for layers ",
                                                     layers_text(layers),
                                                     "; ranges ascend and do not overlap"));
    }
    free_from = layers.end_layer;
    const absl::Status status = check_bits(spec.family, layers.key_bits, layers.value_bits);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// "k5v4" at the start of `text`, which is taken off.
std::optional<std::pair<int, int>> consume_bits(absl::string_view& text) {
  const auto is_bits = [](char c) { return c >= '1' && c <= '8'; };
  if (text.size() < 4 || text[0] != 'k' || text[2] != 'v' || !is_bits(text[1]) ||
      !is_bits(text[3])) {
    return std::nullopt;
  }
  const std::pair<int, int> bits = {text[1] - '0', text[3] - '0'};
  text.remove_prefix(4);
  return bits;
}

// "0-1:k8v8".
std::optional<LayerBits> parse_layer_bits(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits(':', 1));
  const std::pair<absl::string_view, absl::string_view> ends =
      absl::StrSplit(parts.first, absl::MaxSplits('-', 1));
  absl::string_view name = parts.second;
  const auto bits = consume_bits(name);
  int first = 0, last = 0;
  if (!bits || !name.empty() || !absl::SimpleAtoi(ends.first, &first) ||
      !absl::SimpleAtoi(ends.second, &last) || first < 0 || last < first ||
      last >= limits::kLayersMax) {
    return std::nullopt;
  }
  return LayerBits{static_cast<uint16_t>(first), static_cast<uint16_t>(last + 1),
                   static_cast<uint8_t>(bits->first), static_cast<uint8_t>(bits->second)};
}

// What has no bits in its name. Nullopt where it is none of these.
std::optional<CodecSpec> parse_named_family(absl::string_view name) {
  CodecSpec spec;
  spec.gaussian_projection = name == "qjlg";
  if (spec.gaussian_projection) name.remove_suffix(1);
  for (const auto& [known, family] : kNamedFamilies) {
    if (name != known) continue;
    spec.family = family;
    spec.key_bits = spec.value_bits = 0;
    spec.floor = {0, 0};
    spec.key_offsets = has_offsets(family);
    if (family == CodecFamily::raw) spec.exact_tokens = 0;
    return spec;
  }
  return std::nullopt;
}

}  // namespace

absl::Status CodecSpec::validate() const {
  if (static_cast<int>(family) >= kCodecFamilyCount) {
    return absl::InvalidArgumentError(absl::StrCat("CodecSpec.family is ", static_cast<int>(family),
                                                   "; allowed are 0 to ", kCodecFamilyCount - 1));
  }
  if (exact_tokens > limits::kExactTokensMax) {
    return absl::InvalidArgumentError(absl::StrCat("CodecSpec.exact_tokens is ", exact_tokens,
                                                   "; at most ", limits::kExactTokensMax));
  }
  if (gaussian_projection && family != CodecFamily::turboquant_prod && family != CodecFamily::qjl) {
    return absl::InvalidArgumentError(
        "CodecSpec.gaussian_projection is set; only families turboquant_prod and qjl project");
  }
  if (!has_planes(family)) {
    if (key_bits == 0 && value_bits == 0 && layer_bits.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("CodecSpec of family ", static_cast<int>(family),
                                                   " has bits; it has no planes, so set 0"));
  }
  absl::Status status = check_bits(family, key_bits, value_bits);
  if (status.ok()) status = check_layer_bits(*this);
  if (!status.ok()) return status;
  const Precision most = precision();
  if (floor.key_planes < 1 || floor.key_planes > most.key_planes || floor.value_planes < 1 ||
      floor.value_planes > most.value_planes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "CodecSpec.floor is K", floor.key_planes, "V", floor.value_planes,
        "; allowed are 1 to the bits of each side, K", most.key_planes, "V", most.value_planes));
  }
  return absl::OkStatus();
}

std::string CodecSpec::name() const {
  for (const auto& [known, known_family] : kNamedFamilies) {
    if (family == known_family) return absl::StrCat(known, gaussian_projection ? "g" : "");
  }
  std::string name = absl::StrCat("k", key_bits, "v", value_bits);
  if (family == CodecFamily::turboquant_prod) {
    absl::StrAppend(&name, gaussian_projection ? "-prodg" : "-prod");
  }
  for (const LayerBits& layers : layer_bits) {
    absl::StrAppend(&name, "/", layers_text(layers), ":k", layers.key_bits, "v", layers.value_bits);
  }
  return name;
}

Precision CodecSpec::precision() const {
  if (!has_planes(family)) return {Precision::kAllPlanes, Precision::kAllPlanes};
  Precision most = {key_bits, value_bits};
  for (const LayerBits& layers : layer_bits) {
    most.key_planes = std::max(most.key_planes, layers.key_bits);
    most.value_planes = std::max(most.value_planes, layers.value_bits);
  }
  return most;
}

LayerBits CodecSpec::bits_of_layer(int layer) const {
  for (const LayerBits& layers : layer_bits) {
    if (layer >= layers.begin_layer && layer < layers.end_layer) return layers;
  }
  return {0, 0, key_bits, value_bits};
}

absl::StatusOr<CodecSpec> parse_codec(absl::string_view name) {
  if (std::optional<CodecSpec> named = parse_named_family(name)) return *std::move(named);
  const absl::Status refused = absl::InvalidArgumentError(absl::StrCat(
      "codec is '", name,
      "'; allowed are k1v1 to k8v8, such as k5v4; the same with -prod or -prodg, from k2v2 on; "
      "after either, layers with other bits, such as k5v4/0-1:k8v8; and raw, qjl, qjlg, polar, "
      "e4m3, e5m2 and tqe"));
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  absl::string_view base = parts.front();
  CodecSpec spec;
  const auto bits = consume_bits(base);
  if (!bits) return refused;
  if (absl::ConsumePrefix(&base, "-prod")) {
    spec.family = CodecFamily::turboquant_prod;
    spec.gaussian_projection = absl::ConsumePrefix(&base, "g");
  }
  if (!base.empty()) return refused;
  spec.key_bits = static_cast<uint8_t>(bits->first);
  spec.value_bits = static_cast<uint8_t>(bits->second);
  spec.floor.key_planes = static_cast<uint8_t>(std::clamp(spec.key_bits - 1, 1, 4));
  // More bits for V than for K are for what must keep them, such as MLA's rope values.
  spec.floor.value_planes = static_cast<uint8_t>(
      spec.value_bits > spec.key_bits ? spec.value_bits : std::clamp(spec.value_bits - 1, 1, 3));
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::optional<LayerBits> layers = parse_layer_bits(parts[i]);
    if (!layers) return refused;
    spec.layer_bits.push_back(*layers);
  }
  if (const absl::Status status = spec.validate(); !status.ok()) return status;
  return spec;
}

}  // namespace hadal
