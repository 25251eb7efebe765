#pragma once

// What the tests of the block protocol share: a node with a small store of opaque blocks, and a
// caller that waits. Bytes go through the real transports; nothing between is replaced.

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "transport/block_peer.h"
#include "transport/block_server.h"

namespace hadal {

enum class Carrier { loopback, tcp, shm };
std::string carrier_name(Carrier carrier);
std::shared_ptr<Transport> make_transport(Carrier carrier, const std::string& name);

BlockKey test_key(uint32_t number);
std::vector<std::byte> test_bytes(uint32_t seed, size_t bytes);

// Waits, bounded, until `condition` holds; false where it never did.
bool eventually(const std::function<bool()>& condition, absl::Duration at_most = absl::Seconds(20));

// Blocks in one slab that is never reused, so whatever was written stays for a test to look at.
class MemoryHandler final : public BlockHandler {
 public:
  explicit MemoryHandler(absl::Span<std::byte> slab) : slab_(slab) {}

  LookupAnswer lookup(absl::Span<const BlockKey> keys, const LookupOptions& options) override;
  void release(uint64_t lease) override { released_lease = lease; }
  absl::StatusOr<PutSlot> reserve(const PutOffer& offer) override;
  absl::Status commit(uint64_t ticket) override;
  void read(const ReadRequest& request, ReadReply reply) override;
  bool report_bad(const BlockKey& key, uint64_t generation) override;

  // While boundless, every slot is the beginning of the slab: for offers whose payload never comes.
  std::atomic<bool> boundless{false};
  // While silent, reads are kept without an answer; answer_kept() answers them, from this thread.
  std::atomic<bool> silent{false};
  void answer_kept();
  std::vector<BlockKey> kept() const;  // in the order they were read
  std::vector<std::byte> stored(const BlockKey& key) const;

  std::atomic<uint64_t> released_lease{0};
  const std::shared_ptr<int> slots_out = std::make_shared<int>();   // reserved, not given back
  const std::shared_ptr<int> blocks_out = std::make_shared<int>();  // read, not given back

 private:
  absl::StatusOr<StoredBlock> find(const BlockKey& key);

  const absl::Span<std::byte> slab_;
  mutable absl::Mutex mutex_;
  size_t used_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t next_ticket_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<uint64_t, std::pair<BlockKey, absl::Span<std::byte>>> reserved_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, absl::Span<std::byte>> blocks_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::pair<ReadRequest, ReadReply>> kept_ ABSL_GUARDED_BY(mutex_);
};

// Destroyed server first, so that nothing calls the handler any more.
struct TestServer {
  std::shared_ptr<Transport> transport;
  std::shared_ptr<RegisteredMemory> slab;
  std::unique_ptr<MemoryHandler> handler;
  std::unique_ptr<BlockServer> server;

  NodeAddress address() const { return {"127.0.0.1", server->port(), 1.0}; }
};
// Null where the port cannot be had.
std::unique_ptr<TestServer> start_server(Carrier carrier, uint16_t port = 0,
                                         const BlockServerConfig& config = {});

struct GetResult {
  absl::Status status;
  std::vector<absl::StatusOr<GetAnswer>> answers;  // Unknown where none came
};

struct TestCaller {
  TestCaller(Carrier carrier, const NodeAddress& node, const BlockPeerConfig& config = {});

  // Memory that the transport may read and write; never given back.
  absl::Span<std::byte> room(size_t bytes);
  PeerPut make_put(uint32_t number, absl::Span<const std::byte> bytes);

  std::vector<absl::Status> put(std::vector<PeerPut> puts,
                                absl::Duration at_most = absl::Seconds(20));
  GetResult get(std::vector<PeerGet> gets, absl::Duration at_most = absl::Seconds(20));
  absl::StatusOr<LookupAnswer> lookup(std::vector<BlockKey> keys,
                                      absl::Duration at_most = absl::Seconds(20));
  bool ready();

  std::shared_ptr<Transport> transport;
  std::shared_ptr<RegisteredMemory> memory;
  size_t used = 0;
  std::unique_ptr<BlockPeer> peer;
};

}  // namespace hadal
