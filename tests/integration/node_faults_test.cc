// Store nodes in processes of their own that freeze, die and come back in the middle of things:
// every call ends by its deadline, later calls recover by themselves, and nothing writes the
// caller's memory after its request has ended. Over tcp, and over shared memory, where a node that
// died leaves its segments and a frozen one may be in the middle of a copy.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "tests/client/kv_buffer.h"
#include "tests/integration/node_process.h"

namespace hadal {
namespace {

// Of one call beyond its deadline, on a busy machine of two cores.
constexpr absl::Duration kSlack = absl::Seconds(1);
constexpr int kBlocks = 16;

KvLayout large_layout() {
  KvLayout layout = small_layout();
  layout.layer_count = 30;
  layout.kv_head_count = 3;
  layout.block_tokens = 64;
  return layout;  // 1.47 MB raw
}

// Over each transport that a client and a node on one machine may use.
class NodeFaultsTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    node_ = start_node(0);
    ASSERT_NE(node_, nullptr);
    ClientConfig config;
    config.nodes = {node_->address()};
    config.transport = GetParam();
    config.peer.ping_interval = absl::Milliseconds(200);
    config.peer.ping_timeout = absl::Milliseconds(500);
    config.peer.backoff_max = absl::Milliseconds(200);
    absl::StatusOr<std::unique_ptr<Client>> client = Client::create(config);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    layout_ = client_->register_layout(layout_config(large_layout(), "raw")).value();
    for (int i = 0; i < kBlocks; ++i) {
      in_.push_back(std::make_unique<KvBuffer>(large_layout()));
      in_.back()->fill_random(i);
    }
  }

  static std::unique_ptr<NodeProcess> start_node(uint16_t port) {
    return NodeProcess::start(STORE_NODE_BINARY, port, GetParam());
  }

  // Of both nodes, with staging memory for two blocks.
  void make_small_client(const NodeProcess& second) {
    ClientConfig config;
    config.nodes = {node_->address(), second.address()};
    config.transport = GetParam();
    config.staging_bytes = 4u << 20;
    config.peer.ping_interval = absl::Milliseconds(200);
    config.peer.ping_timeout = absl::Milliseconds(500);
    config.peer.backoff_max = absl::Milliseconds(200);
    client_ = Client::create(config).value();
    layout_ = client_->register_layout(layout_config(large_layout(), "raw")).value();
  }

  static RequestOptions options(absl::Duration timeout) {
    RequestOptions options;
    options.timeout = timeout;
    return options;
  }

  RequestResult put_all(absl::Duration timeout) {
    std::vector<BlockPut> puts;
    for (int i = 0; i < kBlocks; ++i) {
      BlockPut put;
      put.hash = hash_of(absl::StrCat(i));
      put.pages = in_[i]->pages();
      put.token_count = large_layout().block_tokens;
      puts.push_back(put);
    }
    return timed(client_->put(layout_, puts, options(timeout)), timeout);
  }

  RequestResult get_all(const std::vector<std::unique_ptr<KvBuffer>>& out, absl::Duration timeout) {
    std::vector<BlockGet> gets;
    for (int i = 0; i < kBlocks; ++i) {
      gets.push_back({hash_of(absl::StrCat(i)), out[i]->pages(), {}});
    }
    return timed(client_->get(layout_, gets, options(timeout)), timeout);
  }

  RequestResult lookup_all(absl::Duration timeout) {
    std::vector<EngineHash> hashes;
    for (int i = 0; i < kBlocks; ++i) hashes.push_back(hash_of(absl::StrCat(i)));
    return timed(client_->lookup({{.layout = layout_, .hashes = hashes}}, options(timeout)),
                 timeout);
  }

  RequestResult timed(const absl::StatusOr<RequestId>& request, absl::Duration timeout) {
    const absl::Time begin = absl::Now();
    RequestResult result = client_->wait(request.value()).value();
    EXPECT_LT(absl::Now() - begin, timeout + kSlack);
    return result;
  }

