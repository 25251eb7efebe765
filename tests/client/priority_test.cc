// What waits inside the client goes by priority: staging slots, codec work, and the two together.

#include <gtest/gtest.h>

#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "client/client.h"
#include "client/codec_workers.h"
#include "client/scheduler.h"
#include "tests/client/kv_buffer.h"
#include "tests/client/test_node.h"

namespace hadal {
namespace {

// Who went when, told by several threads.
class Order {
 public:
  explicit Order(size_t expected) : expected_(expected) {}
  void add(const std::string& name) {
    const std::lock_guard<std::mutex> lock(mutex_);
    names_.push_back(name);
    if (names_.size() == expected_) all_.Notify();
  }
  std::vector<std::string> wait() {
    EXPECT_TRUE(all_.WaitForNotificationWithTimeout(absl::Seconds(20))) << "some never went";
    const std::lock_guard<std::mutex> lock(mutex_);
    return names_;
  }

 private:
  const size_t expected_;
  std::mutex mutex_;
  std::vector<std::string> names_;
  absl::Notification all_;
};

TEST(CodecWorkersPriority, HigherFirstThenDecodesThenTheOlder) {
  Order order(7);
  CodecWorkers workers(1);
  absl::Notification busy, go;
  workers.encode(
      [&] {
        busy.Notify();
        go.WaitForNotification();
      },
      Priority::low);
  busy.WaitForNotification();  // from here on, everything queues
  const auto add = [&order](const char* name) { return [&order, name] { order.add(name); }; };
  workers.encode(add("low encode"), Priority::low);
  workers.decode(add("low decode"), Priority::low);
  workers.encode(add("encode 1"), Priority::normal);
  workers.decode(add("decode"), Priority::normal);
  workers.encode(add("encode 2"), Priority::normal);
  workers.encode(add("high encode"), Priority::high);
  workers.decode(add("high decode"), Priority::high);
  go.Notify();
  EXPECT_EQ(order.wait(),
            (std::vector<std::string>{"high decode", "high encode", "decode", "encode 1",
                                      "encode 2", "low decode", "low encode"}));
}

// Takes a slot for a moment, if there is one of its size.
class Moment final : public StagedWork {
 public:
  Moment(Order& order, std::string name, size_t bytes, StagingUse use)
      : order_(order), name_(std::move(name)), bytes_(bytes), use_(use) {}
  bool admit(StagingPool& pool) override {
    if (!pool.acquire(bytes_, use_)) return false;
    order_.add(name_);
    return true;
  }

 private:
  Order& order_;
  const std::string name_;
  const size_t bytes_;
  const StagingUse use_;
};

class SchedulerPriority : public ::testing::Test {
 protected:
  static constexpr size_t kPoolBytes = 16 * 4096;

  void SetUp() override {
    transport_ = Transport::create_loopback("priority-test", TransportConfig()).value();
    pool_ = StagingPool::create(*transport_, kPoolBytes).value();
    scheduler_ = std::make_unique<Scheduler>(*pool_);
  }
  void submit(const std::string& name, StagingUse use, Priority priority, size_t bytes = 4096) {
    scheduler_->submit(std::make_shared<Moment>(*order_, name, bytes, use), use, priority);
  }

