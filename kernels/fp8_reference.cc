// FP8 in plain loops, one value at a time.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/fp8.h"
#include "kernels/reference_math.h"

namespace hadal {
namespace {

// The nearest code, ties to even. Codes ascend with what they stand for, so that one more than the
// last of an exponent is the first of the next.
uint8_t code_of(Fp8Format format, float value) {
  const float magnitude = std::abs(value);
  const float normal_min = std::ldexp(1.0f, format.exponent_min);
  const int exponent = magnitude < normal_min ? format.exponent_min : std::ilogb(magnitude);
  const float spacings = std::ldexp(magnitude, format.fraction_bits - exponent);
  const int code = static_cast<int>(std::nearbyint(spacings)) +
                   ((exponent - format.exponent_min) << format.fraction_bits);
  return static_cast<uint8_t>(code | (std::signbit(value) ? 0x80 : 0));
}

float value_of(Fp8Format format, uint8_t code) {
  const int magnitude = std::min<int>(code & 0x7f, format.code_max);
  const int exponent = magnitude >> format.fraction_bits;
  const int implied = exponent == 0 ? 0 : 1 << format.fraction_bits;
  const int spacings = implied + (magnitude & ((1 << format.fraction_bits) - 1));
  const int last_bit = format.exponent_min - format.fraction_bits + std::max(exponent - 1, 0);
  const float value = std::ldexp(static_cast<float>(spacings), last_bit);
  return (code & 0x80) != 0 ? -value : value;
}

template <Fp8Format kFormat>
bool encode_run(const EncodeRun& run) {
  bool finite = true;
  for (uint32_t token = 0; token < run.token_count; ++token) {
    const std::vector<float> values = reference::load_vector(run, token);
    std::byte* codes = run.planes[0] + size_t{token} * run.head_dim;
    uint32_t largest = 0;
    for (float value : values) {
      largest = std::max(largest, std::bit_cast<uint32_t>(value) & 0x7fffffffu);
    }
    run.norms[token] = 0;
    std::memset(codes, 0, values.size());
    finite = finite && largest < fp8_refused_bits(run.dtype);
    if (!finite || token < run.exact_token_count) continue;
    run.norms[token] = fp8_scale(kFormat, std::bit_cast<float>(largest));
    const float scale = reference::bf16_value(run.norms[token]);
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (size_t i = 0; i < values.size(); ++i) {
      codes[i] = static_cast<std::byte>(code_of(kFormat, values[i] * inverse));
    }
  }
  return finite;
}

template <Fp8Format kFormat>
void decode_run(const DecodeRun& run) {
  for (uint32_t token = run.exact_token_count; token < run.token_count; ++token) {
    const std::byte* codes = run.planes[0] + size_t{token} * run.head_dim;
    const float scale = fp8_read_scale(kFormat, run.norms[token]);
    std::byte* at = run.values + token * run.token_stride_bytes;
    for (int i = 0; i < run.head_dim; ++i) {
      const float value = value_of(kFormat, static_cast<uint8_t>(codes[i])) * scale;
      reference::store(at + i * dtype_bytes(run.dtype), value, run.dtype);
    }
  }
}

}  // namespace

VectorCodec reference_e4m3_codec() {
  return {encode_run<kE4M3>, [](const DecodeRun& run) { for_each_head(run, decode_run<kE4M3>); }};
}
VectorCodec reference_e5m2_codec() {
  return {encode_run<kE5M2>, [](const DecodeRun& run) { for_each_head(run, decode_run<kE5M2>); }};
}

}  // namespace hadal
