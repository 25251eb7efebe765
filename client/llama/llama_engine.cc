#include "client/llama/llama_engine.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace hadal {
namespace {

constexpr int kBatchTokens = 512;

absl::StatusOr<std::string> file_sha256(const std::string& path) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) {
    return absl::NotFoundError(absl::StrCat("cannot open model '", path, "'; name a gguf file"));
  }
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> digest(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr);
  std::vector<char> buffer(1 << 20);
  while (const size_t count = std::fread(buffer.data(), 1, buffer.size(), file.get())) {
    EVP_DigestUpdate(digest.get(), buffer.data(), count);
  }
  if (std::ferror(file.get())) {
    return absl::UnavailableError(absl::StrCat("cannot read model '", path, "' to its end"));
  }
  std::array<unsigned char, 32> bytes;
  EVP_DigestFinal_ex(digest.get(), bytes.data(), nullptr);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

void log_errors_only(ggml_log_level level, const char* text, void*) {
  if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

// head_dim from the gguf, else embedding over heads: what llama.cpp does.
uint32_t model_head_dim(const llama_model* model) {
  std::array<char, 128> text;
  std::string architecture;
  if (llama_model_meta_val_str(model, "general.architecture", text.data(), text.size()) > 0) {
    architecture = text.data();
  }
  uint32_t head_dim = 0;
  const std::string key = architecture + ".attention.key_length";
  if (llama_model_meta_val_str(model, key.c_str(), text.data(), text.size()) > 0 &&
      absl::SimpleAtoi(text.data(), &head_dim) && head_dim > 0) {
    return head_dim;
  }
  return static_cast<uint32_t>(llama_model_n_embd(model) / llama_model_n_head(model));
}

}  // namespace

absl::StatusOr<std::unique_ptr<LlamaEngine>> LlamaEngine::load(const std::string& model_path,
                                                               const LlamaOptions& options) {
  absl::StatusOr<std::string> file_digest = file_sha256(model_path);
  if (!file_digest.ok()) return file_digest.status();
  llama_log_set(log_errors_only, nullptr);
  llama_backend_init();
  auto engine = std::make_unique<LlamaEngine>();
  llama_model_params model_params = llama_model_default_params();
  model_params.n_gpu_layers = 0;
  engine->model_.reset(llama_model_load_from_file(model_path.c_str(), model_params));
  if (!engine->model_) {
    return absl::InvalidArgumentError(absl::StrCat("llama.cpp cannot load '", model_path,
                                                   "'; name a gguf file that it supports"));
  }
  llama_context_params params = llama_context_default_params();
  params.n_ctx = options.context_tokens;
  params.type_k = params.type_v = options.cache_type;
  params.n_batch = kBatchTokens;
  params.n_ubatch = kBatchTokens;
  params.n_threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  params.n_threads_batch = params.n_threads;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;  // V rows token-major
  params.swa_full = true;  // every token's KV is kept, so any prefix can be cut
  engine->context_.reset(llama_init_from_model(engine->model_.get(), params));
  if (!engine->context_) {
    return absl::ResourceExhaustedError(absl::StrCat("llama.cpp cannot make a context of ",
                                                     options.context_tokens, " tokens for '",
                                                     model_path, "'; use a shorter document"));
  }
  const auto window = static_cast<size_t>(std::max(0, llama_model_n_swa(engine->model_.get())));
  engine->batch_tokens_ = window > 0 ? std::min<size_t>(kBatchTokens, window) : kBatchTokens;
  engine->vocabulary_ = llama_model_get_vocab(engine->model_.get());
  engine->vocabulary_size_ = static_cast<size_t>(llama_vocab_n_tokens(engine->vocabulary_));
  engine->head_dim_ = model_head_dim(engine->model_.get());
  engine->fingerprint_ =
      absl::StrCat("gguf sha256 ", *file_digest, "; sequence state ", LLAMA_STATE_SEQ_VERSION, "; ",
                   ggml_type_name(options.cache_type), "; flash attention; full swa");
  if (options.cache_type != GGML_TYPE_F16) return engine;
  absl::Status status = engine->learn_shape();
  if (!status.ok()) return status;
  return engine;
}