  // Calls until all is well again, with no help but time.
  bool recovers(const std::function<RequestResult()>& call) {
    const absl::Time until = absl::Now() + absl::Seconds(10);
    while (absl::Now() < until) {
      if (call().prefix_blocks == kBlocks) return true;
      absl::SleepFor(absl::Milliseconds(20));
    }
    return false;
  }

  std::vector<std::unique_ptr<KvBuffer>> buffers() const {
    std::vector<std::unique_ptr<KvBuffer>> out;
    for (int i = 0; i < kBlocks; ++i) out.push_back(std::make_unique<KvBuffer>(large_layout()));
    return out;
  }

  void expect_equal(const std::vector<std::unique_ptr<KvBuffer>>& out) const {
    for (int i = 0; i < kBlocks; ++i) EXPECT_TRUE(in_[i]->equals(*out[i])) << i;
  }

  std::unique_ptr<NodeProcess> node_;
  std::unique_ptr<Client> client_;
  LayoutId layout_ = 0;
  std::vector<std::unique_ptr<KvBuffer>> in_;
};

TEST_P(NodeFaultsTest, FrozenNodeIsAMissByTheDeadlineAndRecovers) {
  const auto out = buffers();
  ASSERT_EQ(put_all(absl::Seconds(10)).prefix_blocks, static_cast<size_t>(kBlocks));
  node_->signal(SIGSTOP);
  const RequestResult found = lookup_all(absl::Milliseconds(100));
  const RequestResult got = get_all(out, absl::Milliseconds(100));
  const RequestResult put = put_all(absl::Milliseconds(100));
  for (const RequestResult* result : {&found, &got, &put}) {
    for (const KeyResult& key : result->keys) {
      EXPECT_TRUE(absl::IsDeadlineExceeded(key.status) || absl::IsUnavailable(key.status))
          << key.status;
    }
  }
  EXPECT_GT(client_->stats().misses_deadline + client_->stats().misses_unavailable, 0u);
  node_->signal(SIGCONT);
  EXPECT_TRUE(recovers([&] { return get_all(out, absl::Seconds(2)); }));
  expect_equal(out);
}

TEST_P(NodeFaultsTest, KilledAndRestartedMidTransferRecovers) {
  const auto out = buffers();
  ASSERT_EQ(put_all(absl::Seconds(10)).prefix_blocks, static_cast<size_t>(kBlocks));
  const uint16_t port = node_->port();
  std::atomic<bool> stop{false};
  std::thread killer([&] {
    absl::SleepFor(absl::Milliseconds(30));
    node_->kill_and_wait();
    stop = true;
  });
  while (!stop) get_all(out, absl::Milliseconds(500));
  killer.join();
  const RequestResult away = get_all(out, absl::Milliseconds(300));
  EXPECT_EQ(away.prefix_blocks, 0u);
  node_ = start_node(port);
  ASSERT_NE(node_, nullptr);
  EXPECT_TRUE(recovers([&] { return put_all(absl::Seconds(2)); }));
  EXPECT_EQ(get_all(out, absl::Seconds(5)).prefix_blocks, static_cast<size_t>(kBlocks));
  expect_equal(out);
}

TEST_P(NodeFaultsTest, PutsToAKilledNodeEnd) {
  ASSERT_EQ(lookup_all(absl::Seconds(10)).prefix_blocks, 0u);
  std::thread killer([&] {
    absl::SleepFor(absl::Milliseconds(3));
    node_->kill_and_wait();
  });
  put_all(absl::Milliseconds(500));
  killer.join();
  EXPECT_EQ(put_all(absl::Milliseconds(500)).prefix_blocks, 0u);
}

