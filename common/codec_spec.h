#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hadal {

// Numbers are part of block format v1.
enum class CodecFamily : uint8_t {
  raw = 0,
  turboquant_mse = 1,
  turboquant_prod = 2,  // planes of MSE, and a last one that corrects inner products
  qjl = 3,              // that last one alone
  polar = 4,
  fp8_e4m3 = 5,
  fp8_e5m2 = 6,
  tqe = 7,  // entropy coded
};
inline constexpr int kCodecFamilyCount = 8;

// Whether a block has bit planes, each of which a reader can do without.
constexpr bool has_planes(CodecFamily family) {
  return family == CodecFamily::turboquant_mse || family == CodecFamily::turboquant_prod;
}

// How many bit planes of K and of V a block holds or a reader wants; a layer that was given fewer
// bits has those. Blocks of a family without planes have kAllPlanes on both sides and satisfy every
// wish.
struct Precision {
  static constexpr uint8_t kAllPlanes = 255;
  uint8_t key_planes = 0;
  uint8_t value_planes = 0;

  // True when this is good enough for a reader that accepts `least`.
  bool satisfies(const Precision& least) const {
    return key_planes >= least.key_planes && value_planes >= least.value_planes;
  }
  bool operator==(const Precision&) const = default;
};

// Layers [begin, end) that have bits of their own.
struct LayerBits {
  uint16_t begin_layer = 0;
  uint16_t end_layer = 0;
  uint8_t key_bits = 0;
  uint8_t value_bits = 0;
  bool operator==(const LayerBits&) const = default;
};

// Which codec makes a block and with which parameters. Part of the namespace of every key, except
// the bits: a block of another precision is the same content.
struct CodecSpec {
  CodecFamily family = CodecFamily::turboquant_mse;
  // 1 to 8, of TurboQuant-prod 2 to 8 with the correction counted; 0 for families without planes.
  uint8_t key_bits = 5;
  uint8_t value_bits = 4;
  // Ascending and apart, at most limits::kLayerGroupsMax; other layers have the bits above.
  std::vector<LayerBits> layer_bits;
  Precision floor = {4, 3};  // planes are never dropped below this
  uint64_t rotation_seed = 0x6861646131ULL;
  bool key_offsets = true;    // mean key removed, chosen per vector
  uint16_t exact_tokens = 4;  // first tokens of a sequence kept exact
  // TurboQuant-prod and QJL: a Gaussian matrix in place of a second randomised Hadamard.
  bool gaussian_projection = false;

  // InvalidArgument names the field, its value and what is allowed.
  absl::Status validate() const;

  // As parse_codec takes it, such as "raw" or "k5v4".
  std::string name() const;
  // Most bits of any layer.
  Precision precision() const;
  LayerBits bits_of_layer(int layer) const;
};

// Parses the name of a codec (docs/codec.md, "Names"): "raw", "k5v4" (1 to 8 bits each),
// "k4v4-prod" and "k4v4-prodg" (2 to 8), "qjl", "qjlg", "polar", "e4m3", "e5m2" or "tqe". After
// names with bits, layers with others: "k5v4/0-1:k8v8/30-31:k8v8". The floor of kAvB is one plane
// below A and B, at least 1 and at most K4V3; where B is more than A, V keeps all. InvalidArgument
// says what is allowed.
absl::StatusOr<CodecSpec> parse_codec(absl::string_view name);

}  // namespace hadal
