// A node that answers gets with bytes that are not the block: every kind is a counted miss of that
// key, is reported, and leaves the caller's memory alone.

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <future>
#include <mutex>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "client/layout_registry.h"
#include "common/encoded_block.h"
#include "tests/client/kv_buffer.h"
#include "tests/client/test_node.h"

namespace hadal {
namespace {

using Bytes = std::vector<std::byte>;

// Says of every key that it is stored, and serves what a test gives it.
class LyingHandler final : public BlockHandler {
 public:
  LookupAnswer lookup(absl::Span<const BlockKey> keys, const LookupOptions&) override {
    return {std::vector<KeyAnswer>(keys.size()), 0};
  }
  void release(uint64_t) override {}
  absl::StatusOr<PutSlot> reserve(const PutOffer&) override {
    return absl::UnavailableError("it takes no puts");
  }
  absl::Status commit(uint64_t) override { return absl::OkStatus(); }
  void read(const ReadRequest& request, ReadReply reply) override {
    std::shared_ptr<const Bytes> bytes;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      bytes = request.key == only_ || only_ == BlockKey() ? bad_ : good_;
    }
    const auto all = absl::MakeConstSpan(bytes->data(), bytes->size());
    reply(StoredBlock{all, dropped_planes, {5, 4}, Tier::nvme, 77, bytes});
  }
  bool report_bad(const BlockKey&, uint64_t generation) override {
    if (generation == 77) ++reports;
    return true;
  }

  void serve(Bytes bad) {
    const std::lock_guard<std::mutex> lock(mutex_);
    bad_ = std::make_shared<const Bytes>(std::move(bad));
  }
  // For this key alone; every other gets `good`.
  void serve_only(const BlockKey& key, Bytes good) {
    const std::lock_guard<std::mutex> lock(mutex_);
    only_ = key;
    good_ = std::make_shared<const Bytes>(std::move(good));
  }

  std::atomic<uint8_t> dropped_planes{0};
  std::atomic<int> reports{0};

 private:
  std::mutex mutex_;
  std::shared_ptr<const Bytes> bad_ = std::make_shared<const Bytes>();
  std::shared_ptr<const Bytes> good_ = bad_;
  BlockKey only_;
};

KvLayout longer_layout() {
  KvLayout layout = small_layout();
  layout.block_tokens = 32;
  return layout;
}

// Of each test: the network, empty for UCX over tcp.
class BadBlocksTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    TransportConfig transport_config;
    transport_config.tls = "tcp";
    const std::string network = GetParam();
    transport_ = (network.empty() ? Transport::create_ucx(transport_config)
                                  : Transport::create_loopback(network, transport_config))
                     .value();
    server_ = BlockServer::listen(transport_, "127.0.0.1:0", handler_).value();
    ClientConfig config;
    config.nodes = {{"127.0.0.1", server_->port(), 1.0}};
    config.transport = network.empty() ? "tcp" : "loopback:" + network;
    client_ = Client::create(config).value();
    layout_ = client_->register_layout(layout_config(small_layout(), "k5v4")).value();
    kv_.fill_random(1);
    good_ = encode(small_layout(), kv_, "a");
  }

  static BlockKey key_of(const KvLayout& layout, const std::string& name) {
    const LayoutConfig config = layout_config(layout, "k5v4");
    return KeyBinder(key_namespace_of(config), config.shard).bind(hash_of(name));
  }

  // What a put of this client would have stored.
  static Bytes encode(const KvLayout& layout, const KvBuffer& kv, const std::string& name) {
    const auto codec = Codec::create(layout, parse_codec("k5v4").value()).value();
    Bytes out(codec->max_encoded_bytes(layout.block_tokens).value());
    EncodeRequest request;
    request.pages = kv.pages();
    request.identity.key = key_of(layout, name);
    request.token_count = layout.block_tokens;
    out.resize(codec->encode(request, absl::MakeSpan(out)).value().bytes);
    return out;
  }

  static BlockGet block_get(const std::string& name, const KvBuffer& out) {
    BlockGet get;
    get.hash = hash_of(name);
    get.pages = out.pages();
    get.token_capacity = small_layout().block_tokens;
    return get;
  }

  KeyResult get_a(const KvBuffer& out) {
    RequestOptions options;
    options.timeout = absl::Seconds(10);
    const RequestId id = client_->get(layout_, {block_get("a", out)}, options).value();
    return client_->wait(id).value().keys[0];
  }

  LyingHandler handler_;
  std::shared_ptr<Transport> transport_;
  std::unique_ptr<BlockServer> server_;
  std::unique_ptr<Client> client_;
  LayoutId layout_ = 0;
  KvBuffer kv_{small_layout()};
  Bytes good_;
};

void edit_header(Bytes& block, const std::function<void(BlockHeader&)>& edit, bool seal) {
  BlockHeader header;
  std::memcpy(&header, block.data(), sizeof(header));
  edit(header);
  std::memcpy(block.data(), &header, sizeof(header));
  if (seal) seal_block(absl::MakeSpan(block));
}

struct BadBlock {
  const char* name;
  std::function<void(Bytes&)> spoil;
};

