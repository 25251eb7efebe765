#include "transport/block_peer.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <random>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/limits.h"
#include "transport/control_payload.h"

namespace hadal {
namespace {

// One request on its way. Its end is `end`, called once.
struct Operation {
  MessageHeader header;
  MessageBytes body;
  absl::Time deadline;
  TimerId timer;
  absl::Status invalid;  // why it is not sent at all
  bool sent = false;
  std::function<void(const MessageHeader&, absl::Span<const std::byte>)> reply;  // control answers
  std::function<void(absl::Status)> end;
  std::vector<PeerPut> puts;
  std::vector<absl::Status> put_statuses;
  std::vector<PeerGet> gets;
  std::vector<bool> answered;  // get: index was handed out, or is being received
  std::function<void(size_t, absl::StatusOr<GetAnswer>)> each;
  bool judged = false;  // put: the verdict has come
  size_t open = 0;      // keys without an end
};

bool is_answer(MessageType asked, MessageType answer) {
  switch (asked) {
    case MessageType::lookup:
      return answer == MessageType::lookup_reply;
    case MessageType::put_offer:
      return answer == MessageType::put_verdict || answer == MessageType::put_result;
    case MessageType::get:
      return answer == MessageType::get_block;
    case MessageType::report_bad:
      return answer == MessageType::report_reply;
    default:
      return false;
  }
}

// All state but what the mutex guards is the I/O thread's. Callbacks hold it weakly.
class PeerCore final : public ConnectionEvents, public std::enable_shared_from_this<PeerCore> {
 public:
  PeerCore(MessageTransport& messages, NodeAddress node, BlockPeerConfig config,
           std::string library)
      : messages_(messages),
        node_(std::move(node)),
        config_(config),
        library_(std::move(library)) {}

  void start_connecting();
  void connect(const absl::StatusOr<std::string>& host);
  void submit(BlockPeer::OperationId id, std::unique_ptr<Operation> operation);
  void end(BlockPeer::OperationId id, const absl::Status& status);
  void send_release(uint64_t lease);
  void shut_down();

  void on_accepted(ConnectionId) override {}
  void on_closed(ConnectionId connection, const absl::Status& why) override;
  PayloadPlace on_message(ConnectionId connection, const MessageHeader& header) override;

  PeerState state() const {
    absl::MutexLock lock(&mutex_);
    return state_;
  }
  std::string last_error() const {
    absl::MutexLock lock(&mutex_);
    return last_error_;
  }

 private:
  void set_state(PeerState state, const std::string& error);
  void connection_failed(const absl::Status& why);
  void refuse(const absl::Status& why);
  absl::Status check(const MessageHeader& header) const;
  void send_operation(Operation& operation);
  PayloadPlace get_block_place(const MessageHeader& header);
  void handle(const MessageHeader& header, absl::Span<const std::byte> payload);
  void greeted(const MessageHeader& header, absl::Span<const std::byte> payload);
  void put_verdicts(BlockPeer::OperationId id, const MessageHeader& header,
                    absl::Span<const std::byte> payload);
  void put_result(BlockPeer::OperationId id, const MessageHeader& header,
                  absl::Span<const std::byte> payload);
  void key_done(BlockPeer::OperationId id);
  void got(const MessageHeader& header, absl::StatusOr<GetAnswer> answer);
  void ping();
  void ping_later(absl::Duration delay);

  MessageTransport& messages_;
  const NodeAddress node_;
  const BlockPeerConfig config_;
  const std::string library_;
  DiscardedPayloads discarded_;

  ConnectionId connection_ = 0;
  std::map<BlockPeer::OperationId, std::unique_ptr<Operation>> operations_;
  absl::Duration backoff_ = absl::ZeroDuration();
  absl::Time last_heard_;
  absl::Time ping_sent_ = absl::InfiniteFuture();
  bool ended_ = false;
  std::string refusal_;  // of this connection's HELLO
  std::mt19937 random_{std::random_device{}()};

