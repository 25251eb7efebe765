#include "tests/transport/block_fixture.h"

#include <cstdlib>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace hadal {
namespace {

constexpr size_t kSlabBytes = size_t{96} << 20;

std::string map_key(const BlockKey& key) {
  return std::string(reinterpret_cast<const char*>(key.bytes.data()), key.bytes.size());
}

// An answer that may come later than anybody waits for it.
template <typename T>
struct Awaited {
  absl::Notification come;
  T value;

  void set(T answer) {
    value = std::move(answer);
    come.Notify();
  }
  // Far beyond the operation's own deadline: only a hang reaches it.
  void wait(absl::Duration at_most) {
    ASSERT_TRUE(come.WaitForNotificationWithTimeout(at_most + absl::Seconds(20)))
        << "an operation outlived its deadline of " << at_most << " by 20 s";
  }
};

}  // namespace

std::string carrier_name(Carrier carrier) {
  constexpr const char* kNames[] = {"loopback", "tcp", "shm"};
  return kNames[static_cast<int>(carrier)];
}

std::shared_ptr<Transport> make_transport(Carrier carrier, const std::string& name) {
  // A test's first transport may be tcp alone, and a later one shared memory.
  static const int shared_memory_too = setenv("UCX_MM_ERROR_HANDLING", "y", 0);
  EXPECT_EQ(shared_memory_too, 0);
  TransportConfig config;
  config.name = name;
  config.tls = carrier == Carrier::tcp ? "tcp" : "auto";
  auto transport = carrier == Carrier::loopback ? Transport::create_loopback("tests", config)
                                                : Transport::create_ucx(config);
  if (!transport.ok()) ADD_FAILURE() << transport.status();
  return transport.ok() ? *transport : nullptr;
}

BlockKey test_key(uint32_t number) {
  BlockKey key;
  std::memcpy(key.bytes.data(), &number, sizeof(number));
  return key;
}

std::vector<std::byte> test_bytes(uint32_t seed, size_t bytes) {
  std::minstd_rand random(seed + 1);
  std::vector<std::byte> out(bytes);
  for (size_t i = 0; i < bytes; i += 4096) {  // each page another
    const auto value = static_cast<uint8_t>(random());
    std::memset(out.data() + i, value, std::min<size_t>(4096, bytes - i));
    out[i] = std::byte(static_cast<uint8_t>(random()));
  }
  return out;
}

