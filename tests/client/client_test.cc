// The client against a real store node over the loopback transport.

#include "client/client.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/encoded_block.h"
#include "tests/client/kv_buffer.h"
#include "tests/client/test_node.h"

namespace hadal {
namespace {

constexpr size_t kRawBytes = 32 * 1024;

class ClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    static int networks = 0;
    network_ = absl::StrCat("client-test-", ++networks);
    TestNodeConfig config;
    config.loopback_network = network_;
    absl::StatusOr<std::unique_ptr<TestNode>> node = TestNode::start(config);
    ASSERT_TRUE(node.ok()) << node.status();
    node_ = *std::move(node);
    make_client(ClientConfig());
  }

  void make_client(ClientConfig config) {
    config.nodes = {node_->address()};
    config.transport = "loopback:" + network_;
    absl::StatusOr<std::unique_ptr<Client>> client = Client::create(config);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    layout_ = client_->register_layout(layout_config(small_layout(), "k5v4")).value();
    raw_layout_ = client_->register_layout(layout_config(small_layout(), "raw")).value();
    KvLayout opaque;
    opaque.dtype = DType::opaque;
    opaque_layout_ = client_->register_layout(layout_config(opaque, "raw")).value();
  }

  static RequestOptions options(absl::Duration timeout = absl::Seconds(10)) {
    RequestOptions options;
    options.timeout = timeout;
    return options;
  }

  RequestResult finish(const absl::StatusOr<RequestId>& request) {
    EXPECT_TRUE(request.ok()) << request.status();
    if (!request.ok()) return {};
    absl::StatusOr<RequestResult> result = client_->wait(*request);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *std::move(result) : RequestResult();
  }

  static BlockPut block_put(const std::string& name, const KvBuffer& kv) {
    BlockPut put;
    put.hash = hash_of(name);
    put.pages = kv.pages();
    put.token_count = small_layout().block_tokens;
    return put;
  }
  static BlockGet block_get(const std::string& name, const KvBuffer& kv) {
    BlockGet get;
    get.hash = hash_of(name);
    get.pages = kv.pages();
    return get;
  }

  // Of one full-attention group.
  absl::StatusOr<RequestId> lookup(const std::vector<EngineHash>& hashes,
                                   const RequestOptions& options) {
    return client_->lookup({{.layout = layout_, .hashes = hashes}}, options);
  }

  KeyResult put_one(LayoutId layout, const std::string& name, const KvBuffer& kv) {
    const RequestResult result = finish(client_->put(layout, {block_put(name, kv)}, options()));
    return result.keys.empty() ? KeyResult{absl::InternalError("no result")} : result.keys[0];
  }
  KeyResult get_one(LayoutId layout, const std::string& name, const KvBuffer& kv) {
    const RequestResult result = finish(client_->get(layout, {block_get(name, kv)}, options()));
    return result.keys.empty() ? KeyResult{absl::InternalError("no result")} : result.keys[0];
  }

  std::string network_;
  std::unique_ptr<TestNode> node_;
  std::unique_ptr<Client> client_;
  LayoutId layout_ = 0;
  LayoutId raw_layout_ = 0;
  LayoutId opaque_layout_ = 0;
};

TEST_F(ClientTest, RawRoundTripsBitIdentically) {
  KvBuffer in(small_layout());
  KvBuffer out(small_layout());
  in.fill_random(1);
  const KeyResult put = put_one(raw_layout_, "a", in);
  ASSERT_TRUE(put.status.ok()) << put.status;
  EXPECT_EQ(put.raw_bytes, kRawBytes);
  EXPECT_GT(put.wire_bytes, kRawBytes);
  EXPECT_FALSE(put.duplicate);
  const KeyResult got = get_one(raw_layout_, "a", out);
  ASSERT_TRUE(got.status.ok()) << got.status;
  EXPECT_TRUE(in.equals(out));
  EXPECT_EQ(got.raw_bytes, kRawBytes);
  EXPECT_EQ(got.tier, Tier::dram);
  EXPECT_EQ(got.encoded_bytes, put.encoded_bytes);
}

TEST_F(ClientTest, DefaultCodecComesBackCloseAndSmaller) {
  KvBuffer in(small_layout());
  KvBuffer out(small_layout());
  in.fill_random(2);
  const KeyResult put = put_one(layout_, "a", in);
  ASSERT_TRUE(put.status.ok()) << put.status;
  EXPECT_LT(put.encoded_bytes, kRawBytes / 2);
  EXPECT_EQ(put.precision, (Precision{5, 4}));
  const KeyResult got = get_one(layout_, "a", out);
  ASSERT_TRUE(got.status.ok()) << got.status;
  EXPECT_LT(in.relative_error(out), 0.02);
}