  mutable absl::Mutex mutex_;
  PeerState state_ ABSL_GUARDED_BY(mutex_) = PeerState::connecting;
  std::string last_error_ ABSL_GUARDED_BY(mutex_);
};

void PeerCore::set_state(PeerState state, const std::string& error) {
  absl::MutexLock lock(&mutex_);
  state_ = state;
  last_error_ = error;
}

void PeerCore::start_connecting() {
  if (ended_ || connection_ != 0) return;
  {
    absl::MutexLock lock(&mutex_);
    state_ = PeerState::connecting;
  }
  messages_.resolve(node_.host, [weak = weak_from_this()](const absl::StatusOr<std::string>& host) {
    if (auto core = weak.lock()) core->connect(host);
  });
}

void PeerCore::connect(const absl::StatusOr<std::string>& host) {
  if (ended_ || connection_ != 0) return;
  refusal_.clear();
  if (!host.ok()) return connection_failed(host.status());
  absl::StatusOr<ConnectionId> connection = messages_.connect(*host, node_.port, *this);
  if (!connection.ok()) return connection_failed(connection.status());
  connection_ = *connection;
  // In the same task: UCX 1.13 can lose a message that is sent while it moves a new connection from
  // tcp to shared memory, and nothing follows before the answer.
  MessageHeader hello;
  hello.type = MessageType::hello;
  messages_.send(connection_,
                 control_message(hello, write_hello({kWireVersion, library_, "", ""})));
  messages_.after(config_.connect_timeout, [weak = weak_from_this(), connection = connection_] {
    auto core = weak.lock();
    if (!core || core->connection_ != connection || core->state() == PeerState::ready) return;
    core->messages_.close(connection, absl::UnavailableError(absl::StrCat(
                                          "no answer to HELLO in ",
                                          absl::FormatDuration(core->config_.connect_timeout))));
  });
}

void PeerCore::on_closed(ConnectionId connection, const absl::Status& why) {
  if (connection != connection_) return;
  connection_ = 0;
  connection_failed(why);
}

// Fails everything and tries again after a while, longer each time.
void PeerCore::connection_failed(const absl::Status& why) {
  ping_sent_ = absl::InfiniteFuture();
  // A refusal is worth more than the closing that follows it.
  const std::string text = absl::StrCat("node ", node_.host_port(),
                                        refusal_.empty() ? absl::StrCat(" is away: ", why.message())
                                                         : absl::StrCat(" is no use: ", refusal_));
  set_state(PeerState::backing_off, text);
  std::vector<BlockPeer::OperationId> open;
  for (const auto& [id, operation] : operations_) open.push_back(id);
  for (BlockPeer::OperationId id : open) end(id, absl::UnavailableError(text));
  if (ended_) return;
  backoff_ = std::clamp(backoff_ * 2, config_.backoff_min, config_.backoff_max);
  const double jitter = std::uniform_real_distribution<double>(0.5, 1.0)(random_);
  messages_.after(backoff_ * jitter, [weak = weak_from_this()] {
    if (auto core = weak.lock()) core->start_connecting();
  });
}

void PeerCore::submit(BlockPeer::OperationId id, std::unique_ptr<Operation> operation) {
  if (ended_) return operation->end(absl::CancelledError("the client ends"));
  if (!operation->invalid.ok()) return operation->end(operation->invalid);
  const absl::Time now = absl::Now();
  if (operation->deadline <= now) {
    messages_.count_expired();
    return operation->end(
        absl::DeadlineExceededError("the deadline had passed before it was sent"));
  }
  if (state() == PeerState::backing_off)
    return operation->end(absl::UnavailableError(last_error()));
  operation->timer = messages_.after(operation->deadline - now, [weak = weak_from_this(), id] {
    auto core = weak.lock();
    if (!core || core->operations_.count(id) == 0) return;
    core->messages_.count_expired();
    core->end(id, absl::DeadlineExceededError(
                      absl::StrCat("node ", core->node_.host_port(), " did not answer in time")));
  });
  operation->header.operation = id;
  Operation& placed = *(operations_[id] = std::move(operation));
  if (state() == PeerState::ready) send_operation(placed);
}

void PeerCore::send_operation(Operation& operation) {
  operation.sent = true;
  messages_.send(connection_, control_message(operation.header, std::move(operation.body)));
}

void PeerCore::end(BlockPeer::OperationId id, const absl::Status& status) {
  const auto found = operations_.find(id);
  if (found == operations_.end()) return;
  const std::unique_ptr<Operation> operation = std::move(found->second);
  operations_.erase(found);
  messages_.cancel_timer(operation->timer);
  operation->end(status);
}

void PeerCore::send_release(uint64_t lease) {
  MessageHeader header;
  header.type = MessageType::release;
  header.lease = lease;
  if (state() == PeerState::ready) messages_.send(connection_, {header});
}

void PeerCore::shut_down() {
  ended_ = true;
  messages_.forget(*this);
  connection_ = 0;
  while (!operations_.empty())
    end(operations_.begin()->first, absl::CancelledError("the client ends"));
}

// The node broke the protocol: nothing it says can be trusted.
void PeerCore::refuse(const absl::Status& why) {
  messages_.count_protocol_error();
  messages_.close(connection_, why);
}

absl::Status PeerCore::check(const MessageHeader& header) const {
  const bool is_block = header.type == MessageType::get_block && header.status == 0;
  if (absl::Status status = check_message(header, is_block); !status.ok()) return status;
  const bool is_hello = header.type == MessageType::hello_reply;
  if (is_hello != (state() == PeerState::ready)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the node sent a message of type ",
                                                 static_cast<int>(header.type),
                                                 is_hello ? " twice" : " before its HELLO"));
}

PayloadPlace PeerCore::on_message(ConnectionId connection, const MessageHeader& header) {
  if (connection != connection_) return {};
  last_heard_ = steady_now();
  ping_sent_ = absl::InfiniteFuture();
  if (absl::Status status = check(header); !status.ok()) {
    refuse(status);
    return {};
  }
  if (header.type == MessageType::get_block && header.status == 0) return get_block_place(header);
  if (header.payload_bytes == 0) {
    handle(header, {});
    return {};
  }
  return control_place(header.payload_bytes, [weak = weak_from_this(), connection,
                                              header](absl::Span<const std::byte> payload) {
    auto core = weak.lock();
    if (core && core->connection_ == connection) core->handle(header, payload);
  });
}

PayloadPlace PeerCore::get_block_place(const MessageHeader& header) {
  const auto found = operations_.find(header.operation);
  if (found == operations_.end()) return discarded_.place(header.payload_bytes);  // too late
  if (header.index >= found->second->gets.size() || found->second->answered[header.index]) {
    refuse(absl::InvalidArgumentError(
        absl::StrCat("the node sent block ", header.index, " of a get twice or unasked")));
    return {};
  }
  const size_t room_bytes = found->second->gets[header.index].bytes.size();
  if (header.payload_bytes > room_bytes) {
    found->second->answered[header.index] = true;
    got(header, absl::DataLossError(absl::StrCat("the node sent a block of ", header.payload_bytes,
                                                 " bytes for a buffer of ", room_bytes)));
    return discarded_.place(header.payload_bytes);
  }
  PeerGet& get = found->second->gets[header.index];
  found->second->answered[header.index] = true;
  PayloadPlace place;
  place.bytes = get.bytes;
  place.hold = std::const_pointer_cast<void>(get.hold);
  place.done = [weak = weak_from_this(), header](const absl::Status& status) {
    auto core = weak.lock();
    if (!core) return;
    GetAnswer answer;
    answer.bytes = header.payload_bytes;
    answer.dropped_planes = header.dropped_planes;
    answer.precision = {header.key_planes, header.value_planes};
    answer.tier = static_cast<Tier>(std::min<uint8_t>(header.tier, 3));
    answer.generation = header.generation;
    core->got(header, status.ok() ? absl::StatusOr<GetAnswer>(answer) : status);
  };
  return place;
}

void PeerCore::got(const MessageHeader& header, absl::StatusOr<GetAnswer> answer) {
  const auto found = operations_.find(header.operation);
  if (found == operations_.end() || header.index >= found->second->gets.size()) return;
  found->second->each(header.index, std::move(answer));
  key_done(header.operation);
}

void PeerCore::key_done(BlockPeer::OperationId id) {
  const auto found = operations_.find(id);
  if (found != operations_.end() && --found->second->open == 0) end(id, absl::OkStatus());
}

void PeerCore::handle(const MessageHeader& header, absl::Span<const std::byte> payload) {
  if (header.type == MessageType::hello_reply) return greeted(header, payload);
  if (header.type == MessageType::pong) return;
  const auto found = operations_.find(header.operation);
  if (found == operations_.end()) return;  // late
  if (!is_answer(found->second->header.type, header.type)) {
    return refuse(absl::InvalidArgumentError(absl::StrCat(
        "the node answered a message of type ", static_cast<int>(found->second->header.type),
        " with type ", static_cast<int>(header.type))));
  }
  switch (header.type) {
    case MessageType::put_verdict:
      return put_verdicts(header.operation, header, payload);
    case MessageType::put_result:
      return put_result(header.operation, header, payload);
    case MessageType::get_block:
      if (header.index < found->second->answered.size() && !found->second->answered[header.index]) {
        found->second->answered[header.index] = true;
        got(header, message_status(header, payload));
      }
      return;
    default:
      found->second->reply(header, payload);
  }
}

void PeerCore::greeted(const MessageHeader& header, absl::Span<const std::byte> payload) {
  if (header.status != 0) {
    refusal_ = std::string(message_status(header, payload).message());
    return;  // the node closes
  }
  const absl::StatusOr<Hello> hello = read_hello(payload);
  if (!hello.ok()) return refuse(hello.status());
  if (header.version != kWireVersion || hello->protocol_version != kWireVersion) {
    const absl::Status refused =
        version_mismatch(absl::StrCat(hello->protocol_version, " (", hello->library, ")"),
                         absl::StrCat(kWireVersion, " (", library_, ")"));
    refusal_ = std::string(refused.message());
    return refuse(refused);
  }
  set_state(PeerState::ready, "");
  backoff_ = absl::ZeroDuration();
  for (auto& [id, operation] : operations_) {
    if (!operation->sent) send_operation(*operation);
  }
  ping_later(config_.ping_interval);
}

void PeerCore::put_verdicts(BlockPeer::OperationId id, const MessageHeader& header,
                            absl::Span<const std::byte> payload) {
  Operation& operation = *operations_[id];
  if (operation.judged) return refuse(absl::InvalidArgumentError("a second verdict of one offer"));
  operation.judged = true;
  absl::StatusOr<std::vector<absl::Status>> verdicts = read_statuses(payload, header.count);
  if (!verdicts.ok() || verdicts->size() != operation.puts.size()) {
    return end(id, absl::InternalError("the node answered an offer with another number of keys"));
  }
  std::vector<uint32_t> wanted;
  for (uint32_t i = 0; i < verdicts->size(); ++i) {
    operation.put_statuses[i] = (*verdicts)[i];
    if ((*verdicts)[i].ok()) {
      operation.put_statuses[i] = absl::DeadlineExceededError("the node did not confirm in time");
      wanted.push_back(i);
    }
  }
  operation.open = wanted.size();
  for (uint32_t i : wanted) {
    OutgoingMessage message;
    message.header.type = MessageType::put_block;
    message.header.operation = id;
    message.header.index = i;
    message.payload = operation.puts[i].bytes;
    message.hold = operation.puts[i].hold;
    messages_.send(connection_, std::move(message));
  }
  if (wanted.empty()) end(id, absl::OkStatus());
}

void PeerCore::put_result(BlockPeer::OperationId id, const MessageHeader& header,
                          absl::Span<const std::byte> payload) {
  Operation& operation = *operations_[id];
  if (header.index >= operation.put_statuses.size() || operation.open == 0) return;
  operation.put_statuses[header.index] = message_status(header, payload);
  key_done(id);
}

void PeerCore::ping() {
  const absl::Time now = steady_now();
  if (now - ping_sent_ >= config_.ping_timeout) {
    messages_.close(connection_,
                    absl::UnavailableError(absl::StrCat("no answer to a ping in ",
                                                        absl::FormatDuration(now - ping_sent_))));
    return;
  }
  if (ping_sent_ == absl::InfiniteFuture() && now - last_heard_ >= config_.ping_interval) {
    MessageHeader header;
    header.type = MessageType::ping;
    ping_sent_ = now;
    messages_.send(connection_, {header});
  }
  ping_later(config_.ping_interval / 2);
}

// Ends with its connection: a node that comes and goes quickly must not gather pingers.
void PeerCore::ping_later(absl::Duration delay) {
  messages_.after(delay, [weak = weak_from_this(), connection = connection_] {
    auto core = weak.lock();
    if (core && core->connection_ == connection) core->ping();
  });
}

class BlockPeerImpl final : public BlockPeer {
 public:
  BlockPeerImpl(std::shared_ptr<Transport> transport, const NodeAddress& node,
                const BlockPeerConfig& config)
      : transport_(std::move(transport)),
        core_(std::make_shared<PeerCore>(transport_->messages(), node, config,
                                         transport_->description())) {
    transport_->messages().post([core = core_] { core->start_connecting(); });
  }
  ~BlockPeerImpl() override {
    transport_->messages().run([this] { core_->shut_down(); });
  }

