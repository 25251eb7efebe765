#include <pthread.h>

#include <atomic>
#include <cstring>
#include <map>
#include <new>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "transport/message_transport.h"
#include "transport/transport.h"

// In-process transport for tests: the same asynchrony as UCX (an I/O thread each, payloads placed
// by the receiver), no network.

namespace hadal {
namespace {

class LoopbackTransport;

// Who listens where, in this process.
class Networks {
 public:
  static Networks& get() {
    static Networks networks;
    return networks;
  }
  absl::StatusOr<uint16_t> add(const std::string& network, uint16_t port,
                               std::weak_ptr<LoopbackTransport> transport,
                               ConnectionEvents* events);
  void remove(ConnectionEvents* events);
  struct Listener {
    std::weak_ptr<LoopbackTransport> transport;
    ConnectionEvents* events = nullptr;
  };
  Listener find(const std::string& network, uint16_t port);

 private:
  absl::Mutex mutex_;
  std::map<std::pair<std::string, uint16_t>, Listener> listeners_ ABSL_GUARDED_BY(mutex_);
  uint16_t next_port_ ABSL_GUARDED_BY(mutex_) = 20000;
};

class HeapMemory final : public RegisteredMemory {
 public:
  explicit HeapMemory(size_t bytes)
      : bytes_(static_cast<std::byte*>(::operator new(bytes, std::align_val_t(4096))), bytes) {
    std::memset(bytes_.data(), 0, bytes);
  }
  ~HeapMemory() override { ::operator delete(bytes_.data(), std::align_val_t(4096)); }
  absl::Span<std::byte> bytes() override { return bytes_; }

 private:
  absl::Span<std::byte> bytes_;
};

class LoopbackTransport final : public Transport,
                                public MessageTransport,
                                public std::enable_shared_from_this<LoopbackTransport> {
 public:
  LoopbackTransport(std::string network, const TransportConfig& config)
      : network_(std::move(network)), thread_([this, name = config.name.substr(0, 15)] {
          pthread_setname_np(pthread_self(), name.c_str());
          loop();
        }) {}
  ~LoopbackTransport() override {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    thread_.join();
  }

  absl::StatusOr<std::shared_ptr<RegisteredMemory>> allocate(size_t bytes) override {
    constexpr size_t kMaxBytes = size_t{1} << 36;
    if (bytes == 0 || bytes > kMaxBytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot allocate ", bytes, " bytes; ask for 1 to ", kMaxBytes));
    }
    return std::shared_ptr<RegisteredMemory>(std::make_shared<HeapMemory>(bytes));
  }
  bool can_send(MemoryKind kind) const override { return kind == MemoryKind::host; }
  std::string description() const override { return "loopback"; }
  TransportStats stats() const override {
    absl::MutexLock lock(&mutex_);
    return stats_;
  }
  MessageTransport& messages() override { return *this; }

  void post(std::function<void()> task) override {
    schedule(absl::InfinitePast(), std::move(task));
  }
  TimerId after(absl::Duration delay, std::function<void()> task) override {
    return schedule(steady_now() + delay, std::move(task));
  }
  void cancel_timer(const TimerId& timer) override {
    absl::MutexLock lock(&mutex_);
    timed_.erase(timer);
  }
  absl::StatusOr<uint16_t> listen(const std::string& address, ConnectionEvents& events) override {
    const size_t colon = address.rfind(':');
    uint32_t port = 0;
    if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) ||
        port > 65535) {
      return absl::InvalidArgumentError(absl::StrCat("address '", address, "' has no port"));
    }
    return Networks::get().add(network_, static_cast<uint16_t>(port), weak_from_this(), &events);
  }
  void resolve(const std::string& host,
               std::function<void(absl::StatusOr<std::string>)> done) override {
    done(host);
  }
  void forget(ConnectionEvents& events) override;
  absl::StatusOr<ConnectionId> connect(const std::string& host, uint16_t port,
                                       ConnectionEvents& events) override;
  void send(ConnectionId id, OutgoingMessage message) override;
  void close(ConnectionId id, const absl::Status& why) override;
  bool on_io_thread() const override { return std::this_thread::get_id() == io_thread_; }
  void count_expired() override { add(&TransportStats::operations_expired, 1); }
  void count_protocol_error() override { add(&TransportStats::protocol_errors, 1); }

