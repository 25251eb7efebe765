#include "transport/block_server.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "transport/control_payload.h"

namespace hadal {
namespace {

// A connection's share. Blocks that were read and not yet sent stay pinned, so they count too.
constexpr size_t kBlocksInFlightMax = 16;   // sends of blocks
constexpr size_t kBlocksHeldMax = 64;       // being read, waiting to be sent or being sent
constexpr size_t kReadsWaitingMax = 65536;  // all batches together
// Slots that a client was given and has not filled: without a bound it could keep the whole slab
// for put_timeout. The client library offers what its staging memory holds, 128 MiB by default.
constexpr size_t kPutSlotsMax = 4096;                   // as many as a batch has keys
constexpr uint64_t kPutBytesMax = uint64_t{256} << 20;  // reached with one block of any size
constexpr int kSweepsPerSilence = 6;  // so a silent client is closed up to a sixth too late
// For a refusal to arrive before the connection closes.
constexpr absl::Duration kRefusalTime = absl::Milliseconds(20);
constexpr absl::Duration kEndTimeout = absl::Seconds(2);

struct PutKey {
  uint32_t bytes = 0;           // as offered
  std::optional<PutSlot> slot;  // empty where refused or done
  bool arriving = false;
};

struct PutBatch {
  std::vector<PutKey> keys;
  size_t open = 0;
  TimerId timer;
};

struct PendingRead {
  MessageHeader reply;
  ReadRequest request;
};

struct PeerConnection {
  bool greeted = false;
  bool refused = false;               // it hears why, then it is closed
  absl::Time alive;                   // last sign of it
  std::map<uint64_t, PutBatch> puts;  // by operation
  size_t put_slots = 0;               // open, of all batches
  uint64_t put_bytes = 0;             // of these slots
  std::map<std::pair<uint8_t, uint64_t>, PendingRead> waiting_reads;  // by rank, then age
  uint64_t reads_asked = 0;                                           // since it connected
  size_t reads_in_flight = 0;
  std::deque<OutgoingMessage> waiting_blocks;
  size_t blocks_in_flight = 0;
};

// What the network holds: the block's own reference, and the server's count of what is in flight.
struct Held {
  std::shared_ptr<const void> block;
  std::shared_ptr<const void> in_flight;
};

// All state, on the I/O thread. Later answers hold it weakly.
class ServerCore final : public ConnectionEvents, public std::enable_shared_from_this<ServerCore> {
 public:
  ServerCore(std::shared_ptr<Transport> transport, BlockHandler& handler,
             const BlockServerConfig& config)
      : transport_(std::move(transport)),
        messages_(transport_->messages()),
        handler_(handler),
        config_(config),
        library_(transport_->description()) {}

  void on_accepted(ConnectionId connection) override { peers_[connection].alive = steady_now(); }
  void on_closed(ConnectionId connection, const absl::Status&) override;
  PayloadPlace on_message(ConnectionId connection, const MessageHeader& header) override;

  size_t peer_count() const { return peers_.size(); }
  void refuse_puts() { refuse_puts_ = true; }
  bool idle() const;
  void sweep();
  void clear();
  // Any thread: sends and receives that the network has not let go of.
  int64_t in_flight() const { return in_flight_.use_count() - 1; }

 private:
  PayloadPlace put_block_place(ConnectionId connection, const MessageHeader& header);
  absl::Status check(const PeerConnection& peer, const MessageHeader& header) const;
  void handle(ConnectionId connection, const MessageHeader& header,
              absl::Span<const std::byte> payload);
  absl::Status dispatch(ConnectionId connection, const MessageHeader& header,
                        absl::Span<const std::byte> payload);
  absl::Status hello(ConnectionId connection, const MessageHeader& header,
                     absl::Span<const std::byte> payload);
  absl::Status lookup(ConnectionId connection, const MessageHeader& header,
                      absl::Span<const std::byte> payload);
  absl::Status put_offer(ConnectionId connection, const MessageHeader& header,
                         absl::Span<const std::byte> payload);
  absl::Status get(ConnectionId connection, const MessageHeader& header,
                   absl::Span<const std::byte> payload);
  absl::Status report_bad(ConnectionId connection, const MessageHeader& header,
                          absl::Span<const std::byte> payload);
  absl::StatusOr<PutSlot> reserve(PeerConnection& peer, const PutOffer& offer);
  void expire_put(ConnectionId connection, uint64_t operation);
  void finish_put(ConnectionId connection, const MessageHeader& header,
                  const absl::Status& arrived);
  void pump_reads(ConnectionId connection);
  void answer_read(ConnectionId connection, const MessageHeader& reply,
                   absl::StatusOr<StoredBlock> block);
  void pump_blocks(ConnectionId connection);
  void refuse(ConnectionId connection, const absl::Status& why);
  void forget(PeerConnection& peer);

