#pragma once

#include <ucp/api/ucp.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "transport/message_transport.h"
#include "transport/transport.h"

namespace hadal {

// UCX: one context, one single-threaded worker and the I/O thread that drives it. Spins for a while
// when there is nothing to do, then sleeps on the worker's event descriptor.
class UcxTransport final : public Transport,
                           private MessageTransport,
                           public std::enable_shared_from_this<UcxTransport> {
 public:
  static absl::StatusOr<std::shared_ptr<UcxTransport>> create(const TransportConfig& config);
  ~UcxTransport() override;

  absl::StatusOr<std::shared_ptr<RegisteredMemory>> allocate(size_t bytes) override;
  bool can_send(MemoryKind kind) const override;
  std::string description() const override;
  TransportStats stats() const override;
  MessageTransport& messages() override { return *this; }

  using MessageTransport::run;
  void unmap(ucp_mem_h handle);  // I/O thread

 private:
  struct Send;
  struct Receive;
  struct Listener;
  struct Arrival;
  struct Connection {
    ucp_ep_h endpoint = nullptr;
    ConnectionEvents* events = nullptr;  // null once its user is gone
  };

  explicit UcxTransport(const TransportConfig& config) : config_(config) {}

  void post(std::function<void()> task) override;
  TimerId after(absl::Duration delay, std::function<void()> task) override;
  void cancel_timer(const TimerId& timer) override { timers_.erase(timer); }
  absl::StatusOr<uint16_t> listen(const std::string& address, ConnectionEvents& events) override;
  void resolve(const std::string& host,
               std::function<void(absl::StatusOr<std::string>)> done) override;
  void forget(ConnectionEvents& events) override;
  absl::StatusOr<ConnectionId> connect(const std::string& host, uint16_t port,
                                       ConnectionEvents& events) override;
  void send(ConnectionId connection, OutgoingMessage message) override;
  void close(ConnectionId connection, const absl::Status& why) override;
  bool on_io_thread() const override { return std::this_thread::get_id() == io_thread_; }
  void count_expired() override { ++operations_expired_; }
  void count_protocol_error() override { ++protocol_errors_; }

  absl::Status start();
  absl::Status start_worker();
  void loop();
  void wake();
  bool run_tasks();
  bool run_timers();
  bool close_endpoints();
  void sleep_until_event();
  void finish();
  absl::StatusOr<ConnectionId> open(ucp_ep_params_t& params, ConnectionEvents& events);
  void sent(Send* send, ucs_status_t status);
  ucs_status_t arrived(const Arrival& arrival);
  void receive(Receive* receive, void* descriptor);
  void received(Receive* receive, ucs_status_t status);

  static void on_connection_request(ucp_conn_request_h request, void* argument);
  static void on_endpoint_error(void* argument, ucp_ep_h endpoint, ucs_status_t status);

  const TransportConfig config_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int worker_fd_ = -1;
  int wake_fd_ = -1;
  std::thread thread_;
  std::atomic<std::thread::id> io_thread_{};

  absl::Mutex mutex_;
  std::vector<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  // I/O thread only.
  std::map<TimerId, std::function<void()>> timers_;
  uint64_t next_timer_ = 1;
  std::unordered_map<ConnectionId, Connection> connections_;
  std::unordered_map<ucp_ep_h, ConnectionId> by_endpoint_;
  std::unordered_map<ConnectionEvents*, std::unique_ptr<Listener>> listeners_;
  std::vector<ucp_ep_h> closing_endpoints_;  // closed outside of UCX's callbacks
  ConnectionId next_connection_ = 1;
  int64_t in_flight_ = 0;
  int64_t closing_ = 0;

  std::atomic<uint64_t> messages_sent_{0}, messages_received_{0};
  std::atomic<uint64_t> payload_bytes_sent_{0}, payload_bytes_received_{0};
  std::atomic<uint64_t> connections_opened_{0}, connections_failed_{0};
  std::atomic<uint64_t> operations_expired_{0}, protocol_errors_{0};
};

}  // namespace hadal
