// The entropy-coded trellis quantiser in plain loops, one vector at a time.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/reference_math.h"
#include "kernels/tqe.h"

namespace hadal {
namespace {

// A value of a coset and what it costs.
struct Choice {
  int32_t value, cost;
};

// The nearest value of 8 Z + 2 coset + 1.
Choice nearest(int coset, int32_t target) {
  constexpr int32_t kPeriod = 8 * kTqeUnit;
  const int32_t offset = (2 * coset + 1) * kTqeUnit;
  const int32_t multiple = (target - offset + kPeriod / 2) >> (kTqeUnitBits + 3);
  const int32_t error = target - offset - multiple * kPeriod;
  const int32_t quotient = multiple < 0 ? -multiple - 1 : multiple;
  return {8 * multiple + 2 * coset + 1, error * error + kTqeQuotientCost * quotient};
}

// Viterbi's metrics of one value: of all states, and which predecessor of theirs was better.
using Metrics = std::array<int32_t, kTqeStates>;

// The coset that values take between two states; the later one's bit 0 is the input.
int coset_between(uint32_t state, uint32_t input) {
  const uint32_t low = state >> 1 & 1u;
  const uint32_t high = (input ^ state ^ state >> 1 ^ state >> 2) & 1u;
  return static_cast<int>(2 * high + low);
}

// Of the two states that lead to `next` the one whose oldest input is 1 or, if not, 0.
uint32_t predecessor(uint32_t next, uint32_t oldest) { return next >> 1 | oldest << 2; }

}  // namespace

void quantise_tqe(const int32_t* targets, int head_dim, int32_t* values) {
  std::vector<std::array<Choice, kTqeCosets>> choices(head_dim);
  std::vector<std::array<uint32_t, kTqeStates>> oldest(head_dim);
  Metrics metrics;
  metrics.fill(kTqeBarred);
  metrics[0] = 0;
  for (int i = 0; i < head_dim; ++i) {
    for (int coset = 0; coset < kTqeCosets; ++coset) choices[i][coset] = nearest(coset, targets[i]);
    Metrics next;
    for (uint32_t state = 0; state < kTqeStates; ++state) {
      const auto through = [&](uint32_t bit) {
        const uint32_t before = predecessor(state, bit);
        return metrics[before] + choices[i][coset_between(before, state & 1u)].cost;
      };
      oldest[i][state] = through(1) < through(0);
      next[state] = through(oldest[i][state]);
    }
    metrics = next;
  }
  // The first of the best.
  auto state =
      static_cast<uint32_t>(std::min_element(metrics.begin(), metrics.end()) - metrics.begin());
  for (int i = head_dim - 1; i >= 0; --i) {
    const uint32_t before = predecessor(state, oldest[i][state]);
    values[i] = choices[i][coset_between(before, state & 1u)].value;
    state = before;
  }
}

namespace {

void encode_words(const std::vector<int32_t>& rotated, std::byte* slot) {
  const auto head_dim = static_cast<int>(rotated.size());
  uint32_t magnitudes = 0;
  for (const int32_t value : rotated) magnitudes += static_cast<uint32_t>(std::abs(value));
  std::vector<int32_t> targets(head_dim), values(head_dim);
  TqeSearch search(head_dim, magnitudes);
  while (!search.done()) {
    for (int i = 0; i < head_dim; ++i) {
      targets[i] = (rotated[i] * search.multiplier() + (1 << 14)) >> 15;
    }
    quantise_tqe(targets.data(), head_dim, values.data());
    const int32_t quotients = tqe_quotients(values.data(), head_dim);
    if (search.fits(quotients)) write_tqe_slot(values.data(), head_dim, slot);
    search.advance(quotients);
  }
}

bool encode_vector(const EncodeRun& run, uint32_t token, std::vector<float>& values) {
  const float norm = reference::write_norm(run, token, values);
  if (std::isnan(norm)) return false;
  const auto length = static_cast<float>(encoded_deviation(run.head_dim));
  const float scale = norm > 0 ? length / norm : 0.0f;
  encode_words(reference::rotated(*run.rotation, scale, values),
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

VectorCodec reference_tqe_codec() { return {encode_run, decode_run}; }

}  // namespace hadal
