// Puts and gets of pages on a GPU, and the tier in HBM, against a real store node. The GPU is
// HostGpu: the kernels' own bodies on host threads, late as a device is.

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "tests/client/host_gpu.h"
#include "tests/client/kv_buffer.h"
#include "tests/client/test_node.h"

namespace hadal {
namespace {

constexpr uint64_t kHbmBytes = 4u << 20;
using Buffers = std::vector<std::unique_ptr<KvBuffer>>;

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    static int networks = 0;
    network_ = absl::StrCat("gpu-test-", ++networks);
    TestNodeConfig config;
    config.loopback_network = network_;
    node_ = TestNode::start(config).value();
    gpu_ = std::make_shared<HostGpu>();
    make_client(kHbmBytes, 128u << 20);
  }
  void TearDown() override {
    client_.reset();
    EXPECT_FALSE(gpu_->pinned);
  }

  void make_client(uint64_t hbm_bytes, uint64_t staging_bytes) {
    client_.reset();
    ClientConfig config;
    config.nodes = {node_->address()};
    config.transport = "loopback:" + network_;
    config.staging_bytes = staging_bytes;
    config.gpu = {gpu_, hbm_bytes, send_from_hbm_, patience_};
    absl::StatusOr<std::unique_ptr<Client>> client = Client::create(config);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    EXPECT_TRUE(gpu_->pinned);
    layout_ = register_layout("k5v4", true);
    host_layout_ = register_layout("k5v4", false);
  }
  LayoutId register_layout(const std::string& codec, bool on_gpu) {
    LayoutConfig config = layout_config(small_layout(), codec);
    config.on_gpu = on_gpu;
    const auto layout = client_->register_layout(config);
    EXPECT_TRUE(layout.ok()) << layout.status();
    return layout.value_or(0);
  }

  static RequestOptions options(absl::Duration timeout = absl::Seconds(10)) {
    RequestOptions options;
    options.timeout = timeout;
    return options;
  }
  RequestResult finish(const absl::StatusOr<RequestId>& request) {
    EXPECT_TRUE(request.ok()) << request.status();
    if (!request.ok()) return {};
    return client_->wait(*request).value();
  }

  static Buffers buffers(int count) {
    Buffers all;
    for (int i = 0; i < count; ++i) {
      all.push_back(std::make_unique<KvBuffer>(small_layout()));
      all.back()->fill_random(static_cast<uint32_t>(i));
    }
    return all;
  }
  // Block 0 starts a sequence, the last one is short.
  static std::vector<BlockPut> puts_of(const std::string& name, const Buffers& from) {
    std::vector<BlockPut> puts(from.size());
    for (size_t i = 0; i < from.size(); ++i) {
      puts[i].hash = hash_of(absl::StrCat(name, i));
      puts[i].pages = from[i]->pages();
      puts[i].token_count = i + 1 == from.size() ? 11 : 16;
      puts[i].first_token_index = i * 16;
    }
    return puts;
  }
  static std::vector<BlockGet> gets_of(const std::string& name, const Buffers& to) {
    std::vector<BlockGet> gets(to.size());
    for (size_t i = 0; i < to.size(); ++i) {
      gets[i].hash = hash_of(absl::StrCat(name, i));
      gets[i].pages = to[i]->pages();
    }
    return gets;
  }
  RequestResult put(LayoutId layout, const std::string& name, const Buffers& from) {
    return finish(client_->put(layout, puts_of(name, from), options()));
  }
  RequestResult get(LayoutId layout, const std::string& name, const Buffers& to) {
    return finish(client_->get(layout, gets_of(name, to), options()));
  }
  static void expect_all(const RequestResult& result, Tier tier) {
    for (size_t i = 0; i < result.keys.size(); ++i) {
      EXPECT_TRUE(result.keys[i].status.ok()) << i << ": " << result.keys[i].status;
      EXPECT_EQ(result.keys[i].tier, tier) << i;
    }
  }
  static void expect_equal(const Buffers& a, const Buffers& b) {
    for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i]->equals(*b[i])) << i;
  }
  static Buffers blank(size_t count) {
    Buffers all = buffers(static_cast<int>(count));
    for (const auto& one : all) one->fill(std::byte{0x33});
    return all;
  }

  std::string network_;
  std::unique_ptr<TestNode> node_;
  std::shared_ptr<HostGpu> gpu_;
  std::unique_ptr<Client> client_;
  absl::Duration patience_ = absl::Seconds(10);
  bool send_from_hbm_ = false;
  LayoutId layout_ = 0, host_layout_ = 0;
};

