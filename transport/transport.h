#pragma once

// The lower layer: one way to move bytes between processes. Two implementations: UCX (active
// messages with rendezvous over a listener) and an in-process loopback for tests.
//
// Threads: each Transport owns one I/O thread; every callback of this layer and of the block
// protocol above it runs there and must not block. Methods may be called from any thread.
// The full lower-layer interface (endpoints, messages) lies in message_transport.h and is private
// to this folder; service and client use this header, block_server.h and block_peer.h.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/memory_kind.h"

namespace hadal {

class MessageTransport;  // message_transport.h

struct TransportConfig {
  std::string name = "hadal-io";  // of the I/O thread, at most 15 characters
  // UCX transports to use, as UCX_TLS: "auto" is tcp and shared memory; "tcp" forces tcp. tcp is
  // always among them because connections are made with it.
  std::string tls = "auto";
  absl::Duration spin = absl::Microseconds(50);  // busy polling before the thread sleeps
};

// Counters since start. A snapshot; taken from any thread.
struct TransportStats {
  uint64_t messages_sent = 0;
  uint64_t messages_received = 0;
  uint64_t payload_bytes_sent = 0;
  uint64_t payload_bytes_received = 0;
  uint64_t connections_opened = 0;
  uint64_t connections_failed = 0;  // never established, or lost
  uint64_t operations_expired = 0;  // deadline passed first
  uint64_t protocol_errors = 0;     // malformed or unexpected message; the endpoint was closed
};

// Page-aligned memory that is registered with the transport for its whole life, freed when the last
// copy of the pointer goes. Outlives no Transport: it holds its own.
class RegisteredMemory {
 public:
  virtual ~RegisteredMemory() = default;
  virtual absl::Span<std::byte> bytes() = 0;
};

class Transport {
 public:
  // Unavailable where UCX cannot start, with UCX's reason.
  static absl::StatusOr<std::shared_ptr<Transport>> create_ucx(const TransportConfig& config);
  // Transports made from the same non-empty network name in one process reach each other.
  static absl::StatusOr<std::shared_ptr<Transport>> create_loopback(const std::string& network,
                                                                    const TransportConfig& config);
  virtual ~Transport() = default;

  // ResourceExhausted where the memory cannot be had: says how much was asked, and what is free.
  virtual absl::StatusOr<std::shared_ptr<RegisteredMemory>> allocate(size_t bytes) = 0;

  // Whether payloads may lie in such memory. Memory of a GPU: where UCX was built with CUDA.
  virtual bool can_send(MemoryKind kind) const = 0;

  // What carries the bytes, for people: "ucx 1.13.1 tcp,shm" or "loopback".
  virtual std::string description() const = 0;
  virtual TransportStats stats() const = 0;

  // The lower layer, for the block protocol only.
  virtual MessageTransport& messages() = 0;
};

}  // namespace hadal
