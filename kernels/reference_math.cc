#include "kernels/reference_math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/value_conversion.h"

namespace hadal::reference {
namespace {

// Squares of the values that are `residue` modulo 4 in `count` runs of 16.
float sum_runs(const float* run, int count, int residue) {
  if (count > 1) {
    const int left = largest_power_below(count);
    return sum_runs(run, left, residue) + sum_runs(run + 16 * left, count - left, residue);
  }
  const auto square = [&](int i) { return run[residue + i] * run[residue + i]; };
  return (square(0) + square(8)) + (square(4) + square(12));
}

template <typename T>
void butterflies(const Rotation& rotation, int stride, std::vector<T>& v) {
  for (int i = 0; i < rotation.head_dim; ++i) {
    if ((i % rotation.inner & stride) != 0) continue;
    const T a = v[i], b = v[i + stride];
    v[i] = a + b;
    v[i + stride] = a - b;
  }
}

// C v, or with C transposed.
template <typename T>
void core(const Rotation& rotation, bool transposed, std::vector<T>& v) {
  if (rotation.core == 1) return;
  const int inner = rotation.inner;
  const std::vector<T> rows = v;
  for (int i = 0; i < rotation.core; ++i) {
    for (int k = 0; k < inner; ++k) {
      T sum = 0;
      for (int j = 0; j < rotation.core; ++j) {
        const int8_t sign =
            rotation.core_matrix[transposed ? j * rotation.core + i : i * rotation.core + j];
        sum += sign * rows[j * inner + k];
      }
      v[i * inner + k] = sum;
    }
  }
}

}  // namespace

float load(const std::byte* at, DType dtype) {
  if (dtype == DType::f32) {
    float value;
    std::memcpy(&value, at, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  return dtype == DType::f16 ? half_to_float(bits) : bf16_to_float(bits);
}

void store(std::byte* at, float value, DType dtype) {
  if (dtype == DType::f32) {
    std::memcpy(at, &value, sizeof(value));
    return;
  }
  const auto bits = static_cast<uint16_t>(dtype == DType::f16
                                              ? half_from_float(value)
                                              : bf16_rounded_away(std::bit_cast<uint32_t>(value)));
  std::memcpy(at, &bits, sizeof(bits));
}

float bf16_value(uint16_t bits) { return bf16_to_float(bits); }
uint16_t bf16_of(float value) { return bf16_from_bits(std::bit_cast<uint32_t>(value)); }

float length_of(uint16_t scalar) {
  return bf16_value(std::min<uint16_t>(scalar & 0x7fffu, bf16_of(kProjectedLengthMax)));
}

float squared_length(const std::vector<float>& values) {
  const int runs = static_cast<int>(values.size()) / 16;
  const auto sum = [&](int residue) { return sum_runs(values.data(), runs, residue); };
  return (sum(0) + sum(2)) + (sum(1) + sum(3));
}

template <typename T>
void hadamard(const Rotation& rotation, std::vector<T>& v) {
  for (int stride = 1; stride < rotation.inner; stride *= 2) butterflies(rotation, stride, v);
  core(rotation, false, v);
}
template void hadamard(const Rotation& rotation, std::vector<int32_t>& v);
template void hadamard(const Rotation& rotation, std::vector<float>& v);

void inverse_hadamard(const Rotation& rotation, bool narrow, std::vector<int32_t>& v) {
  constexpr int kLastStride = 8;
  core(rotation, true, v);
  for (int stride = 1; stride < rotation.inner; stride *= 2) {
    if (stride != kLastStride) butterflies(rotation, stride, v);
  }
  if (narrow) {
    for (int32_t& value : v) value = static_cast<int16_t>(value);
  }
  if (kLastStride < rotation.inner) butterflies(rotation, kLastStride, v);
}

std::vector<float> load_vector(const EncodeRun& run, uint32_t token) {
  std::vector<float> values(run.head_dim);
  const std::byte* at = run.values + token * run.token_stride_bytes;
  for (float& value : values) {
    value = load(at, run.dtype);
    at += dtype_bytes(run.dtype);
  }
  return values;
}

void write_mean_key(const EncodeRun& run) {
  const int head_dim = run.rotation->head_dim;
  std::vector<float> sum(head_dim);
  for (uint32_t token = run.exact_token_count; token < run.token_count; ++token) {
    const std::vector<float> values = load_vector(run, token);
    for (int i = 0; i < head_dim; ++i) sum[i] += values[i];
  }
  const uint32_t count = run.token_count - run.exact_token_count;
  const float scale = count == 0 ? 0.0f : 1.0f / static_cast<float>(count);
  for (int i = 0; i < head_dim; ++i) run.offsets[i] = bf16_of(sum[i] * scale);
}

float write_norm(const EncodeRun& run, uint32_t token, std::vector<float>& values) {
  float squared = squared_length(values);
  bool finite = std::isfinite(squared);
  uint16_t flag = 0;
  if (run.offsets != nullptr) {
    std::vector<float> residual = values;
    for (size_t i = 0; i < values.size(); ++i) residual[i] -= bf16_value(run.offsets[i]);
    const float residual_squared = squared_length(residual);
    if (residual_squared < squared) {
      values = residual;
      squared = residual_squared;
      flag = kNormOffsetFlag;
    }
  }
  float norm = std::sqrt(squared);
  if (norm < kNormMin) norm = 0;
  run.norms[token] = static_cast<uint16_t>(bf16_of(norm) | flag);
  finite = finite && (run.norms[token] & 0x7f80u) != 0x7f80u;
  return finite ? norm : std::numeric_limits<float>::quiet_NaN();
}

std::vector<int32_t> rotated(const Rotation& rotation, float scale,
                             const std::vector<float>& values) {
  std::vector<int32_t> integers(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    integers[i] = static_cast<int32_t>(std::nearbyint(values[i] * scale)) * rotation.signs[i];
  }
  hadamard(rotation, integers);
  return integers;
}

void write_bit(std::byte* words, int i, bool bit) {
  std::byte& word = words[i / 8];
  if (i % 8 == 0) word = std::byte{0};
  word |= static_cast<std::byte>(bit << (i % 8));
}

bool read_bit(const std::byte* words, int i) {
  return ((static_cast<uint32_t>(words[i / 8]) >> (i % 8)) & 1u) != 0;
}

uint32_t write_index(const EncodeRun& run, uint32_t token, int i, int32_t rotated) {
  uint32_t index = 0;
  for (int plane = 0; plane < run.tables->bits; ++plane) {
    const bool bit = rotated >= run.tables->thresholds[(1u << plane) + index];
    index = index * 2 + bit;
    write_bit(run.planes[plane] + token * (run.head_dim / 8), i, bit);
  }
  return index;
}

std::vector<int32_t> read_centroids(const DecodeRun& run, uint32_t token, int planes) {
  std::vector<int32_t> values(run.head_dim);
  for (int i = 0; i < run.head_dim; ++i) {
    uint32_t index = 0;
    for (int plane = 0; plane < planes; ++plane) {
      index = index * 2 + read_bit(run.planes[plane] + token * (run.head_dim / 8), i);
    }
    values[i] = run.tables->centroids[planes - 1][index];
  }
  return values;
}

bool encode_exact_tokens(const EncodeRun& run) {
  const size_t count = run.exact_token_count;
  bool finite = true;
  for (uint32_t token = 0; token < count; ++token) {
    for (const float value : load_vector(run, token)) finite = finite && std::isfinite(value);
  }
  std::fill_n(run.norms, count * run.vector.scalar_count, uint16_t{0});
  if (run.residual_norms != nullptr) std::fill_n(run.residual_norms, count, uint16_t{0});
  for (int plane = 0; plane < run.plane_count; ++plane) {
    std::memset(run.planes[plane], 0, count * run.vector.word_bytes);
  }
  return finite;
}

bool encode_tokens(const EncodeRun& run, EncodeVector encode_vector) {
  if (run.offsets != nullptr) write_mean_key(run);
  bool finite = encode_exact_tokens(run);
  for (uint32_t token = run.exact_token_count; token < run.token_count; ++token) {
    std::vector<float> values = load_vector(run, token);
    finite = encode_vector(run, token, values) && finite;
  }
  return finite;
}

std::vector<float> scaled(const Rotation& rotation, float scale,
                          const std::vector<int32_t>& values) {
  std::vector<float> floats(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    floats[i] = static_cast<float>(values[i] * rotation.signs[i]) * scale;
  }
  return floats;
}

void store_vector(const DecodeRun& run, uint32_t token, const std::vector<float>& values) {
  const bool has_offset = run.offsets != nullptr && (run.norms[token] & kNormOffsetFlag) != 0;
  std::byte* at = run.values + token * run.token_stride_bytes;
  for (size_t i = 0; i < values.size(); ++i) {
    float value = values[i];
    // Added where it is zero too, which turns -0 into 0 in every backend.
    if (run.offsets != nullptr) value += has_offset ? bf16_value(run.offsets[i]) : 0.0f;
    store(at + i * dtype_bytes(run.dtype), value, run.dtype);
  }
}

}  // namespace hadal::reference