// Both ways between pages on a GPU and in host memory: one form, whoever encoded it.
TEST_F(GpuTest, BlocksAreThoseOfTheHost) {
  for (const char* codec : {"k5v4", "k3v2", "raw", "e4m3", "k4v3-prod", "qjlg", "polar", "tqe"}) {
    SCOPED_TRACE(codec);
    make_client(kHbmBytes, 128u << 20);
    const LayoutId on_gpu = register_layout(codec, true), on_host = register_layout(codec, false);
    const Buffers in = buffers(70), by_gpu = blank(70), by_host = blank(70), again = blank(70);
    const RequestResult stored = put(on_gpu, absl::StrCat(codec, " gpu"), in);
    expect_all(stored, Tier::dram);
    expect_all(get(on_host, absl::StrCat(codec, " gpu"), by_host), Tier::dram);
    expect_all(put(on_host, absl::StrCat(codec, " host"), in), Tier::dram);
    const RequestResult got = get(on_gpu, absl::StrCat(codec, " host"), by_gpu);
    expect_all(got, Tier::dram);
    expect_equal(by_gpu, by_host);
    const RequestResult hit = get(on_gpu, absl::StrCat(codec, " gpu"), again);
    expect_equal(again, by_host);
    for (size_t i = 0; i < in.size(); ++i) {
      EXPECT_EQ(hit.keys[i].encoded_bytes, stored.keys[i].encoded_bytes);
      EXPECT_EQ(hit.keys[i].raw_bytes, got.keys[i].raw_bytes);
      EXPECT_EQ(hit.keys[i].precision, got.keys[i].precision);
    }
  }
}

TEST_F(GpuTest, HbmServesWithoutTheNode) {
  const Buffers in = buffers(5), first = blank(5), second = blank(5);
  expect_all(put(layout_, "a", in), Tier::dram);
  expect_all(get(host_layout_, "a", first), Tier::dram);
  const int lookups = node_->handler().lookup_calls;
  std::vector<EngineHash> hashes;
  for (int i = 0; i < 6; ++i) hashes.push_back(hash_of(absl::StrCat("a", i)));
  const std::vector<GroupLookup> five = {
      {.layout = layout_, .hashes = absl::MakeConstSpan(hashes).first(5)}};
  expect_all(finish(client_->lookup(five, options())), Tier::hbm);
  EXPECT_EQ(node_->handler().lookup_calls, lookups);
  node_.reset();
  const RequestResult hit = get(layout_, "a", second);
  expect_all(hit, Tier::hbm);
  EXPECT_EQ(hit.prefix_blocks, 5u);
  EXPECT_EQ(hit.keys[0].wire_bytes, 0u);
  expect_equal(first, second);
  EXPECT_EQ(client_->stats().hbm_blocks, 5u);
  EXPECT_EQ(client_->stats().hbm_hits, 10u);
  // Pages in host memory know nothing of the tier, and neither does a key that it lacks.
  RequestResult miss =
      finish(client_->get(host_layout_, gets_of("a", second), options(absl::Milliseconds(200))));
  EXPECT_FALSE(miss.keys[0].status.ok());
  const std::vector<GroupLookup> six = {{.layout = layout_, .hashes = hashes}};
  miss = finish(client_->lookup(six, options(absl::Milliseconds(200))));
  EXPECT_EQ(miss.prefix_blocks, 5u);
  EXPECT_FALSE(miss.keys[5].status.ok());
}

