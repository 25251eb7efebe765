#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/llama/llama_engine.h"
#include "client/llama/prefix_cache.h"

namespace hadal {

// How far a model's next-token distributions move when its prefix came back through Hadal.
struct QualityReport {
  uint64_t tokens = 0;        // teacher-forced tokens compared
  double mean_kl = 0;         // KL(without Hadal || with Hadal), nats a token
  double same_top_token = 0;  // share of tokens with the same most likely next token
  bool bit_identical = true;  // every logit
  uint64_t raw_bytes = 0, encoded_bytes = 0;
};

struct QualityCase {
  std::string text;
  uint32_t prefix_tokens = 0;
  uint32_t continued_tokens = 0;
};

// For each case: the prefix is computed, stored, forgotten, fetched and restored, and the tokens
// after it are run through the model both ways, with the same batch boundaries. Where
// `against_own_restore`, the way without Hadal saves and restores with llama.cpp alone (models with
// sliding windows are not bit-identical to themselves after that). Errors where a prefix does not
// come back whole.
absl::StatusOr<QualityReport> measure_quality(LlamaEngine& engine, PrefixCache& cache,
                                              const std::vector<QualityCase>& cases,
                                              bool against_own_restore);

}  // namespace hadal
