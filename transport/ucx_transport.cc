#include "transport/ucx_transport.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <future>
#include <mutex>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/limits.h"

namespace hadal {
namespace {

constexpr unsigned kMessageId = 1;
constexpr int kIdlePollMs = 100;
constexpr int kProgressRounds = 64;

absl::Status ucx_error(absl::string_view what, ucs_status_t status) {
  return absl::UnavailableError(absl::StrCat(what, ": ", ucs_status_string(status)));
}

// Settings that peer error handling and restarts on one port need (docs/wire_protocol.md); a user's
// own wins. In the environment, because ucp_config_modify does not reach those of memory domains
// and connection managers. Only what UCX uses stands here, as it complains about others on standard
// output: shared memory's not where tcp is alone. Once, because other threads may read the
// environment; so the first transport of a process decides for the later ones.
void set_defaults(bool tcp_alone) {
  static std::once_flag once;
  std::call_once(once, [tcp_alone] {
    setenv("UCX_CMA_MEMORY_INVALIDATE", "y", 0);
    setenv("UCX_TCP_CM_REUSEADDR", "y", 0);
    if (!tcp_alone) setenv("UCX_MM_ERROR_HANDLING", "y", 0);
  });
}

class SlabMemory final : public RegisteredMemory {
 public:
  SlabMemory(std::shared_ptr<UcxTransport> transport, absl::Span<std::byte> bytes, ucp_mem_h handle)
      : transport_(std::move(transport)), bytes_(bytes), handle_(handle) {}
  ~SlabMemory() override {
    transport_->run([this] { transport_->unmap(handle_); });
    munmap(bytes_.data(), bytes_.size());
  }
  absl::Span<std::byte> bytes() override { return bytes_; }

 private:
  std::shared_ptr<UcxTransport> transport_;
  absl::Span<std::byte> bytes_;
  ucp_mem_h handle_;
};

// Asks a name service where the host is no numeric address, unless AI_NUMERICHOST is among `flags`.
absl::StatusOr<sockaddr_storage> find_address(const std::string& host, uint16_t port, int flags,
                                              socklen_t& length) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot resolve '", host, "': ", gai_strerror(error), "; check the name"));
  }
  // IPv4 first: not every transport of UCX 1.13 takes IPv6.
  const addrinfo* chosen = found;
  while (chosen != nullptr && chosen->ai_family != AF_INET) chosen = chosen->ai_next;
  if (chosen == nullptr) chosen = found;
  sockaddr_storage address = {};
  std::memcpy(&address, chosen->ai_addr, chosen->ai_addrlen);
  length = chosen->ai_addrlen;
  freeaddrinfo(found);
  return address;
}

absl::Status split_address(const std::string& address, std::string& host, uint16_t& port) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("address '", address, "' has no port"));
  }
  host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  uint32_t number = 0;
  if (!absl::SimpleAtoi(address.substr(colon + 1), &number) || number > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(
        "address '", address, "' ends in no port; give host:port with a port of 0 to 65535"));
  }
  port = static_cast<uint16_t>(number);
  return absl::OkStatus();
}

}  // namespace

void MessageTransport::run(const std::function<void()>& task) {
  if (on_io_thread()) return task();
  std::promise<void> done;
  post([&] {
    task();
    done.set_value();
  });
  done.get_future().wait();
}

// One send in flight: owns its header, which UCX reads until the send has ended.
struct UcxTransport::Send {
  UcxTransport* transport;
  ConnectionId connection;
  OutgoingMessage message;
};

struct UcxTransport::Receive {
  UcxTransport* transport;
  PayloadPlace place;
  uint64_t bytes;
};

// A message as UCX hands it over.
struct UcxTransport::Arrival {
  const void* header;
  size_t header_bytes;
  void* data;  // the payload, or what UCX receives it with
  size_t bytes;
  const ucp_am_recv_param_t* param;
};

struct UcxTransport::Listener {
  UcxTransport* transport;
  ConnectionEvents* events;
  ucp_listener_h handle = nullptr;
};

