// PolarQuant in plain loops, one vector at a time.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/polar.h"
#include "kernels/reference_math.h"

namespace hadal {
namespace {

// The cell of the angle whose tangent is sqrt(second / first).
uint32_t index_of(int level, int32_t first, int32_t second) {
  const float tangent = polar_tables().tangents[level];
  const auto a = static_cast<float>(first), b = static_cast<float>(second);
  return (b >= a * tangent) + (b >= a) + (b * tangent >= a);
}

// Adds one level of a run's codes and halves its squares: pairs of them become their sums.
uint32_t encode_level(int level, std::vector<int32_t>& squares) {
  uint32_t codes = 0;
  const int bits = level == 1 ? 4 : 2;
  for (size_t i = 0; i < squares.size() / 2; ++i) {
    codes |= index_of(level, squares[2 * i], squares[2 * i + 1]) << (bits * i);
    squares[i] = squares[2 * i] + squares[2 * i + 1];
  }
  squares.resize(squares.size() / 2);
  return codes;
}

// `values`: of a run. Answers the sum of their squares.
int32_t encode_values(const int32_t* values, PolarWords& words) {
  std::vector<int32_t> squares;
  for (int i = 0; i < kPolarRun; ++i) squares.push_back(values[i] * values[i]);
  words.level1 = encode_level(1, squares);
  for (int i = 0; i < kPolarRun; ++i) {
    words.level1 |= uint32_t{values[i] < 0} << (i / 2 * 4 + 2 + i % 2);
  }
  words.level2 = static_cast<uint8_t>(encode_level(2, squares));
  words.level34 = static_cast<uint8_t>(encode_level(3, squares));
  words.level34 |= static_cast<uint8_t>(encode_level(4, squares) << 4);
  return squares[0];
}

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
  const std::vector<int32_t> integers = reference::rotated(*run.rotation, scale, values);
  std::vector<PolarWords> words(run_count);
  const float unit = norm / lengths.rotated_length;
  for (int i = 0; i < run_count; ++i) {
    const int32_t squared = encode_values(&integers[i * kPolarRun], words[i]);
    own.norms[token + i] = reference::bf16_of(std::sqrt(static_cast<float>(squared)) * unit);
  }
  own.norms[token] |= flag;
  write_polar_words(words.data(), run_count, run.planes[0] + size_t{token} * run.vector.word_bytes);
  return true;
}

bool encode_run(const EncodeRun& run) { return reference::encode_tokens(run, encode_vector); }

// The other way: every radius becomes two, of the angle's cosine and of its sine.
void decode_level(int level, uint32_t codes, std::vector<int32_t>& radii) {
  const auto& cosines = polar_tables().cosines[level];
  const int bits = level == 1 ? 4 : 2;
  std::vector<int32_t> halves;
  for (size_t i = 0; i < radii.size(); ++i) {
    const uint32_t index = (codes >> (bits * i)) & 3u;
    for (const int16_t factor : {cosines[index], cosines[3 - index]}) {
      halves.push_back((radii[i] * factor + 0x4000) >> 15);
    }
  }
  radii = std::move(halves);
}

std::vector<int32_t> decode_values(int32_t radius, const PolarWords& words) {
  std::vector<int32_t> values = {radius};
  decode_level(4, words.level34 >> 4, values);
  decode_level(3, words.level34, values);
  decode_level(2, words.level2, values);
  decode_level(1, words.level1, values);
  for (int i = 0; i < kPolarRun; ++i) {
    if ((words.level1 >> (i / 2 * 4 + 2 + i % 2) & 1u) != 0) values[i] = -values[i];
  }
  return values;
}

void decode_vector(const DecodeRun& run, uint32_t token) {
  const int run_count = run.head_dim / kPolarRun;
  DecodeRun own = run;  // as in encode_vector()
  own.norms += size_t{token} * (run_count - 1);
  std::vector<float> radii(run_count);
  float squared = 0;
  for (int i = 0; i < run_count; ++i) {
    const uint16_t bits =
        std::min<uint16_t>(own.norms[token + i] & 0x7fffu, reference::bf16_of(kPolarLengthMax));
    radii[i] = reference::bf16_value(bits);
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
    const auto radius = static_cast<int32_t>(std::nearbyint(radii[i] * scale));
    const std::vector<int32_t> values = decode_values(radius, words[i]);
    integers.insert(integers.end(), values.begin(), values.end());
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
  return {encode_run, decode_run};
}

}  // namespace hadal