// Under one hash each: what one cannot decode is none of its keys.
TEST_F(ClientTest, EveryCodecHasKeysOfItsOwn) {
  KvBuffer in(small_layout());
  in.fill_random(3);
  const std::pair<const char*, double> codecs[] = {
      {"k4v4", 0.02},  {"k4v4-prod", 0.04}, {"k4v4-prodg", 0.1}, {"qjl", 1.0},   {"qjlg", 2.0},
      {"polar", 0.05}, {"tqe", 0.01},       {"e4m3", 0.002},     {"e5m2", 0.005}};
  for (const auto& [name, error] : codecs) {
    SCOPED_TRACE(name);
    const LayoutId layout = client_->register_layout(layout_config(small_layout(), name)).value();
    KvBuffer out(small_layout());
    EXPECT_EQ(get_one(layout, "a", out).status.code(), absl::StatusCode::kNotFound);
    const KeyResult put = put_one(layout, "a", in);
    ASSERT_TRUE(put.status.ok()) << put.status;
    EXPECT_FALSE(put.duplicate);
    const KeyResult got = get_one(layout, "a", out);
    ASSERT_TRUE(got.status.ok()) << got.status;
    EXPECT_LT(in.relative_error(out), error);
  }
}

TEST_F(ClientTest, LookupAnswersTheLongestPrefixInTheOrderAsked) {
  KvBuffer kv(small_layout());
  kv.fill_random(3);
  for (const char* name : {"0", "1", "3"}) ASSERT_TRUE(put_one(layout_, name, kv).status.ok());
  const std::vector<EngineHash> hashes = {hash_of("0"), hash_of("1"), hash_of("2"), hash_of("3")};
  const RequestResult result = finish(lookup(hashes, options()));
  ASSERT_EQ(result.keys.size(), 4u);
  EXPECT_EQ(result.prefix_blocks, 2u);
  EXPECT_EQ(result.prefix_tokens, 2u * 16);
  EXPECT_TRUE(result.keys[1].status.ok());
  EXPECT_TRUE(absl::IsNotFound(result.keys[2].status));
  EXPECT_TRUE(result.keys[3].status.ok());
  EXPECT_GT(result.keys[3].encoded_bytes, 0u);
  EXPECT_EQ(result.leases, std::vector<uint64_t>{0});
  EXPECT_EQ(client_->stats().keys_looked_up, 4u);
  EXPECT_EQ(client_->stats().keys_found, 3u);
}

std::vector<EngineHash> hashes_of(const std::string& group, int count) {
  std::vector<EngineHash> hashes;
  for (int i = 0; i < count; ++i) hashes.push_back(hash_of(absl::StrCat(group, i)));
  return hashes;
}

// A model of full attention, a window of 32 tokens, and a state each 32 tokens.
TEST_F(ClientTest, LookupOfSeveralGroupsAnswersWhatAllSatisfy) {
  KvBuffer kv(small_layout());
  LayoutConfig config = layout_config(small_layout(), "k5v4");
  config.shard.group = 1;
  const LayoutId window = client_->register_layout(config).value();
  for (const char* name : {"f0", "f1", "f2", "f3", "f4", "f5"}) put_one(layout_, name, kv);
  for (const char* name : {"w2", "w3", "w4", "w5"}) put_one(window, name, kv);
  for (const char* name : {"s0", "s1"}) {
    BlockPut put;
    put.hash = hash_of(name);
    put.opaque = kv.bytes();
    ASSERT_TRUE(finish(client_->put(opaque_layout_, {put}, options())).keys[0].status.ok());
  }
  const std::vector<EngineHash> full_hashes = hashes_of("f", 6);
  const std::vector<EngineHash> window_hashes = hashes_of("w", 6);
  const std::vector<EngineHash> state_hashes = hashes_of("s", 3);
  std::vector<GroupLookup> groups(3);
  groups[0] = {.layout = layout_, .hashes = full_hashes};
  groups[1] = {.layout = window, .hashes = window_hashes};
  groups[1].rule = PrefixRule::last_tokens;
  groups[1].window_tokens = 32;
  groups[2] = {.layout = opaque_layout_, .hashes = state_hashes};
  groups[2].rule = PrefixRule::boundary_state;
  groups[2].block_tokens = 32;
  const int before = node_->handler().lookup_calls;
  const RequestResult result = finish(client_->lookup(groups, options()));
  EXPECT_EQ(node_->handler().lookup_calls, before + 1);
  EXPECT_EQ(result.prefix_tokens, 64u);
  EXPECT_EQ(result.prefix_blocks, 6u);
  std::string found;
  for (const KeyResult& key : result.keys) found += key.status.ok() ? '+' : '-';
  EXPECT_EQ(found, "++++++--++++++-");
  // Without the state, what is left satisfies 96 tokens; without the window too.
  EXPECT_EQ(finish(client_->lookup({groups[0], groups[1]}, options())).prefix_tokens, 96u);
  EXPECT_EQ(finish(client_->lookup({groups[0]}, options())).prefix_tokens, 96u);
}