  PeerState state() const override { return core_->state(); }
  std::string last_error() const override { return core_->last_error(); }

  OperationId lookup(std::vector<BlockKey> keys, const LookupOptions& lookup,
                     const OperationOptions& options,
                     std::function<void(absl::StatusOr<LookupAnswer>)> done) override {
    auto operation = make(MessageType::lookup, keys.size(), options);
    operation->header.index = lookup.lease_ms;
    operation->header.for_put = lookup.for_put ? 1 : 0;
    operation->header.key_planes = lookup.precision.key_planes;
    operation->header.value_planes = lookup.precision.value_planes;
    operation->body = write_keys(keys);
    auto answer = std::make_shared<absl::StatusOr<LookupAnswer>>(absl::InternalError("no answer"));
    const OperationId id = next_++;
    operation->reply = [this_core = std::weak_ptr<PeerCore>(core_), answer, id,
                        asked = keys.size()](const MessageHeader& header,
                                             absl::Span<const std::byte> payload) {
      absl::StatusOr<std::vector<KeyAnswer>> keys = read_answers(payload, header.count);
      if (!keys.ok()) {
        *answer = keys.status();
      } else if (keys->size() != asked) {
        *answer = absl::InternalError(
            absl::StrCat("the node answered ", keys->size(), " keys of a lookup of ", asked));
      } else {
        *answer = LookupAnswer{*std::move(keys), header.lease};
      }
      if (auto core = this_core.lock()) core->end(id, absl::OkStatus());
    };
    operation->end = [answer, done = std::move(done)](const absl::Status& status) {
      done(status.ok() ? std::move(*answer) : status);
    };
    return submit(id, std::move(operation));
  }

