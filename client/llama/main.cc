// hadal-llama: a language model on llama.cpp whose KV blocks live in Hadal.
//
//   hadal-llama ask      answers a question about a document, reusing what Hadal holds of it
//   hadal-llama quality  compares next-token distributions with and without Hadal
//
// Each prints one JSON object. Exit code 2 for usage, 1 for the rest.

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/llama/llama_engine.h"
#include "client/llama/prefix_cache.h"
#include "client/llama/quality.h"
#include "client/usage.h"

namespace {

using nlohmann::json;

constexpr int kMaxTokens = 1 << 20;  // of a context, an answer or a part of a case
constexpr size_t kMaxDocumentBytes = 16 << 20;

struct Options {
  std::string model, document, question;
  hadal::PrefixCacheConfig cache;
  bool store = false;
  int answer_tokens = 24;
  uint32_t context_tokens = 4096;
  int timeout_ms = 2000;
  std::vector<std::string> cases;  // path:prefix:continued
};

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

// NotFound where it cannot be read, InvalidArgument where it is no text to work with.
absl::StatusOr<std::string> read_file(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", path, "' is a directory; name a text file"));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxDocumentBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad()) {
    return absl::NotFoundError(absl::StrCat("cannot read '", path, "'; name a readable text file"));
  }
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxDocumentBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", path, "' is longer than ", kMaxDocumentBytes, " bytes; name a shorter one"));
  }
  if (absl::StripAsciiWhitespace(text).empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", path, "' is empty; name a file with text in it"));
  }
  return text;
}

absl::Status check_fits(absl::string_view what, size_t needed_tokens, const Options& options) {
  if (needed_tokens <= options.context_tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " need ", needed_tokens,
                                                 " tokens and --context-tokens is ",
                                                 options.context_tokens, "; raise it"));
}

json transfer_json(const hadal::TransferReport& report) {
  return {{"tokens", report.tokens},
          {"raw_bytes", report.raw_bytes},
          {"encoded_bytes", report.encoded_bytes},
          {"wire_bytes", report.wire_bytes},
          {"dram_blocks", report.dram_blocks},
          {"nvme_blocks", report.nvme_blocks},
          {"duplicate_blocks", report.duplicate_blocks},
          {"first_failure", report.first_failure}};
}

// The prompt in two parts: what can be reused, and the question.
using Prompt = std::pair<hadal::Tokens, hadal::Tokens>;

// Engine and, unless it runs without Hadal, cache.
struct Serving {
  hadal::LlamaEngine& engine;
  hadal::PrefixCache* cache;
};

// Fills the sequence with the document, from Hadal as far as it goes. Never fails because of Hadal.
absl::Status fill_document(const Serving& serving, bool store, const hadal::Tokens& document,
                           json& out) {
  auto& [engine, cache] = serving;
  uint32_t reused = 0;
  if (cache != nullptr) {
    const auto start = std::chrono::steady_clock::now();
    hadal::TransferReport report;
    absl::StatusOr<std::vector<std::byte>> blob = cache->get(document, report);
    if (!blob.ok()) report.first_failure = blob.status().ToString();
    out["get"] = transfer_json(report);
    out["get_decoded_ms"] = milliseconds_since(start);
    if (blob.ok() && !blob->empty() && engine.restore(*blob).ok()) reused = report.tokens;
    out["restore_ms"] = milliseconds_since(start) - out["get_decoded_ms"].get<double>();
  }
  out["reused_tokens"] = reused;
  const auto rest = absl::MakeConstSpan(document).subspan(reused);
  return store ? engine.append_to_save(rest) : engine.append(rest, nullptr);
}

absl::Status ask_with(const Serving& serving, const Options& options, const Prompt& prompt,
                      json& out) {
  auto& [engine, cache] = serving;
  const auto start = std::chrono::steady_clock::now();
  absl::Status status = fill_document(serving, options.store, prompt.first, out);
  if (!status.ok()) return status;
  std::vector<std::byte> blob;
  if (options.store) blob = engine.save();
  status = engine.append(prompt.second, nullptr);
  if (!status.ok()) return status;
  const llama_token first = engine.best_token();
  out["ttft_ms"] = milliseconds_since(start);
  absl::StatusOr<std::string> answer = engine.answer(first, options.answer_tokens);
  if (!answer.ok()) return answer.status();
  out["answer"] = *answer;
  if (!options.store || cache == nullptr) return absl::OkStatus();
  const auto put_start = std::chrono::steady_clock::now();
  absl::StatusOr<hadal::TransferReport> put = cache->put(prompt.first, absl::MakeSpan(blob));
  if (!put.ok()) return put.status();
  out["put"] = transfer_json(*put);
  out["put_ms"] = milliseconds_since(put_start);
  return absl::OkStatus();
}

absl::StatusOr<json> ask(const Options& options) {
  // The prompt is cut into document and question where the question begins.
  if (absl::StripAsciiWhitespace(options.question).empty()) {
    return absl::InvalidArgumentError("--question is empty; ask something");
  }
  absl::StatusOr<std::string> document = read_file(options.document);
  if (!document.ok()) return document.status();
  auto engine = hadal::LlamaEngine::load(options.model, {options.context_tokens});
  if (!engine.ok()) return engine.status();
  std::unique_ptr<hadal::PrefixCache> cache;
  if (!options.cache.nodes.empty()) {
    auto made = hadal::PrefixCache::create(**engine, options.cache);
    if (!made.ok()) return made.status();
    cache = *std::move(made);
  }
  absl::StatusOr<Prompt> prompt = (*engine)->tokenize(*document, options.question);
  if (!prompt.ok()) return prompt.status();
  absl::Status fits = check_fits(
      "document, question and answer",
      prompt->first.size() + prompt->second.size() + static_cast<size_t>(options.answer_tokens),
      options);
  if (!fits.ok()) return fits;
  json out = {{"document_tokens", prompt->first.size()},
              {"prompt_tokens", prompt->first.size() + prompt->second.size()},
              {"block_tokens", options.cache.block_tokens},
              {"codec", options.cache.codec},
              {"transport", cache ? cache->transport_description() : "none"}};
  absl::Status status = ask_with({**engine, cache.get()}, options, *prompt, out);
  if (!status.ok()) return status;
  return out;
}