  std::shared_ptr<Transport> transport_;
  std::shared_ptr<StagingPool> pool_;
  std::unique_ptr<Order> order_;
  std::unique_ptr<Scheduler> scheduler_;  // ends before what its work refers to
};

TEST_F(SchedulerPriority, HigherFirstThenTheOlder) {
  for (const StagingUse use : {StagingUse::get, StagingUse::put}) {
    order_ = std::make_unique<Order>(6);
    std::optional<StagingSlot> all = pool_->acquire(kPoolBytes, StagingUse::get);
    submit("low 1", use, Priority::low);
    submit("normal 1", use, Priority::normal);
    submit("high 1", use, Priority::high);
    submit("low 2", use, Priority::low);
    submit("normal 2", use, Priority::normal);
    submit("high 2", use, Priority::high);
    all.reset();
    EXPECT_EQ(order_->wait(), (std::vector<std::string>{"high 1", "high 2", "normal 1", "normal 2",
                                                        "low 1", "low 2"}));
  }
}

// A large get waits for slots that come back; small ones of lower priority do not take them.
TEST_F(SchedulerPriority, LowerOnesDoNotPassOneThatWaitsForSlots) {
  order_ = std::make_unique<Order>(4);
  std::optional<StagingSlot> half = pool_->acquire(kPoolBytes / 2, StagingUse::get);
  std::optional<StagingSlot> rest = pool_->acquire(kPoolBytes / 2, StagingUse::get);
  submit("low put", StagingUse::put, Priority::low);
  submit("low get", StagingUse::get, Priority::low);
  submit("large high get", StagingUse::get, Priority::high, kPoolBytes);
  half.reset();  // enough for the small ones
  submit("small high get", StagingUse::get, Priority::high);
  rest.reset();
  EXPECT_EQ(order_->wait(),
            (std::vector<std::string>{"large high get", "small high get", "low get", "low put"}));
}

TEST_F(SchedulerPriority, AGetNeverWaitsForAPut) {
  order_ = std::make_unique<Order>(1);
  const std::optional<StagingSlot> puts = pool_->acquire(kPoolBytes / 2, StagingUse::put);
  submit("high put", StagingUse::put, Priority::high);
  submit("low get", StagingUse::get, Priority::low);
  EXPECT_EQ(order_->wait(), std::vector<std::string>{"low get"});
}

TEST(ClientPriority, GetsThatWaitForStagingReachTheNodeByPriority) {
  TestNodeConfig node_config;
  node_config.loopback_network = "client-priority-test";
  const auto node = TestNode::start(node_config).value();
  ClientConfig config;
  config.nodes = {node->address()};
  config.transport = "loopback:" + node_config.loopback_network;
  config.staging_bytes = 64 * 1024;  // one raw block of 32 KiB at a time
  const auto client = Client::create(config).value();
  const LayoutId layout = client->register_layout(layout_config(small_layout(), "raw")).value();
  RequestOptions options;
  options.timeout = absl::Seconds(60);
  KvBuffer kv(small_layout());
  std::vector<BlockKey> keys;
  for (int i = 0; i < 5; ++i) {
    BlockPut put;
    put.hash = hash_of(absl::StrCat(i));
    put.pages = kv.pages();
    put.token_count = small_layout().block_tokens;
    const RequestId id = client->put(layout, {put}, options).value();
    ASSERT_TRUE(client->wait(id).value().keys[0].status.ok());
    keys.push_back(node->handler().last_offer().key);
  }
  node->handler().paused = true;
  std::vector<RequestId> ids;
  const Priority priorities[] = {Priority::low, Priority::low, Priority::normal, Priority::high,
                                 Priority::normal};
  for (int i = 0; i < 5; ++i) {
    BlockGet get;
    get.hash = hash_of(absl::StrCat(i));
    get.pages = kv.pages();
    options.priority = priorities[i];
    ids.push_back(client->get(layout, {get}, options).value());
    // The first has the slot before the others come.
    while (node->handler().reads == 0) absl::SleepFor(absl::Milliseconds(1));
  }
  // One that gets through after them says that all were tried and wait. It is small, and is of the
  // highest priority: else it would wait for them.
  BlockPut last;
  last.hash = hash_of("last");
  last.pages = kv.pages();
  last.token_count = 1;
  options.priority = Priority::high;
  const RequestId put = client->put(layout, {last}, options).value();
  ASSERT_TRUE(client->wait(put).value().keys[0].status.ok());
  node->handler().resume();
  for (const RequestId id : ids) EXPECT_EQ(client->wait(id).value().prefix_blocks, 1u);
  std::vector<BlockKey> asked;
  for (const ReadRequest& read : node->handler().asked()) asked.push_back(read.key);
  EXPECT_EQ(asked, (std::vector<BlockKey>{keys[0], keys[3], keys[2], keys[4], keys[1]}));
}

}  // namespace
}  // namespace hadal
