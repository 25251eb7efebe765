#pragma once

// Blocks and stores for tests of storage: real headers and checksums around random cells.

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <future>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/block_plan.h"
#include "common/encoded_block.h"
#include "storage/tiered_store.h"

namespace hadal::test {

struct TestBlock {
  PutOffer offer;
  std::vector<std::byte> bytes;
};

inline BlockKey test_key(uint64_t number) {
  BlockKey key;
  std::mt19937_64 random(number * 0x9E3779B97F4A7C15u + 1);
  for (size_t i = 0; i < key.bytes.size(); i += 8) {
    const uint64_t word = random();
    std::memcpy(key.bytes.data() + i, &word, 8);
  }
  return key;
}

inline KvLayout test_layout() {
  KvLayout layout;
  layout.dtype = DType::f16;
  layout.layer_count = 8;
  layout.kv_head_count = 2;
  layout.key_head_dim = layout.value_head_dim = 128;
  layout.block_tokens = 16;
  return layout;
}

// The same arguments make the same bytes, in any process. `drops` cuts the block's tail.
inline TestBlock make_block(uint64_t number, const std::string& codec = "k5v4", int drops = 0,
                            uint32_t flags = 0) {
  const BlockPlan plan = *BlockPlan::make(test_layout(), *parse_codec(codec), {16, 0, 0});
  TestBlock block;
  block.bytes.resize(plan.total_bytes());
  plan.write_header({test_key(number), UINT64_MAX}, flags, absl::MakeSpan(block.bytes));
  std::mt19937_64 random(number * 31 + codec[1]);
  for (const CellEntry& cell : plan.cells()) {
    for (uint32_t i = 0; i + 8 <= cell.bytes; i += 8) {
      const uint64_t word = random();
      std::memcpy(block.bytes.data() + cell.offset + i, &word, 8);
    }
  }
  seal_block(absl::MakeSpan(block.bytes));
  const EncodedBlock whole = *EncodedBlock::parse(block.bytes, 0);
  const BlockExtents extents = block_extents(whole);
  block.bytes.resize(extents.prefix_bytes[drops]);
  block.offer.key = test_key(number);
  block.offer.bytes = extents.prefix_bytes[drops];
  block.offer.dropped_planes = static_cast<uint8_t>(drops);
  block.offer.precision = extents.precision[drops];
  block.offer.layout_hash = whole.header().layout_hash;
  block.offer.parent = test_key(number + 1'000'000);
  block.offer.route = test_key(number + 2'000'000);
  block.offer.first_token_index = 16 * number;
  block.offer.token_digest = number + 1;
  return block;
}

inline absl::Status put(TieredStore& store, const TestBlock& block) {
  absl::StatusOr<PutSlot> slot = store.reserve(block.offer);
  if (!slot.ok()) return slot.status();
  std::memcpy(slot->bytes.data(), block.bytes.data(), block.bytes.size());
  return store.commit(slot->ticket);
}

// What the store shows of a block is what its put said.
inline bool keeps_origin(const TieredStore& store, const TestBlock& block) {
  const BlockOrigin origin = store.describe({&block.offer.key, 1})[0].origin;
  return origin.parent == block.offer.parent && origin.route == block.offer.route &&
         origin.first_token_index == block.offer.first_token_index &&
         origin.token_digest == block.offer.token_digest;
}

inline absl::StatusOr<StoredBlock> read(TieredStore& store, const ReadRequest& request) {
  auto promise = std::make_shared<std::promise<absl::StatusOr<StoredBlock>>>();
  std::future<absl::StatusOr<StoredBlock>> answer = promise->get_future();
  store.read(request, [promise](absl::StatusOr<StoredBlock> block) {
    promise->set_value(std::move(block));
  });
  if (answer.wait_for(std::chrono::seconds(30)) != std::future_status::ready) {
    return absl::DeadlineExceededError("the store never answered");
  }
  return answer.get();
}

inline absl::StatusOr<StoredBlock> read(TieredStore& store, uint64_t number) {
  ReadRequest request;
  request.key = test_key(number);
  return read(store, request);
}

inline bool same_bytes(absl::Span<const std::byte> a, absl::Span<const std::byte> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

inline KeyAnswer look(TieredStore& store, uint64_t number) {
  const BlockKey key = test_key(number);
  return store.lookup({&key, 1}, {}).keys[0];
}

class ManualClock final : public Clock {
 public:
  absl::Time now() const override {
    const std::lock_guard lock(mutex_);
    return now_;
  }
  void advance(absl::Duration by) {
    const std::lock_guard lock(mutex_);
    now_ += by;
  }

 private:
  mutable std::mutex mutex_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
};

// A directory of its own, gone with it.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hadal_XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class Slab {
 public:
  explicit Slab(size_t bytes)
      : bytes_(bytes), memory_(static_cast<std::byte*>(std::aligned_alloc(4096, bytes))) {}
  ~Slab() { std::free(memory_); }
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  absl::Span<std::byte> span() { return {memory_, bytes_}; }

 private:
  const size_t bytes_;
  std::byte* const memory_;
};

}  // namespace hadal::test