  OperationId put(std::vector<PeerPut> puts, const OperationOptions& options,
                  std::function<void(std::vector<absl::Status>)> done) override {
    auto operation = make(MessageType::put_offer, puts.size(), options);
    std::vector<PutOffer> offers;
    for (const PeerPut& put : puts) {
      offers.push_back(put.offer);
      offers.back().bytes = static_cast<uint32_t>(put.bytes.size());
      if (put.bytes.empty() || put.bytes.size() > limits::kBlockMaxBytes) {
        operation->invalid = absl::InvalidArgumentError(absl::StrCat(
            "a block of ", put.bytes.size(), " bytes; allowed are 1 to ", limits::kBlockMaxBytes));
      }
    }
    operation->body = write_offers(offers);
    operation->put_statuses.assign(puts.size(), absl::UnknownError("no verdict"));
    operation->puts = std::move(puts);
    Operation* raw = operation.get();
    operation->end = [raw, done = std::move(done)](const absl::Status& status) {
      for (absl::Status& each : raw->put_statuses) {
        // What has no end of its own ends as the operation did.
        if (!status.ok() && (each.code() == absl::StatusCode::kUnknown ||
                             each.code() == absl::StatusCode::kDeadlineExceeded)) {
          each = status;
        }
      }
      done(std::move(raw->put_statuses));
    };
    return submit(next_++, std::move(operation));
  }