 private:
  struct Connection {
    ConnectionEvents* events = nullptr;
    std::weak_ptr<LoopbackTransport> remote;
    ConnectionId remote_id = 0;  // 0 until linked
    std::vector<OutgoingMessage> waiting;
  };

  void loop();
  TimerId schedule(absl::Time when, std::function<void()> task) {
    absl::MutexLock lock(&mutex_);
    const TimerId id(when, next_timer_++);
    timed_.emplace(id, std::move(task));
    return id;
  }
  void accept(uint16_t port, const std::weak_ptr<LoopbackTransport>& remote,
              ConnectionId remote_id);
  void link(ConnectionId id, const std::weak_ptr<LoopbackTransport>& remote,
            ConnectionId remote_id);
  void deliver(ConnectionId id, const std::shared_ptr<OutgoingMessage>& message);
  void add(uint64_t TransportStats::*counter, uint64_t amount) {
    absl::MutexLock lock(&mutex_);
    stats_.*counter += amount;
  }

  const std::string network_;
  mutable absl::Mutex mutex_;
  std::map<TimerId, std::function<void()>> timed_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_timer_ ABSL_GUARDED_BY(mutex_) = 1;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  TransportStats stats_ ABSL_GUARDED_BY(mutex_);

  // I/O thread only.
  std::unordered_map<ConnectionId, Connection> connections_;
  ConnectionId next_id_ = 1;

  std::atomic<std::thread::id> io_thread_{};
  std::thread thread_;  // last: it uses all of the above
};

absl::StatusOr<uint16_t> Networks::add(const std::string& network, uint16_t port,
                                       std::weak_ptr<LoopbackTransport> transport,
                                       ConnectionEvents* events) {
  absl::MutexLock lock(&mutex_);
  if (port == 0) port = next_port_++;
  if (listeners_.count({network, port}) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on port ", port, ": it is in use"));
  }
  listeners_[{network, port}] = {std::move(transport), events};
  return port;
}

void Networks::remove(ConnectionEvents* events) {
  absl::MutexLock lock(&mutex_);
  for (auto it = listeners_.begin(); it != listeners_.end();) {
    it = it->second.events == events ? listeners_.erase(it) : std::next(it);
  }
}

Networks::Listener Networks::find(const std::string& network, uint16_t port) {
  absl::MutexLock lock(&mutex_);
  const auto found = listeners_.find({network, port});
  return found == listeners_.end() ? Listener() : found->second;
}

void LoopbackTransport::loop() {
  io_thread_ = std::this_thread::get_id();
  const auto due = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || (!timed_.empty() && timed_.begin()->first.first <= steady_now());
  };
  while (true) {
    std::function<void()> task;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&due), absl::Milliseconds(1));
      if (!due()) continue;
      if (!timed_.empty() && timed_.begin()->first.first <= steady_now()) {
        task = std::move(timed_.begin()->second);
        timed_.erase(timed_.begin());
      } else {
        return;
      }
    }
    task();
  }
}

void LoopbackTransport::forget(ConnectionEvents& events) {
  Networks::get().remove(&events);
  std::vector<ConnectionId> open;
  for (auto& [id, connection] : connections_) {
    if (connection.events == &events) open.push_back(id);
  }
  for (ConnectionId id : open) {
    connections_[id].events = nullptr;
    close(id, absl::CancelledError("its user is gone"));
  }
}

absl::StatusOr<ConnectionId> LoopbackTransport::connect(const std::string&, uint16_t port,
                                                        ConnectionEvents& events) {
  const Networks::Listener listener = Networks::get().find(network_, port);
  const std::shared_ptr<LoopbackTransport> remote = listener.transport.lock();
  const ConnectionId id = next_id_++;
  connections_[id] = {&events, remote};
  if (!remote) {
    post([this, id] { close(id, absl::UnavailableError("nobody listens there")); });
    return id;
  }
  add(&TransportStats::connections_opened, 1);
  remote->post([remote = remote.get(), port, self = weak_from_this(), id] {
    remote->accept(port, self, id);
  });
  return id;
}