// The pages are the caller's again when a put has ended, even where its node froze in the middle:
// what is stored in the end is what the pages held while the put ran.
TEST_P(NodeFaultsTest, FrozenMidPutNothingWrongIsStored) {
  ASSERT_EQ(put_all(absl::Seconds(10)).prefix_blocks, static_cast<size_t>(kBlocks));
  std::atomic<bool> stop{false};
  std::thread freezer([&] {
    while (!stop) {
      node_->signal(SIGSTOP);
      absl::SleepFor(absl::Milliseconds(15));
      node_->signal(SIGCONT);
      absl::SleepFor(absl::Milliseconds(10));
    }
  });
  KvBuffer pages(large_layout());
  int late = 0;
  for (int round = 0; round < 60; ++round) {
    std::memcpy(pages.bytes().data(), in_[round % kBlocks]->bytes().data(), pages.bytes().size());
    BlockPut put;
    put.hash = hash_of(absl::StrCat("mid-put ", round));
    put.pages = pages.pages();
    put.token_count = large_layout().block_tokens;
    const absl::Duration timeout = absl::Milliseconds(1 + round % 20);
    late += !timed(client_->put(layout_, {put}, options(timeout)), timeout).keys[0].status.ok();
    pages.fill(std::byte{0xEE});
  }
  stop = true;
  freezer.join();
  EXPECT_GT(late, 0);
  const auto out = buffers();
  EXPECT_TRUE(recovers([&] { return get_all(out, absl::Seconds(2)); }));
  int stored = 0;
  for (int round = 0; round < 60; ++round) {
    const BlockGet get = {hash_of(absl::StrCat("mid-put ", round)), pages.pages(), {}};
    const RequestResult got =
        timed(client_->get(layout_, {get}, options(absl::Seconds(5))), absl::Seconds(5));
    if (!got.keys[0].status.ok()) continue;
    ++stored;
    EXPECT_TRUE(pages.equals(*in_[round % kBlocks])) << round;
  }
  EXPECT_EQ(client_->stats().misses_data_loss, 0u);
  printf("%d of 60 puts late, %d blocks stored\n", late, stored);
}

TEST_P(NodeFaultsTest, AbsentNodeIsUnavailableNotAHang) {
  node_->kill_and_wait();
  ClientConfig config;
  config.nodes = {node_->address()};
  config.transport = GetParam();
  client_ = Client::create(config).value();
  layout_ = client_->register_layout(layout_config(large_layout(), "raw")).value();
  const RequestResult found = lookup_all(absl::Milliseconds(500));
  const RequestResult put = put_all(absl::Milliseconds(500));
  const RequestResult got = get_all(buffers(), absl::Milliseconds(500));
  for (const RequestResult* result : {&found, &put, &got}) {
    for (const KeyResult& key : result->keys) {
      EXPECT_TRUE(absl::IsDeadlineExceeded(key.status) || absl::IsUnavailable(key.status))
          << key.status;
    }
  }
  EXPECT_FALSE(client_->nodes().at(0).last_error.empty());
}

TEST_P(NodeFaultsTest, CancelEndsARequestToAFrozenNodeAtOnce) {
  ASSERT_EQ(put_all(absl::Seconds(10)).prefix_blocks, static_cast<size_t>(kBlocks));
  node_->signal(SIGSTOP);
  const auto out = buffers();
  std::vector<BlockGet> gets;
  for (int i = 0; i < kBlocks; ++i) gets.push_back({hash_of(absl::StrCat(i)), out[i]->pages(), {}});
  const RequestId id = client_->get(layout_, gets, options(absl::Minutes(10))).value();
  client_->cancel(id);
  for (const KeyResult& key : timed(id, absl::ZeroDuration()).keys) {
    EXPECT_TRUE(absl::IsCancelled(key.status)) << key.status;
  }
  node_->signal(SIGCONT);
  EXPECT_TRUE(recovers([&] { return get_all(out, absl::Seconds(2)); }));
  expect_equal(out);
}

