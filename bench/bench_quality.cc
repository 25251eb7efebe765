// How far stored KV moves a model: a text's first tokens are computed, stored as each variant says
// and restored; then the tokens after them are run through the model, teacher-forced, and their
// next-token distributions compared with those after llama.cpp's own save and restore.
// bench_quality.py runs it for every model and text.

#include <ggml.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "bench/quality_variant.h"
#include "bench/report.h"
#include "client/llama/distributions.h"

namespace hadal::bench {
namespace {

using nlohmann::ordered_json;

struct Options {
  std::string model, text, tokens_out;
  std::vector<std::string> variants;
  uint32_t prefix_tokens = 1024, continued_tokens = 256, block_tokens = 64;
};

// One model and one text, cut in two.
class Scene {
 public:
  static absl::StatusOr<std::unique_ptr<Scene>> make(const Options& options) {
    auto scene = std::make_unique<Scene>();
    scene->options_ = options;
    auto engine = LlamaEngine::load(options.model, {scene->context_tokens()});
    if (!engine.ok()) return engine.status();
    scene->engine_ = *std::move(engine);
    absl::Status status = scene->cut();
    if (status.ok()) status = scene->engine_->append_to_save(scene->prefix_);
    if (!status.ok()) return status;
    scene->blob_ = scene->engine_->save();
    absl::StatusOr<Distributions> own = scene->after(scene->blob_);
    if (!own.ok()) return own.status();
    scene->own_ = std::make_unique<Distributions>(*std::move(own));
    return scene;
  }

  // A row of the report, and with it figures of every token.
  absl::StatusOr<ordered_json> measure(const Variant& variant) {
    if (variant.kind == Variant::Kind::cache) {
      absl::StatusOr<Distributions> other = with_cache(variant.type);
      if (!other.ok()) return other.status();
      return compare(variant, *other, type_share(variant.type));
    }
    absl::StatusOr<StoredSequence> stored =
        store_sequence(*engine_, variant, options_.block_tokens, blob_);
    if (!stored.ok()) return stored.status();
    absl::StatusOr<Distributions> other = after(stored->blob);
    if (!other.ok()) return other.status();
    return compare(
        variant, *other,
        static_cast<double>(stored->stored_bytes) / static_cast<double>(stored->raw_bytes));
  }

  const LlamaEngine& engine() const { return *engine_; }

 private:
  uint32_t context_tokens() const {
    return options_.prefix_tokens + options_.continued_tokens + 16;
  }

  absl::Status cut() {
    std::ifstream file(options_.text, std::ios::binary);
    std::stringstream content;
    content << file.rdbuf();
    if (!file) return absl::NotFoundError(absl::StrCat("cannot read '", options_.text, "'"));
    const Tokens tokens = engine_->tokenize_plain(content.str());
    const size_t wanted = size_t{options_.prefix_tokens} + options_.continued_tokens;
    if (tokens.size() < wanted) {
      return absl::InvalidArgumentError(absl::StrCat("'", options_.text, "' has ", tokens.size(),
                                                     " tokens; ", wanted, " are needed"));
    }
    const auto middle = tokens.begin() + options_.prefix_tokens;
    prefix_.assign(tokens.begin(), middle);
    continued_.assign(middle, middle + options_.continued_tokens);
    return absl::OkStatus();
  }

  absl::StatusOr<Distributions> after(const std::vector<std::byte>& blob) {
    engine_->clear();
    absl::Status status = engine_->restore(blob);
    std::vector<float> logits;
    if (status.ok()) status = engine_->append(continued_, &logits);
    if (!status.ok()) return status;
    return Distributions(std::move(logits), engine_->vocabulary_size());
  }

  absl::StatusOr<Distributions> with_cache(ggml_type type) {
    auto engine = LlamaEngine::load(options_.model, {context_tokens(), type});
    if (!engine.ok()) return engine.status();
    absl::Status status = (*engine)->append(prefix_, nullptr);
    std::vector<float> logits;
    if (status.ok()) status = (*engine)->append(continued_, &logits);
    if (!status.ok()) return status;
    return Distributions(std::move(logits), engine_->vocabulary_size());
  }