  OperationId get(std::vector<PeerGet> gets, const OperationOptions& options,
                  std::function<void(size_t, absl::StatusOr<GetAnswer>)> each,
                  std::function<void(absl::Status)> done) override {
    auto operation = make(MessageType::get, gets.size(), options);
    std::vector<ReadRequest> reads;
    for (const PeerGet& get : gets) {
      reads.push_back(get.request);
      reads.back().max_bytes =
          static_cast<uint32_t>(std::min<uint64_t>(get.bytes.size(), limits::kBlockMaxBytes));
    }
    operation->body = write_reads(reads);
    operation->answered.assign(gets.size(), false);
    operation->open = gets.size();
    operation->gets = std::move(gets);
    operation->each = std::move(each);
    operation->end = std::move(done);
    return submit(next_++, std::move(operation));
  }

  void release(uint64_t lease) override {
    transport_->messages().post([weak = std::weak_ptr<PeerCore>(core_), lease] {
      if (auto core = weak.lock()) core->send_release(lease);
    });
  }

  OperationId report_bad(const BlockKey& key, uint64_t generation, absl::Time deadline,
                         std::function<void(absl::StatusOr<bool>)> done) override {
    auto operation = make(MessageType::report_bad, 1, {deadline});
    operation->header.generation = generation;
    operation->body = write_keys({&key, 1});
    auto gone = std::make_shared<bool>(false);
    const OperationId id = next_++;
    operation->reply = [weak = std::weak_ptr<PeerCore>(core_), gone, id](
                           const MessageHeader& header, absl::Span<const std::byte>) {
      *gone = header.count != 0;
      if (auto core = weak.lock()) core->end(id, absl::OkStatus());
    };
    operation->end = [gone, done = std::move(done)](const absl::Status& status) {
      if (done) done(status.ok() ? absl::StatusOr<bool>(*gone) : status);
    };
    return submit(id, std::move(operation));
  }