  const std::shared_ptr<Transport> transport_;  // a storage thread may hold the core for a moment
  MessageTransport& messages_;
  BlockHandler& handler_;
  const BlockServerConfig config_;
  const std::string library_;
  bool refuse_puts_ = false;
  std::unordered_map<ConnectionId, PeerConnection> peers_;
  DiscardedPayloads discarded_;
  const std::shared_ptr<const void> in_flight_ = std::make_shared<char>();
};

bool ServerCore::idle() const {
  return std::all_of(peers_.begin(), peers_.end(), [](const auto& entry) {
    const PeerConnection& peer = entry.second;
    return peer.puts.empty() && peer.waiting_reads.empty() && peer.reads_in_flight == 0 &&
           peer.waiting_blocks.empty() && peer.blocks_in_flight == 0;
  });
}

void ServerCore::forget(PeerConnection& peer) {
  for (const auto& [operation, batch] : peer.puts) messages_.cancel_timer(batch.timer);
}

void ServerCore::on_closed(ConnectionId connection, const absl::Status&) {
  const auto peer = peers_.find(connection);
  if (peer == peers_.end()) return;
  forget(peer->second);
  peers_.erase(peer);
}

void ServerCore::clear() {
  for (auto& [connection, peer] : peers_) forget(peer);
  peers_.clear();
}

// Closes connections whose client froze: its blocks would stay pinned for as long as it likes.
void ServerCore::sweep() {
  const absl::Time before = steady_now() - config_.silence_timeout;
  std::vector<ConnectionId> silent;
  for (const auto& [connection, peer] : peers_) {
    if (peer.alive < before) silent.push_back(connection);
  }
  for (ConnectionId connection : silent) {
    messages_.close(connection, absl::UnavailableError("nothing heard from the client"));
  }
  messages_.after(config_.silence_timeout / kSweepsPerSilence, [weak = weak_from_this()] {
    if (auto core = weak.lock()) core->sweep();
  });
}

// The client broke the protocol: nothing it says can be trusted.
void ServerCore::refuse(ConnectionId connection, const absl::Status& why) {
  messages_.count_protocol_error();
  messages_.close(connection, why);
}

absl::Status ServerCore::check(const PeerConnection& peer, const MessageHeader& header) const {
  if (absl::Status status = check_message(header, header.type == MessageType::put_block);
      !status.ok()) {
    return status;
  }
  if (header.type == MessageType::hello) return absl::OkStatus();  // answers other versions
  if (!peer.greeted) {
    return absl::InvalidArgumentError(
        absl::StrCat("message of type ", static_cast<int>(header.type), " before HELLO"));
  }
  if (header.version == kWireVersion) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("message of version ", header.version, " after HELLO of ", kWireVersion));
}

PayloadPlace ServerCore::on_message(ConnectionId connection, const MessageHeader& header) {
  const auto peer = peers_.find(connection);
  if (peer == peers_.end() || peer->second.refused) return {};
  peer->second.alive = steady_now();
  if (absl::Status status = check(peer->second, header); !status.ok()) {
    refuse(connection, status);
    return {};
  }
  if (header.type == MessageType::put_block) return put_block_place(connection, header);
  if (header.payload_bytes == 0) {
    handle(connection, header, {});
    return {};
  }
  return control_place(header.payload_bytes, [weak = weak_from_this(), connection,
                                              header](absl::Span<const std::byte> payload) {
    if (auto core = weak.lock()) core->handle(connection, header, payload);
  });
}

void ServerCore::handle(ConnectionId connection, const MessageHeader& header,
                        absl::Span<const std::byte> payload) {
  if (peers_.find(connection) == peers_.end()) return;
  absl::Status status = dispatch(connection, header, payload);
  if (!status.ok()) refuse(connection, status);
}

absl::Status ServerCore::dispatch(ConnectionId connection, const MessageHeader& header,
                                  absl::Span<const std::byte> payload) {
  switch (header.type) {
    case MessageType::hello:
      return hello(connection, header, payload);
    case MessageType::ping: {
      MessageHeader pong;
      pong.type = MessageType::pong;
      messages_.send(connection, {pong});
      return absl::OkStatus();
    }
    case MessageType::lookup:
      return lookup(connection, header, payload);
    case MessageType::release:
      handler_.release(header.lease);
      return absl::OkStatus();
    case MessageType::put_offer:
      return put_offer(connection, header, payload);
    case MessageType::get:
      return get(connection, header, payload);
    case MessageType::report_bad:
      return report_bad(connection, header, payload);
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("unexpected message of type ", static_cast<int>(header.type)));
  }
}