// With staging memory for two blocks, all of it lent to a node that froze: it is not used for
// others while the network may write it, and it comes back once the connection has been closed.
TEST_P(NodeFaultsTest, SlotsOfAFrozenNodeComeBackForTheOthers) {
  const auto second = start_node(0);
  ASSERT_NE(second, nullptr);
  make_small_client(*second);
  ASSERT_EQ(put_all(absl::Seconds(10)).prefix_blocks, static_cast<size_t>(kBlocks));
  const auto ok_keys = [](const RequestResult& result) {
    return std::count_if(result.keys.begin(), result.keys.end(),
                         [](const KeyResult& key) { return key.status.ok(); });
  };
  const auto out = buffers();
  node_->signal(SIGSTOP);
  get_all(out, absl::Milliseconds(50));
  const auto of_second = ok_keys(lookup_all(absl::Seconds(1)));
  ASSERT_GT(of_second, 0);
  ASSERT_LT(of_second, kBlocks);
  const absl::Time until = absl::Now() + absl::Seconds(20);
  auto served = ok_keys(get_all(out, absl::Milliseconds(500)));
  while (served != of_second && absl::Now() < until) {
    served = ok_keys(get_all(out, absl::Milliseconds(500)));
  }
  EXPECT_EQ(served, of_second);
  node_->signal(SIGCONT);
  EXPECT_TRUE(recovers([&] { return get_all(out, absl::Seconds(2)); }));
  expect_equal(out);
}

// A node frozen in the middle of puts, until the client has closed its connection and sent other
// blocks from the same staging slots. Over shared memory it takes the rest of a put from those and
// may store a block of two halves: a get of that is DataLoss, and never wrong values.
TEST_P(NodeFaultsTest, FrozenPastItsConnectionServesNothingWrong) {
  const auto second = start_node(0);
  ASSERT_NE(second, nullptr);
  make_small_client(*second);
  ASSERT_EQ(put_all(absl::Seconds(10)).prefix_blocks, static_cast<size_t>(kBlocks));
  const auto put_of = [&](const std::string& name, int block) {
    BlockPut put;
    put.hash = hash_of(name);
    put.pages = in_[block]->pages();
    put.token_count = large_layout().block_tokens;
    return put;
  };
  const auto name_of = [](int round, int block) { return absl::StrCat(round, " of ", block); };
  constexpr int kRounds = 3;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<BlockPut> puts;
    for (int i = 0; i < kBlocks; ++i) puts.push_back(put_of(name_of(round, i), i));
    const RequestId cut = client_->put(layout_, puts, options(absl::Milliseconds(50))).value();
    absl::SleepFor(absl::Milliseconds(2 + 2 * round));
    node_->signal(SIGSTOP);
    timed(cut, absl::Milliseconds(50));
    const absl::Time until = absl::Now() + absl::Milliseconds(1200);
    for (int other = 0; absl::Now() < until; ++other) {
      const BlockPut put = put_of(absl::StrCat(round, " other ", other), other % kBlocks);
      timed(client_->put(layout_, {put}, options(absl::Milliseconds(20))), absl::Milliseconds(20));
      // Some 40 a round: the running node has room for 170 blocks, and would evict the first ones.
      absl::SleepFor(absl::Milliseconds(30));
    }
    node_->signal(SIGCONT);
    const auto out = buffers();
    EXPECT_TRUE(recovers([&] { return get_all(out, absl::Seconds(2)); }));
    expect_equal(out);
  }
  int stored = 0;
  KvBuffer pages(large_layout());
  for (int i = 0; i < kRounds * kBlocks; ++i) {
    const BlockGet get = {hash_of(name_of(i / kBlocks, i % kBlocks)), pages.pages(), {}};
    const RequestResult got =
        timed(client_->get(layout_, {get}, options(absl::Seconds(5))), absl::Seconds(5));
    const absl::Status& status = got.keys[0].status;
    EXPECT_TRUE(status.ok() || absl::IsNotFound(status) || absl::IsDataLoss(status)) << status;
    if (!status.ok()) continue;
    ++stored;
    EXPECT_TRUE(pages.equals(*in_[i % kBlocks])) << i;
  }
  printf("%d of %d blocks stored, %d damaged ones refused\n", stored, kRounds * kBlocks,
         static_cast<int>(client_->stats().misses_data_loss));
}

