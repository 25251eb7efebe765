#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/block_ops.h"
#include "common/node_address.h"
#include "transport/transport.h"

namespace hadal {

enum class PeerState : uint8_t { connecting, ready, backing_off };

struct BlockPeerConfig {
  absl::Duration connect_timeout = absl::Seconds(1);
  absl::Duration ping_interval = absl::Seconds(1);  // on an idle connection
  absl::Duration ping_timeout = absl::Seconds(2);   // then it is closed
  absl::Duration backoff_min = absl::Milliseconds(50);
  absl::Duration backoff_max = absl::Seconds(2);
};

struct OperationOptions {
  absl::Time deadline;
  Priority priority = Priority::normal;  // the node takes reads that wait on a connection by it
};

struct PeerPut {
  PutOffer offer;
  absl::Span<const std::byte> bytes;  // registered memory
  std::shared_ptr<const void> hold;   // kept until the last send of these bytes has ended
};

struct PeerGet {
  ReadRequest request;
  absl::Span<std::byte> bytes;       // registered memory; may be written until `hold` is dropped
  std::shared_ptr<const void> hold;  // kept until no receive can write these bytes any more
};

struct GetAnswer {
  uint32_t bytes = 0;  // arrived at the start of the buffer
  uint8_t dropped_planes = 0;
  Precision precision;
  Tier tier = Tier::none;
  uint64_t generation = 0;
};

// One node as its client sees it: connects by itself, says HELLO, pings, reconnects with back-off.
//
// Every operation ends exactly once, on the I/O thread, by its deadline: with its answer, with
// DeadlineExceeded, or with Unavailable at once where the node is known to be away (backing_off).
// Buffers are another matter: a `hold` may live on after the answer, until the network has let go.
// Threads: any. Destroying the peer fails everything in flight with Cancelled, and waits for the
// I/O thread to do so. Never destroy it inside one of its own callbacks: what called it goes on
// after.
class BlockPeer {
 public:
  static std::unique_ptr<BlockPeer> create(std::shared_ptr<Transport> transport,
                                           const NodeAddress& node, const BlockPeerConfig& config);
  virtual ~BlockPeer() = default;

  virtual PeerState state() const = 0;
  // Why it is not ready, such as a version that the node refused; empty when ready.
  virtual std::string last_error() const = 0;

  using OperationId = uint64_t;  // of this peer, for cancel

  virtual OperationId lookup(std::vector<BlockKey> keys, const LookupOptions& lookup,
                             const OperationOptions& options,
                             std::function<void(absl::StatusOr<LookupAnswer>)> done) = 0;

  // `done` gets one status a put, in order: Ok (stored), AlreadyExists (no payload moved), or why
  // not.
  virtual OperationId put(std::vector<PeerPut> puts, const OperationOptions& options,
                          std::function<void(std::vector<absl::Status>)> done) = 0;

  // `each` is called at most once per index as blocks arrive, then `done` once. An index that
  // `each` never saw by then failed with done's status, or with DeadlineExceeded.
  virtual OperationId get(std::vector<PeerGet> gets, const OperationOptions& options,
                          std::function<void(size_t, absl::StatusOr<GetAnswer>)> each,
                          std::function<void(absl::Status)> done) = 0;

  virtual void release(uint64_t lease) = 0;  // best effort
  virtual OperationId report_bad(const BlockKey& key, uint64_t generation, absl::Time deadline,
                                 std::function<void(absl::StatusOr<bool>)> done) = 0;

  // Ends an operation with Cancelled, unless it has ended.
  virtual void cancel(OperationId operation) = 0;
};

}  // namespace hadal
