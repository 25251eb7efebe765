#include "tests/client/test_node.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/encoded_block.h"

namespace hadal {

LookupAnswer StoreHandler::lookup(absl::Span<const BlockKey> keys, const LookupOptions& options) {
  ++lookup_calls;
  return store_.lookup(keys, options);
}

void StoreHandler::release(uint64_t lease) {
  ++releases;
  store_.release(lease);
}

absl::StatusOr<PutSlot> StoreHandler::reserve(const PutOffer& offer) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    last_offer_ = offer;
  }
  return store_.reserve(offer);
}

absl::Status StoreHandler::commit(uint64_t ticket) {
  ++commits;
  return store_.commit(ticket);
}

void StoreHandler::read(const ReadRequest& request, ReadReply reply) {
  ++reads;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    asked_.push_back(request);
    if (paused) {
      kept_.emplace_back(request, std::move(reply));
      return;
    }
  }
  store_.read(request, std::move(reply));
}

void StoreHandler::resume() {
  std::vector<std::pair<ReadRequest, ReadReply>> kept;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    paused = false;
    kept.swap(kept_);
  }
  for (auto& [request, reply] : kept) store_.read(request, std::move(reply));
}

std::vector<ReadRequest> StoreHandler::asked() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return asked_;
}

bool StoreHandler::report_bad(const BlockKey& key, uint64_t generation) {
  const bool gone = store_.report_bad(key, generation);
  ++bad_reports;
  return gone;
}

absl::StatusOr<std::unique_ptr<TestNode>> TestNode::start(const TestNodeConfig& config) {
  TransportConfig transport_config;
  transport_config.name = "node-io";
  transport_config.tls = config.tls;
  absl::StatusOr<std::shared_ptr<Transport>> transport =
      config.loopback_network.empty()
          ? Transport::create_ucx(transport_config)
          : Transport::create_loopback(config.loopback_network, transport_config);
  if (!transport.ok()) return transport.status();
  auto node = std::unique_ptr<TestNode>(new TestNode);
  node->transport_ = *std::move(transport);
  absl::StatusOr<std::shared_ptr<RegisteredMemory>> slab =
      node->transport_->allocate(config.slab_bytes);
  if (!slab.ok()) return slab.status();
  node->slab_ = *std::move(slab);
  absl::StatusOr<std::unique_ptr<TieredStore>> store =
      TieredStore::open(TieredStoreConfig(), node->slab_->bytes(), node->clock_);
  if (!store.ok()) return store.status();
  node->store_ = *std::move(store);
  node->handler_ = std::make_unique<StoreHandler>(*node->store_);
  absl::StatusOr<std::unique_ptr<BlockServer>> server = BlockServer::listen(
      node->transport_, absl::StrCat("127.0.0.1:", config.port), *node->handler_);
  if (!server.ok()) return server.status();
  node->server_ = *std::move(server);
  return node;
}

TestNode::~TestNode() { server_.reset(); }

NodeAddress TestNode::address(double weight) const {
  return {"127.0.0.1", server_->port(), weight};
}

std::vector<absl::Span<std::byte>> TestNode::blocks() {
  std::vector<absl::Span<std::byte>> found;
  const absl::Span<std::byte> bytes = slab();
  for (size_t at = 0; at + sizeof(BlockHeader) <= bytes.size(); at += 64) {
    BlockHeader header;
    std::memcpy(&header, bytes.data() + at, sizeof(header));
    if (header.magic != kBlockMagic || header.header_bytes != sizeof(header)) continue;
    if (header.total_bytes > bytes.size() - at) continue;
    found.push_back(bytes.subspan(at, header.total_bytes));
  }
  return found;
}

int TestNode::corrupt_blocks() {
  const std::vector<absl::Span<std::byte>> found = blocks();
  for (const absl::Span<std::byte> block : found) {
    block[block.size() - 128] ^= std::byte{0x10};  // inside the last cell
  }
  return static_cast<int>(found.size());
}

}  // namespace hadal
