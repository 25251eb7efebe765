// One client over UCX with two whole store nodes.

#include <gtest/gtest.h>

#include <algorithm>

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

  // With per_route_ above 0, so many blocks in a row are routed by the first of them.
  std::optional<EngineHash> route_of(int block) const {
    if (per_route_ == 0) return std::nullopt;
    return hash_of(absl::StrCat(block / per_route_ * per_route_));
  }

  RequestResult put_all() {
    std::vector<BlockPut> puts;
    for (int i = 0; i < kBlocks; ++i) {
      BlockPut put;
      put.hash = hash_of(absl::StrCat(first_name_ + i));
      put.pages = in_[i]->pages();
      put.token_count = small_layout().block_tokens;
      put.route = route_of(first_name_ + i);
      puts.push_back(put);
    }
    return client_->wait(client_->put(layout_, puts, options_).value()).value();
  }

  // Blocks `first`, `first` + `step`, ...
  RequestResult get_some(int first, int step) {
    std::vector<BlockGet> gets;
    for (int i = first; i < kBlocks; i += step) {
      gets.push_back({hash_of(absl::StrCat(i)), out_[i]->pages(), {}});
      gets.back().route = route_of(i);
    }
    return client_->wait(client_->get(layout_, gets, options_).value()).value();
  }

  std::unique_ptr<TestNode> nodes_[2];
  std::vector<std::unique_ptr<KvBuffer>> in_;
  std::vector<std::unique_ptr<KvBuffer>> out_;
  std::unique_ptr<Client> client_;
  LayoutId layout_ = 0;
  RequestOptions options_;
  int first_name_ = 0;  // of what put_all() puts
  int per_route_ = 0;
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

std::vector<BlockKey> keys_of(TestNode& node) {
  std::vector<BlockKey> keys;
  for (const BlockListing& listing : node.store().list(SIZE_MAX)) keys.push_back(listing.key);
  return keys;
}

TEST_F(TwoNodesTest, BlocksOfOneRouteAreOnOneNode) {
  make_client(1.0);
  per_route_ = kBlocks;
  ASSERT_EQ(put_all().prefix_blocks, static_cast<size_t>(kBlocks));
  const size_t first = keys_of(*nodes_[0]).size();
  const size_t second = keys_of(*nodes_[1]).size();
  EXPECT_EQ(first + second, static_cast<size_t>(kBlocks));
  EXPECT_TRUE(first == 0 || second == 0) << first << " and " << second;
}

TEST_F(TwoNodesTest, RoutedBlocksArePutInOneSplitAndFoundInEveryOther) {
  make_client(1.0);
  per_route_ = 3;
  ASSERT_EQ(put_all().prefix_blocks, static_cast<size_t>(kBlocks));
  EXPECT_EQ(keys_of(*nodes_[0]).size() % per_route_, 0u);
  EXPECT_GT(keys_of(*nodes_[0]).size(), 0u);
  EXPECT_GT(keys_of(*nodes_[1]).size(), 0u);
  for (const int step : {1, 2, 5, 7}) {
    for (auto& out : out_) out->fill(std::byte{0});
    for (int first = 0; first < step; ++first) {
      const RequestResult got = get_some(first, step);
      EXPECT_EQ(got.prefix_blocks, got.keys.size());
    }
    for (int i = 0; i < kBlocks; ++i) EXPECT_TRUE(in_[i]->equals(*out_[i])) << i;
  }
  std::vector<EngineHash> hashes, routes;
  for (int i = 0; i < kBlocks; ++i) {
    hashes.push_back(hash_of(absl::StrCat(i)));
    routes.push_back(*route_of(i));
  }
  const auto found = [&](const GroupLookup& group) {
    const RequestId id = client_->lookup({group}, options_).value();
    const std::vector<KeyResult> keys = client_->wait(id).value().keys;
    return std::count_if(keys.begin(), keys.end(),
                         [](const KeyResult& key) { return key.status.ok(); });
  };
  EXPECT_EQ(found({.layout = layout_, .hashes = hashes, .routes = routes}), kBlocks);
  EXPECT_LT(found({.layout = layout_, .hashes = hashes}), kBlocks) << "routes change nothing";
}

TEST_F(TwoNodesTest, ReportsOfRoutedBlocksReachTheirNode) {
  make_client(1.0);
  per_route_ = 3;
  ASSERT_EQ(put_all().prefix_blocks, static_cast<size_t>(kBlocks));
  // By the engine; and by the client, of what it got.
  for (int i = 0; i < kBlocks; ++i) {
    client_->report_bad(layout_, hash_of(absl::StrCat(i)), route_of(i));
  }
  const auto reports = [&] {
    return nodes_[0]->handler().bad_reports + nodes_[1]->handler().bad_reports;
  };
  const absl::Time until = absl::Now() + absl::Seconds(20);
  while (reports() < kBlocks && absl::Now() < until) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(reports(), kBlocks);
  EXPECT_EQ(nodes_[0]->corrupt_blocks() + nodes_[1]->corrupt_blocks(), kBlocks);
  for (const KeyResult& key : get_some(0, 1).keys) EXPECT_TRUE(absl::IsDataLoss(key.status));
  while (reports() < 2 * kBlocks && absl::Now() < until) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(reports(), 2 * kBlocks);
  EXPECT_TRUE(keys_of(*nodes_[0]).empty() && keys_of(*nodes_[1]).empty());
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
  // Ports, and so shares, are others in every run: of so many keys both nodes have some.
  constexpr int kRounds = 10;
  make_client(9.0);
  for (; first_name_ < kRounds * kBlocks; first_name_ += kBlocks) {
    ASSERT_EQ(put_all().prefix_blocks, static_cast<size_t>(kBlocks));
  }
  EXPECT_GT(nodes_[0]->handler().commits, kRounds * kBlocks * 7 / 10);
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
