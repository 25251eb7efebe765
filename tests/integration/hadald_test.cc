// The client and the real daemon: frozen, killed with -9, and warm again from NVMe.

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "tests/client/kv_buffer.h"
#include "tests/integration/node_process.h"

namespace hadal {
namespace {

#ifdef HADALD_BINARY
constexpr const char* kHadald = HADALD_BINARY;
#else
constexpr const char* kHadald = nullptr;
#endif
constexpr int kBlocks = 24;

class HadaldTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (kHadald == nullptr) GTEST_SKIP() << "this build has no hadald";
    std::string pattern = (std::filesystem::temp_directory_path() / "hadald-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    port_ = NodeProcess::free_port();
    ASSERT_NE(port_, 0);
    std::ofstream(directory_ + "/hadald.toml")
        << "[data]\nlisten = \"127.0.0.1:" << port_ << "\"\ntransport = \"" << GetParam() << "\"\n"
        << "[admin]\nlisten = \"127.0.0.1:0\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n"
        << "[dram]\ncapacity = \"64MiB\"\n"
        << "[nvme]\npath = \"" << directory_ << "/nvme\"\ncapacity = \"256MiB\"\n"
        << "memtable = \"16MiB\"\nflush_interval = \"200ms\"\n";
    start();
    ClientConfig config;
    config.nodes = {{"127.0.0.1", port_, 1.0}};
    config.transport = GetParam();
    config.peer.ping_interval = absl::Milliseconds(200);
    config.peer.ping_timeout = absl::Milliseconds(500);
    config.peer.backoff_max = absl::Milliseconds(200);
    client_ = Client::create(config).value();
    layout_ = client_->register_layout(layout_config(small_layout(), "raw")).value();
    for (int i = 0; i < kBlocks; ++i) {
      in_.push_back(std::make_unique<KvBuffer>(small_layout()));
      in_.back()->fill_random(i);
      out_.push_back(std::make_unique<KvBuffer>(small_layout()));
    }
  }

  void TearDown() override {
    client_.reset();
    node_.reset();
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }

  void start() {
    node_ = NodeProcess::start_command({kHadald, "--config", directory_ + "/hadald.toml"}, port_);
    ASSERT_NE(node_, nullptr);
  }

  RequestResult put_all() {
    std::vector<BlockPut> puts;
    for (int i = 0; i < kBlocks; ++i) {
      BlockPut put;
      put.hash = hash_of(absl::StrCat(i));
      put.pages = in_[i]->pages();
      put.token_count = small_layout().block_tokens;
      puts.push_back(put);
    }
    return client_->wait(client_->put(layout_, puts, options_).value()).value();
  }

  RequestResult get_all() {
    std::vector<BlockGet> gets;
    for (int i = 0; i < kBlocks; ++i) {
      gets.push_back({hash_of(absl::StrCat(i)), out_[i]->pages(), {}});
    }
    return client_->wait(client_->get(layout_, gets, options_).value()).value();
  }

  // The first whole answer within 20 seconds, or the last one there was.
  RequestResult retried(const std::function<RequestResult()>& call) {
    const absl::Time until = absl::Now() + absl::Seconds(20);
    RequestResult result = call();
    while (result.prefix_blocks != kBlocks && absl::Now() < until) {
      absl::SleepFor(absl::Milliseconds(50));
      result = call();
    }
    return result;
  }

  void expect_equal() const {
    for (int i = 0; i < kBlocks; ++i) EXPECT_TRUE(in_[i]->equals(*out_[i])) << i;
  }

  std::string directory_;
  uint16_t port_ = 0;
  std::unique_ptr<NodeProcess> node_;
  std::unique_ptr<Client> client_;
  LayoutId layout_ = 0;
  RequestOptions options_;
  std::vector<std::unique_ptr<KvBuffer>> in_;
  std::vector<std::unique_ptr<KvBuffer>> out_;
};

TEST_P(HadaldTest, FrozenIsAMissByTheDeadlineAndRecovers) {
  ASSERT_EQ(retried([&] { return put_all(); }).prefix_blocks, static_cast<size_t>(kBlocks));
  node_->signal(SIGSTOP);
  options_.timeout = absl::Milliseconds(100);
  const absl::Time begin = absl::Now();
  EXPECT_EQ(get_all().prefix_blocks, 0u);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(1));
  node_->signal(SIGCONT);
  options_.timeout = absl::Seconds(1);
  EXPECT_EQ(retried([&] { return get_all(); }).prefix_blocks, static_cast<size_t>(kBlocks));
  expect_equal();
}

// Killed with -9 and restarted, three times, while puts and gets are on their way.
TEST_P(HadaldTest, RestartedMidTransferEveryCallEndsAndLaterOnesRecover) {
  ASSERT_EQ(retried([&] { return put_all(); }).prefix_blocks, static_cast<size_t>(kBlocks));
  options_.timeout = absl::Milliseconds(200);
  std::atomic<bool> stop{false};
  std::thread restarter([&] {
    for (int round = 0; round < 3; ++round) {
      absl::SleepFor(absl::Milliseconds(300));
      node_->kill_and_wait();
      absl::SleepFor(absl::Milliseconds(100));
      start();
    }
    absl::SleepFor(absl::Milliseconds(300));
    stop = true;
  });
  int whole = 0;
  int calls = 0;
  while (!stop) {
    for (auto& out : out_) out->fill(std::byte{0});
    absl::Time begin = absl::Now();
    const RequestResult got = get_all();
    EXPECT_LT(absl::Now() - begin, options_.timeout + absl::Seconds(1));
    for (int i = 0; i < kBlocks; ++i) {
      EXPECT_TRUE(got.keys[i].status.ok() ? in_[i]->equals(*out_[i]) : out_[i]->all(std::byte{0}));
    }
    whole += got.prefix_blocks == kBlocks;
    begin = absl::Now();
    put_all();
    EXPECT_LT(absl::Now() - begin, options_.timeout + absl::Seconds(1));
    ++calls;
  }
  restarter.join();
  EXPECT_GT(whole, 0);
  EXPECT_LT(whole, calls);
  options_.timeout = absl::Seconds(1);
  EXPECT_EQ(retried([&] { return put_all(); }).prefix_blocks, static_cast<size_t>(kBlocks));
  EXPECT_EQ(retried([&] { return get_all(); }).prefix_blocks, static_cast<size_t>(kBlocks));
  expect_equal();
}

TEST_P(HadaldTest, KilledWithNineIsWarmFromNvme) {
  ASSERT_EQ(retried([&] { return put_all(); }).prefix_blocks, static_cast<size_t>(kBlocks));
  absl::SleepFor(absl::Seconds(2));  // ten times the flush interval
  node_->kill_and_wait();
  EXPECT_EQ(get_all().prefix_blocks, 0u);
  start();
  const RequestResult got = retried([&] { return get_all(); });
  ASSERT_EQ(got.prefix_blocks, static_cast<size_t>(kBlocks));
  EXPECT_EQ(got.keys[0].tier, Tier::nvme);
  expect_equal();
}

INSTANTIATE_TEST_SUITE_P(Transports, HadaldTest, ::testing::Values("auto", "tcp"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace hadal