TEST_F(GpuTest, WhatComesFromNodesStays) {
  const Buffers in = buffers(5), first = blank(5), second = blank(5);
  expect_all(put(host_layout_, "a", in), Tier::dram);
  EXPECT_EQ(client_->stats().hbm_blocks, 0u);
  expect_all(get(layout_, "a", first), Tier::dram);
  EXPECT_EQ(client_->stats().hbm_blocks, 5u);
  const int reads = node_->handler().reads;
  expect_all(get(layout_, "a", second), Tier::hbm);
  EXPECT_EQ(node_->handler().reads, reads);
  expect_equal(first, second);
}

// 70 blocks of 18 KB and 256 KiB for them.
TEST_F(GpuTest, AFullTierKeepsTheBeginningOfAPrefix) {
  make_client(256u << 10, 128u << 20);
  const Buffers in = buffers(70), out = blank(70), host = blank(70);
  expect_all(put(layout_, "a", in), Tier::dram);
  expect_all(get(host_layout_, "a", host), Tier::dram);
  for (int round = 0; round < 3; ++round) {
    const RequestResult got = get(layout_, "a", out);
    EXPECT_EQ(got.prefix_blocks, 70u);
    EXPECT_EQ(got.keys[0].tier, Tier::hbm);
    EXPECT_EQ(got.keys[8].tier, Tier::hbm);
    EXPECT_EQ(got.keys[69].tier, Tier::dram);
    expect_equal(host, out);
  }
  EXPECT_EQ(client_->stats().hbm_evicted_blocks, 0u);
  // Another sequence takes their place, which loses its end first.
  expect_all(put(layout_, "b", in), Tier::dram);
  EXPECT_GT(client_->stats().hbm_evicted_blocks, 8u);
  EXPECT_LE(client_->stats().hbm_used_bytes, 256u << 10);
  const Buffers one = blank(1);
  expect_all(put(layout_, "c", one), Tier::dram);
  const RequestResult got = get(layout_, "b", out);
  EXPECT_EQ(got.keys[0].tier, Tier::hbm);
  expect_equal(host, out);
}

// Blocks are encoded into staging slots and decoded from them, and few at a time.
TEST_F(GpuTest, WorksWithoutATierAndWithLittleStaging) {
  make_client(0, 256u << 10);
  const Buffers in = buffers(20), out = blank(20), host = blank(20);
  expect_all(put(layout_, "a", in), Tier::dram);
  expect_all(get(host_layout_, "a", host), Tier::dram);
  expect_all(get(layout_, "a", out), Tier::dram);
  expect_equal(host, out);
  EXPECT_EQ(client_->stats().hbm_capacity_bytes, 0u);
  make_client(kHbmBytes, 256u << 10);
  const Buffers again = blank(20);
  expect_all(get(layout_, "a", again), Tier::dram);
  expect_all(get(layout_, "a", again), Tier::hbm);
  expect_equal(host, again);
}

// As with a network that reads a GPU's memory.
TEST_F(GpuTest, BlocksGoToTheWireFromHbmWhereTheTransportCan) {
  const Buffers in = buffers(20), out = blank(20), host = blank(20);
  expect_all(put(layout_, "copied", in), Tier::dram);
  const int copies = gpu_->copies;
  EXPECT_GE(copies, 20);
  gpu_->kind = MemoryKind::host;
  send_from_hbm_ = true;
  make_client(kHbmBytes, 128u << 20);
  in[3]->set_value(5, 0x7fc0);
  expect_all(put(layout_, "direct", in), Tier::dram);
  EXPECT_LE(gpu_->copies, copies + 2) << "page tables alone";
  expect_all(get(host_layout_, "direct", host), Tier::dram);
  EXPECT_TRUE(in[3]->equals(*host[3]));
  EXPECT_EQ(get(layout_, "direct", out).prefix_blocks, 20u);
  expect_equal(host, out);
}