TEST_F(ClientTest, LookupCountsTheShortLastBlock) {
  KvBuffer kv(small_layout());
  for (const char* name : {"t0", "t1"}) ASSERT_TRUE(put_one(layout_, name, kv).status.ok());
  BlockPut put = block_put("t2", kv);
  put.token_count = 5;
  ASSERT_TRUE(finish(client_->put(layout_, {put}, options())).keys[0].status.ok());
  std::vector<EngineHash> hashes = hashes_of("t", 3);
  GroupLookup group = {.layout = layout_, .hashes = hashes, .token_count = 37};
  EXPECT_EQ(finish(client_->lookup({group}, options())).prefix_tokens, 37u);
  hashes[2] = hash_of("another end");
  EXPECT_EQ(finish(client_->lookup({group}, options())).prefix_tokens, 32u);
}

TEST_F(ClientTest, LookupOfBytesThatCountNoTokensAnswersTheirKeys) {
  const std::vector<EngineHash> hashes = hashes_of("file", 2);
  const GroupLookup group = {.layout = opaque_layout_, .hashes = hashes};
  const RequestResult result = finish(client_->lookup({group}, options()));
  EXPECT_EQ(result.keys.size(), 2u);
  EXPECT_EQ(result.prefix_tokens, 0u);
}

TEST_F(ClientTest, LookupLeasePinsUntilReleased) {
  KvBuffer kv(small_layout());
  kv.fill_random(4);
  ASSERT_TRUE(put_one(layout_, "a", kv).status.ok());
  RequestOptions with_lease = options();
  with_lease.lease_ms = 60000;
  const RequestResult result = finish(lookup({hash_of("a")}, with_lease));
  ASSERT_EQ(result.leases.size(), 1u);
  EXPECT_NE(result.leases[0], 0u);
  EXPECT_EQ(node_->store().evict({}), 0u);
  client_->release(result);
  const absl::Time until = absl::Now() + absl::Seconds(5);
  while (node_->handler().releases == 0 && absl::Now() < until)
    absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(node_->store().evict({}), 1u);
}

TEST_F(ClientTest, SecondPutIsADuplicateAndMovesNoPayload) {
  KvBuffer kv(small_layout());
  kv.fill_random(5);
  const KeyResult first = put_one(layout_, "a", kv);
  ASSERT_TRUE(first.status.ok()) << first.status;
  const KeyResult second = put_one(layout_, "a", kv);
  EXPECT_TRUE(second.status.ok()) << second.status;
  EXPECT_TRUE(second.duplicate);
  EXPECT_EQ(second.wire_bytes, 0u);
  EXPECT_EQ(second.encoded_bytes, first.encoded_bytes);
  EXPECT_EQ(second.raw_bytes, kRawBytes);
  EXPECT_EQ(node_->handler().commits, 1);
  EXPECT_EQ(client_->stats().keys_put_duplicate, 1u);
}

// A put asks the node which blocks it has. The node sees a duplicate there or nowhere, and takes
// the question for no lookup of an engine.
TEST_F(ClientTest, NodeCountsDuplicatesOfPutsAndKeepsThemOutOfTheHitRate) {
  KvBuffer kv(small_layout());
  kv.fill_random(5);
  const LayoutId precise = client_->register_layout(layout_config(small_layout(), "k8v8")).value();
  for (const char* name : {"a", "b", "a"}) ASSERT_TRUE(put_one(layout_, name, kv).status.ok());
  StoreStats stats = node_->store().stats();
  EXPECT_EQ(stats.puts_stored, 2u);
  EXPECT_EQ(stats.puts_duplicate, 1u);
  ASSERT_TRUE(put_one(precise, "a", kv).status.ok()) << "replaces, is no duplicate";
  ASSERT_TRUE(put_one(layout_, "a", kv).status.ok());
  stats = node_->store().stats();
  EXPECT_EQ(stats.puts_stored, 3u);
  EXPECT_EQ(stats.puts_duplicate, 2u);
  EXPECT_EQ(stats.lookups, 0u);
  EXPECT_EQ(stats.lookup_keys, 0u);
  EXPECT_EQ(stats.lookup_hits, 0u);
  finish(lookup({hash_of("a"), hash_of("c")}, options()));
  stats = node_->store().stats();
  EXPECT_EQ(stats.lookups, 1u);
  EXPECT_EQ(stats.lookup_keys, 2u);
  EXPECT_EQ(stats.lookup_hits, 1u);
  EXPECT_EQ(stats.puts_duplicate, 2u);
}