  ordered_json compare(const Variant& variant, const Distributions& other, double share) const {
    double kl_sum = 0, same_sum = 0, surprise_sum = 0;
    ordered_json kl, same, surprise;
    for (size_t row = 0; row < own_->row_count(); ++row) {
      const Divergence divergence = own_->compare(row, other);
      kl_sum += divergence.kl;
      same_sum += divergence.same_top_token;
      kl.push_back(divergence.kl);
      same.push_back(divergence.same_top_token ? 1 : 0);
      if (row + 1 == own_->row_count()) continue;  // what came next is beyond the text
      const auto next = static_cast<size_t>(continued_[row + 1]);
      surprise.push_back(other.surprise(row, next) - own_->surprise(row, next));
      surprise_sum += surprise.back().get<double>();
    }
    const auto rows = static_cast<double>(own_->row_count());
    return {{"variant", variant.name},
            {"bits_per_value", 16 * share},
            {"stored_ratio", 1 / share},
            {"mean_kl", kl_sum / rows},
            {"same_top_token", same_sum / rows},
            {"perplexity_change", std::exp(surprise_sum / (rows - 1)) - 1},
            {"kl", std::move(kl)},
            {"same", std::move(same)},
            {"surprise", std::move(surprise)}};
  }

  Options options_;
  std::unique_ptr<LlamaEngine> engine_;
  Tokens prefix_, continued_;
  std::vector<std::byte> blob_;
  std::unique_ptr<Distributions> own_;
};

void add_options(CLI::App& app, Options& options) {
  app.add_option("variants", options.variants,
                 "codecs (k5v4), codecs read in part (k5v4>k4v3), rows:TYPE, cache:TYPE")
      ->required();
  app.add_option("--model", options.model, "gguf file")->required();
  app.add_option("--text", options.text, "text file")->required();
  app.add_option("--prefix-tokens", options.prefix_tokens, "tokens that are stored")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--continued-tokens", options.continued_tokens, "tokens after them")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 20));
  app.add_option("--block-tokens", options.block_tokens, "tokens a block")
      ->capture_default_str()
      ->check(CLI::Range(1, 65536));
  app.add_option("--tokens-out", options.tokens_out, "file for the figures of every token");
}

absl::Status run(const Options& options, Report& report) {
  std::vector<Variant> variants;
  for (const std::string& name : options.variants) {
    absl::StatusOr<Variant> variant = parse_variant(name);
    if (!variant.ok()) return variant.status();
    variants.push_back(*std::move(variant));
  }
  absl::StatusOr<std::unique_ptr<Scene>> scene = Scene::make(options);
  if (!scene.ok()) return scene.status();
  ordered_json every_token = ordered_json::object();
  for (const Variant& variant : variants) {
    report.say(variant.name);
    absl::StatusOr<ordered_json> row = (*scene)->measure(variant);
    if (!row.ok()) return row.status();
    every_token[variant.name] = *row;
    for (const char* list : {"kl", "same", "surprise"}) row->erase(list);
    report.add(*std::move(row));
  }
  report.set("text", std::filesystem::path(options.text).stem().string());
  report.set("prefix_tokens", options.prefix_tokens);
  report.set("continued_tokens", options.continued_tokens);
  if (options.tokens_out.empty()) return absl::OkStatus();
  std::ofstream file(options.tokens_out);
  file << every_token.dump() << "\n";
  file.close();
  if (file) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot write '", options.tokens_out, "'"));
}

}  // namespace
}  // namespace hadal::bench

int main(int argc, char** argv) {
  hadal::bench::Report report("bench_quality", "What stored KV does to a model's distributions");
  hadal::bench::Options options;
  hadal::bench::add_options(report.options(), options);
  if (const std::optional<int> exit_code = report.parse(argc, argv)) return *exit_code;
  const absl::Status status = hadal::bench::run(options, report);
  if (!status.ok()) {
    std::cerr << "bench_quality: " << status.message() << "\n";
    return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
  }
  return report.finish();
}
