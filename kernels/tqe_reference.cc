// The entropy-coded trellis quantiser in plain loops, one vector at a time.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "kernels/reference_math.h"
#include "kernels/tqe.h"

namespace hadal {
namespace {

bool encode_vector(const EncodeRun& run, uint32_t token, std::vector<float>& values) {
  const float norm = reference::write_norm(run, token, values);
  if (std::isnan(norm)) return false;
  const auto length = static_cast<float>(encoded_deviation(run.head_dim));
  const float scale = norm > 0 ? length / norm : 0.0f;
  const std::vector<int32_t> integers = reference::rotated(*run.rotation, scale, values);
  const std::vector<int16_t> rotated(integers.begin(), integers.end());
  std::vector<uint8_t> cosets(run.head_dim);
  uint32_t magnitudes = 0;
  for (const int32_t value : integers) magnitudes += static_cast<uint32_t>(std::abs(value));
  encode_tqe_slot({run.head_dim, rotated.data(), cosets.data()}, magnitudes,
                  run.planes[0] + size_t{token} * (run.head_dim / 2));
  return true;
}

bool encode_run(const EncodeRun& run) { return reference::encode_tokens(run, encode_vector); }

void decode_vector(const DecodeRun& run, uint32_t token) {
  std::vector<int32_t> values(run.head_dim);
  read_tqe_slot(run.planes[0] + size_t{token} * (run.head_dim / 2), run.head_dim, values.data());
  int32_t squared = 0;
  for (const int32_t value : values) squared += value * value;
  const float norm =
      reference::bf16_value(std::min<uint16_t>(run.norms[token] & 0x7fffu, kTqeNormMax));
  // Matched norm: x' = |x| R^T z / |z|.
  const float scale =
      norm / std::sqrt(static_cast<float>(squared) * static_cast<float>(run.head_dim));
  reference::inverse_hadamard(*run.rotation, true, values);
  reference::store_vector(run, token, reference::scaled(*run.rotation, scale, values));
}

void decode_run(const DecodeRun& run) {
  for (uint32_t token = run.exact_token_count; token < run.token_count; ++token)
    decode_vector(run, token);
}

}  // namespace

VectorCodec reference_tqe_codec() {
  return {encode_run, [](const DecodeRun& run) { for_each_head(run, decode_run); }};
}

}  // namespace hadal