absl::StatusOr<std::shared_ptr<UcxTransport>> UcxTransport::create(const TransportConfig& config) {
  // The last reference may be dropped by a callback on the I/O thread, which cannot join itself.
  std::shared_ptr<UcxTransport> transport(new UcxTransport(config), [](UcxTransport* last) {
    if (!last->on_io_thread()) {
      delete last;
    } else {
      std::thread([last] { delete last; }).detach();
    }
  });
  absl::Status status = transport->start();
  if (!status.ok()) return status;
  return transport;
}

absl::Status UcxTransport::start() {
  set_defaults(config_.tls == "tcp");
  ucp_config_t* config = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &config);
  if (status != UCS_OK) return ucx_error("cannot read the UCX configuration", status);
  const std::string tls = config_.tls == "auto" ? "" : config_.tls;
  if (!tls.empty()) {
    const bool has_tcp = absl::StrCat(",", tls, ",").find(",tcp,") != std::string::npos;
    ucp_config_modify(config, "TLS", (has_tcp ? tls : tls + ",tcp").c_str());
  }
  ucp_params_t params = {};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.mt_workers_shared = 1;
  status = ucp_init(&params, config, &context_);
  ucp_config_release(config);
  if (status != UCS_OK) {
    return ucx_error(absl::StrCat("cannot start UCX with transports '", config_.tls, "'"), status);
  }
  wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (wake_fd_ < 0) {
    return absl::UnavailableError(absl::StrCat("cannot start UCX: no event fd: ", strerror(errno),
                                               "; raise the limit of open files (ulimit -n)"));
  }
  std::promise<absl::Status> ready;
  std::future<absl::Status> result = ready.get_future();
  thread_ = std::thread([this, &ready] {
    pthread_setname_np(pthread_self(), config_.name.substr(0, 15).c_str());
    io_thread_ = std::this_thread::get_id();
    absl::Status started = start_worker();
    const bool ok = started.ok();
    ready.set_value(std::move(started));
    if (ok) loop();
  });
  return result.get();
}

absl::Status UcxTransport::start_worker() {
  ucp_worker_params_t params = {};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SINGLE;
  ucs_status_t status = ucp_worker_create(context_, &params, &worker_);
  if (status != UCS_OK) {
    return ucx_error("cannot create a UCX worker (it needs 4.3 MiB of /dev/shm)", status);
  }
  status = ucp_worker_get_efd(worker_, &worker_fd_);
  if (status != UCS_OK) return ucx_error("cannot wait for UCX events", status);
  ucp_am_handler_param_t handler = {};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                       UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = kMessageId;
  handler.cb = [](void* transport, const void* header, size_t header_bytes, void* data,
                  size_t bytes, const ucp_am_recv_param_t* param) {
    return static_cast<UcxTransport*>(transport)->arrived(
        {header, header_bytes, data, bytes, param});
  };
  handler.arg = this;
  status = ucp_worker_set_am_recv_handler(worker_, &handler);
  return status == UCS_OK ? absl::OkStatus() : ucx_error("cannot receive messages", status);
}

UcxTransport::~UcxTransport() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  wake();
  if (thread_.joinable()) thread_.join();
  if (worker_ != nullptr) ucp_worker_destroy(worker_);
  if (context_ != nullptr) ucp_cleanup(context_);
  if (wake_fd_ >= 0) ::close(wake_fd_);
}

void UcxTransport::wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_fd_, &one, sizeof(one));
}

void UcxTransport::post(std::function<void()> task) {
  bool was_empty = false;
  {
    absl::MutexLock lock(&mutex_);
    was_empty = tasks_.empty();
    tasks_.push_back(std::move(task));
  }
  if (was_empty && !on_io_thread()) wake();
}

TimerId UcxTransport::after(absl::Duration delay, std::function<void()> task) {
  const TimerId id(steady_now() + delay, next_timer_++);
  timers_.emplace(id, std::move(task));
  return id;
}

bool UcxTransport::run_tasks() {
  std::vector<std::function<void()>> tasks;
  {
    absl::MutexLock lock(&mutex_);
    tasks.swap(tasks_);
  }
  for (std::function<void()>& task : tasks) task();
  return !tasks.empty();
}