TEST_F(ClientTest, MorePreciseAndWholeReplacesAnythingElseIsADuplicate) {
  KvBuffer kv(small_layout());
  kv.fill_random(5);
  const LayoutId precise = client_->register_layout(layout_config(small_layout(), "k8v8")).value();
  const auto generation = [&] { return node_->store().list(1).at(0).answer.generation; };
  ASSERT_TRUE(put_one(layout_, "a", kv).status.ok());
  const uint64_t first = generation();
  EXPECT_FALSE(put_one(precise, "a", kv).duplicate);
  const uint64_t second = generation();
  EXPECT_NE(second, first);
  const KeyResult less = put_one(layout_, "a", kv);
  EXPECT_TRUE(less.status.ok() && less.duplicate);
  EXPECT_EQ(less.precision, (Precision{8, 8}));
  EXPECT_EQ(get_one(layout_, "a", kv).precision, (Precision{8, 8}));
  // Precise enough still, but not whole any more. The node lets go of what it sent a moment after
  // it has arrived.
  const BlockKey key = node_->store().list(1).at(0).key;
  absl::Status dropped = node_->store().drop_planes(key, {6, 5});
  for (int i = 0; i < 5000 && !dropped.ok(); ++i) {
    absl::SleepFor(absl::Milliseconds(1));
    dropped = node_->store().drop_planes(key, {6, 5});
  }
  ASSERT_TRUE(dropped.ok()) << dropped;
  EXPECT_EQ(get_one(layout_, "a", kv).precision, (Precision{6, 5}));
  const KeyResult whole = put_one(layout_, "a", kv);
  EXPECT_TRUE(whole.status.ok()) << whole.status;
  EXPECT_FALSE(whole.duplicate);
  EXPECT_NE(generation(), second);
  EXPECT_EQ(get_one(layout_, "a", kv).precision, (Precision{5, 4}));
}

TEST_F(ClientTest, ABlockThatAnotherWritesIsAMissAndNotWrittenTwice) {
  KvBuffer kv(small_layout());
  kv.fill_random(5);
  ASSERT_TRUE(put_one(layout_, "a", kv).status.ok());
  ASSERT_EQ(node_->store().evict({}), 1u);
  absl::StatusOr<PutSlot> other = node_->store().reserve(node_->handler().last_offer());
  ASSERT_TRUE(other.ok()) << other.status();
  const KeyResult found = finish(lookup({hash_of("a")}, options())).keys[0];
  EXPECT_TRUE(absl::IsNotFound(found.status));
  EXPECT_NE(found.status.message().find("being written"), absl::string_view::npos) << found.status;
  EXPECT_TRUE(absl::IsNotFound(get_one(layout_, "a", kv).status));
  EXPECT_TRUE(absl::IsAborted(put_one(layout_, "a", kv).status));
  other = absl::CancelledError("given up");
  EXPECT_TRUE(put_one(layout_, "a", kv).status.ok());
}

TEST_F(ClientTest, PutSaysWhereItsBlockStands) {
  KvBuffer kv(small_layout());
  kv.fill_random(5);
  ASSERT_TRUE(put_one(layout_, "root", kv).status.ok());
  EXPECT_EQ(node_->handler().last_offer().parent, BlockKey());
  EXPECT_EQ(node_->handler().last_offer().first_token_index, UINT64_MAX);
  EXPECT_EQ(node_->handler().last_offer().route, BlockKey());
  const BlockKey root = node_->handler().last_offer().key;
  BlockPut put = block_put("leaf", kv);
  put.parent = hash_of("root");
  put.token_digest = 0x1234567890ABCDEF;
  put.first_token_index = 16;
  put.route = hash_of("root");
  ASSERT_TRUE(finish(client_->put(layout_, {put}, options())).keys[0].status.ok());
  const PutOffer offer = node_->handler().last_offer();
  EXPECT_EQ(offer.parent, root);
  EXPECT_EQ(offer.token_digest, 0x1234567890ABCDEFu);
  EXPECT_EQ(offer.first_token_index, 16u);
  EXPECT_EQ(offer.route, root);
}

TEST_F(ClientTest, OtherTokensUnderAKeyAreNeitherADuplicateNorAHit) {
  KvBuffer kv(small_layout());
  kv.fill_random(3);
  const auto put_of = [&](uint64_t digest) {
    BlockPut put = block_put("a", kv);
    put.token_digest = digest;
    return finish(client_->put(layout_, {put}, options())).keys.at(0);
  };
  const auto get_of = [&](uint64_t digest) {
    BlockGet get = block_get("a", kv);
    get.token_digest = digest;
    return finish(client_->get(layout_, {get}, options())).keys.at(0).status;
  };
  EXPECT_FALSE(put_of(7).duplicate);
  for (const uint64_t same : {0, 7}) {  // unknown, and known to be the same
    const KeyResult stored = put_of(same);
    EXPECT_TRUE(stored.status.ok() && stored.duplicate) << stored.status;
    EXPECT_TRUE(get_of(same).ok());
  }
  const KeyResult other = put_of(8);
  EXPECT_TRUE(absl::IsFailedPrecondition(other.status)) << other.status;
  EXPECT_NE(other.status.message().find("holds other tokens"), absl::string_view::npos);
  EXPECT_TRUE(absl::IsNotFound(get_of(8)));
  EXPECT_EQ(client_->stats().keys_put_failed, 1u);
}

TEST_F(ClientTest, GetSaysWhatTokensItWants) {
  KvBuffer kv(small_layout());
  BlockGet get = block_get("a", kv);
  get.token_digest = 0x1234567890ABCDEF;
  finish(client_->get(layout_, {get, block_get("b", kv)}, options()));
  const std::vector<ReadRequest> asked = node_->handler().asked();
  ASSERT_EQ(asked.size(), 2u);
  EXPECT_EQ(asked[0].token_digest, 0x1234567890ABCDEFu);
  EXPECT_EQ(asked[1].token_digest, 0u);
}

