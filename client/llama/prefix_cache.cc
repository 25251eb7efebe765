#include "client/llama/prefix_cache.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "client/llama/block_pages.h"
#include "common/checksum.h"

namespace hadal {
namespace {

// Adds a leading run of results; the first failure ends it.
void add_results(const RequestResult& result, TransferReport& report) {
  for (const KeyResult& key : result.keys) {
    if (!key.status.ok()) {
      if (report.first_failure.empty()) report.first_failure = key.status.ToString();
      continue;
    }
    report.raw_bytes += key.raw_bytes;
    report.encoded_bytes += key.encoded_bytes;
    report.wire_bytes += key.wire_bytes;
    report.dram_blocks += key.tier == Tier::dram;
    report.nvme_blocks += key.tier == Tier::nvme;
    report.duplicate_blocks += key.duplicate;
  }
}

// The first `token_count` tokens of a blob, as a blob.
std::vector<std::byte> shorten(const SequenceBlob& shape, absl::Span<const std::byte> blob,
                               uint32_t token_count) {
  const SequenceBlob shorter = shape.with_tokens(token_count);
  std::vector<std::byte> out(shorter.bytes());
  shorter.write_frame(absl::MakeSpan(out));
  for (size_t layer = 0; layer < shape.layers().size(); ++layer) {
    const BlobLayer& from = shape.layers()[layer];
    const BlobLayer& to = shorter.layers()[layer];
    std::memcpy(out.data() + to.key.offset, blob.data() + from.key.offset,
                to.key.row_bytes * token_count);
    std::memcpy(out.data() + to.value.offset, blob.data() + from.value.offset,
                to.value.row_bytes * token_count);
  }
  return out;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PrefixCache>> PrefixCache::create(const LlamaEngine& engine,
                                                                 const PrefixCacheConfig& config) {
  auto cache = std::unique_ptr<PrefixCache>(new PrefixCache(engine, config));
  absl::StatusOr<std::vector<NodeAddress>> nodes = parse_node_list(config.nodes);
  if (!nodes.ok()) return nodes.status();
  absl::StatusOr<CodecSpec> codec = parse_codec(config.codec);
  if (!codec.ok()) return codec.status();
  ClientConfig client_config;
  client_config.nodes = *std::move(nodes);
  client_config.transport = config.transport;
  absl::StatusOr<std::unique_ptr<Client>> client = Client::create(client_config);
  if (!client.ok()) return client.status();
  cache->client_ = *std::move(client);
  LayoutConfig layout;
  layout.layout = engine.layout(config.block_tokens);
  layout.codec = *codec;
  layout.model = engine.fingerprint();
  layout.hash_scheme = "hadal-llama sha256 token chain 1";
  absl::StatusOr<LayoutId> id = cache->client_->register_layout(layout);
  if (!id.ok()) return id.status();
  cache->layout_ = *id;
  return cache;
}

std::vector<EngineHash> PrefixCache::hashes(const Tokens& tokens) const {
  std::vector<EngineHash> chain;
  for (size_t begin = 0; begin < tokens.size(); begin += config_.block_tokens) {
    const size_t count = std::min<size_t>(config_.block_tokens, tokens.size() - begin);
    std::string text;
    if (!chain.empty()) {
      const absl::Span<const std::byte> parent = chain.back().bytes();
      text.assign(reinterpret_cast<const char*>(parent.data()), parent.size());
    }
    text.append(reinterpret_cast<const char*>(tokens.data() + begin), count * sizeof(llama_token));
    chain.push_back(digest_engine_string(text));
  }
  return chain;
}

std::vector<uint64_t> PrefixCache::digests(const Tokens& tokens) const {
  std::vector<uint64_t> all;
  for (size_t begin = 0; begin < tokens.size(); begin += config_.block_tokens) {
    const size_t count = std::min<size_t>(config_.block_tokens, tokens.size() - begin);
    all.push_back(hash64(absl::MakeConstSpan(
        reinterpret_cast<const std::byte*>(tokens.data() + begin), count * sizeof(llama_token))));
  }
  return all;
}

absl::StatusOr<TransferReport> PrefixCache::put(const Tokens& tokens, absl::Span<std::byte> blob) {
  absl::StatusOr<SequenceBlob> shape = SequenceBlob::parse(blob);
  if (!shape.ok()) return shape.status();
  if (!shape->whole()) {
    return absl::InvalidArgumentError("saved sequence lacks rows; fill it with append_to_save");
  }
  if (shape->token_count() < tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("saved sequence has ", shape->token_count(),
                                                   " tokens; ", tokens.size(),
                                                   " are to be stored"));
  }
  std::vector<std::byte> shortened;
  if (shape->token_count() > tokens.size()) {
    shortened = shorten(*shape, blob, static_cast<uint32_t>(tokens.size()));
    shape = shape->with_tokens(static_cast<uint32_t>(tokens.size()));
    blob = absl::MakeSpan(shortened);
  }
  const std::vector<EngineHash> chain = hashes(tokens);
  const std::vector<uint64_t> token_digests = digests(tokens);
  const std::vector<BlockPages> blocks =
      block_pages(*shape, engine_.layout(config_.block_tokens), blob);
  std::vector<BlockPut> puts;
  for (size_t i = 0; i < blocks.size(); ++i) {
    BlockPut put = {chain[i]};
    put.pages = blocks[i].pages;
    put.token_count = blocks[i].token_count;
    put.first_token_index = i * config_.block_tokens;
    put.token_digest = token_digests[i];
    if (i > 0) put.parent = chain[i - 1];
    puts.push_back(put);
  }
  RequestOptions options;
  options.timeout = config_.timeout;
  absl::StatusOr<RequestId> request = client_->put(layout_, puts, options);
  if (!request.ok()) return request.status();
  absl::StatusOr<RequestResult> result = client_->wait(*request);
  if (!result.ok()) return result.status();
  TransferReport report;
  add_results(*result, report);
  for (size_t i = 0; i < result->prefix_blocks; ++i) report.tokens += blocks[i].token_count;
  return report;
}

absl::StatusOr<std::vector<std::byte>> PrefixCache::get(const Tokens& tokens,
                                                        TransferReport& report) {
  const std::vector<EngineHash> chain = hashes(tokens);
  RequestOptions options;
  options.timeout = config_.timeout;
  GroupLookup sequence = {.layout = layout_, .hashes = chain};
  sequence.token_count = tokens.size();
  absl::StatusOr<RequestId> lookup = client_->lookup({&sequence, 1}, options);
  if (!lookup.ok()) return lookup.status();
  absl::StatusOr<RequestResult> found = client_->wait(*lookup);
  if (!found.ok()) return found.status();
  if (found->prefix_tokens == 0) {
    if (!found->keys.empty()) report.first_failure = found->keys.front().status.ToString();
    return std::vector<std::byte>();
  }
  const uint32_t found_tokens = static_cast<uint32_t>(found->prefix_tokens);
  const SequenceBlob shape = engine_.blob_shape().with_tokens(found_tokens);
  std::vector<std::byte> blob(shape.bytes());
  shape.write_frame(absl::MakeSpan(blob));
  const std::vector<BlockPages> blocks =
      block_pages(shape, engine_.layout(config_.block_tokens), absl::MakeSpan(blob));
  std::vector<BlockGet> gets;
  const std::vector<uint64_t> token_digests = digests(tokens);
  for (size_t i = 0; i < blocks.size(); ++i) {
    BlockGet get = {chain[i], blocks[i].pages};
    get.token_digest = token_digests[i];
    gets.push_back(get);
  }
  absl::StatusOr<RequestId> request = client_->get(layout_, gets, options);
  if (!request.ok()) return request.status();
  absl::StatusOr<RequestResult> result = client_->wait(*request);
  if (!result.ok()) return result.status();
  add_results(*result, report);
  for (size_t i = 0; i < result->prefix_blocks; ++i) report.tokens += blocks[i].token_count;
  if (report.tokens == 0) return std::vector<std::byte>();
  return report.tokens == found_tokens ? blob : shorten(shape, blob, report.tokens);
}

}  // namespace hadal