absl::Status ServerCore::hello(ConnectionId connection, const MessageHeader& header,
                               absl::Span<const std::byte> payload) {
  absl::StatusOr<Hello> hello = read_hello(payload);
  if (!hello.ok()) return hello.status();
  MessageHeader reply;
  reply.type = MessageType::hello_reply;
  if (header.version != kWireVersion || hello->protocol_version != kWireVersion) {
    const absl::Status refused =
        version_mismatch(absl::StrCat(kWireVersion, " (", library_, ")"),
                         absl::StrCat(hello->protocol_version, " (", hello->library, ")"));
    messages_.send(connection, status_message(reply, refused));
    peers_[connection].refused = true;
    messages_.after(kRefusalTime, [weak = weak_from_this(), connection, refused] {
      if (auto core = weak.lock()) core->refuse(connection, refused);
    });
    return absl::OkStatus();
  }
  peers_[connection].greeted = true;
  messages_.send(connection, control_message(reply, write_hello({kWireVersion, library_, "", ""})));
  return absl::OkStatus();
}

absl::Status ServerCore::lookup(ConnectionId connection, const MessageHeader& header,
                                absl::Span<const std::byte> payload) {
  absl::StatusOr<std::vector<BlockKey>> keys = read_keys(payload, header.count);
  if (!keys.ok()) return keys.status();
  LookupOptions options;
  options.lease_ms = header.index;
  options.for_put = header.for_put == 1;
  options.precision = {header.key_planes, header.value_planes};
  const LookupAnswer answer = handler_.lookup(*keys, options);
  MessageHeader reply;
  reply.type = MessageType::lookup_reply;
  reply.operation = header.operation;
  reply.count = header.count;
  reply.lease = answer.lease;
  messages_.send(connection, control_message(reply, write_answers(answer.keys)));
  return absl::OkStatus();
}

absl::StatusOr<PutSlot> ServerCore::reserve(PeerConnection& peer, const PutOffer& offer) {
  if (refuse_puts_) return absl::UnavailableError("the node is shutting down");
  if (peer.put_slots >= kPutSlotsMax || peer.put_bytes >= kPutBytesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("this connection has ", peer.put_slots, " blocks of ", peer.put_bytes,
                     " bytes offered and not sent; at most ", kPutSlotsMax, " blocks or ",
                     kPutBytesMax, " bytes may be: send them, or offer fewer at once"));
  }
  absl::StatusOr<PutSlot> slot = handler_.reserve(offer);
  if (!slot.ok()) return slot;
  ++peer.put_slots;
  peer.put_bytes += offer.bytes;
  return slot;
}

// Gives the slots back that no payload came for.
void ServerCore::expire_put(ConnectionId connection, uint64_t operation) {
  const auto peer = peers_.find(connection);
  if (peer == peers_.end()) return;
  const auto batch = peer->second.puts.find(operation);
  if (batch == peer->second.puts.end()) return;
  for (const PutKey& key : batch->second.keys) {
    if (!key.slot.has_value()) continue;
    --peer->second.put_slots;
    peer->second.put_bytes -= key.bytes;
  }
  peer->second.puts.erase(batch);
}

absl::Status ServerCore::put_offer(ConnectionId connection, const MessageHeader& header,
                                   absl::Span<const std::byte> payload) {
  absl::StatusOr<std::vector<PutOffer>> offers = read_offers(payload, header.count);
  if (!offers.ok()) return offers.status();
  PeerConnection& peer = peers_[connection];
  if (peer.puts.count(header.operation) != 0)
    return absl::InvalidArgumentError("operation offered twice");
  PutBatch batch;
  std::vector<absl::Status> verdicts;
  for (const PutOffer& offer : *offers) {
    absl::StatusOr<PutSlot> slot = reserve(peer, offer);
    verdicts.push_back(slot.status());
    batch.open += slot.ok();
    batch.keys.push_back({offer.bytes, std::nullopt});
    if (slot.ok()) batch.keys.back().slot = *std::move(slot);
  }
  const uint64_t operation = header.operation;
  if (batch.open > 0) {
    batch.timer =
        messages_.after(config_.put_timeout, [weak = weak_from_this(), connection, operation] {
          if (auto core = weak.lock()) core->expire_put(connection, operation);
        });
    peer.puts.emplace(operation, std::move(batch));
  }
  MessageHeader reply;
  reply.type = MessageType::put_verdict;
  reply.operation = operation;
  reply.count = header.count;
  messages_.send(connection, control_message(reply, write_statuses(verdicts)));
  return absl::OkStatus();
}

