#pragma once

// The bytes of llama_state_seq_get_data (llama.cpp, sequence state version 3), read and written
// without llama.cpp, so that a sequence can be cut into blocks of tokens and put together again.
//
// Grammar, little endian: prefix u64 (magic, sequence), then one section a KV cache (two in models
// with sliding windows):
//   streams u32 = 1, cells u32, cells x {position i32, ids u32 = 1, id i32},
//   transposed u32 = 0, layers u32,
//   layers x {type i32, row_bytes u64, cells x row}   K rows, token-major [head, head_dim]
//   layers x {type i32, row_bytes u64, cells x row}   V rows, the same (flash attention on)
// The cells of a cache have ascending positions up to the last token's. llama.cpp leaves out those
// that a sliding window has passed; merge() puts them back from earlier saves.
// Anything else is refused: the format has no checksum of its own.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace hadal {

// Where the rows of one layer lie in a blob: token t at offset + (t - first_token) * row_bytes.
struct BlobRows {
  size_t offset = 0;
  size_t row_bytes = 0;
  uint32_t first_token = 0;
};

struct BlobLayer {
  BlobRows key;
  BlobRows value;
};

// Shape of a model's sequence state, learned from a blob of any number of tokens. Immutable.
class SequenceBlob {
 public:
  // FailedPrecondition says which part is not as above, such as transposed V.
  static absl::StatusOr<SequenceBlob> parse(absl::Span<const std::byte> blob);

  uint32_t token_count() const { return token_count_; }
  absl::Span<const BlobLayer> layers() const { return layers_; }  // all sections, in order
  int32_t value_type() const { return value_type_; }  // ggml type of every row; 1 is f16
  uint64_t bytes() const { return bytes_; }

  // False where a sliding window left out the first tokens of some layers.
  bool whole() const;

  // The shape of the same model's whole blob with another number of tokens.
  SequenceBlob with_tokens(uint32_t token_count) const;

  // Writes every byte but the rows, of a whole blob: positions 0 to token_count - 1 of sequence 0.
  // `out` has bytes().
  void write_frame(absl::Span<std::byte> out) const;

  // A whole blob of the tokens of `later`, whose missing rows come from `earlier`, a whole blob of
  // the first tokens of the same sequence (empty: none). FailedPrecondition where both lack some.
  static absl::StatusOr<std::vector<std::byte>> merge(absl::Span<const std::byte> earlier,
                                                      absl::Span<const std::byte> later);

 private:
  struct Section {
    uint32_t layer_count = 0;
    uint32_t first_token = 0;
    std::vector<uint64_t> key_row_bytes;
    std::vector<uint64_t> value_row_bytes;
  };
  void place();

  uint64_t prefix_ = 0;
  uint32_t token_count_ = 0;
  int32_t value_type_ = 0;
  uint64_t bytes_ = 0;
  std::vector<Section> sections_;
  std::vector<BlobLayer> layers_;
};

}  // namespace hadal
