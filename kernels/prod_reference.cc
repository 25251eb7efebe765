// TurboQuant-prod and QJL in plain loops, one vector at a time.

#include <cmath>

#include "kernels/projection.h"
#include "kernels/reference_math.h"

namespace hadal {
namespace {

// Whether the coordinates of P e are negative or not. The sums of a Gaussian P are below 2^50.
std::vector<bool> signs_of(const Projection& projection, std::vector<int32_t> e) {
  const int head_dim = projection.head_dim;
  std::vector<bool> signs(head_dim);
  if (!projection.is_gaussian()) {
    for (int i = 0; i < head_dim; ++i) e[i] *= projection.rotation.signs[i];
    reference::hadamard(projection.rotation, e);
    for (int i = 0; i < head_dim; ++i) signs[i] = e[i] >= 0;
    return signs;
  }
  for (int i = 0; i < head_dim; ++i) {
    int64_t sum = 0;
    for (int k = 0; k < head_dim; ++k) {
      sum += int64_t{projection.gaussian[i * head_dim + k]} * e[k];
    }
    signs[i] = sum >= 0;
  }
  return signs;
}

// The last plane.
void write_signs(const EncodeRun& run, uint32_t token, std::vector<int32_t> e) {
  const std::vector<bool> signs = signs_of(*run.projection, std::move(e));
  std::byte* words = run.planes[run.plane_count - 1] + token * (run.head_dim / 8);
  for (int i = 0; i < run.head_dim; ++i) reference::write_bit(words, i, signs[i]);
}

// P^T s, with s the signs in the last plane.
std::vector<int32_t> read_signs(const DecodeRun& run, uint32_t token) {
  const Projection& projection = *run.projection;
  const int head_dim = run.head_dim;
  const std::byte* words = run.planes[run.plane_count - 1] + token * (head_dim / 8);
  std::vector<int32_t> signs(head_dim);
  for (int i = 0; i < head_dim; ++i) signs[i] = reference::read_bit(words, i) ? 1 : -1;
  if (!projection.is_gaussian()) {
    reference::inverse_hadamard(projection.rotation, false, signs);
    for (int i = 0; i < head_dim; ++i) signs[i] *= projection.rotation.signs[i];
    return signs;
  }
  std::vector<int32_t> sums(head_dim);
  for (int i = 0; i < head_dim; ++i) {
    for (int k = 0; k < head_dim; ++k) {
      sums[k] += signs[i] * projection.gaussian[i * head_dim + k];
    }
  }
  return sums;
}

// Of signs that have this scale: what they say of the vector.
//
// No sum of the rotation is more than sqrt(d) times the length of P^T s, and that is sqrt(d) times
// P's largest stretch at most: below d^2 times 4096 of a Gaussian P, which 31 bits hold.
std::vector<float> read_correction(const DecodeRun& run, uint32_t token, float scale) {
  std::vector<int32_t> correction = read_signs(run, token);
  reference::inverse_hadamard(*run.rotation, false, correction);
  return reference::scaled(*run.rotation, scale, correction);
}

// arXiv 2504.19874, algorithm 2, with the residual taken where it is rotated.
bool encode_prod_vector(const EncodeRun& run, uint32_t token, std::vector<float>& values) {
  const float norm = reference::write_norm(run, token, values);
  if (std::isnan(norm)) return false;
  const CodeTables& tables = *run.tables;
  const float length = static_cast<float>(tables.input_scale << tables.input_shift);
  const float scale = norm > 0 ? length / norm : 0.0f;
  std::vector<int32_t> integers = reference::rotated(*run.rotation, scale, values);
  int64_t squared = 0;
  for (int i = 0; i < run.head_dim; ++i) {
    const uint32_t index = reference::write_index(run, token, i, integers[i] >> tables.input_shift);
    integers[i] = residual_of(tables, integers[i], tables.centroids[tables.bits - 1][index]);
    squared += int64_t{integers[i]} * integers[i];
  }
  const float unit = norm / residual_length(tables, run.head_dim);
  run.residual_norms[token] = reference::bf16_of(std::sqrt(static_cast<float>(squared)) * unit);
  write_signs(run, token, std::move(integers));
  return true;
}

bool encode_prod_run(const EncodeRun& run) {
  return reference::encode_tokens(run, encode_prod_vector);
}

// The norm is not matched, which would bend what the correction makes straight.
void decode_prod_vector(const DecodeRun& run, const ProductUnits& units, uint32_t token) {
  const CodeTables& tables = *run.tables;
  std::vector<int32_t> centroids = reference::read_centroids(run, token, tables.bits);
  reference::inverse_hadamard(*run.rotation, tables.bits <= narrow_planes_max(run.head_dim),
                              centroids);
  std::vector<float> values = reference::scaled(
      *run.rotation, reference::length_of(run.norms[token]) * units.centroids, centroids);
  const std::vector<float> correction =
      read_correction(run, token, reference::length_of(run.residual_norms[token]) * units.signs);
  for (int i = 0; i < run.head_dim; ++i) values[i] += correction[i];
  reference::store_vector(run, token, values);
}

void decode_prod_run(const DecodeRun& run) {
  if (run.residual_norms == nullptr) return reference_vector_codec().decode(run);
  const ProductUnits units = product_units(*run.projection, run.tables);
  for (uint32_t token = run.exact_token_count; token < run.token_count; ++token)
    decode_prod_vector(run, units, token);
}

bool encode_qjl_vector(const EncodeRun& run, uint32_t token, std::vector<float>& values) {
  const float norm = reference::write_norm(run, token, values);
  if (std::isnan(norm)) return false;
  const auto length = static_cast<float>(encoded_deviation(run.head_dim));
  const float scale = norm > 0 ? length / norm : 0.0f;
  write_signs(run, token, reference::rotated(*run.rotation, scale, values));
  return true;
}

bool encode_qjl_run(const EncodeRun& run) {
  return reference::encode_tokens(run, encode_qjl_vector);
}

void decode_qjl_run(const DecodeRun& run) {
  const ProductUnits units = product_units(*run.projection, nullptr);
  for (uint32_t token = run.exact_token_count; token < run.token_count; ++token) {
    const float scale = reference::length_of(run.norms[token]) * units.signs;
    reference::store_vector(run, token, read_correction(run, token, scale));
  }
}

}  // namespace

VectorCodec reference_prod_codec() {
  return {encode_prod_run, [](const DecodeRun& run) { for_each_head(run, decode_prod_run); },
          reference_score_run};
}
VectorCodec reference_qjl_codec() {
  return {encode_qjl_run, [](const DecodeRun& run) { for_each_head(run, decode_qjl_run); },
          reference_score_run};
}

}  // namespace hadal