PayloadPlace ServerCore::put_block_place(ConnectionId connection, const MessageHeader& header) {
  PeerConnection& peer = peers_[connection];
  const auto batch = peer.puts.find(header.operation);
  if (batch == peer.puts.end() || header.index >= batch->second.keys.size() ||
      !batch->second.keys[header.index].slot.has_value()) {
    return discarded_.place(header.payload_bytes);  // too late, or not asked for
  }
  PutKey& key = batch->second.keys[header.index];
  if (key.arriving) {
    refuse(connection, absl::InvalidArgumentError(
                           absl::StrCat("block ", header.index, " of a put sent twice")));
    return {};
  }
  key.arriving = true;
  const auto done = [weak = weak_from_this(), connection, header](const absl::Status& status) {
    if (auto core = weak.lock()) core->finish_put(connection, header, status);
  };
  if (key.bytes != header.payload_bytes) {
    const absl::Status refused = absl::InvalidArgumentError(absl::StrCat(
        "a block of ", header.payload_bytes, " bytes was sent, ", key.bytes, " were offered"));
    return discarded_.place(header.payload_bytes,
                            [done, refused](const absl::Status&) { done(refused); });
  }
  return {key.slot->bytes, std::make_shared<Held>(Held{key.slot->hold, in_flight_}), done};
}

void ServerCore::finish_put(ConnectionId connection, const MessageHeader& header,
                            const absl::Status& arrived) {
  const auto peer = peers_.find(connection);
  if (peer == peers_.end()) return;
  const auto batch = peer->second.puts.find(header.operation);
  if (batch == peer->second.puts.end()) return;
  std::optional<PutSlot>& slot = batch->second.keys[header.index].slot;
  if (!slot.has_value()) return;
  const absl::Status status = arrived.ok() ? handler_.commit(slot->ticket) : arrived;
  slot.reset();
  --peer->second.put_slots;
  peer->second.put_bytes -= batch->second.keys[header.index].bytes;
  if (--batch->second.open == 0) {
    messages_.cancel_timer(batch->second.timer);
    peer->second.puts.erase(batch);
  }
  MessageHeader reply;
  reply.type = MessageType::put_result;
  reply.operation = header.operation;
  reply.index = header.index;
  messages_.send(connection, status_message(reply, status));
}

absl::Status ServerCore::get(ConnectionId connection, const MessageHeader& header,
                             absl::Span<const std::byte> payload) {
  absl::StatusOr<std::vector<ReadRequest>> reads = read_reads(payload, header.count);
  if (!reads.ok()) return reads.status();
  PeerConnection& peer = peers_[connection];
  if (peer.waiting_reads.size() + reads->size() > kReadsWaitingMax) {
    return absl::ResourceExhaustedError("too many reads wait on this connection");
  }
  const uint8_t rank = priority_rank(wire_priority(header.priority));
  for (uint32_t i = 0; i < reads->size(); ++i) {
    PendingRead read;
    read.reply.type = MessageType::get_block;
    read.reply.operation = header.operation;
    read.reply.index = i;
    read.request = (*reads)[i];
    peer.waiting_reads.emplace(std::make_pair(rank, peer.reads_asked++), std::move(read));
  }
  pump_reads(connection);
  return absl::OkStatus();
}

void ServerCore::pump_reads(ConnectionId connection) {
  const auto has_room = [](const PeerConnection& peer) {
    return peer.reads_in_flight + peer.waiting_blocks.size() + peer.blocks_in_flight <
           kBlocksHeldMax;
  };
  for (auto peer = peers_.find(connection);
       peer != peers_.end() && !peer->second.waiting_reads.empty() && has_room(peer->second);
       peer = peers_.find(connection)) {
    const auto next = peer->second.waiting_reads.begin();
    const PendingRead read = std::move(next->second);
    peer->second.waiting_reads.erase(next);
    ++peer->second.reads_in_flight;
    handler_.read(read.request, [weak = weak_from_this(), messages = &messages_, connection,
                                 reply = read.reply](absl::StatusOr<StoredBlock> block) {
      auto core = weak.lock();
      if (!core) return;
      if (messages->on_io_thread()) return core->answer_read(connection, reply, std::move(block));
      messages->post([weak, connection, reply, block = std::move(block)]() mutable {
        if (auto core = weak.lock()) {
          core->answer_read(connection, reply, std::move(block));
          core->pump_reads(connection);
        }
      });
    });
  }
}