bool UcxTransport::run_timers() {
  bool ran = false;
  const absl::Time now = steady_now();
  while (!timers_.empty() && timers_.begin()->first.first <= now) {
    std::function<void()> task = std::move(timers_.begin()->second);
    timers_.erase(timers_.begin());
    task();
    ran = true;
  }
  return ran;
}

void UcxTransport::loop() {
  absl::Time busy = steady_now();
  while (true) {
    bool worked = false;
    for (int i = 0; i < kProgressRounds; ++i) {
      if (ucp_worker_progress(worker_) == 0) break;
      worked = true;
    }
    worked |= run_tasks();
    worked |= run_timers();
    worked |= close_endpoints();
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_ && tasks_.empty()) break;
    }
    const absl::Time now = steady_now();
    // What worked may have posted tasks, and nobody wakes this thread for its own.
    if (worked) {
      busy = now;
    } else if (now - busy >= config_.spin) {
      sleep_until_event();
    }
  }
  finish();
}

void UcxTransport::sleep_until_event() {
  if (ucp_worker_arm(worker_) != UCS_OK) return;
  int timeout_ms = kIdlePollMs;
  if (!timers_.empty()) {
    const absl::Duration left = std::clamp(timers_.begin()->first.first - steady_now(),
                                           absl::ZeroDuration(), absl::Milliseconds(kIdlePollMs));
    timeout_ms = static_cast<int>(absl::ToInt64Milliseconds(left)) + 1;
  }
  pollfd fds[2] = {{worker_fd_, POLLIN, 0}, {wake_fd_, POLLIN, 0}};
  if (poll(fds, 2, timeout_ms) > 0 && (fds[1].revents & POLLIN) != 0) {
    uint64_t value;
    [[maybe_unused]] const ssize_t got = read(wake_fd_, &value, sizeof(value));
  }
}

// Closes what is left and waits, bounded, until UCX has called back for every request.
void UcxTransport::finish() {
  for (auto& [id, listener] : listeners_) ucp_listener_destroy(listener->handle);
  listeners_.clear();
  std::vector<ConnectionId> open;
  for (const auto& [id, connection] : connections_) open.push_back(id);
  for (ConnectionId id : open) {
    connections_[id].events = nullptr;
    close(id, absl::CancelledError("the transport ends"));
  }
  close_endpoints();
  const absl::Time until = steady_now() + absl::Seconds(2);
  while ((in_flight_ > 0 || closing_ > 0) && steady_now() < until) ucp_worker_progress(worker_);
}

absl::StatusOr<uint16_t> UcxTransport::listen(const std::string& address,
                                              ConnectionEvents& events) {
  std::string host;
  uint16_t port = 0;
  absl::Status split = split_address(address, host, port);
  if (!split.ok()) return split;
  socklen_t length = 0;
  absl::StatusOr<sockaddr_storage> resolved = find_address(host, port, 0, length);
  if (!resolved.ok()) return resolved.status();
  auto listener = std::make_unique<Listener>(Listener{this, &events});
  ucp_listener_params_t params = {};
  params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  params.sockaddr.addr = reinterpret_cast<const sockaddr*>(&*resolved);
  params.sockaddr.addrlen = length;
  params.conn_handler.cb = &UcxTransport::on_connection_request;
  params.conn_handler.arg = listener.get();
  const ucs_status_t status = ucp_listener_create(worker_, &params, &listener->handle);
  if (status != UCS_OK) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address, ": ", ucs_status_string(status),
                     "; is the port in use, or the address another host's?"));
  }
  ucp_listener_attr_t attributes = {};
  attributes.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  ucp_listener_query(listener->handle, &attributes);
  const auto* in = reinterpret_cast<const sockaddr_in*>(&attributes.sockaddr);
  const auto* in6 = reinterpret_cast<const sockaddr_in6*>(&attributes.sockaddr);
  const uint16_t bound = ntohs(in->sin_family == AF_INET6 ? in6->sin6_port : in->sin_port);
  listeners_[&events] = std::move(listener);
  return bound;
}

