// Scalar backend: the definition that the others are tested against. Plain loops, one vector at a
// time.

#include <cmath>

#include "kernels/reference_math.h"
#include "kernels/vector_codec.h"

namespace hadal {
namespace {

// arXiv 2504.19874, algorithm 1, with planes instead of whole indices.
bool encode_vector(const EncodeRun& run, uint32_t token, std::vector<float>& values) {
  const float norm = reference::write_norm(run, token, values);
  if (std::isnan(norm)) return false;
  const float length = static_cast<float>(run.tables->input_scale << run.tables->input_shift);
  const float scale = norm > 0 ? length / norm : 0.0f;
  const std::vector<int32_t> integers = reference::rotated(*run.rotation, scale, values);
  for (int i = 0; i < run.head_dim; ++i) {
    reference::write_index(run, token, i, integers[i] >> run.tables->input_shift);
  }
  return true;
}

bool encode_run(const EncodeRun& run) { return reference::encode_tokens(run, encode_vector); }

void decode_vector(const DecodeRun& run, uint32_t token) {
  std::vector<int32_t> values = reference::read_centroids(run, token, run.plane_count);
  int64_t squared = 0;
  for (const int32_t value : values) squared += int64_t{value} * value;
  const float norm = reference::bf16_value(run.norms[token] & 0x7fffu);
  // Matched norm: x' = |x| R^T z / |z|.
  const float scale =
      norm / std::sqrt(static_cast<float>(squared) * static_cast<float>(run.head_dim));
  reference::inverse_hadamard(*run.rotation, run.plane_count <= narrow_planes_max(run.head_dim),
                              values);
  reference::store_vector(run, token, reference::scaled(*run.rotation, scale, values));
}

void decode_run(const DecodeRun& run) {
  for (uint32_t token = run.exact_token_count; token < run.token_count; ++token)
    decode_vector(run, token);
}

}  // namespace

VectorCodec reference_vector_codec() {
  return {encode_run, [](const DecodeRun& run) { for_each_head(run, decode_run); },
          reference_score_run};
}

}  // namespace hadal
