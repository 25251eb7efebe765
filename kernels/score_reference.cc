// Inner products with encoded vectors in plain loops.

#include <cmath>

#include "kernels/projection.h"
#include "kernels/reference_math.h"

namespace hadal {
namespace {

struct CentroidSums {
  double product = 0;  // with the rotated query
  int64_t squares = 0;
};
CentroidSums centroid_sums(const DecodeRun& run, uint32_t token, int planes, const float* query) {
  CentroidSums sums;
  for (const int32_t centroid : reference::read_centroids(run, token, planes)) {
    sums.product += double{*query++} * centroid;
    sums.squares += int64_t{centroid} * centroid;
  }
  return sums;
}

// Of the last plane's signs with the projected query.
double sign_sum(const DecodeRun& run, uint32_t token, const float* query) {
  const std::byte* words = run.planes[run.plane_count - 1] + token * (run.head_dim / 8);
  double sum = 0;
  for (int i = 0; i < run.head_dim; ++i) {
    sum += reference::read_bit(words, i) ? double{query[i]} : -double{query[i]};
  }
  return sum;
}

double score(const ScoreRun& scored, uint32_t token) {
  const DecodeRun& run = scored.vectors;
  const double norm = reference::length_of(run.norms[token]);
  if (run.tables == nullptr) {  // QJL
    const double unit = product_units(*run.projection, nullptr).signs;
    return norm * unit * sign_sum(run, token, scored.projected);
  }
  const bool corrected = run.residual_norms != nullptr;
  const int planes = corrected ? run.tables->bits : run.plane_count;
  const CentroidSums sums = centroid_sums(run, token, planes, scored.rotated);
  if (!corrected) {
    return norm * sums.product / std::sqrt(static_cast<double>(sums.squares) * run.head_dim);
  }
  const ProductUnits units = product_units(*run.projection, run.tables);
  return norm * units.centroids * sums.product + reference::length_of(run.residual_norms[token]) *
                                                     double{units.signs} *
                                                     sign_sum(run, token, scored.projected);
}

}  // namespace

void reference_score_run(const ScoreRun& run) {
  const DecodeRun& vectors = run.vectors;
  for (uint32_t token = vectors.exact_token_count; token < vectors.token_count; ++token) {
    run.scores[token] = static_cast<float>(score(run, token));
  }
}

}  // namespace hadal