TEST_P(BadBlocksTest, EveryKindIsACountedMissThatWritesNothing) {
  KvBuffer longer(longer_layout());
  longer.fill_random(2);
  const std::vector<BadBlock> kinds = {
      {"nothing", [](Bytes& b) { b.clear(); }},
      {"one byte", [](Bytes& b) { b.resize(1); }},
      {"header alone", [](Bytes& b) { b.resize(sizeof(BlockHeader)); }},
      {"half", [](Bytes& b) { b.resize(b.size() / 2); }},
      {"all but the last byte", [](Bytes& b) { b.pop_back(); }},
      {"one byte more", [](Bytes& b) { b.push_back(std::byte{0}); }},
      {"bit in a header", [](Bytes& b) { b[40] ^= std::byte{1}; }},
      {"bit in the table", [](Bytes& b) { b[sizeof(BlockHeader) + 4] ^= std::byte{1}; }},
      {"bit in a cell", [](Bytes& b) { b[b.size() - 100] ^= std::byte{1}; }},
      {"zeros", [](Bytes& b) { std::fill(b.begin(), b.end(), std::byte{0}); }},
      {"magic",
       [](Bytes& b) {
         edit_header(
             b, [](BlockHeader& h) { h.magic += 1; }, true);
       }},
      {"version",
       [](Bytes& b) {
         edit_header(
             b, [](BlockHeader& h) { h.version = 1; }, true);
       }},
      {"encrypted",
       [](Bytes& b) {
         edit_header(
             b, [](BlockHeader& h) { h.flags |= kBlockEncrypted; }, true);
       }},
      {"more tokens, damaged",
       [](Bytes& b) {
         edit_header(
             b, [](BlockHeader& h) { h.token_count = 4000; }, false);
       }},
      {"more tokens, sealed",
       [](Bytes& b) {
         edit_header(
             b, [](BlockHeader& h) { h.token_count = 4000; }, true);
       }},
      {"another layout hash",
       [](Bytes& b) {
         edit_header(
             b, [](BlockHeader& h) { h.layout_hash ^= 1; }, true);
       }},
      {"another key", [this](Bytes& b) { b = encode(small_layout(), kv_, "b"); }},
      {"another layout", [&](Bytes& b) { b = encode(longer_layout(), longer, "a"); }},
  };
  KvBuffer out(small_layout());
  uint64_t bad = 0;
  for (const BadBlock& kind : kinds) {
    Bytes block = good_;
    kind.spoil(block);
    handler_.serve(block);
    out.fill(std::byte{0x5A});
    const KeyResult got = get_a(out);
    EXPECT_TRUE(absl::IsDataLoss(got.status)) << kind.name << ": " << got.status;
    EXPECT_TRUE(out.all(std::byte{0x5A})) << kind.name;
    EXPECT_EQ(got.raw_bytes, 0u) << kind.name;
    EXPECT_EQ(client_->stats().misses_data_loss, ++bad) << kind.name;
  }
  // Reported before the miss was handed out; on their way for at most a moment.
  const absl::Time until = absl::Now() + absl::Seconds(10);
  while (handler_.reports < static_cast<int>(bad) && absl::Now() < until) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(handler_.reports, static_cast<int>(bad));
  handler_.serve(good_);
  EXPECT_TRUE(get_a(out).status.ok());
}

TEST_P(BadBlocksTest, LargerThanTheBufferIsAMiss) {
  Bytes large = good_;
  large.resize(1 << 20);
  handler_.serve(large);
  KvBuffer out(small_layout());
  out.fill(std::byte{0x5A});
  EXPECT_TRUE(absl::IsDataLoss(get_a(out).status));
  EXPECT_TRUE(out.all(std::byte{0x5A}));
}

TEST_P(BadBlocksTest, WrongNumberOfDroppedPlanesIsAMiss) {
  handler_.serve(good_);
  handler_.dropped_planes = 1;
  KvBuffer out(small_layout());
  out.fill(std::byte{0x5A});
  EXPECT_TRUE(absl::IsDataLoss(get_a(out).status));
  EXPECT_TRUE(out.all(std::byte{0x5A}));
}

// The node says K5V4 of a block that it cut to its floor: what was served is what is reported, and
// what the reader refuses.
TEST_P(BadBlocksTest, PrecisionIsTheBlocksOwn) {
  const EncodedBlock whole = EncodedBlock::parse(good_, 0).value();
  const BlockExtents extents = block_extents(whole);
  Bytes floor = good_;
  floor.resize(extents.prefix_bytes[extents.floor_drops]);
  handler_.serve(floor);
  handler_.dropped_planes = static_cast<uint8_t>(extents.floor_drops);
  KvBuffer out(small_layout());
  const KeyResult got = get_a(out);
  ASSERT_TRUE(got.status.ok()) << got.status;
  EXPECT_EQ(got.precision, (Precision{4, 3}));
  out.fill(std::byte{0x5A});
  RequestOptions precise;
  precise.least = {5, 4};
  const RequestId id = client_->get(layout_, {block_get("a", out)}, precise).value();
  const KeyResult refused = client_->wait(id).value().keys[0];
  EXPECT_TRUE(absl::IsNotFound(refused.status)) << refused.status;
  EXPECT_TRUE(out.all(std::byte{0x5A}));
}