bool eventually(const std::function<bool()>& condition, absl::Duration at_most) {
  const absl::Time until = absl::Now() + at_most;
  while (!condition()) {
    if (absl::Now() >= until) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

LookupAnswer MemoryHandler::lookup(absl::Span<const BlockKey> keys, const LookupOptions& options) {
  LookupAnswer answer;
  for (const BlockKey& key : keys) {
    KeyAnswer one;
    absl::MutexLock lock(&mutex_);
    if (const auto found = blocks_.find(map_key(key)); found != blocks_.end()) {
      one = {BlockState::present,
             Tier::dram,
             static_cast<uint32_t>(found->second.size()),
             0,
             {5, 4},
             7};
    }
    answer.keys.push_back(one);
  }
  answer.lease = options.lease_ms;
  return answer;
}

absl::StatusOr<PutSlot> MemoryHandler::reserve(const PutOffer& offer) {
  absl::MutexLock lock(&mutex_);
  if (blocks_.count(map_key(offer.key)) != 0) return absl::AlreadyExistsError("stored");
  if (boundless) used_ = 0;
  if (offer.bytes > slab_.size() - used_) return absl::ResourceExhaustedError("the slab is full");
  PutSlot slot;
  slot.bytes = slab_.subspan(used_, offer.bytes);
  slot.ticket = next_ticket_++;
  slot.hold = std::make_shared<std::shared_ptr<int>>(slots_out);
  used_ += (offer.bytes + 63) / 64 * 64;
  used_ = std::min(used_, slab_.size());
  reserved_[slot.ticket] = {offer.key, slot.bytes};
  return slot;
}

absl::Status MemoryHandler::commit(uint64_t ticket) {
  absl::MutexLock lock(&mutex_);
  const auto found = reserved_.find(ticket);
  if (found == reserved_.end()) return absl::NotFoundError("no such ticket");
  blocks_[map_key(found->second.first)] = found->second.second;
  reserved_.erase(found);
  return absl::OkStatus();
}

absl::StatusOr<StoredBlock> MemoryHandler::find(const BlockKey& key) {
  absl::MutexLock lock(&mutex_);
  const auto found = blocks_.find(map_key(key));
  if (found == blocks_.end()) return absl::NotFoundError("no such block");
  StoredBlock block;
  block.bytes = found->second;
  block.precision = {5, 4};
  block.tier = Tier::dram;
  block.generation = 7;
  block.hold = std::make_shared<std::shared_ptr<int>>(blocks_out);
  return block;
}

void MemoryHandler::read(const ReadRequest& request, ReadReply reply) {
  if (!silent) return reply(find(request.key));
  absl::MutexLock lock(&mutex_);
  kept_.emplace_back(request, std::move(reply));
}

void MemoryHandler::answer_kept() {
  std::deque<std::pair<ReadRequest, ReadReply>> kept;
  {
    absl::MutexLock lock(&mutex_);
    kept.swap(kept_);
  }
  for (auto& [request, reply] : kept) reply(find(request.key));
}

std::vector<BlockKey> MemoryHandler::kept() const {
  absl::MutexLock lock(&mutex_);
  std::vector<BlockKey> keys;
  for (const auto& [request, reply] : kept_) keys.push_back(request.key);
  return keys;
}

std::vector<std::byte> MemoryHandler::stored(const BlockKey& key) const {
  absl::MutexLock lock(&mutex_);
  const auto found = blocks_.find(map_key(key));
  if (found == blocks_.end()) return {};
  return {found->second.begin(), found->second.end()};
}

bool MemoryHandler::report_bad(const BlockKey& key, uint64_t generation) {
  absl::MutexLock lock(&mutex_);
  return generation == 7 && blocks_.erase(map_key(key)) != 0;
}

std::unique_ptr<TestServer> start_server(Carrier carrier, uint16_t port,
                                         const BlockServerConfig& config) {
  auto node = std::make_unique<TestServer>();
  node->transport = make_transport(carrier, "node-io");
  if (!node->transport) return nullptr;
  node->slab = node->transport->allocate(kSlabBytes).value();
  node->handler = std::make_unique<MemoryHandler>(node->slab->bytes());
  auto server = BlockServer::listen(node->transport, absl::StrCat("127.0.0.1:", port),
                                    *node->handler, config);
  if (!server.ok()) return nullptr;
  node->server = *std::move(server);
  return node;
}

TestCaller::TestCaller(Carrier carrier, const NodeAddress& node, const BlockPeerConfig& config)
    : transport(make_transport(carrier, "caller-io")),
      memory(transport->allocate(kSlabBytes).value()),
      peer(BlockPeer::create(transport, node, config)) {}

absl::Span<std::byte> TestCaller::room(size_t bytes) {
  const absl::Span<std::byte> out = memory->bytes().subspan(used, bytes);
  used += (bytes + 63) / 64 * 64;
  EXPECT_EQ(out.size(), bytes) << "the caller's memory is used up";
  return out;
}

PeerPut TestCaller::make_put(uint32_t number, absl::Span<const std::byte> bytes) {
  PeerPut put;
  put.offer.key = test_key(number);
  put.offer.precision = {5, 4};
  const absl::Span<std::byte> to = room(bytes.size());
  std::copy(bytes.begin(), bytes.end(), to.begin());
  put.bytes = to;
  put.hold = memory;
  return put;
}

std::vector<absl::Status> TestCaller::put(std::vector<PeerPut> puts, absl::Duration at_most) {
  auto awaited = std::make_shared<Awaited<std::vector<absl::Status>>>();
  peer->put(std::move(puts), {absl::Now() + at_most},
            [awaited](std::vector<absl::Status> answer) { awaited->set(std::move(answer)); });
  awaited->wait(at_most);
  return awaited->value;
}

GetResult TestCaller::get(std::vector<PeerGet> gets, absl::Duration at_most) {
  auto awaited = std::make_shared<Awaited<absl::Status>>();
  auto answers = std::make_shared<std::vector<absl::StatusOr<GetAnswer>>>(
      gets.size(), absl::UnknownError("none came"));
  peer->get(
      std::move(gets), {absl::Now() + at_most},
      [answers](size_t index, absl::StatusOr<GetAnswer> answer) {
        EXPECT_EQ((*answers)[index].status().code(), absl::StatusCode::kUnknown)
            << "block " << index << " was answered twice";
        (*answers)[index] = std::move(answer);
      },
      [awaited](absl::Status status) { awaited->set(std::move(status)); });
  awaited->wait(at_most);
  return {awaited->value, *answers};
}

absl::StatusOr<LookupAnswer> TestCaller::lookup(std::vector<BlockKey> keys,
                                                absl::Duration at_most) {
  auto awaited = std::make_shared<Awaited<absl::StatusOr<LookupAnswer>>>();
  peer->lookup(std::move(keys), {.lease_ms = 250}, {absl::Now() + at_most},
               [awaited](absl::StatusOr<LookupAnswer> answer) { awaited->set(std::move(answer)); });
  awaited->wait(at_most);
  return awaited->value;
}

bool TestCaller::ready() {
  return eventually([this] { return peer->state() == PeerState::ready; });
}

}  // namespace hadal
