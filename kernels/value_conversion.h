#pragma once

// Single values between their formats, for the host and for the GPU, where an instruction does it.

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/vector_codec.h"

namespace hadal {

HADAL_HOST_DEVICE float bf16_to_float(uint32_t bits) { return std::bit_cast<float>(bits << 16); }

HADAL_HOST_DEVICE float half_to_float(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<uint16_t>(bits)));
  return value;
#else
  const uint32_t sign = (bits & 0x8000u) << 16, rest = (bits & 0x7fffu) << 13;
  // 2^112 makes up for the smaller bias of the exponent, subnormals included.
  const float finite = std::bit_cast<float>(rest) * 0x1.0p112f;
  const uint32_t magnitude =
      rest >= 0x0f800000u ? rest | 0x7f800000u : std::bit_cast<uint32_t>(finite);
  return std::bit_cast<float>(sign | magnitude);
#endif
}

// The integer nearest to |x| < 2^22, ties to even: the sum's last bit is worth 1. And back.
inline constexpr float kRounder = 12582912.0f;  // 1.5 2^23
HADAL_HOST_DEVICE uint32_t rounded(float x) {
  return std::bit_cast<uint32_t>(x + kRounder) - std::bit_cast<uint32_t>(kRounder);
}
HADAL_HOST_DEVICE float float_of(uint32_t integer) {
  return std::bit_cast<float>(integer + std::bit_cast<uint32_t>(kRounder)) - kRounder;
}

// f16, nearest even, clamped to the largest finite value; NaN, of norms that no encoder writes, to
// the lowest.
HADAL_HOST_DEVICE uint32_t half_from_float(float value) {
  value = fminf(fmaxf(value, -kHalfMax), kHalfMax);
#if defined(__CUDA_ARCH__)
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const uint32_t sign = (bits >> 16) & 0x8000u;
  if (magnitude < 0x38800000u) {  // below 2^-14 the spacing is 2^-24
    return sign | rounded(std::bit_cast<float>(magnitude) * 0x1.0p24f);
  }
  return sign | (((magnitude + 0xfffu + ((magnitude >> 13) & 1u)) >> 13) - (112u << 10));
#endif
}

}  // namespace hadal
