#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/client.h"
#include "client/llama/llama_engine.h"

namespace hadal {

struct PrefixCacheConfig {
  std::string nodes;  // comma separated host:port
  std::string transport = "auto";
  std::string codec = "k5v4";
  uint32_t block_tokens = 64;
  absl::Duration timeout = absl::Seconds(2);  // of one put or get; a miss after that
};

// What one transfer moved.
struct TransferReport {
  uint32_t tokens = 0;  // of the leading run that was stored or loaded
  uint64_t raw_bytes = 0, encoded_bytes = 0, wire_bytes = 0;
  uint32_t dram_blocks = 0, nvme_blocks = 0, duplicate_blocks = 0;
  std::string first_failure;  // of a block, empty where all went well
};

// KV of token sequences in Hadal: blocks of block_tokens, the last one short, keyed by a chain of
// SHA-256 over token ids. Borrows the engine. Not thread safe.
class PrefixCache {
 public:
  // InvalidArgument names the setting. Does not wait for nodes.
  static absl::StatusOr<std::unique_ptr<PrefixCache>> create(const LlamaEngine& engine,
                                                             const PrefixCacheConfig& config);

  // Stores the first tokens.size() tokens of a saved sequence.
  absl::StatusOr<TransferReport> put(const Tokens& tokens, absl::Span<std::byte> blob);

  // Fetches the longest stored prefix and answers it as a blob that LlamaEngine::restore takes;
  // empty where nothing was found.
  absl::StatusOr<std::vector<std::byte>> get(const Tokens& tokens, TransferReport& report);

  std::string transport_description() const { return client_->transport_description(); }

 private:
  PrefixCache(const LlamaEngine& engine, const PrefixCacheConfig& config)
      : engine_(engine), config_(config) {}
  std::vector<EngineHash> hashes(const Tokens& tokens) const;
  // XXH3-64 of the token ids of each block.
  std::vector<uint64_t> digests(const Tokens& tokens) const;

  const LlamaEngine& engine_;
  PrefixCacheConfig config_;
  std::unique_ptr<Client> client_;
  LayoutId layout_ = 0;
};

}  // namespace hadal