TEST_F(ClientTest, NanAndInfinityAreStoredRawAndCounted) {
  KvBuffer in(small_layout());
  KvBuffer out(small_layout());
  in.fill_random(6);
  in.set_value(100, 0x7FC0);   // NaN
  in.set_value(5000, 0xFF80);  // -infinity
  const KeyResult put = put_one(layout_, "a", in);
  ASSERT_TRUE(put.status.ok()) << put.status;
  EXPECT_TRUE(put.non_finite);
  EXPECT_EQ(put.precision.key_planes, Precision::kAllPlanes);
  const KeyResult got = get_one(layout_, "a", out);
  ASSERT_TRUE(got.status.ok()) << got.status;
  EXPECT_TRUE(in.equals(out));
  EXPECT_EQ(client_->stats().keys_non_finite, 1u);
}

TEST_F(ClientTest, CorruptBlockIsACountedMissAndGone) {
  KvBuffer in(small_layout());
  KvBuffer out(small_layout());
  in.fill_random(7);
  for (const LayoutId layout : {layout_, raw_layout_}) {
    ASSERT_TRUE(put_one(layout, "a", in).status.ok());
    ASSERT_EQ(node_->corrupt_blocks(), 1);
    out.fill(std::byte{0x5A});
    const int reports = node_->handler().bad_reports;
    const KeyResult got = get_one(layout, "a", out);
    EXPECT_TRUE(absl::IsDataLoss(got.status)) << got.status;
    EXPECT_TRUE(out.all(std::byte{0x5A}));
    const absl::Time until = absl::Now() + absl::Seconds(5);
    while (node_->handler().bad_reports == reports && absl::Now() < until) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_TRUE(absl::IsNotFound(get_one(layout, "a", out).status));
    EXPECT_TRUE(put_one(layout, "a", in).status.ok());
    EXPECT_TRUE(get_one(layout, "a", out).status.ok());
    node_->store().evict({});
    std::fill(node_->slab().begin(), node_->slab().end(), std::byte{0});
  }
  EXPECT_EQ(client_->stats().misses_data_loss, 2u);
}

// As a bug in the node would: the put was checked, the bytes are others since.
TEST_F(ClientTest, ABlockOverwrittenInDramIsACountedMissAndGone) {
  const auto edit = [](const std::function<void(BlockHeader&)>& change) {
    return [change](absl::Span<std::byte> block) {
      BlockHeader header;
      std::memcpy(&header, block.data(), sizeof(header));
      change(header);
      std::memcpy(block.data(), &header, sizeof(header));
      seal_block(block);
    };
  };
  const auto zero = [](absl::Span<std::byte> part) {
    std::fill(part.begin(), part.end(), std::byte{0});
  };
  const std::pair<const char*, std::function<void(absl::Span<std::byte>)>> kinds[] = {
      {"version", edit([](BlockHeader& header) { header.version += 1; })},
      {"layout hash", edit([](BlockHeader& header) { header.layout_hash ^= 1; })},
      {"cut", [&](absl::Span<std::byte> block) { zero(block.subspan(block.size() / 2)); }},
      {"zeroed", zero},
  };
  KvBuffer in(small_layout());
  KvBuffer out(small_layout());
  in.fill_random(9);
  uint64_t bad = 0;
  for (const auto& [name, spoil] : kinds) {
    SCOPED_TRACE(name);
    ASSERT_TRUE(put_one(layout_, "a", in).status.ok());
    ASSERT_EQ(node_->blocks().size(), 1u);
    spoil(node_->blocks()[0]);
    out.fill(std::byte{0x5A});
    const int reports = node_->handler().bad_reports;
    const KeyResult got = get_one(layout_, "a", out);
    EXPECT_TRUE(absl::IsDataLoss(got.status)) << got.status;
    EXPECT_TRUE(out.all(std::byte{0x5A}));
    EXPECT_EQ(client_->stats().misses_data_loss, ++bad);
    const absl::Time until = absl::Now() + absl::Seconds(5);
    while (node_->handler().bad_reports == reports && absl::Now() < until) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_TRUE(absl::IsNotFound(get_one(layout_, "a", out).status));
    EXPECT_EQ(node_->store().stats().bad_blocks, bad);
    EXPECT_TRUE(node_->store().list(SIZE_MAX).empty());
    zero(node_->slab());
  }
}

TEST_F(ClientTest, ReportBadOfTheEngineReachesTheNode) {
  KvBuffer kv(small_layout());
  kv.fill_random(8);
  ASSERT_TRUE(put_one(layout_, "a", kv).status.ok());
  client_->report_bad(layout_, hash_of("a"), std::nullopt);
  const absl::Time until = absl::Now() + absl::Seconds(5);
  while (node_->handler().bad_reports == 0 && absl::Now() < until) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(node_->handler().bad_reports, 1);
  EXPECT_TRUE(get_one(layout_, "a", kv).status.ok());  // the block was fine and stays
}

