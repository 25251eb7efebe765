#pragma once

#include <cstddef>
#include <vector>

#include "absl/types/span.h"

namespace hadal {

// How another distribution of the same next token differs.
struct Divergence {
  double kl = 0;  // KL(this one || the other), nats
  bool same_top_token = false;
};

// Next-token distributions of a run of tokens, kept so that others can be compared with them: two
// floats a token of vocabulary and row. Immutable, thread safe.
class Distributions {
 public:
  // `logits` are rows of `vocabulary`, a whole number of them.
  Distributions(std::vector<float> logits, size_t vocabulary);

  size_t row_count() const { return logits_.size() / vocabulary_; }
  absl::Span<const float> row(size_t index) const {
    return absl::MakeConstSpan(logits_).subspan(index * vocabulary_, vocabulary_);
  }
  const std::vector<float>& logits() const { return logits_; }
  // Nats that the row gives `token`, its -log p.
  double surprise(size_t index, size_t token) const;
  Divergence compare(size_t index, const Distributions& other) const;

 private:
  std::vector<float> logits_;
  std::vector<float> probabilities_;
  std::vector<double> log_sums_;  // log of the sum of exp(logit), by row
  size_t vocabulary_;
};

}  // namespace hadal
