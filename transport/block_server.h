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
#include "transport/transport.h"

namespace hadal {

// What answers the block protocol; the service implements it over its store. All calls come on the
// transport's I/O thread and must not block. The longest is report_bad, which reads a block once.
class BlockHandler {
 public:
  virtual ~BlockHandler() = default;

  virtual LookupAnswer lookup(absl::Span<const BlockKey> keys, const LookupOptions& options) = 0;

  // Drops a lease early. An unknown or expired one is no error.
  virtual void release(uint64_t lease) = 0;

  // Room for an offered block. AlreadyExists: it is stored at least as precise, a success without
  // payload. Aborted: another put of the key is in flight. FailedPrecondition: the key holds a
  // block of other tokens. ResourceExhausted, InvalidArgument: refused.
  virtual absl::StatusOr<PutSlot> reserve(const PutOffer& offer) = 0;

  // The payload of a slot has arrived whole. DataLoss where it is no block, FailedPrecondition
  // where it is one of another key, layout or precision than was offered.
  virtual absl::Status commit(uint64_t ticket) = 0;

  // Calls `reply` exactly once, now or later from any thread. NotFound is a miss.
  using ReadReply = std::function<void(absl::StatusOr<StoredBlock>)>;
  virtual void read(const ReadRequest& request, ReadReply reply) = 0;

  // True where the block was bad and is gone. Checks a block in DRAM on this thread: 0.2 ms for 4
  // MiB at 19 GB/s, 0.11 s for the largest block there may be, for which all peers wait.
  virtual bool report_bad(const BlockKey& key, uint64_t generation) = 0;
};

// Bounds on what a client that froze or went away can hold.
struct BlockServerConfig {
  // After a put's verdict: slots whose payload has not come are given back.
  absl::Duration put_timeout = absl::Seconds(30);
  // Nothing heard, and no block sent to its end: the connection is closed. Clients ping each
  // second.
  absl::Duration silence_timeout = absl::Seconds(30);
};

// Listens and speaks the block protocol (docs/wire_protocol.md) with many peers.
// Destroying it stops listening, fails what is in flight and waits, bounded, for its sends to end.
class BlockServer {
 public:
  // `address` is "host:port"; port 0 takes a free one. `handler` outlives the server. Unavailable
  // names the address and why it cannot be listened on.
  static absl::StatusOr<std::unique_ptr<BlockServer>> listen(std::shared_ptr<Transport> transport,
                                                             const std::string& address,
                                                             BlockHandler& handler,
                                                             const BlockServerConfig& config = {});
  virtual ~BlockServer() = default;

  virtual uint16_t port() const = 0;
  virtual size_t peer_count() const = 0;

  // Refuses new puts (Unavailable) and waits until nothing is in flight or the time is up.
  // True where it became idle.
  virtual bool drain(absl::Duration at_most) = 0;
};

}  // namespace hadal
