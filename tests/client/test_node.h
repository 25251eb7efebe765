#pragma once

// A whole store node in this process: slab, TieredStore and BlockServer, with no fake between.

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/node_address.h"
#include "storage/tiered_store.h"
#include "transport/block_server.h"

namespace hadal {

struct TestNodeConfig {
  std::string loopback_network;  // empty: UCX
  std::string tls = "tcp";       // UCX transports, as TransportConfig::tls
  uint64_t slab_bytes = 64u << 20;
  uint16_t port = 0;  // 0: a free one
};

// BlockHandler over a TieredStore. Counts, so that tests can tell what crossed the wire.
class StoreHandler final : public BlockHandler {
 public:
  explicit StoreHandler(TieredStore& store) : store_(store) {}

  LookupAnswer lookup(absl::Span<const BlockKey> keys, const LookupOptions& options) override;
  void release(uint64_t lease) override;
  absl::StatusOr<PutSlot> reserve(const PutOffer& offer) override;
  absl::Status commit(uint64_t ticket) override;
  void read(const ReadRequest& request, ReadReply reply) override;
  bool report_bad(const BlockKey& key, uint64_t generation) override;

  // While paused, reads are kept; resume() answers them, from this thread, and ends the pause.
  std::atomic<bool> paused{false};
  void resume();
  // Every read that was asked, in order.
  std::vector<ReadRequest> asked() const;

  std::atomic<int> lookup_calls{0};
  std::atomic<int> commits{0};
  std::atomic<int> reads{0};
  std::atomic<int> bad_reports{0};
  std::atomic<int> releases{0};

  // As the last put announced itself.
  PutOffer last_offer() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return last_offer_;
  }

 private:
  TieredStore& store_;
  mutable std::mutex mutex_;
  PutOffer last_offer_;
  std::vector<ReadRequest> asked_;
  std::vector<std::pair<ReadRequest, ReadReply>> kept_;
};

class TestNode {
 public:
  static absl::StatusOr<std::unique_ptr<TestNode>> start(const TestNodeConfig& config);
  ~TestNode();

  NodeAddress address(double weight = 1.0) const;
  TieredStore& store() { return *store_; }
  StoreHandler& handler() { return *handler_; }
  absl::Span<std::byte> slab() { return slab_->bytes(); }

  // The bytes in the slab that look like a block.
  std::vector<absl::Span<std::byte>> blocks();
  // Flips one byte in the middle of every block in the slab; answers how many there were.
  int corrupt_blocks();

 private:
  TestNode() = default;

  std::shared_ptr<Transport> transport_;
  std::shared_ptr<RegisteredMemory> slab_;
  SystemClock clock_;
  std::unique_ptr<TieredStore> store_;
  std::unique_ptr<StoreHandler> handler_;
  std::unique_ptr<BlockServer> server_;
};

}  // namespace hadal
