// One client over UCX with two whole store nodes.

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "tests/client/kv_buffer.h"
#include "tests/client/test_node.h"

namespace hadal {
namespace {

constexpr int kBlocks = 48;

class TwoNodesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (auto& node : nodes_) {
      absl::StatusOr<std::unique_ptr<TestNode>> started = TestNode::start(TestNodeConfig());
      ASSERT_TRUE(started.ok()) << started.status();
      node = *std::move(started);
    }
    for (int i = 0; i < kBlocks; ++i) {
      in_.push_back(std::make_unique<KvBuffer>(small_layout()));
      in_.back()->fill_random(i);
      out_.push_back(std::make_unique<KvBuffer>(small_layout()));
    }
  }

  void make_client(double first_weight) {
    ClientConfig config;
    config.nodes = {nodes_[0]->address(first_weight), nodes_[1]->address()};
    config.transport = "tcp";
    absl::StatusOr<std::unique_ptr<Client>> client = Client::create(config);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    layout_ = client_->register_layout(layout_config(small_layout(), "raw")).value();
    options_.timeout = absl::Seconds(10);
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

  // Blocks `first`, `first` + `step`, ...
  RequestResult get_some(int first, int step) {
    std::vector<BlockGet> gets;
    for (int i = first; i < kBlocks; i += step) {
      gets.push_back({hash_of(absl::StrCat(i)), out_[i]->pages(), {}});
    }
    return client_->wait(client_->get(layout_, gets, options_).value()).value();
  }

  std::unique_ptr<TestNode> nodes_[2];
  std::vector<std::unique_ptr<KvBuffer>> in_;
  std::vector<std::unique_ptr<KvBuffer>> out_;
  std::unique_ptr<Client> client_;
  LayoutId layout_ = 0;
  RequestOptions options_;
};

TEST_F(TwoNodesTest, PutInOneSplitGetInAnother) {
  make_client(1.0);
  const RequestResult put = put_all();
  ASSERT_EQ(put.prefix_blocks, static_cast<size_t>(kBlocks)) << put.keys[put.prefix_blocks].status;
  EXPECT_GT(nodes_[0]->handler().commits, 0);
  EXPECT_GT(nodes_[1]->handler().commits, 0);
  EXPECT_EQ(nodes_[0]->handler().commits + nodes_[1]->handler().commits, kBlocks);
  for (const int step : {1, 3, 7}) {
    for (auto& out : out_) out->fill(std::byte{0});
    for (int first = 0; first < step; ++first) {
      const RequestResult got = get_some(first, step);
      EXPECT_EQ(got.prefix_blocks, got.keys.size());
    }
    for (int i = 0; i < kBlocks; ++i) EXPECT_TRUE(in_[i]->equals(*out_[i])) << i;
  }
}

TEST_F(TwoNodesTest, OneLookupMessageANode) {
  make_client(1.0);
  ASSERT_EQ(put_all().prefix_blocks, static_cast<size_t>(kBlocks));
  const int before = nodes_[0]->handler().lookup_calls + nodes_[1]->handler().lookup_calls;
  std::vector<EngineHash> hashes;
  for (int i = 0; i < kBlocks; ++i) hashes.push_back(hash_of(absl::StrCat(i)));
  hashes.push_back(hash_of("absent"));
  options_.lease_ms = 1000;
  const RequestResult result =
      client_->wait(client_->lookup({{.layout = layout_, .hashes = hashes}}, options_).value())
          .value();
  EXPECT_EQ(result.prefix_blocks, static_cast<size_t>(kBlocks));
  ASSERT_EQ(result.leases.size(), 2u);
  EXPECT_NE(result.leases[0], 0u);
  EXPECT_NE(result.leases[1], 0u);
  EXPECT_EQ(nodes_[0]->handler().lookup_calls + nodes_[1]->handler().lookup_calls, before + 2);
}

TEST_F(TwoNodesTest, WeightShiftsTheShare) {
  make_client(9.0);
  ASSERT_EQ(put_all().prefix_blocks, static_cast<size_t>(kBlocks));
  EXPECT_GT(nodes_[0]->handler().commits, kBlocks * 7 / 10);
  EXPECT_GT(nodes_[1]->handler().commits, 0);
}

TEST_F(TwoNodesTest, KeysOfADeadNodeMissAndTheOthersAreServed) {
  make_client(1.0);
  ASSERT_EQ(put_all().prefix_blocks, static_cast<size_t>(kBlocks));
  const int of_second = nodes_[1]->handler().commits;
  nodes_[1].reset();
  const absl::Time begin = absl::Now();
  options_.timeout = absl::Seconds(2);
  const RequestResult got = get_some(0, 1);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(4));
  int missed = 0;
  for (int i = 0; i < kBlocks; ++i) {
    const absl::Status& status = got.keys[i].status;
    if (status.ok()) {
      EXPECT_TRUE(in_[i]->equals(*out_[i])) << i;
    } else {
      ++missed;
      EXPECT_TRUE(absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) << status;
    }
  }
  EXPECT_EQ(missed, of_second);
}

}  // namespace
}  // namespace hadal