void UcxTransport::forget(ConnectionEvents& events) {
  if (auto listener = listeners_.find(&events); listener != listeners_.end()) {
    ucp_listener_destroy(listener->second->handle);
    listeners_.erase(listener);
  }
  std::vector<ConnectionId> open;
  for (auto& [id, connection] : connections_) {
    if (connection.events == &events) open.push_back(id);
  }
  for (ConnectionId id : open) {
    connections_[id].events = nullptr;
    close(id, absl::CancelledError("its user is gone"));
  }
}

void UcxTransport::on_connection_request(ucp_conn_request_h request, void* argument) {
  auto* listener = static_cast<Listener*>(argument);
  ucp_ep_params_t params = {};
  params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
  params.conn_request = request;
  absl::StatusOr<ConnectionId> id = listener->transport->open(params, *listener->events);
  if (id.ok()) listener->events->on_accepted(*id);
}

// A thread of its own, because getaddrinfo can neither be bounded nor cancelled. It holds nothing
// of the transport while it waits, so nobody has to wait for it; a peer asks once at a time.
void UcxTransport::resolve(const std::string& host,
                           std::function<void(absl::StatusOr<std::string>)> done) {
  socklen_t length = 0;
  if (find_address(host, 0, AI_NUMERICHOST, length).ok()) return done(host);
  std::thread([weak = weak_from_this(), host, done = std::move(done)]() mutable {
    pthread_setname_np(pthread_self(), "hadal-resolve");
    socklen_t length = 0;
    const absl::StatusOr<sockaddr_storage> found = find_address(host, 0, 0, length);
    char text[NI_MAXHOST] = "";
    if (found.ok()) {
      getnameinfo(reinterpret_cast<const sockaddr*>(&*found), length, text, sizeof(text), nullptr,
                  0, NI_NUMERICHOST);
    }
    absl::StatusOr<std::string> answer = std::string(text);
    if (!found.ok()) answer = found.status();
    if (auto transport = weak.lock()) {
      transport->post([done = std::move(done), answer = std::move(answer)] { done(answer); });
    }
  }).detach();
}

absl::StatusOr<ConnectionId> UcxTransport::connect(const std::string& host, uint16_t port,
                                                   ConnectionEvents& events) {
  socklen_t length = 0;
  absl::StatusOr<sockaddr_storage> resolved = find_address(host, port, AI_NUMERICHOST, length);
  if (!resolved.ok()) return resolved.status();
  ucp_ep_params_t params = {};
  params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  params.sockaddr.addr = reinterpret_cast<const sockaddr*>(&*resolved);
  params.sockaddr.addrlen = length;
  return open(params, events);
}

absl::StatusOr<ConnectionId> UcxTransport::open(ucp_ep_params_t& params, ConnectionEvents& events) {
  params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &UcxTransport::on_endpoint_error;
  params.err_handler.arg = this;
  ucp_ep_h endpoint = nullptr;
  const ucs_status_t status = ucp_ep_create(worker_, &params, &endpoint);
  if (status != UCS_OK) {
    ++connections_failed_;
    return ucx_error("cannot open a connection", status);
  }
  const ConnectionId id = next_connection_++;
  connections_[id] = {endpoint, &events};
  by_endpoint_[endpoint] = id;
  ++connections_opened_;
  return id;
}

void UcxTransport::on_endpoint_error(void* argument, ucp_ep_h endpoint, ucs_status_t status) {
  auto* transport = static_cast<UcxTransport*>(argument);
  const auto found = transport->by_endpoint_.find(endpoint);
  if (found == transport->by_endpoint_.end()) return;
  transport->close(found->second, ucx_error("connection lost", status));
}

void UcxTransport::close(ConnectionId id, const absl::Status& why) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  const Connection connection = found->second;
  connections_.erase(found);
  by_endpoint_.erase(connection.endpoint);
  closing_endpoints_.push_back(connection.endpoint);
  if (connection.events == nullptr) return;
  ++connections_failed_;
  connection.events->on_closed(id, why);
}