TEST_F(ClientTest, OpaqueBytesRoundTrip) {
  std::vector<std::byte> in(100001);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<std::byte>(i * 7);
  BlockPut put;
  put.hash = hash_of("file");
  put.opaque = in;
  const RequestResult stored = finish(client_->put(opaque_layout_, {put}, options()));
  ASSERT_TRUE(stored.keys[0].status.ok()) << stored.keys[0].status;
  std::vector<std::byte> out(in.size());
  BlockGet get;
  get.hash = hash_of("file");
  get.opaque = absl::MakeSpan(out);
  const RequestResult got = finish(client_->get(opaque_layout_, {get}, options()));
  ASSERT_TRUE(got.keys[0].status.ok()) << got.keys[0].status;
  EXPECT_EQ(got.keys[0].raw_bytes, in.size());
  EXPECT_EQ(in, out);
  std::vector<std::byte> small(1000);
  get.opaque = absl::MakeSpan(small);
  EXPECT_FALSE(finish(client_->get(opaque_layout_, {get}, options())).keys[0].status.ok());
}

TEST_F(ClientTest, ShortLastBlockRoundTrips) {
  KvBuffer in(small_layout());
  KvBuffer out(small_layout());
  in.fill_random(9);
  out.fill(std::byte{0x5A});
  BlockPut put = block_put("short", in);
  put.token_count = 5;
  put.first_token_index = 0;
  ASSERT_TRUE(finish(client_->put(raw_layout_, {put}, options())).keys[0].status.ok());
  BlockGet get = block_get("short", out);
  get.token_capacity = 4;
  const RequestResult refused = finish(client_->get(raw_layout_, {get}, options()));
  EXPECT_TRUE(absl::IsInvalidArgument(refused.keys[0].status)) << refused.keys[0].status;
  EXPECT_TRUE(out.all(std::byte{0x5A}));
  get.token_capacity = 5;
  const RequestResult got = finish(client_->get(raw_layout_, {get}, options()));
  ASSERT_TRUE(got.keys[0].status.ok()) << got.keys[0].status;
  EXPECT_EQ(got.keys[0].raw_bytes, kRawBytes / 16 * 5);
  EXPECT_EQ(std::memcmp(in.bytes().data(), out.bytes().data(), 5 * 2 * 64 * 2), 0);
}

TEST_F(ClientTest, NoStoreNoLoadAndLeastAreHonoured) {
  KvBuffer kv(small_layout());
  kv.fill_random(10);
  RequestOptions no_store = options();
  no_store.no_store = true;
  RequestResult result = finish(client_->put(layout_, {block_put("a", kv)}, no_store));
  EXPECT_TRUE(absl::IsCancelled(result.keys[0].status));
  EXPECT_EQ(node_->handler().lookup_calls, 0);
  ASSERT_TRUE(put_one(layout_, "a", kv).status.ok());
  RequestOptions no_load = options();
  no_load.no_load = true;
  EXPECT_TRUE(absl::IsNotFound(
      finish(client_->get(layout_, {block_get("a", kv)}, no_load)).keys[0].status));
  EXPECT_TRUE(absl::IsNotFound(finish(lookup({hash_of("a")}, no_load)).keys[0].status));
  EXPECT_EQ(node_->handler().reads, 0);
  RequestOptions precise = options();
  precise.least = {6, 6};
  result = finish(client_->get(layout_, {block_get("a", kv)}, precise));
  EXPECT_TRUE(absl::IsNotFound(result.keys[0].status)) << result.keys[0].status;
  result = finish(lookup({hash_of("a")}, precise));
  EXPECT_EQ(result.keys[0].status, absl::NotFoundError("less precise than asked"));
  EXPECT_EQ(result.prefix_tokens, 0u);
  precise.least = {5, 4};
  EXPECT_TRUE(finish(lookup({hash_of("a")}, precise)).keys[0].status.ok());
}

TEST_F(ClientTest, EventFdIsReadableWhileResultsWait) {
  pollfd poll_fd = {client_->event_fd(), POLLIN, 0};
  EXPECT_EQ(poll(&poll_fd, 1, 0), 0);
  const RequestId first = lookup({hash_of("a")}, options()).value();
  const RequestId second = lookup({hash_of("b")}, options()).value();
  std::vector<RequestId> ids;
  while (ids.size() < 2) {
    ASSERT_EQ(poll(&poll_fd, 1, 10000), 1);
    for (const RequestResult& result : client_->drain()) ids.push_back(result.id);
  }
  EXPECT_EQ(poll(&poll_fd, 1, 0), 0);
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(ids, (std::vector<RequestId>{first, second}));
  EXPECT_TRUE(absl::IsNotFound(client_->wait(first).status()));
  EXPECT_TRUE(client_->drain().empty());
}

