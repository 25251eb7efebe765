#include "client/llama/quality.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/llama/distributions.h"

namespace hadal {
namespace {

void compare(const Distributions& without, const Distributions& with, QualityReport& report) {
  for (size_t row = 0; row < without.row_count(); ++row) {
    const Divergence divergence = without.compare(row, with);
    report.mean_kl += divergence.kl;
    report.same_top_token += divergence.same_top_token;
  }
  report.tokens += without.row_count();
  report.bit_identical =
      report.bit_identical && std::memcmp(without.logits().data(), with.logits().data(),
                                          without.logits().size() * sizeof(float)) == 0;
}

struct CaseTokens {
  Tokens prefix, continued;
};

absl::StatusOr<CaseTokens> cut(const LlamaEngine& engine, const QualityCase& quality_case) {
  const Tokens tokens = engine.tokenize_plain(quality_case.text);
  const size_t wanted = quality_case.prefix_tokens + quality_case.continued_tokens;
  if (tokens.size() < wanted) {
    return absl::InvalidArgumentError(absl::StrCat("text has ", tokens.size(), " tokens; ", wanted,
                                                   " are needed; give a longer one"));
  }
  const auto middle = tokens.begin() + quality_case.prefix_tokens;
  return CaseTokens{Tokens(tokens.begin(), middle),
                    Tokens(middle, middle + quality_case.continued_tokens)};
}

struct Bench {
  LlamaEngine& engine;
  PrefixCache& cache;
  bool against_own_restore;
};

absl::Status measure_case(const Bench& bench, const CaseTokens& tokens, QualityReport& report) {
  auto& [engine, cache, against_own_restore] = bench;
  engine.clear();
  absl::Status status = engine.append_to_save(tokens.prefix);
  if (!status.ok()) return status;
  std::vector<std::byte> blob = engine.save();
  if (against_own_restore) {
    engine.clear();
    status = engine.restore(blob);
    if (!status.ok()) return status;
  }
  std::vector<float> without;
  status = engine.append(tokens.continued, &without);
  if (!status.ok()) return status;

  absl::StatusOr<TransferReport> put = cache.put(tokens.prefix, absl::MakeSpan(blob));
  if (!put.ok()) return put.status();
  TransferReport got;
  absl::StatusOr<std::vector<std::byte>> restored = cache.get(tokens.prefix, got);
  if (!restored.ok()) return restored.status();
  if (got.tokens != tokens.prefix.size()) {
    return absl::UnavailableError(absl::StrCat("only ", got.tokens, " of ", tokens.prefix.size(),
                                               " tokens came back: ", put->first_failure, " ",
                                               got.first_failure));
  }
  engine.clear();
  status = engine.restore(*restored);
  if (!status.ok()) return status;
  std::vector<float> with;
  status = engine.append(tokens.continued, &with);
  if (!status.ok()) return status;
  const size_t vocabulary = engine.vocabulary_size();
  compare(Distributions(std::move(without), vocabulary), Distributions(std::move(with), vocabulary),
          report);
  report.raw_bytes += got.raw_bytes;
  report.encoded_bytes += got.encoded_bytes;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<QualityReport> measure_quality(LlamaEngine& engine, PrefixCache& cache,
                                              const std::vector<QualityCase>& cases,
                                              bool against_own_restore) {
  QualityReport report;
  for (const QualityCase& quality_case : cases) {
    absl::StatusOr<CaseTokens> tokens = cut(engine, quality_case);
    if (!tokens.ok()) return tokens.status();
    absl::Status status = measure_case({engine, cache, against_own_restore}, *tokens, report);
    if (!status.ok()) return status;
  }
  if (report.tokens == 0) return absl::InvalidArgumentError("no quality cases were given");
  report.mean_kl /= static_cast<double>(report.tokens);
  report.same_top_token /= static_cast<double>(report.tokens);
  return report;
}

}  // namespace hadal
