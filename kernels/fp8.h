#pragma once

// The formats of FP8 blocks: what both backends know of them (docs/codec.md, "FP8"). Private to
// kernels/.

#include <bit>
#include <cstdint>

#include "common/kv_layout.h"
#include "kernels/host_device.h"
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
constexpr Fp8Format fp8_format(CodecFamily family) {
  return family == CodecFamily::fp8_e4m3 ? kE4M3 : kE5M2;
}

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

// One value between its formats, as threads of a GPU do it.
//
// Added to a magnitude, 2^(exponent + 23 - fraction_bits) makes the last bit of the sum what the
// spacing of codes is, and so rounds to the nearest code, ties to even.
HADAL_HOST_DEVICE uint32_t fp8_code(Fp8Format format, float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const int shift = 23 - format.fraction_bits;
  const uint32_t exponent_min = static_cast<uint32_t>(127 + format.exponent_min) << 23;
  const uint32_t own = magnitude & 0x7f800000u;
  const uint32_t exponent = own < exponent_min ? exponent_min : own;
  const uint32_t rounder = exponent + (static_cast<uint32_t>(shift) << 23);
  const float sum = std::bit_cast<float>(magnitude) + std::bit_cast<float>(rounder);
  const uint32_t spacings = std::bit_cast<uint32_t>(sum) - rounder;
  return (spacings + ((exponent - exponent_min) >> shift)) | (bits >> 24 & 0x80u);
}
// As f32 a code's exponent is too small by 126 + exponent_min, subnormal ones included.
HADAL_HOST_DEVICE float fp8_value(Fp8Format format, uint32_t code) {
  uint32_t magnitude = code & 0x7fu;
  if (magnitude > format.code_max) magnitude = format.code_max;
  const float small = std::bit_cast<float>(magnitude << (23 - format.fraction_bits));
  const float factor = std::bit_cast<float>(static_cast<uint32_t>(253 + format.exponent_min) << 23);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(small * factor) | (code & 0x80u) << 24);
}

}  // namespace hadal
