#pragma once

// The data plane's answers: block protocol onto the tiered store, and nothing else.
// Threads: the transport's I/O thread; nothing blocks, a read from NVMe is answered by a storage
// thread. Ownership: the store is borrowed and outlives it.

#include "storage/tiered_store.h"
#include "transport/block_server.h"

namespace hadal {

class BlockService final : public BlockHandler {
 public:
  explicit BlockService(TieredStore& store) : store_(store) {}

  LookupAnswer lookup(absl::Span<const BlockKey> keys, const LookupOptions& options) override {
    return store_.lookup(keys, options);
  }
  void release(uint64_t lease) override { store_.release(lease); }
  absl::StatusOr<PutSlot> reserve(const PutOffer& offer) override { return store_.reserve(offer); }
  absl::Status commit(uint64_t ticket) override { return store_.commit(ticket); }
  void read(const ReadRequest& request, ReadReply reply) override {
    store_.read(request, std::move(reply));
  }
  bool report_bad(const BlockKey& key, uint64_t generation) override {
    return store_.report_bad(key, generation);
  }

 private:
  TieredStore& store_;
};

}  // namespace hadal
