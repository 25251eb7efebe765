#include "client/llama/distributions.h"

#include <algorithm>
#include <cmath>

namespace hadal {
namespace {

size_t top(absl::Span<const float> row) {
  return static_cast<size_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

}  // namespace

Distributions::Distributions(std::vector<float> logits, size_t vocabulary)
    : logits_(std::move(logits)), probabilities_(logits_.size()), vocabulary_(vocabulary) {
  for (size_t index = 0; index < row_count(); ++index) {
    const absl::Span<const float> values = row(index);
    const float largest = *std::max_element(values.begin(), values.end());
    float* probabilities = &probabilities_[index * vocabulary_];
    double sum = 0;
    for (size_t i = 0; i < vocabulary_; ++i) {
      probabilities[i] = std::exp(values[i] - largest);
      sum += probabilities[i];
    }
    for (size_t i = 0; i < vocabulary_; ++i) {
      probabilities[i] = static_cast<float>(probabilities[i] / sum);
    }
    log_sums_.push_back(largest + std::log(sum));
  }
}

double Distributions::surprise(size_t index, size_t token) const {
  return log_sums_[index] - row(index)[token];
}

Divergence Distributions::compare(size_t index, const Distributions& other) const {
  const absl::Span<const float> mine = row(index), theirs = other.row(index);
  const float* probabilities = &probabilities_[index * vocabulary_];
  // The sum of p (log p - log q), in which both normalisations come out of the sum.
  double kl = other.log_sums_[index] - log_sums_[index];
  for (size_t i = 0; i < vocabulary_; ++i) {
    kl += double{probabilities[i]} * (double{mine[i]} - double{theirs[i]});
  }
  return {kl, top(mine) == top(theirs)};
}

}  // namespace hadal