// An endpoint must not be closed inside a callback of its own, where close() is often called.
bool UcxTransport::close_endpoints() {
  if (closing_endpoints_.empty()) return false;
  std::vector<ucp_ep_h> endpoints;
  endpoints.swap(closing_endpoints_);
  for (ucp_ep_h endpoint : endpoints) {
    ucp_request_param_t param = {};
    param.op_attr_mask =
        UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    param.flags = UCP_EP_CLOSE_FLAG_FORCE;
    param.user_data = this;
    param.cb.send = [](void* request, ucs_status_t, void* argument) {
      --static_cast<UcxTransport*>(argument)->closing_;
      ucp_request_free(request);
    };
    ++closing_;
    const ucs_status_ptr_t request = ucp_ep_close_nbx(endpoint, &param);
    if (!UCS_PTR_IS_PTR(request)) --closing_;
  }
  return true;
}

void UcxTransport::send(ConnectionId id, OutgoingMessage message) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) {
    if (message.sent) message.sent();
    return;
  }
  auto* send = new Send{this, id, std::move(message)};
  send->message.header.payload_bytes = static_cast<uint32_t>(send->message.payload.size());
  ++messages_sent_;
  payload_bytes_sent_ += send->message.payload.size();
  ++in_flight_;
  ucp_request_param_t param = {};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_AM_SEND_FLAG_REPLY;
  param.user_data = send;
  param.cb.send = [](void* request, ucs_status_t status, void* argument) {
    ucp_request_free(request);
    static_cast<Send*>(argument)->transport->sent(static_cast<Send*>(argument), status);
  };
  const ucs_status_ptr_t request = ucp_am_send_nbx(
      found->second.endpoint, kMessageId, &send->message.header, sizeof(MessageHeader),
      send->message.payload.data(), send->message.payload.size(), &param);
  if (!UCS_PTR_IS_PTR(request)) sent(send, UCS_PTR_STATUS(request));  // done at once, or failed
}

void UcxTransport::sent(Send* send, ucs_status_t status) {
  --in_flight_;
  std::unique_ptr<Send> owner(send);
  if (owner->message.sent) owner->message.sent();
  if (status == UCS_OK) return;
  // A lost message must not pass for one that is slow. Later, because the sender may be in the
  // middle of something; the error handler may have closed it before.
  post([this, id = owner->connection, status] { close(id, ucx_error("cannot send", status)); });
}