// One token through the model: warms it up, and its saved state shows how KV lies in a blob.
absl::Status LlamaEngine::learn_shape() {
  const llama_token token = std::max(0, llama_vocab_bos(vocabulary_));
  absl::Status status = append({&token, 1}, nullptr);
  if (!status.ok()) return status;
  absl::StatusOr<SequenceBlob> shape = SequenceBlob::parse(save_state());
  if (!shape.ok()) return shape.status();
  blob_shape_ = *std::move(shape);
  clear();
  const BlobLayer& first = blob_shape_.layers().front();
  for (const BlobLayer& layer : blob_shape_.layers()) {
    if (layer.key.row_bytes != first.key.row_bytes ||
        layer.value.row_bytes != first.value.row_bytes ||
        layer.key.row_bytes != layer.value.row_bytes) {
      return absl::FailedPreconditionError(
          "the model's layers have KV rows of different width; such models are not supported yet");
    }
  }
  if (blob_shape_.value_type() != GGML_TYPE_F16 || first.key.row_bytes % (2 * head_dim_) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("KV rows of ", first.key.row_bytes, " bytes and ggml type ",
                     blob_shape_.value_type(), " are not f16 with head_dim ", head_dim_));
  }
  return absl::OkStatus();
}

KvLayout LlamaEngine::layout(uint32_t block_tokens) const {
  KvLayout layout;
  layout.dtype = DType::f16;
  layout.layer_count = static_cast<uint16_t>(blob_shape_.layers().size());
  layout.kv_head_count =
      static_cast<uint16_t>(blob_shape_.layers().front().key.row_bytes / (2 * head_dim_));
  layout.key_head_dim = layout.value_head_dim = static_cast<uint16_t>(head_dim_);
  layout.block_tokens = block_tokens;
  return layout;
}

Tokens LlamaEngine::tokenize_plain(const std::string& text) const {
  Tokens tokens(text.size() + 8);
  const int count =
      llama_tokenize(vocabulary_, text.c_str(), static_cast<int>(text.size()), tokens.data(),
                     static_cast<int>(tokens.size()), /*add_special=*/true, /*parse_special=*/true);
  tokens.resize(static_cast<size_t>(std::max(0, count)));
  return tokens;
}

absl::StatusOr<std::pair<Tokens, Tokens>> LlamaEngine::tokenize(const std::string& document,
                                                                const std::string& question) const {
  const std::string content = absl::StrCat(document, "\n\n", question);
  const llama_chat_message message = {"user", content.c_str()};
  const char* chat_template = llama_model_chat_template(model_.get(), nullptr);
  std::vector<char> text(2 * content.size() + 4096);
  const int size = llama_chat_apply_template(chat_template, &message, 1, /*add_ass=*/true,
                                             text.data(), static_cast<int>(text.size()));
  std::string prompt = size > 0 && static_cast<size_t>(size) <= text.size()
                           ? std::string(text.data(), static_cast<size_t>(size))
                           : content;  // no template that llama.cpp knows
  // Templates may trim the content, but keep its inside.
  const size_t cut = prompt.rfind(absl::StrCat("\n\n", question));  // the document may hold it too
  if (cut == std::string::npos) {
    return absl::InternalError("the model's chat template changed the document; cannot cut it");
  }
  Tokens head = tokenize_plain(prompt.substr(0, cut));
  const std::string rest = prompt.substr(cut);
  Tokens tail(rest.size() + 8);
  const int count = llama_tokenize(vocabulary_, rest.c_str(), static_cast<int>(rest.size()),
                                   tail.data(), static_cast<int>(tail.size()),
                                   /*add_special=*/false, /*parse_special=*/true);
  tail.resize(static_cast<size_t>(std::max(0, count)));
  return std::make_pair(std::move(head), std::move(tail));
}