void LoopbackTransport::accept(uint16_t port, const std::weak_ptr<LoopbackTransport>& remote,
                               ConnectionId remote_id) {
  const std::shared_ptr<LoopbackTransport> other = remote.lock();
  if (!other) return;
  // Asked again here, on the thread that forgets listeners: it may have gone in the meantime.
  const Networks::Listener listener = Networks::get().find(network_, port);
  ConnectionEvents* const events = listener.events;
  if (listener.transport.lock().get() != this) {
    other->post([other = other.get(), remote_id] {
      other->close(remote_id, absl::UnavailableError("nobody listens there"));
    });
    return;
  }
  const ConnectionId id = next_id_++;
  connections_[id] = {events, remote, remote_id};
  events->on_accepted(id);
  other->post([other = other.get(), self = weak_from_this(), remote_id, id] {
    other->link(remote_id, self, id);
  });
}

void LoopbackTransport::link(ConnectionId id, const std::weak_ptr<LoopbackTransport>& remote,
                             ConnectionId remote_id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) {  // closed before it knew whom to tell
    if (auto other = remote.lock()) {
      other->post([other = other.get(), remote_id] {
        other->close(remote_id, absl::UnavailableError("the other side closed"));
      });
    }
    return;
  }
  found->second.remote_id = remote_id;
  std::vector<OutgoingMessage> waiting = std::move(found->second.waiting);
  for (OutgoingMessage& message : waiting) send(id, std::move(message));
}

void LoopbackTransport::send(ConnectionId id, OutgoingMessage message) {
  const auto found = connections_.find(id);
  const std::shared_ptr<LoopbackTransport> remote =
      found == connections_.end() ? nullptr : found->second.remote.lock();
  if (!remote) {
    if (message.sent) message.sent();
    return;
  }
  if (found->second.remote_id == 0) {
    found->second.waiting.push_back(std::move(message));
    return;
  }
  message.header.payload_bytes = static_cast<uint32_t>(message.payload.size());
  add(&TransportStats::messages_sent, 1);
  add(&TransportStats::payload_bytes_sent, message.payload.size());
  auto shared = std::make_shared<OutgoingMessage>(std::move(message));
  remote->post([remote = remote.get(), remote_id = found->second.remote_id, self = weak_from_this(),
                shared] {
    remote->deliver(remote_id, shared);
    if (auto sender = self.lock()) {
      sender->post([shared] {
        if (shared->sent) shared->sent();
      });
    }
  });
}

void LoopbackTransport::deliver(ConnectionId id, const std::shared_ptr<OutgoingMessage>& message) {
  const auto found = connections_.find(id);
  if (found == connections_.end() || found->second.events == nullptr) return;
  add(&TransportStats::messages_received, 1);
  PayloadPlace place = found->second.events->on_message(id, message->header);
  const size_t bytes = message->payload.size();
  if (bytes > 0 && place.bytes.size() < bytes) return;
  if (bytes > 0) {
    std::memcpy(place.bytes.data(), message->payload.data(), bytes);
    add(&TransportStats::payload_bytes_received, bytes);
  }
  if (place.done) place.done(absl::OkStatus());
}

void LoopbackTransport::close(ConnectionId id, const absl::Status& why) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  const Connection connection = std::move(found->second);
  connections_.erase(found);
  if (auto remote = connection.remote.lock(); remote && connection.remote_id != 0) {
    remote->post([remote = remote.get(), other = connection.remote_id] {
      remote->close(other, absl::UnavailableError("the other side closed"));
    });
  }
  for (const OutgoingMessage& message : connection.waiting) {
    if (message.sent) message.sent();
  }
  if (connection.events == nullptr) return;
  add(&TransportStats::connections_failed, 1);
  connection.events->on_closed(id, why);
}

}  // namespace

absl::StatusOr<std::shared_ptr<Transport>> Transport::create_loopback(
    const std::string& network, const TransportConfig& config) {
  if (network.empty()) return absl::InvalidArgumentError("a loopback network needs a name");
  // The last reference may be dropped on the I/O thread, which cannot join itself.
  std::shared_ptr<LoopbackTransport> transport(new LoopbackTransport(network, config),
                                               [](LoopbackTransport* last) {
                                                 if (!last->on_io_thread()) {
                                                   delete last;
                                                 } else {
                                                   std::thread([last] { delete last; }).detach();
                                                 }
                                               });
  return std::shared_ptr<Transport>(std::move(transport));
}

}  // namespace hadal