// UCS_OK for a rendezvous that was not begun refuses it: nothing moves.
ucs_status_t UcxTransport::arrived(const Arrival& arrival) {
  const ucp_am_recv_param_t& param = *arrival.param;
  if ((param.recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) == 0) return UCS_OK;
  const auto found = by_endpoint_.find(param.reply_ep);
  if (found == by_endpoint_.end()) return UCS_OK;
  const ConnectionId id = found->second;
  MessageHeader message;
  if (arrival.header_bytes != sizeof(message) || arrival.bytes > limits::kBlockMaxBytes) {
    count_protocol_error();
    close(id, absl::InvalidArgumentError(
                  absl::StrCat("message of ", arrival.header_bytes, " header and ", arrival.bytes,
                               " payload bytes; allowed are ", sizeof(message), " and at most ",
                               limits::kBlockMaxBytes, "; does another program connect?")));
    return UCS_OK;
  }
  std::memcpy(&message, arrival.header, sizeof(message));
  message.payload_bytes = static_cast<uint32_t>(arrival.bytes);
  ++messages_received_;
  ConnectionEvents* const events = connections_[id].events;
  if (events == nullptr) return UCS_OK;
  PayloadPlace place = events->on_message(id, message);
  if (place.bytes.size() < arrival.bytes) return UCS_OK;
  if ((param.recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) {
    receive(new Receive{this, std::move(place), arrival.bytes}, arrival.data);
    return UCS_INPROGRESS;
  }
  if (arrival.bytes > 0) std::memcpy(place.bytes.data(), arrival.data, arrival.bytes);
  payload_bytes_received_ += arrival.bytes;
  if (place.done) place.done(absl::OkStatus());
  return UCS_OK;
}

void UcxTransport::receive(Receive* receive, void* descriptor) {
  ++in_flight_;
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.user_data = receive;
  param.cb.recv_am = [](void* request, ucs_status_t status, size_t, void* argument) {
    ucp_request_free(request);
    auto* done = static_cast<Receive*>(argument);
    done->transport->received(done, status);
  };
  const ucs_status_ptr_t request = ucp_am_recv_data_nbx(
      worker_, descriptor, receive->place.bytes.data(), receive->bytes, &param);
  if (!UCS_PTR_IS_PTR(request)) received(receive, UCS_PTR_STATUS(request));
}

void UcxTransport::received(Receive* receive, ucs_status_t status) {
  --in_flight_;
  std::unique_ptr<Receive> owner(receive);
  if (status == UCS_OK) payload_bytes_received_ += owner->bytes;
  if (owner->place.done) {
    owner->place.done(status == UCS_OK ? absl::OkStatus()
                                       : ucx_error("payload did not arrive", status));
  }
}

absl::StatusOr<std::shared_ptr<RegisteredMemory>> UcxTransport::allocate(size_t bytes) {
  struct sysinfo info = {};
  sysinfo(&info);
  const uint64_t total = uint64_t{info.totalram} * info.mem_unit;
  if (bytes == 0 || bytes > total) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot register ", bytes,
                                                     " bytes of memory: the machine has ", total,
                                                     " in all; ask for less"));
  }
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot map ", bytes, " bytes of memory: ", std::strerror(errno), "; ask for less"));
  }
  madvise(memory, bytes, MADV_HUGEPAGE);
  // Every page now: what a first touch costs would otherwise be paid by the I/O thread, in a put.
  // Kernels before 5.14 do not know how; then it is.
  if (madvise(memory, bytes, MADV_POPULATE_WRITE) != 0 && errno == ENOMEM) {
    munmap(memory, bytes);
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot get ", bytes, " bytes of memory: ", std::strerror(ENOMEM), "; ask for less"));
  }
  ucp_mem_map_params_t params = {};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
  params.address = memory;
  params.length = bytes;
  ucp_mem_h handle = nullptr;
  ucs_status_t status = UCS_OK;
  run([&] { status = ucp_mem_map(context_, &params, &handle); });
  if (status != UCS_OK) {
    munmap(memory, bytes);
    return absl::ResourceExhaustedError(absl::StrCat("UCX cannot register ", bytes,
                                                     " bytes: ", ucs_status_string(status),
                                                     "; ask for less or raise ulimit -l"));
  }
  const auto span = absl::MakeSpan(static_cast<std::byte*>(memory), bytes);
  return std::shared_ptr<RegisteredMemory>(
      std::make_shared<SlabMemory>(shared_from_this(), span, handle));
}

void UcxTransport::unmap(ucp_mem_h handle) { ucp_mem_unmap(context_, handle); }

bool UcxTransport::can_send(MemoryKind kind) const {
  if (kind == MemoryKind::host) return true;
  ucp_context_attr_t attributes = {};
  attributes.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  if (ucp_context_query(context_, &attributes) != UCS_OK) return false;
  return (attributes.memory_types & UCS_BIT(UCS_MEMORY_TYPE_CUDA)) != 0;
}

std::string UcxTransport::description() const {
  return absl::StrCat("ucx ", ucp_get_version_string(), " ",
                      config_.tls == "auto" ? "tcp,shm" : config_.tls);
}

TransportStats UcxTransport::stats() const {
  TransportStats stats;
  stats.messages_sent = messages_sent_;
  stats.messages_received = messages_received_;
  stats.payload_bytes_sent = payload_bytes_sent_;
  stats.payload_bytes_received = payload_bytes_received_;
  stats.connections_opened = connections_opened_;
  stats.connections_failed = connections_failed_;
  stats.operations_expired = operations_expired_;
  stats.protocol_errors = protocol_errors_;
  return stats;
}

absl::StatusOr<std::shared_ptr<Transport>> Transport::create_ucx(const TransportConfig& config) {
  absl::StatusOr<std::shared_ptr<UcxTransport>> transport = UcxTransport::create(config);
  if (!transport.ok()) return transport.status();
  return std::shared_ptr<Transport>(*std::move(transport));
}

}  // namespace hadal