absl::Status LlamaEngine::append(absl::Span<const llama_token> tokens,
                                 std::vector<float>* all_logits) {
  const llama_pos past = llama_memory_seq_pos_max(llama_get_memory(context_.get()), 0) + 1;
  for (size_t begin = 0; begin < tokens.size(); begin += batch_tokens_) {
    const size_t count = std::min<size_t>(batch_tokens_, tokens.size() - begin);
    llama_batch batch = llama_batch_init(static_cast<int>(count), 0, 1);
    batch.n_tokens = static_cast<int>(count);
    for (size_t i = 0; i < count; ++i) {
      batch.token[i] = tokens[begin + i];
      batch.pos[i] = past + static_cast<llama_pos>(begin + i);
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = all_logits != nullptr || begin + i + 1 == tokens.size();
    }
    const int result = llama_decode(context_.get(), batch);
    llama_batch_free(batch);
    if (result != 0) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "llama_decode answered ", result, " at token ", past + static_cast<llama_pos>(begin)));
    }
    if (all_logits == nullptr) continue;
    const float* logits = llama_get_logits(context_.get());
    all_logits->insert(all_logits->end(), logits, logits + count * vocabulary_size_);
  }
  return absl::OkStatus();
}

llama_token LlamaEngine::best_token() const {
  const float* logits = llama_get_logits_ith(context_.get(), -1);
  return static_cast<llama_token>(std::max_element(logits, logits + vocabulary_size_) - logits);
}

absl::StatusOr<std::string> LlamaEngine::answer(llama_token first, int at_most) {
  std::string text;
  llama_token token = first;
  for (int i = 0; i < at_most && !llama_vocab_is_eog(vocabulary_, token); ++i) {
    std::array<char, 256> piece;
    const int size = llama_token_to_piece(vocabulary_, token, piece.data(),
                                          static_cast<int>(piece.size()), 0, /*special=*/false);
    if (size > 0) text.append(piece.data(), static_cast<size_t>(size));
    absl::Status status = append({&token, 1}, nullptr);
    if (!status.ok()) return status;
    token = best_token();
  }
  return text;
}

absl::Status LlamaEngine::append_to_save(absl::Span<const llama_token> tokens) {
  if (!has_sliding_window()) return append(tokens, nullptr);
  for (size_t begin = 0; begin < tokens.size(); begin += batch_tokens_) {
    absl::Status status = append(tokens.subspan(begin, batch_tokens_), nullptr);
    if (!status.ok()) return status;
    absl::StatusOr<std::vector<std::byte>> whole = SequenceBlob::merge(whole_, save_state());
    if (!whole.ok()) return whole.status();
    whole_ = *std::move(whole);
  }
  return absl::OkStatus();
}

void LlamaEngine::clear() {
  llama_memory_clear(llama_get_memory(context_.get()), true);
  whole_.clear();
}

std::vector<std::byte> LlamaEngine::save_state() const {
  std::vector<std::byte> blob(llama_state_seq_get_size(context_.get(), 0));
  blob.resize(llama_state_seq_get_data(context_.get(), reinterpret_cast<uint8_t*>(blob.data()),
                                       blob.size(), 0));
  return blob;
}

std::vector<std::byte> LlamaEngine::save() const {
  return has_sliding_window() ? whole_ : save_state();
}

absl::Status LlamaEngine::restore(absl::Span<const std::byte> blob) {
  const size_t read = llama_state_seq_set_data(
      context_.get(), reinterpret_cast<const uint8_t*>(blob.data()), blob.size(), 0);
  if (read == blob.size()) {
    if (has_sliding_window()) whole_.assign(blob.begin(), blob.end());
    return absl::OkStatus();
  }
  clear();
  return absl::InternalError(absl::StrCat("llama.cpp took ", read, " of ", blob.size(),
                                          " bytes of restored KV; the prompt is computed instead"));
}

}  // namespace hadal
