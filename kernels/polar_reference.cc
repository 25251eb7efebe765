// PolarQuant in plain loops, one vector at a time.

#include <cmath>
#include <iterator>
#include <vector>

#include "kernels/polar.h"
#include "kernels/reference_math.h"

namespace hadal {
namespace {

bool encode_vector(const EncodeRun& run, uint32_t token, std::vector<float>& values) {
  const int run_count = run.head_dim / kPolarRun;
  // So that norms[token] is the first of this vector's radii.
  EncodeRun own = run;
  own.norms += size_t{token} * (run_count - 1);
  const float norm = reference::write_norm(own, token, values);
  if (!(norm < kPolarLengthMax)) return false;
  const uint16_t flag = own.norms[token] & kNormOffsetFlag;
  const PolarScale lengths(run.head_dim);
  const float scale = norm > 0 ? lengths.encoded_length / norm : 0.0f;
  const std::vector<int32_t> rotated = reference::rotated(*run.rotation, scale, values);
  const std::vector<uint32_t> integers(rotated.begin(), rotated.end());
  std::vector<PolarWords> words(run_count);
  const float unit = norm / lengths.rotated_length;
  for (int i = 0; i < run_count; ++i) {
    const uint32_t squared = encode_polar_run(polar_tables(), &integers[i * kPolarRun], words[i]);
    own.norms[token + i] = reference::bf16_of(std::sqrt(static_cast<float>(squared)) * unit);
  }
  own.norms[token] |= flag;
  write_polar_words(words.data(), run_count, run.planes[0] + size_t{token} * run.vector.word_bytes);
  return true;
}

bool encode_run(const EncodeRun& run) { return reference::encode_tokens(run, encode_vector); }

void decode_vector(const DecodeRun& run, uint32_t token) {
  const int run_count = run.head_dim / kPolarRun;
  DecodeRun own = run;  // as in encode_vector()
  own.norms += size_t{token} * (run_count - 1);
  std::vector<float> radii(run_count);
  float squared = 0;
  for (int i = 0; i < run_count; ++i) {
    radii[i] = read_polar_radius(own.norms[token + i]);
    squared += radii[i] * radii[i];
  }
  const float length = std::sqrt(squared);
  const PolarScale lengths(run.head_dim);
  // Shorter ones, which no encoder writes, have lost the bits of their squares.
  const float scale = length < kNormMin / 2 ? 0.0f : lengths.decoded_length / length;
  std::vector<PolarWords> words(run_count);
  read_polar_words(run.planes[0] + size_t{token} * run.vector.word_bytes, run_count, words.data());
  std::vector<int32_t> integers;
  for (int i = 0; i < run_count; ++i) {
    const auto radius = static_cast<uint32_t>(std::nearbyint(radii[i] * scale));
    uint32_t values[kPolarRun];
    decode_polar_run(polar_tables(), radius, words[i], values);
    integers.insert(integers.end(), std::begin(values), std::end(values));
  }
  reference::inverse_hadamard(*run.rotation, false, integers);
  const float unit = length / lengths.restored_length;
  reference::store_vector(own, token, reference::scaled(*run.rotation, unit, integers));
}

void decode_run(const DecodeRun& run) {
  for (uint32_t token = run.exact_token_count; token < run.token_count; ++token)
    decode_vector(run, token);
}

}  // namespace

VectorCodec reference_polar_codec() {
  polar_tables();  // made now, not in a request
  return {encode_run, [](const DecodeRun& run) { for_each_head(run, decode_run); }};
}

}  // namespace hadal