TEST_F(ClientTest, BatchLargerThanStagingStreamsThrough) {
  ClientConfig config;
  config.staging_bytes = 256 * 1024;  // 7 raw blocks at once, puts 3
  make_client(config);
  std::vector<std::unique_ptr<KvBuffer>> in;
  std::vector<std::unique_ptr<KvBuffer>> out;
  std::vector<BlockPut> puts;
  std::vector<BlockGet> gets;
  for (int i = 0; i < 100; ++i) {
    in.push_back(std::make_unique<KvBuffer>(small_layout()));
    out.push_back(std::make_unique<KvBuffer>(small_layout()));
    in.back()->fill_random(i);
    puts.push_back(block_put(absl::StrCat(i), *in.back()));
    gets.push_back(block_get(absl::StrCat(i), *out.back()));
  }
  EXPECT_EQ(finish(client_->put(raw_layout_, puts, options())).prefix_blocks, 100u);
  EXPECT_EQ(finish(client_->get(raw_layout_, gets, options())).prefix_blocks, 100u);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(in[i]->equals(*out[i])) << i;
}

TEST_F(ClientTest, CancelEndsARequestAndItsResultComes) {
  KvBuffer kv(small_layout());
  const RequestId id = client_->get(layout_, {block_get("a", kv)}, options()).value();
  client_->cancel(id);
  const RequestResult result = finish(id);
  EXPECT_FALSE(result.keys[0].status.ok());
  client_->cancel(id);   // ended: nothing
  client_->cancel(999);  // unknown: nothing
}

TEST_F(ClientTest, ManyThreadsPutAndGetWhatTheyPut) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      KvBuffer in(small_layout());
      KvBuffer out(small_layout());
      for (int i = 0; i < 50; ++i) {
        in.fill_random(t * 1000 + i);
        const std::string name = absl::StrCat(t, "/", i);
        EXPECT_TRUE(put_one(raw_layout_, name, in).status.ok());
        EXPECT_TRUE(get_one(raw_layout_, name, out).status.ok());
        EXPECT_TRUE(in.equals(out));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(client_->stats().keys_got, 200u);
}

TEST_F(ClientTest, DestroyedClientEndsWhatIsInFlight) {
  KvBuffer kv(small_layout());
  kv.fill_random(11);
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(client_->put(layout_, {block_put(absl::StrCat(i), kv)}, options()).ok());
  }
  client_.reset();
}

struct RefusedPut {
  const char* name;
  std::function<void(BlockPut&)> spoil;
  const char* named;  // in the message
};