TEST_P(BadBlocksTest, OneBadBlockIsAMissOfItsKeyAlone) {
  Bytes bad = good_;
  bad[bad.size() - 100] ^= std::byte{1};
  handler_.serve(bad);
  handler_.serve_only(key_of(small_layout(), "b"), good_);
  KvBuffer first(small_layout());
  KvBuffer second(small_layout());
  second.fill(std::byte{0x5A});
  const RequestId id =
      client_->get(layout_, {block_get("a", first), block_get("b", second)}, RequestOptions())
          .value();
  const RequestResult result = client_->wait(id).value();
  EXPECT_TRUE(result.keys[0].status.ok()) << result.keys[0].status;
  EXPECT_TRUE(absl::IsDataLoss(result.keys[1].status)) << result.keys[1].status;
  EXPECT_TRUE(second.all(std::byte{0x5A}));
  EXPECT_EQ(result.prefix_blocks, 1u);
}

// A flipped bit anywhere is a miss, or lies in padding between cells and changes no value.
TEST_P(BadBlocksTest, AnyFlippedBitIsAMissOrHarmless) {
  KvBuffer clean(small_layout());
  handler_.serve(good_);
  ASSERT_TRUE(get_a(clean).status.ok());
  KvBuffer out(small_layout());
  std::mt19937 random(7);
  int missed = 0;
  for (int round = 0; round < 300; ++round) {
    Bytes block = good_;
    const size_t at = round < 100 ? random() % 1024 : random() % block.size();
    block[at] ^= static_cast<std::byte>(1u << random() % 8);
    handler_.serve(block);
    out.fill(std::byte{0x5A});
    const KeyResult got = get_a(out);
    if (got.status.ok()) {
      EXPECT_TRUE(out.equals(clean)) << "byte " << at;
    } else {
      ++missed;
      EXPECT_TRUE(absl::IsDataLoss(got.status)) << "byte " << at << ": " << got.status;
      EXPECT_TRUE(out.all(std::byte{0x5A})) << "byte " << at;
    }
  }
  EXPECT_GT(missed, 250);
}

INSTANTIATE_TEST_SUITE_P(Network, BadBlocksTest, ::testing::Values("bad-blocks", ""),
                         [](const ::testing::TestParamInfo<const char*>& info) {
                           return *info.param == '\0' ? "Ucx" : "Loopback";
                         });

// Payloads of a put that were damaged on their way.
TEST(BadPutsTest, ADamagedPayloadNeverComesBackAsABlock) {
  TestNodeConfig config;
  config.loopback_network = "bad-puts";
  const auto node = TestNode::start(config).value();
  const auto transport = Transport::create_loopback("bad-puts", TransportConfig()).value();
  const auto memory = transport->allocate(1 << 20).value();
  const auto peer = BlockPeer::create(transport, node->address(), BlockPeerConfig());
  const KvLayout layout = small_layout();
  const auto codec = Codec::create(layout, parse_codec("raw").value()).value();
  KvBuffer kv(layout);
  kv.fill_random(3);
  int refused = 0;
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    EncodeRequest request;
    request.pages = kv.pages();
    request.identity.key.bytes[0] = static_cast<uint8_t>(round);
    request.identity.key.bytes[1] = 1;
    request.token_count = layout.block_tokens;
    const uint64_t bytes = codec->encode(request, memory->bytes()).value().bytes;
    memory->bytes()[round < 100 ? random() % 256 : random() % bytes] ^= std::byte{0x20};
    PeerPut put;
    put.offer.key = request.identity.key;
    put.offer.precision = {Precision::kAllPlanes, Precision::kAllPlanes};
    put.offer.layout_hash = layout.hash();
    put.bytes = memory->bytes().first(bytes);
    put.hold = memory;
    std::promise<std::vector<absl::Status>> done;
    peer->put({put}, {absl::Now() + absl::Seconds(10)},
              [&](std::vector<absl::Status> statuses) { done.set_value(std::move(statuses)); });
    const std::vector<absl::Status> statuses = done.get_future().get();
    ASSERT_EQ(statuses.size(), 1u);
    if (statuses[0].ok()) continue;  // the cells are the reader's to check
    ++refused;
    EXPECT_TRUE(absl::IsDataLoss(statuses[0]) || absl::IsFailedPrecondition(statuses[0]))
        << statuses[0];
  }
  EXPECT_GE(refused, 100);
  const StoreStats stats = node->store().stats();
  EXPECT_EQ(stats.bad_blocks, static_cast<uint64_t>(refused));
  // The others are found by who checks them, and go.
  uint64_t dropped = 0;
  for (const BlockListing& listing : node->store().list(SIZE_MAX)) {
    dropped += node->store().report_bad(listing.key, listing.answer.generation);
  }
  EXPECT_GE(dropped + refused, 190u);  // the rest was hit in padding
}

}  // namespace
}  // namespace hadal