TEST_F(GpuTest, NothingIsAllocatedOnTheWay) {
  const Buffers in = buffers(30), out = blank(30);
  const int before = gpu_->allocations;
  expect_all(put(layout_, "a", in), Tier::dram);
  expect_all(get(layout_, "a", out), Tier::hbm);
  EXPECT_EQ(gpu_->allocations, before);
  EXPECT_EQ(gpu_->encodes, 1) << "one batch";
}

TEST_F(GpuTest, ADamagedCopyInHbmIsAMissAndTheNodeServesAfterIt) {
  const Buffers in = buffers(3), host = blank(3), out = blank(3);
  expect_all(put(layout_, "a", in), Tier::dram);
  expect_all(get(host_layout_, "a", host), Tier::dram);
  const absl::Span<std::byte> slab = gpu_->memory_of(kHbmBytes);
  ASSERT_FALSE(slab.empty());
  slab[5000] ^= std::byte{1};
  const RequestResult damaged = get(layout_, "a", out);
  int lost = 0;
  for (size_t i = 0; i < 3; ++i) {
    if (damaged.keys[i].status.ok()) continue;
    ++lost;
    EXPECT_TRUE(absl::IsDataLoss(damaged.keys[i].status)) << damaged.keys[i].status;
    EXPECT_TRUE(out[i]->all(std::byte{0x33}));
  }
  EXPECT_EQ(lost, 1);
  EXPECT_EQ(client_->stats().misses_data_loss, 1u);
  EXPECT_EQ(node_->handler().bad_reports, 0);
  EXPECT_EQ(get(layout_, "a", out).prefix_blocks, 3u);
  expect_equal(host, out);
}

TEST_F(GpuTest, ADamagedBlockOfANodeIsReportedAndNotKept) {
  const Buffers in = buffers(3), out = blank(3);
  expect_all(put(host_layout_, "a", in), Tier::dram);
  EXPECT_EQ(node_->corrupt_blocks(), 3);
  const RequestResult got = get(layout_, "a", out);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(absl::IsDataLoss(got.keys[i].status)) << got.keys[i].status;
    EXPECT_TRUE(out[i]->all(std::byte{0x33}));
  }
  EXPECT_EQ(client_->stats().hbm_blocks, 0u);
  for (int i = 0; i < 500 && node_->handler().bad_reports < 3; ++i) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_EQ(node_->handler().bad_reports, 3);
}

TEST_F(GpuTest, ReportingABlockDropsItsCopyToo) {
  const Buffers in = buffers(1), out = blank(1);
  expect_all(put(layout_, "a", in), Tier::dram);
  client_->report_bad(layout_, hash_of("a0"), std::nullopt);
  EXPECT_EQ(client_->stats().hbm_blocks, 0u);
}

TEST_F(GpuTest, NonFiniteValuesAreStoredAsTheyAre) {
  const Buffers in = buffers(4), out = blank(4);
  in[1]->set_value(77, 0x7fc0);
  in[3]->set_value(3, 0x7f80);
  const RequestResult stored = put(layout_, "a", in);
  expect_all(stored, Tier::dram);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(stored.keys[i].non_finite, i % 2 == 1) << i;
  EXPECT_EQ(client_->stats().keys_non_finite, 2u);
  EXPECT_EQ(client_->stats().hbm_blocks, 2u) << "raw ones are not kept";
  const RequestResult got = get(layout_, "a", out);
  EXPECT_EQ(got.prefix_blocks, 4u);
  EXPECT_EQ(got.keys[0].tier, Tier::hbm);
  EXPECT_EQ(got.keys[1].tier, Tier::dram);
  EXPECT_TRUE(in[1]->equals(*out[1]));
}

