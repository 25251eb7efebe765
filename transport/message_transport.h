#pragma once

// The lower layer of transport/, private to this folder: connections that carry messages. A message
// is a fixed header and a payload; the receiver chooses where a payload lands before it moves.
//
// Threads: every method but post() and the ones said so is called on the I/O thread; callbacks run
// there.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "transport/message_header.h"

namespace hadal {

using ConnectionId = uint64_t;  // never reused; 0 is none
// The time that deadlines inside the transport are kept in: it never goes back, unlike the wall
// clock. Comparable with itself only.
inline absl::Time steady_now() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

using TimerId = std::pair<absl::Time, uint64_t>;  // when it is due; the second is never reused

// Where an arriving payload goes. With less room than the payload it is refused, and `done` never
// runs. Else `done` runs once, when it has arrived or failed; `hold` lives until the network has
// let go of the bytes.
struct PayloadPlace {
  absl::Span<std::byte> bytes;
  std::shared_ptr<void> hold;
  std::function<void(absl::Status)> done;
};

// What a connection's user hears.
class ConnectionEvents {
 public:
  virtual ~ConnectionEvents() = default;
  virtual void on_accepted(ConnectionId connection) = 0;
  // `payload_bytes` is what the payload measures, at most limits::kBlockMaxBytes: more closes the
  // connection before this is called. May close the connection.
  virtual PayloadPlace on_message(ConnectionId connection, const MessageHeader& header) = 0;
  // Closed by the other side, by an error, or by close(). Nothing comes after it.
  virtual void on_closed(ConnectionId connection, const absl::Status& why) = 0;
};

struct OutgoingMessage {
  MessageHeader header;
  absl::Span<const std::byte> payload;
  std::shared_ptr<const void> hold;  // kept until the send has ended
  std::function<void()> sent;        // the send has ended, well or not; may be empty
};

class MessageTransport {
 public:
  virtual ~MessageTransport() = default;

  // Any thread: runs `task` on the I/O thread, in order of posting. Dropped where the transport has
  // ended.
  virtual void post(std::function<void()> task) = 0;
  // Any thread: posts and waits for it. Runs at once where called on the I/O thread.
  void run(const std::function<void()>& task);

  // Runs `task` once after a while, unless it is cancelled before.
  virtual TimerId after(absl::Duration delay, std::function<void()> task) = 0;
  virtual void cancel_timer(const TimerId& timer) = 0;

  // Listens on host:port (port 0 takes a free one) and answers the port. `events` outlives it.
  virtual absl::StatusOr<uint16_t> listen(const std::string& address, ConnectionEvents& events) = 0;
  // Stops listening for these events and closes their connections without further calls to them.
  virtual void forget(ConnectionEvents& events) = 0;

  // The numeric address of a host: at once where it is one, else later. Asking a name service may
  // take many seconds, which the I/O thread does not have.
  virtual void resolve(const std::string& host,
                       std::function<void(absl::StatusOr<std::string>)> done) = 0;
  // Starts a connection to a numeric address. Failing to reach the other side comes as on_closed.
  virtual absl::StatusOr<ConnectionId> connect(const std::string& host, uint16_t port,
                                               ConnectionEvents& events) = 0;
  virtual void send(ConnectionId connection, OutgoingMessage message) = 0;
  // May be called from any callback.
  virtual void close(ConnectionId connection, const absl::Status& why) = 0;

  virtual bool on_io_thread() const = 0;
  virtual void count_expired() = 0;
  virtual void count_protocol_error() = 0;
};

}  // namespace hadal
