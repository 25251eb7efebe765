#pragma once

// The formats of FP8 blocks: what both backends know of them (docs/codec.md, "FP8"). Private to
// kernels/.

#include <bit>
#include <cstdint>

#include "common/kv_layout.h"
#include "kernels/vector_codec.h"

namespace hadal {

// OCP 8-bit Floating Point Specification (OFP8), revision 1.0. A sign, the exponent, the fraction.
struct Fp8Format {
  int fraction_bits;
  int exponent_min;  // of normal numbers; subnormal ones have the same spacing
  uint8_t code_max;  // of value_max; larger ones are infinity and NaN
  uint32_t value_max;
};
inline constexpr Fp8Format kE4M3 = {3, -6, 0x7e, 448};
inline constexpr Fp8Format kE5M2 = {2, -14, 0x7b, 57344};

// Magnitudes from here on, as bits of f32, make a block raw: infinity and NaN, and what would leave
// no room above. Of f16 65536, which stands for infinity where a conversion knows none.
constexpr uint32_t fp8_refused_bits(DType dtype) {
  return std::bit_cast<uint32_t>(dtype == DType::f16 ? 0x1.0p16f : 0x1.0p127f);
}

// Of a vector whose largest magnitude is `largest`: what its codes stand for multiples of. Rounded
// up to bf16, so that no value is larger than the largest code.
constexpr uint16_t fp8_scale(Fp8Format format, float largest) {
  if (largest < kNormMin) return 0;
  const float scale = largest / static_cast<float>(format.value_max);
  return static_cast<uint16_t>((std::bit_cast<uint32_t>(scale) + 0xffffu) >> 16);
}

// A stored scale. Those that no encoder writes are cut, so that every byte decodes to a finite
// value.
constexpr float fp8_read_scale(Fp8Format format, uint16_t stored) {
  const uint16_t most = fp8_scale(format, 0x1.0p127f);
  const uint16_t magnitude = stored & 0x7fffu;
  return std::bit_cast<float>(uint32_t{magnitude < most ? magnitude : most} << 16);
}

}  // namespace hadal
