// Scalar backend: the definition that the others are tested against. Plain loops, one vector at a
// time.

#include <cmath>
#include <cstring>

#include "kernels/reference_math.h"
#include "kernels/vector_codec.h"

namespace hadal {
namespace {

// arXiv 2504.19874, algorithm 1, with planes instead of whole indices.
bool encode_vector(const EncodeRun& run, uint32_t token, std::vector<float>& values) {
  const int head_dim = run.rotation->head_dim;
  const float norm = reference::write_norm(run, token, values);
  if (std::isnan(norm)) return false;
  const float length = static_cast<float>(run.tables->input_scale << run.tables->input_shift);
  const float scale = norm > 0 ? length / norm : 0.0f;
  const std::vector<int32_t> integers = reference::rotated(*run.rotation, scale, values);
  for (int i = 0; i < head_dim; ++i) {
    const int32_t rotated = integers[i] >> run.tables->input_shift;
    uint32_t index = 0;
    for (int plane = 0; plane < run.tables->bits; ++plane) {
      const uint32_t bit = rotated >= run.tables->thresholds[(1u << plane) + index];
      index = index * 2 + bit;
      std::byte& word = run.planes[plane][token * (head_dim / 8) + i / 8];
      if (i % 8 == 0) word = std::byte{0};
      word |= static_cast<std::byte>(bit << (i % 8));
    }
  }
  return true;
}

bool encode_run(const EncodeRun& run) {
  if (run.offsets != nullptr) reference::write_mean_key(run);
  bool finite = true;
  for (uint32_t token = 0; token < run.token_count; ++token) {
    std::vector<float> values = reference::load_vector(run, token);
    if (token < run.exact_token_count) {
      for (float value : values) finite = finite && std::isfinite(value);
      run.norms[token] = 0;
      for (int plane = 0; plane < run.tables->bits; ++plane) {
        std::memset(run.planes[plane] + token * (values.size() / 8), 0, values.size() / 8);
      }
      continue;
    }
    finite = encode_vector(run, token, values) && finite;
  }
  return finite;
}

void decode_vector(const DecodeRun& run, uint32_t token) {
  const int head_dim = run.rotation->head_dim;
  const auto& centroids = run.tables->centroids[run.plane_count - 1];
  std::vector<int32_t> values(head_dim);
  int64_t squared = 0;
  for (int i = 0; i < head_dim; ++i) {
    uint32_t index = 0;
    for (int plane = 0; plane < run.plane_count; ++plane) {
      const auto word = static_cast<uint32_t>(run.planes[plane][token * (head_dim / 8) + i / 8]);
      index = index * 2 + ((word >> (i % 8)) & 1u);
    }
    values[i] = centroids[index];
    squared += int64_t{values[i]} * values[i];
  }
  const float norm = reference::bf16_value(run.norms[token] & 0x7fffu);
  // Matched norm: x' = |x| R^T z / |z|.
  const float scale = norm / std::sqrt(static_cast<float>(squared) * static_cast<float>(head_dim));
  reference::inverse_hadamard(*run.rotation, run.plane_count <= narrow_planes_max(head_dim),
                              values);
  reference::store_vector(run, token, scale, values);
}

void decode_run(const DecodeRun& run) {
  for (uint32_t token = run.exact_token_count; token < run.token_count; ++token)
    decode_vector(run, token);
}

}  // namespace

VectorCodec reference_vector_codec() { return {encode_run, decode_run}; }

}  // namespace hadal