  void cancel(OperationId id) override {
    transport_->messages().post([weak = std::weak_ptr<PeerCore>(core_), id] {
      if (auto core = weak.lock()) core->end(id, absl::CancelledError("cancelled"));
    });
  }

 private:
  static std::unique_ptr<Operation> make(MessageType type, size_t count,
                                         const OperationOptions& options) {
    auto operation = std::make_unique<Operation>();
    operation->header.type = type;
    operation->header.count = static_cast<uint32_t>(count);
    operation->header.priority = static_cast<uint8_t>(options.priority);
    operation->deadline = options.deadline;
    if (count == 0 || count > limits::kBatchMaxKeys) {
      operation->invalid = absl::InvalidArgumentError(
          absl::StrCat("a batch of ", count, " keys; allowed are 1 to ", limits::kBatchMaxKeys));
    }
    return operation;
  }
  OperationId submit(OperationId id, std::unique_ptr<Operation> operation) {
    // std::function copies; the operation itself must not be.
    auto shared = std::make_shared<std::unique_ptr<Operation>>(std::move(operation));
    transport_->messages().post(
        [core = core_, id, shared] { core->submit(id, std::move(*shared)); });
    return id;
  }

  std::shared_ptr<Transport> transport_;
  std::shared_ptr<PeerCore> core_;
  std::atomic<OperationId> next_{1};
};

}  // namespace

std::unique_ptr<BlockPeer> BlockPeer::create(std::shared_ptr<Transport> transport,
                                             const NodeAddress& node,
                                             const BlockPeerConfig& config) {
  return std::make_unique<BlockPeerImpl>(std::move(transport), node, config);
}

}  // namespace hadal