TEST_F(ClientTest, WrongPutsAreRefusedByName) {
  KvBuffer kv(small_layout());
  std::vector<std::byte*> with_null(4, kv.bytes().data());
  with_null[2] = nullptr;
  const std::vector<RefusedPut> cases = {
      {"zero tokens", [](BlockPut& p) { p.token_count = 0; }, "token_count is 0"},
      {"many tokens", [](BlockPut& p) { p.token_count = 17; }, "token_count is 17"},
      {"layers", [](BlockPut& p) { p.pages.key.layers = p.pages.key.layers.subspan(1); },
       "key.layers has 3"},
      {"null", [&](BlockPut& p) { p.pages.value.layers = with_null; }, "value.layers[2] is null"},
      {"odd stride", [](BlockPut& p) { p.pages.key.token_stride_bytes = 257; },
       "token_stride_bytes is 257"},
      {"short stride", [](BlockPut& p) { p.pages.value.head_stride_bytes = 126; },
       "head_stride_bytes is 126"},
      {"opaque", [&](BlockPut& p) { p.opaque = kv.bytes(); }, "opaque bytes given"},
      {"no hash", [](BlockPut& p) { p.hash = EngineHash(); }, "engine hash has 0 bytes"},
      {"no parent", [](BlockPut& p) { p.parent = EngineHash(); }, "parent has 0 bytes"},
      {"no route", [](BlockPut& p) { p.route = EngineHash(); }, "route has 0 bytes"},
  };
  for (const RefusedPut& refused : cases) {
    BlockPut put = block_put("a", kv);
    refused.spoil(put);
    const absl::Status status = client_->put(layout_, {put}, options()).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << refused.name << ": " << status;
    EXPECT_NE(status.ToString().find(refused.named), std::string::npos) << status;
  }
  const BlockPut put = block_put("a", kv);
  EXPECT_TRUE(absl::IsInvalidArgument(client_->put(layout_, {put, put}, options()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(client_->put(999, {put}, options()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(client_->put(layout_, {}, options()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(client_->put(opaque_layout_, {put}, options()).status()));
  BlockPut empty;
  empty.hash = hash_of("a");
  EXPECT_TRUE(absl::IsInvalidArgument(client_->put(opaque_layout_, {empty}, options()).status()));
  // Never read: its length is refused first.
  empty.opaque = {kv.bytes().data(), size_t{1} << 31};
  EXPECT_TRUE(absl::IsInvalidArgument(client_->put(opaque_layout_, {empty}, options()).status()));
  empty.opaque = {kv.bytes().data(), size_t{1} << 28};
  EXPECT_TRUE(absl::IsResourceExhausted(client_->put(opaque_layout_, {empty}, options()).status()));
}

TEST_F(ClientTest, WrongRequestsAreRefusedByName) {
  KvBuffer kv(small_layout());
  for (const absl::Duration timeout :
       {absl::ZeroDuration(), absl::Seconds(-1), absl::InfiniteDuration(), absl::Hours(25)}) {
    const absl::Status status = lookup({hash_of("a")}, options(timeout)).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_NE(status.message().find("timeout"), absl::string_view::npos);
  }
  const std::vector<EngineHash> many(limits::kBatchMaxKeys + 1, hash_of("a"));
  EXPECT_TRUE(absl::IsInvalidArgument(lookup(many, options()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(lookup({EngineHash()}, options()).status()));
  const std::vector<EngineHash> one = {hash_of("a")};
  const std::vector<EngineHash> two = {hash_of("a"), hash_of("b")};
  const std::vector<EngineHash> empty = {EngineHash()};
  const std::vector<GroupLookup> wrong = {
      {.layout = layout_, .hashes = one, .routes = two},
      {.layout = layout_, .hashes = one, .routes = empty},
      {.layout = 999, .hashes = one},
      {.layout = layout_},
      {.layout = layout_, .hashes = one, .rule = PrefixRule::last_tokens},
      {.layout = layout_, .hashes = one, .rule = static_cast<PrefixRule>(3)},
      {.layout = layout_, .hashes = one, .block_tokens = 16},
      {.layout = layout_, .hashes = one, .token_count = 17},
  };
  for (const GroupLookup& group : wrong) {
    EXPECT_TRUE(absl::IsInvalidArgument(client_->lookup({group}, options()).status()));
  }
  EXPECT_TRUE(absl::IsInvalidArgument(client_->lookup({}, options()).status()));
  RequestOptions urgent = options();
  urgent.priority = static_cast<Priority>(3);
  EXPECT_TRUE(absl::IsInvalidArgument(lookup(one, urgent).status()));
  BlockGet get = block_get("a", kv);
  get.pages.key.layers = {};
  EXPECT_TRUE(absl::IsInvalidArgument(client_->get(layout_, {get}, options()).status()));
  get = block_get("a", kv);
  get.route = EngineHash();
  EXPECT_TRUE(absl::IsInvalidArgument(client_->get(layout_, {get}, options()).status()));
  get = block_get("a", kv);
  get.token_capacity = 17;
  EXPECT_TRUE(absl::IsInvalidArgument(client_->get(layout_, {get}, options()).status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(client_->get(opaque_layout_, {BlockGet()}, options()).status()));
  EXPECT_TRUE(absl::IsNotFound(client_->wait(12345).status()));
}

TEST_F(ClientTest, WrongSettingsAreRefusedByName) {
  const auto refused = [this](const std::function<void(ClientConfig&)>& spoil) {
    ClientConfig config;
    config.nodes = {node_->address()};
    config.transport = "loopback:" + network_;
    spoil(config);
    return Client::create(config).status();
  };
  EXPECT_TRUE(absl::IsInvalidArgument(refused([](ClientConfig& c) { c.nodes.clear(); })));
  EXPECT_TRUE(absl::IsInvalidArgument(refused([](ClientConfig& c) { c.nodes[0].weight = 0; })));
  EXPECT_TRUE(
      absl::IsInvalidArgument(refused([](ClientConfig& c) { c.nodes.push_back(c.nodes[0]); })));
  EXPECT_TRUE(absl::IsInvalidArgument(refused([](ClientConfig& c) { c.transport = "pigeon"; })));
  EXPECT_TRUE(absl::IsInvalidArgument(refused([](ClientConfig& c) { c.transport = "loopback:"; })));
  EXPECT_TRUE(absl::IsInvalidArgument(refused([](ClientConfig& c) { c.staging_bytes = 0; })));
  EXPECT_TRUE(absl::IsInvalidArgument(refused([](ClientConfig& c) { c.codec_threads = 0; })));
  LayoutConfig layout = layout_config(small_layout(), "k5v4");
  layout.layout.layer_count = 0;
  EXPECT_TRUE(absl::IsInvalidArgument(client_->register_layout(layout).status()));
  for (const char* codec : {"k5v4", "raw"}) {
    layout = layout_config(small_layout(), codec);
    layout.layout.layer_count = 1024;
    layout.layout.block_tokens = 65536;  // 34 GB a block
    const absl::Status large = client_->register_layout(layout).status();
    EXPECT_TRUE(absl::IsInvalidArgument(large)) << large;
    EXPECT_NE(large.message().find("2147483647"), absl::string_view::npos) << large;
  }
  layout = layout_config(KvLayout(), "raw");
  layout.layout.dtype = DType::opaque;
  layout.layout.block_tokens = 16;
  EXPECT_TRUE(absl::IsInvalidArgument(client_->register_layout(layout).status()));
  layout = layout_config(small_layout(), "k5v4");
  layout.shard.rank = 1;
  EXPECT_TRUE(absl::IsInvalidArgument(client_->register_layout(layout).status()));
}

}  // namespace
}  // namespace hadal