// Pages that the caller takes back the moment its request has ended: a late write is a crash.
TEST_P(NodeFaultsTest, LateGetNeverWritesTheCallersMemory) {
  ASSERT_EQ(put_all(absl::Seconds(10)).prefix_blocks, static_cast<size_t>(kBlocks));
  const size_t block_bytes = KvBuffer::bytes_for(large_layout());
  const size_t bytes = (kBlocks * block_bytes + 4095) / 4096 * 4096;
  void* const memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  std::vector<std::unique_ptr<KvBuffer>> out;
  for (int i = 0; i < kBlocks; ++i) {
    out.push_back(std::make_unique<KvBuffer>(large_layout(),
                                             static_cast<std::byte*>(memory) + i * block_bytes));
  }
  std::atomic<bool> stop{false};
  std::thread freezer([&] {
    while (!stop) {
      node_->signal(SIGSTOP);
      absl::SleepFor(absl::Milliseconds(2));
      node_->signal(SIGCONT);
      absl::SleepFor(absl::Milliseconds(10));
    }
  });
  size_t in_time = 0;
  size_t late = 0;
  for (int round = 0; round < 120; ++round) {
    const RequestResult got = get_all(out, absl::Microseconds(200 + round * 200));
    ASSERT_EQ(mprotect(memory, bytes, PROT_NONE), 0);
    absl::SleepFor(absl::Milliseconds(5));
    ASSERT_EQ(mprotect(memory, bytes, PROT_READ | PROT_WRITE), 0);
    for (int i = 0; i < kBlocks; ++i) {
      (got.keys[i].status.ok() ? in_time : late) += 1;
      if (got.keys[i].status.ok()) {
        EXPECT_TRUE(in_[i]->equals(*out[i]));
      }
    }
  }
  stop = true;
  freezer.join();
  printf("%zu blocks in time, %zu late\n", in_time, late);
  EXPECT_GT(late, 0u);
  client_.reset();
  munmap(memory, bytes);
}

// The prefix of the main job: 24 blocks of 1.47 MB raw, default codec.
TEST_P(NodeFaultsTest, WholePrefixIsGotQuickly) {
  const LayoutId layout = client_->register_layout(layout_config(large_layout(), "k5v4")).value();
  std::vector<std::unique_ptr<KvBuffer>> out;
  std::vector<BlockPut> puts;
  std::vector<BlockGet> gets;
  for (int i = 0; i < 24; ++i) {
    out.push_back(std::make_unique<KvBuffer>(large_layout()));
    BlockPut put;
    put.hash = hash_of(absl::StrCat(i));
    put.pages = in_[i % kBlocks]->pages();
    put.token_count = large_layout().block_tokens;
    puts.push_back(put);
    gets.push_back({put.hash, out.back()->pages(), {}});
  }
  const RequestOptions wait = options(absl::Seconds(10));
  absl::Time begin = absl::Now();
  ASSERT_EQ(client_->wait(client_->put(layout, puts, wait).value())->prefix_blocks, 24u);
  const absl::Duration put_time = absl::Now() - begin;
  absl::Duration best = absl::InfiniteDuration();
  for (int round = 0; round < 5; ++round) {
    begin = absl::Now();
    ASSERT_EQ(client_->wait(client_->get(layout, gets, wait).value())->prefix_blocks, 24u);
    best = std::min(best, absl::Now() - begin);
  }
  printf("put %.1f ms, best get %.1f ms\n", absl::ToDoubleMilliseconds(put_time),
         absl::ToDoubleMilliseconds(best));
  EXPECT_LT(best, absl::Seconds(2));  // the figure itself is a benchmark's
}

INSTANTIATE_TEST_SUITE_P(Transports, NodeFaultsTest, ::testing::Values("auto", "tcp"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace hadal