TEST_F(GpuTest, BlocksOfOtherBitsAreReadAndLessPreciseOnesAreMisses) {
  const Buffers in = buffers(3), host = blank(3), out = blank(3);
  expect_all(put(register_layout("k4v3", false), "a", in), Tier::dram);
  expect_all(get(host_layout_, "a", host), Tier::dram);
  expect_all(get(layout_, "a", out), Tier::dram);
  expect_equal(host, out);
  expect_all(get(layout_, "a", out), Tier::hbm);
  expect_equal(host, out);
  RequestOptions precise = options();
  precise.least = {5, 4};
  const RequestResult miss = finish(client_->get(layout_, gets_of("a", out), precise));
  for (const KeyResult& key : miss.keys) EXPECT_TRUE(absl::IsNotFound(key.status)) << key.status;
  // The more precise one takes its place at the node and here.
  expect_all(put(layout_, "a", in), Tier::dram);
  EXPECT_EQ(finish(client_->get(layout_, gets_of("a", out), precise)).prefix_blocks, 3u);
  // And a block for which the pages have no room is refused, wherever it is.
  std::vector<BlockGet> gets = gets_of("a", out);
  gets[0].token_capacity = 15;
  const RequestResult refused = finish(client_->get(layout_, gets, options()));
  EXPECT_EQ(refused.keys[0].status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(refused.keys[1].status.ok());
}

TEST_F(GpuTest, TheDeviceWaitsForTheCallersEvent) {
  const Buffers in = buffers(2), out = blank(2);
  HostEvent written, free;
  RequestOptions after = options();
  after.ready = written.handle();
  const auto put = client_->put(layout_, puts_of("a", in), after);
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(gpu_->encodes, 0);
  in[0]->fill_random(9);
  written.happen();
  expect_all(finish(put), Tier::dram);
  after.ready = free.handle();
  const auto get = client_->get(layout_, gets_of("a", out), after);
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_TRUE(out[0]->all(std::byte{0x33}));
  free.happen();
  expect_all(finish(get), Tier::hbm);
  EXPECT_LT(in[0]->relative_error(*out[0]), 0.02);
}

// One that never happens keeps nobody else waiting, and its request ends in time.
TEST_F(GpuTest, AnEventThatNeverHappensEndsItsRequestAlone) {
  const Buffers in = buffers(5), late = blank(5), out = blank(5);
  expect_all(put(layout_, "a", in), Tier::dram);
  expect_all(put(host_layout_, "b", in), Tier::dram);
  HostEvent never;
  RequestOptions after = options(absl::Milliseconds(300));
  after.ready = never.handle();
  std::vector<RequestId> waiting;
  for (const char* name : {"a", "b"}) {
    waiting.push_back(client_->get(layout_, gets_of(name, late), after).value());
  }
  for (const char* name : {"c", "d"}) {
    waiting.push_back(client_->put(layout_, puts_of(name, in), after).value());
  }
  expect_all(get(layout_, "a", out), Tier::hbm);
  const absl::Time begin = absl::Now();
  for (const RequestId request : waiting) {
    const RequestResult ended = client_->wait(request).value();
    for (const KeyResult& key : ended.keys) {
      EXPECT_TRUE(absl::IsDeadlineExceeded(key.status)) << key.status;
    }
  }
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
  never.happen();
  expect_all(put(layout_, "e", in), Tier::dram);
  for (const auto& pages : late) EXPECT_TRUE(pages->all(std::byte{0x33}));
  EXPECT_EQ(gpu_->encodes, 2);
  after.ready = never.handle();
  EXPECT_EQ(client_->get(host_layout_, gets_of("a", out), after).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// Bits by layer are said in another way by a block than by a codec's name, and cut by layer groups.
TEST_F(GpuTest, CodecsWithBitsByLayerAreTheirOwn) {
  const LayoutId on_gpu = register_layout("k5v4/0-0:k8v8", true);
  const LayoutId on_host = register_layout("k5v4/0-0:k8v8", false);
  const Buffers in = buffers(4), host = blank(4), out = blank(4);
  expect_all(put(on_host, "a", in), Tier::dram);
  expect_all(get(on_host, "a", host), Tier::dram);
  const int before = gpu_->allocations;
  expect_all(get(on_gpu, "a", out), Tier::dram);
  expect_equal(host, out);
  expect_all(get(on_gpu, "a", out), Tier::hbm);
  expect_equal(host, out);
  EXPECT_EQ(gpu_->allocations, before);
}

// What the device has begun is waited for; what it has not ends by the deadline.
TEST_F(GpuTest, AFrozenDeviceEndsInTimeAndRecovers) {
  const Buffers in = buffers(5), out = blank(5);
  expect_all(put(layout_, "a", in), Tier::dram);
  gpu_->frozen = true;
  std::vector<RequestId> requests;
  for (int i = 0; i < 4; ++i) {
    requests.push_back(
        client_->get(layout_, gets_of("a", out), options(absl::Milliseconds(50))).value());
  }
  for (int i = 2; i < 4; ++i) {
    const absl::Time begin = absl::Now();
    const RequestResult late = client_->wait(requests[i]).value();
    EXPECT_TRUE(absl::IsDeadlineExceeded(late.keys[0].status)) << late.keys[0].status;
    EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
  }
  gpu_->frozen = false;
  for (int i = 0; i < 2; ++i) EXPECT_EQ(client_->wait(requests[i])->keys.size(), 5u);
  expect_all(get(layout_, "a", out), Tier::hbm);
}

// What it was given stays as it is, since it may go on one day.
TEST_F(GpuTest, ADeviceThatIsGivenUpAnswersAtOnce) {
  const Buffers in = buffers(5), out = blank(5);
  patience_ = absl::Milliseconds(200);
  make_client(kHbmBytes, 128u << 20);
  expect_all(put(layout_, "a", in), Tier::dram);
  gpu_->frozen = true;
  const absl::Time begin = absl::Now();
  RequestResult given_up = get(layout_, "a", out);
  for (const KeyResult& key : given_up.keys) {
    EXPECT_TRUE(absl::IsUnavailable(key.status)) << key.status;
  }
  given_up = put(layout_, "b", in);
  EXPECT_TRUE(absl::IsUnavailable(given_up.keys[0].status)) << given_up.keys[0].status;
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
  expect_all(get(host_layout_, "a", out), Tier::dram);
  client_.reset();
  EXPECT_TRUE(gpu_->pinned);
  gpu_->frozen = false;
  for (int i = 0; i < 500 && gpu_->decodes == 0; ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(gpu_->decodes, 1);
  gpu_->pinned = false;
}

// Its staging slots are not the client's again: puts may have half of 256 KiB, three blocks' worth.
TEST_F(GpuTest, WhatAGivenUpPutHeldIsNotUsedAgain) {
  const Buffers in = buffers(3);
  patience_ = absl::Milliseconds(200);
  make_client(0, 256u << 10);
  expect_all(put(host_layout_, "a", in), Tier::dram);
  gpu_->frozen = true;
  const RequestResult given_up = put(layout_, "b", in);
  for (const KeyResult& key : given_up.keys) {
    EXPECT_TRUE(absl::IsUnavailable(key.status)) << key.status;
  }
  const RequestResult starved =
      finish(client_->put(host_layout_, puts_of("c", in), options(absl::Milliseconds(200))));
  EXPECT_TRUE(absl::IsDeadlineExceeded(starved.keys[0].status)) << starved.keys[0].status;
  client_.reset();
  gpu_->frozen = false;
  for (int i = 0; i < 500 && gpu_->encodes == 0; ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(gpu_->encodes, 1);
  gpu_->pinned = false;
}

TEST_F(GpuTest, AClientThatGoesWaitsForItsDevice) {
  const Buffers in = buffers(60), out = blank(60);
  expect_all(put(layout_, "a", in), Tier::dram);
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(client_->put(layout_, puts_of(absl::StrCat(i), in), options()).ok());
    ASSERT_TRUE(client_->get(layout_, gets_of("a", out), options()).ok());
  }
  client_.reset();
}

// Many at once, in a tier and in staging memory that are too small for them.
TEST_F(GpuTest, ThreadsGetWhatOthersPut) {
  make_client(512u << 10, 1u << 20);
  const Buffers in = buffers(24), host = blank(24);
  expect_all(put(host_layout_, "h", in), Tier::dram);
  expect_all(get(host_layout_, "h", host), Tier::dram);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0}, failed{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 6; ++round) {
        const Buffers out = blank(24);
        const std::string name = absl::StrCat(round % 3, " of ", t / 2);
        failed += put(layout_, name, in).prefix_blocks != 24;
        const RequestResult got = get(layout_, name, out);
        for (size_t i = 0; i < 24; ++i) {
          if (!got.keys[i].status.ok()) continue;
          wrong += !out[i]->equals(*host[i]);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(GpuTest, BadArgumentsAreNamed) {
  const auto refused = [](const absl::Status& status, const std::string& named) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << named;
    EXPECT_NE(status.message().find(named), std::string::npos) << status;
  };
  Buffers in = buffers(2);
  std::vector<BlockPut> puts = puts_of("a", in);
  puts[1].pages.value.token_stride_bytes *= 2;
  refused(client_->put(layout_, puts, options()).status(), "block 1: its strides");
  std::vector<BlockGet> gets = gets_of("a", in);
  gets[1].pages.key.head_stride_bytes += 2;
  refused(client_->get(layout_, gets, options()).status(), "block 1: its strides");
  LayoutConfig opaque = layout_config(KvLayout(), "raw");
  opaque.layout.dtype = DType::opaque;
  opaque.on_gpu = true;
  refused(client_->register_layout(opaque).status(), "on_gpu is set for opaque bytes");
  ClientConfig config;
  config.nodes = {node_->address()};
  config.transport = "loopback:" + network_;
  config.gpu.hbm_bytes = 1;
  refused(Client::create(config).status(), "hbm_bytes is 1 without a device");
  config.gpu.hbm_bytes = 0;
  config.gpu.patience = absl::ZeroDuration();
  refused(Client::create(config).status(), "patience is 0");
  config.gpu.patience = absl::Seconds(10);
  const auto plain = Client::create(config).value();
  LayoutConfig on_gpu = layout_config(small_layout(), "k5v4");
  on_gpu.on_gpu = true;
  refused(plain->register_layout(on_gpu).status(), "the client has no ClientConfig.gpu");
  // Misaligned pages only the device sees.
  std::vector<std::byte> memory(KvBuffer::bytes_for(small_layout()) + 1);
  const KvBuffer odd(small_layout(), memory.data() + 1);
  puts = puts_of("a", in);
  puts[1].pages = odd.pages();
  const RequestResult result = finish(client_->put(layout_, puts, options()));
  EXPECT_TRUE(result.keys[0].status.ok()) << result.keys[0].status;
  refused(result.keys[1].status, "a page is null or lies at no multiple");
}

TEST_F(GpuTest, ADeviceWithoutRoomIsSaid) {
  client_.reset();
  gpu_->device_bytes_max = 1;
  ClientConfig config;
  config.nodes = {node_->address()};
  config.transport = "loopback:" + network_;
  config.gpu = {gpu_, kHbmBytes};
  EXPECT_EQ(Client::create(config).status().code(), absl::StatusCode::kResourceExhausted);
  gpu_->device_bytes_max = UINT64_MAX;
}

}  // namespace
}  // namespace hadal