absl::StatusOr<uint32_t> parse_tokens(absl::string_view text, absl::string_view of_case) {
  uint32_t tokens = 0;
  if (!absl::SimpleAtoi(text, &tokens) || tokens == 0 || tokens > kMaxTokens) {
    return absl::InvalidArgumentError(absl::StrCat("--case is '", of_case, "'; '", text,
                                                   "' is not a number of tokens from 1 to ",
                                                   kMaxTokens));
  }
  return tokens;
}

absl::StatusOr<hadal::QualityCase> parse_case(absl::string_view text, const Options& options) {
  // The file's name may have colons.
  const size_t last = text.rfind(':');
  const size_t middle =
      last == text.npos || last == 0 ? absl::string_view::npos : text.rfind(':', last - 1);
  if (middle == text.npos || middle == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--case is '", text, "'; write FILE:PREFIX_TOKENS:CONTINUED_TOKENS"));
  }
  absl::StatusOr<uint32_t> prefix = parse_tokens(text.substr(middle + 1, last - middle - 1), text);
  if (!prefix.ok()) return prefix.status();
  absl::StatusOr<uint32_t> continued = parse_tokens(text.substr(last + 1), text);
  if (!continued.ok()) return continued.status();
  absl::Status fits = check_fits("a case's tokens", size_t{*prefix} + *continued, options);
  if (!fits.ok()) return fits;
  absl::StatusOr<std::string> content = read_file(std::string(text.substr(0, middle)));
  if (!content.ok()) return content.status();
  return hadal::QualityCase{*std::move(content), *prefix, *continued};
}

absl::StatusOr<json> quality(const Options& options) {
  std::vector<hadal::QualityCase> cases;
  for (const std::string& text : options.cases) {
    absl::StatusOr<hadal::QualityCase> parsed = parse_case(text, options);
    if (!parsed.ok()) return parsed.status();
    cases.push_back(*std::move(parsed));
  }
  auto engine = hadal::LlamaEngine::load(options.model, {options.context_tokens});
  if (!engine.ok()) return engine.status();
  auto cache = hadal::PrefixCache::create(**engine, options.cache);
  if (!cache.ok()) return cache.status();
  const bool own_restore = (*engine)->has_sliding_window();
  auto report = hadal::measure_quality(**engine, **cache, cases, own_restore);
  if (!report.ok()) return report.status();
  return json{{"tokens", report->tokens},
              {"mean_kl", report->mean_kl},
              {"same_top_token", report->same_top_token},
              {"bit_identical", report->bit_identical},
              {"against", own_restore ? "own save and restore" : "no restore"},
              {"raw_bytes", report->raw_bytes},
              {"encoded_bytes", report->encoded_bytes},
              {"codec", options.cache.codec}};
}

void add_common(CLI::App* command, Options& options) {
  command->add_option("--model", options.model, "gguf file")->required();
  command->add_option("--nodes", options.cache.nodes, "hadald nodes, host:port[,host:port]");
  command
      ->add_option("--codec", options.cache.codec, "k1v1 to k8v8, raw, or another of docs/codec.md")
      ->capture_default_str();
  command->add_option("--transport", options.cache.transport, "auto or tcp")->capture_default_str();
  command->add_option("--block-tokens", options.cache.block_tokens, "tokens a block")
      ->capture_default_str()
      ->check(CLI::Range(1, 65536));
  command->add_option("--context-tokens", options.context_tokens, "most tokens of a sequence")
      ->capture_default_str()
      ->check(CLI::Range(256, kMaxTokens));  // llama.cpp makes no smaller one
  command->add_option("--timeout-ms", options.timeout_ms, "of one put or get")
      ->capture_default_str()
      ->check(CLI::Range(1, 600000));
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("A language model on llama.cpp whose KV blocks live in Hadal");
  app.require_subcommand(1);
  CLI::App* ask_command = app.add_subcommand("ask", "Answer a question about a document");
  add_common(ask_command, options);
  ask_command->add_option("--document", options.document, "text file")->required();
  ask_command->add_option("--question", options.question, "what to ask")->required();
  ask_command->add_option("--answer-tokens", options.answer_tokens, "most tokens of the answer")
      ->capture_default_str()
      ->check(CLI::Range(1, kMaxTokens));
  ask_command->add_flag("--store", options.store, "store the document's KV in Hadal");
  CLI::App* quality_command = app.add_subcommand("quality", "Compare with and without Hadal");
  add_common(quality_command, options);
  quality_command->add_option("--case", options.cases, "FILE:PREFIX_TOKENS:CONTINUED_TOKENS")
      ->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    std::cerr << "hadal-llama: " << hadal::usage_problem(app, error) << "\n";
    return 2;
  }
  options.cache.timeout = absl::Milliseconds(options.timeout_ms);
  absl::StatusOr<json> out = ask_command->parsed() ? ask(options) : quality(options);
  if (!out.ok()) {
    std::cerr << "hadal-llama: " << out.status().message() << "\n";
    return out.status().code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
  }
  // Answers of a model may be cut inside a character.
  std::cout << out->dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
  return 0;
}
