// The admin API and the health service of a whole node in this process, over real sockets.

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/client_unary_call.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "client/client.h"
#include "proto/admin.grpc.pb.h"
#include "service/server.h"

namespace hadal {
namespace {

namespace pb = admin::v1;
using ::testing::HasSubstr;

constexpr char kKey[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

class AdminTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Config config = default_config();
    config.node_name = "node-a";
    config.data_transport = "tcp";
    config.data_listen = config.admin_listen = config.metrics_listen = "127.0.0.1:0";
    config.dram_capacity_bytes = 16u << 20;
    config.shutdown_timeout = absl::Seconds(2);
    auto server = Server::start(config);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(server_->addresses().admin, grpc::InsecureChannelCredentials());
    stub_ = pb::Admin::NewStub(channel_);
  }

  template <typename Request, typename Response>
  grpc::Status call(grpc::Status (pb::Admin::Stub::*method)(grpc::ClientContext*, const Request&,
                                                            Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    return ((*stub_).*method)(&context, request, response);
  }

  // grpc.health.v1.Health/Check by hand, since its generated code is not part of gRPC's headers:
  // field 1 of the request is the service's name, field 1 of the answer the state.
  std::string health(const std::string& service) {
    std::string request;
    if (!service.empty()) {
      request = std::string("\x0a") + static_cast<char>(service.size()) + service;
    }
    const grpc::Slice slice(request);
    const grpc::ByteBuffer in(&slice, 1);
    grpc::ByteBuffer out;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    const grpc::internal::RpcMethod method("/grpc.health.v1.Health/Check",
                                           grpc::internal::RpcMethod::NORMAL_RPC);
    const grpc::Status status =
        grpc::internal::BlockingUnaryCall<grpc::ByteBuffer, grpc::ByteBuffer>(
            channel_.get(), method, &context, in, &out);
    if (!status.ok()) return "error " + std::to_string(status.error_code());
    std::vector<grpc::Slice> slices;
    out.Dump(&slices);
    std::string bytes;
    for (const auto& part : slices) bytes.append(part.begin(), part.end());
    if (bytes == std::string("\x08\x01")) return "SERVING";
    return bytes == std::string("\x08\x02") ? "NOT_SERVING" : "other";
  }

  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<pb::Admin::Stub> stub_;
};

TEST_F(AdminTest, HealthIsServingForBothNames) {
  EXPECT_EQ(health(""), "SERVING");
  EXPECT_EQ(health("hadal.admin.v1.Admin"), "SERVING");
  EXPECT_EQ(health("hadal.admin.v2.Admin"), "error 5");  // NOT_FOUND
}

TEST_F(AdminTest, ShutdownIsBoundedAndEndsTheApi) {
  const absl::Time begin = absl::Now();
  const ShutdownReport report = server_->shutdown();
  EXPECT_TRUE(report.drained);
  EXPECT_FALSE(report.flushed);
  EXPECT_THAT(report.flush_error, HasSubstr("nvme.path is empty"));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  EXPECT_EQ(health(""), "error 14");  // UNAVAILABLE
}

TEST_F(AdminTest, StatsTiersAndConfigDescribeTheNode) {
  pb::GetStatsResponse stats;
  ASSERT_TRUE(call(&pb::Admin::Stub::GetStats, {}, &stats).ok());
  EXPECT_EQ(stats.node(), "node-a");
  EXPECT_EQ(stats.data_address(), server_->addresses().data);
  EXPECT_FALSE(stats.version().empty());
  EXPECT_THAT(stats.transport(), HasSubstr("tcp"));
  EXPECT_FALSE(stats.draining());

  pb::ListTiersResponse tiers;
  ASSERT_TRUE(call(&pb::Admin::Stub::ListTiers, {}, &tiers).ok());
  ASSERT_EQ(tiers.tiers_size(), 1);
  EXPECT_EQ(tiers.tiers(0).tier(), "dram");
  EXPECT_EQ(tiers.tiers(0).capacity_bytes(), 16u << 20);

  pb::GetConfigResponse config;
  ASSERT_TRUE(call(&pb::Admin::Stub::GetConfig, {}, &config).ok());
  EXPECT_EQ(config.file(), "");
  EXPECT_EQ(static_cast<size_t>(config.settings_size()), config_settings(default_config()).size());
  for (const auto& setting : config.settings()) {
    if (setting.key() == "dram.capacity") {
      EXPECT_EQ(setting.value(), "16MiB");
      EXPECT_TRUE(setting.changed());
    }
    if (setting.key() == "nvme.capacity") {
      EXPECT_FALSE(setting.changed());
    }
  }
}

TEST_F(AdminTest, UnknownBlocksAreAbsentInTheOrderAsked) {
  pb::LookupBlocksRequest request;
  request.add_keys(std::string(64, 'F'));
  request.add_keys(kKey);
  pb::LookupBlocksResponse answer;
  ASSERT_TRUE(call(&pb::Admin::Stub::LookupBlocks, request, &answer).ok());
  ASSERT_EQ(answer.blocks_size(), 2);
  EXPECT_EQ(answer.blocks(0).key(), std::string(64, 'f'));
  EXPECT_EQ(answer.blocks(1).key(), kKey);
  EXPECT_EQ(answer.blocks(1).state(), pb::BLOCK_STATE_ABSENT);
  EXPECT_EQ(answer.blocks(1).tier(), "");

  pb::EvictBlocksRequest evict;
  evict.add_keys(kKey);
  pb::EvictBlocksResponse evicted;
  ASSERT_TRUE(call(&pb::Admin::Stub::EvictBlocks, evict, &evicted).ok());
  EXPECT_EQ(evicted.evicted_blocks(), 0u);
}

// As an engine: opaque blocks, the second of which names the first as its parent.
TEST_F(AdminTest, BlocksShowWhatTheirPutSaid) {
  ClientConfig config;
  config.nodes = *parse_node_list(server_->addresses().data);
  config.transport = "tcp";
  config.staging_bytes = 4u << 20;
  const auto client = Client::create(config).value();
  LayoutConfig layout;
  layout.layout.dtype = DType::opaque;
  layout.codec.family = CodecFamily::raw;
  layout.model = "m";
  const LayoutId id = client->register_layout(layout).value();
  const std::vector<std::byte> content(100);
  BlockPut puts[2];
  for (BlockPut& put : puts) put.opaque = content;
  puts[0].hash = digest_engine_string("root");
  puts[1].hash = digest_engine_string("leaf");
  puts[1].parent = puts[0].hash;
  puts[1].token_digest = 0xABC;
  RequestOptions options;
  options.timeout = absl::Seconds(20);
  const RequestResult stored = client->wait(client->put(id, puts, options).value()).value();
  for (const KeyResult& key : stored.keys) ASSERT_TRUE(key.status.ok()) << key.status;

  pb::ListBlocksResponse listed;
  ASSERT_TRUE(call(&pb::Admin::Stub::ListBlocks, {}, &listed).ok());
  ASSERT_EQ(listed.blocks_size(), 2);
  const bool leaf_first = !listed.blocks(0).parent().empty();
  const pb::BlockStatus& root = listed.blocks(leaf_first ? 1 : 0);
  pb::LookupBlocksRequest request;
  request.add_keys(listed.blocks(leaf_first ? 0 : 1).key());
  pb::LookupBlocksResponse found;
  ASSERT_TRUE(call(&pb::Admin::Stub::LookupBlocks, request, &found).ok());
  for (const pb::BlockStatus& leaf : {listed.blocks(leaf_first ? 0 : 1), found.blocks(0)}) {
    EXPECT_EQ(leaf.parent(), root.key());
    EXPECT_EQ(leaf.token_digest(), "0000000000000abc");
  }
  EXPECT_EQ(root.parent(), "");
  EXPECT_EQ(root.route(), "");
  EXPECT_EQ(root.token_digest(), "");
}

TEST_F(AdminTest, WrongRequestsNameFieldAndValue) {
  const auto expect_refused = [](const grpc::Status& status, const std::string& text) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr(text));
  };
  pb::LookupBlocksResponse found;
  expect_refused(call(&pb::Admin::Stub::LookupBlocks, {}, &found), "keys is empty");
  pb::LookupBlocksRequest bad;
  bad.add_keys("abc");
  expect_refused(call(&pb::Admin::Stub::LookupBlocks, bad, &found), "keys holds \"abc\"");
  pb::LookupBlocksRequest many;
  for (int i = 0; i < 4097; ++i) many.add_keys(kKey);
  expect_refused(call(&pb::Admin::Stub::LookupBlocks, many, &found), "4097; at most 4096");

  pb::EvictBlocksResponse evicted;
  expect_refused(call(&pb::Admin::Stub::EvictBlocks, {}, &evicted), "all is false");
  pb::EvictBlocksRequest both;
  both.add_keys(kKey);
  both.set_all(true);
  expect_refused(call(&pb::Admin::Stub::EvictBlocks, both, &evicted), "both are set");

  pb::ListBlocksResponse listed;
  pb::ListBlocksRequest list;
  list.set_at_most(10001);
  expect_refused(call(&pb::Admin::Stub::ListBlocks, list, &listed), "at_most is 10001");
}

// Calls from several threads while the node ends: each is answered or refused, none hangs.
TEST_F(AdminTest, CallsDuringShutdownEnd) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      while (!stop) {
        pb::GetStatsResponse stats;
        call(&pb::Admin::Stub::GetStats, {}, &stats);
      }
    });
  }
  absl::SleepFor(absl::Milliseconds(100));
  server_->shutdown();
  server_.reset();
  stop = true;
  for (auto& caller : callers) caller.join();
}

}  // namespace
}  // namespace hadal