void ServerCore::answer_read(ConnectionId connection, const MessageHeader& reply,
                             absl::StatusOr<StoredBlock> block) {
  const auto peer = peers_.find(connection);
  if (peer == peers_.end()) return;
  --peer->second.reads_in_flight;
  if (!block.ok()) {
    messages_.send(connection, status_message(reply, block.status()));
    return;
  }
  OutgoingMessage message;
  message.header = reply;
  message.header.generation = block->generation;
  message.header.dropped_planes = block->dropped_planes;
  message.header.key_planes = block->precision.key_planes;
  message.header.value_planes = block->precision.value_planes;
  message.header.tier = static_cast<uint8_t>(block->tier);
  message.payload = block->bytes;
  message.hold = std::make_shared<Held>(Held{block->hold, in_flight_});
  peer->second.waiting_blocks.push_back(std::move(message));
  pump_blocks(connection);
}

void ServerCore::pump_blocks(ConnectionId connection) {
  for (auto peer = peers_.find(connection);
       peer != peers_.end() && !peer->second.waiting_blocks.empty() &&
       peer->second.blocks_in_flight < kBlocksInFlightMax;
       peer = peers_.find(connection)) {
    OutgoingMessage message = std::move(peer->second.waiting_blocks.front());
    peer->second.waiting_blocks.pop_front();
    ++peer->second.blocks_in_flight;
    message.sent = [weak = weak_from_this(), messages = &messages_, connection] {
      auto core = weak.lock();
      if (!core) return;
      const auto found = core->peers_.find(connection);
      if (found == core->peers_.end()) return;
      --found->second.blocks_in_flight;
      found->second.alive = steady_now();
      if (found->second.waiting_blocks.empty() && found->second.waiting_reads.empty()) return;
      messages->post([weak, connection] {
        if (auto core = weak.lock()) {
          core->pump_blocks(connection);
          core->pump_reads(connection);
        }
      });
    };
    messages_.send(connection, std::move(message));
  }
}

absl::Status ServerCore::report_bad(ConnectionId connection, const MessageHeader& header,
                                    absl::Span<const std::byte> payload) {
  absl::StatusOr<std::vector<BlockKey>> keys = read_keys(payload, 1);
  if (!keys.ok()) return keys.status();
  MessageHeader reply;
  reply.type = MessageType::report_reply;
  reply.operation = header.operation;
  reply.count = handler_.report_bad(keys->front(), header.generation);
  messages_.send(connection, {reply});
  return absl::OkStatus();
}

class BlockServerImpl final : public BlockServer {
 public:
  BlockServerImpl(std::shared_ptr<Transport> transport, BlockHandler& handler,
                  const BlockServerConfig& config)
      : transport_(std::move(transport)),
        core_(std::make_shared<ServerCore>(transport_, handler, config)) {}
  ~BlockServerImpl() override {
    transport_->messages().run([this] {
      transport_->messages().forget(*core_);
      core_->clear();
    });
    if (transport_->messages().on_io_thread()) return;
    const absl::Time until = steady_now() + kEndTimeout;
    while (core_->in_flight() > 0 && steady_now() < until) absl::SleepFor(absl::Milliseconds(1));
  }

  absl::Status listen(const std::string& address) {
    absl::StatusOr<uint16_t> port = absl::InternalError("not listened");
    transport_->messages().run([&] {
      port = transport_->messages().listen(address, *core_);
      core_->sweep();
    });
    if (port.ok()) port_ = *port;
    return port.status();
  }
  uint16_t port() const override { return port_; }
  size_t peer_count() const override {
    size_t count = 0;
    transport_->messages().run([&] { count = core_->peer_count(); });
    return count;
  }
  bool drain(absl::Duration at_most) override {
    const absl::Time until = steady_now() + at_most;
    bool idle = false;
    transport_->messages().run([this] { core_->refuse_puts(); });
    while (true) {
      transport_->messages().run([&] { idle = core_->idle(); });
      if (idle || steady_now() >= until) return idle;
      absl::SleepFor(absl::Milliseconds(5));
    }
  }

 private:
  std::shared_ptr<Transport> transport_;
  std::shared_ptr<ServerCore> core_;
  uint16_t port_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BlockServer>> BlockServer::listen(
    std::shared_ptr<Transport> transport, const std::string& address, BlockHandler& handler,
    const BlockServerConfig& config) {
  auto server = std::make_unique<BlockServerImpl>(std::move(transport), handler, config);
  absl::Status status = server->listen(address);
  if (!status.ok()) return status;
  return std::unique_ptr<BlockServer>(std::move(server));
}

}  // namespace hadal
