#pragma once

#include <llama.h>

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/llama/sequence_blob.h"
#include "common/kv_layout.h"

namespace hadal {

using Tokens = std::vector<llama_token>;

struct LlamaOptions {
  uint32_t context_tokens = 4096;
  // Of K and V in the engine's memory. Other types than f16 are to compare with: save, restore and
  // layout are for f16.
  ggml_type cache_type = GGML_TYPE_F16;
};

// One model and one sequence on llama.cpp: greedy, CPU, flash attention on. Not thread safe.
class LlamaEngine {
 public:
  // NotFound or InvalidArgument name the file. FailedPrecondition where the model's KV cannot be
  // cut into blocks (recurrent state, layers of different width).
  static absl::StatusOr<std::unique_ptr<LlamaEngine>> load(const std::string& model_path,
                                                           const LlamaOptions& options);

  // The prompt as the model's chat template writes it, cut where the document ends.
  absl::StatusOr<std::pair<Tokens, Tokens>> tokenize(const std::string& document,
                                                     const std::string& question) const;
  Tokens tokenize_plain(const std::string& text) const;

  // Appends tokens to the sequence in batches of 512 (or of the sliding window, if that is
  // shorter), computing logits of the last one, or of all where `all_logits` (then a row of
  // vocabulary a token is appended to it).
  absl::Status append(absl::Span<const llama_token> tokens, std::vector<float>* all_logits);

  // Most likely next token after append.
  llama_token best_token() const;
  // Appends up to `at_most` best tokens, beginning with `first`; the text until the end of turn.
  absl::StatusOr<std::string> answer(llama_token first, int at_most);

  // Appends tokens so that save() can give the rows of all of them: those that a sliding window
  // passes are kept batch by batch, at the price of a save each.
  absl::Status append_to_save(absl::Span<const llama_token> tokens);

  void clear();
  // Of what was restored or appended to be saved.
  std::vector<std::byte> save() const;
  absl::Status restore(absl::Span<const std::byte> blob);

  const SequenceBlob& blob_shape() const { return blob_shape_; }
  KvLayout layout(uint32_t block_tokens) const;

  // Binds everything that changes KV: file digest, state version, cache type, flash attention.
  const std::string& fingerprint() const { return fingerprint_; }
  bool has_sliding_window() const { return llama_model_n_swa(model_.get()) > 0; }
  size_t vocabulary_size() const { return vocabulary_size_; }

 private:
  struct ModelFree {
    void operator()(llama_model* model) const { llama_model_free(model); }
  };
  struct ContextFree {
    void operator()(llama_context* context) const { llama_free(context); }
  };
  absl::Status learn_shape();
  std::vector<std::byte> save_state() const;

  std::unique_ptr<llama_model, ModelFree> model_;
  std::unique_ptr<llama_context, ContextFree> context_;
  const llama_vocab* vocabulary_ = nullptr;
  size_t vocabulary_size_ = 0;
  uint32_t head_dim_ = 0;
  std::string fingerprint_;
  SequenceBlob blob_shape_;
  size_t batch_tokens_ = 0;
  std::vector<std::byte> whole_;  // with sliding windows: the sequence so far
};

}  // namespace hadal
