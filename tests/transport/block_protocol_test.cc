// The block protocol as its users see it, over the loopback, tcp and shared memory.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "tests/transport/block_fixture.h"

namespace hadal {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

class BlockProtocol : public testing::TestWithParam<Carrier> {};
INSTANTIATE_TEST_SUITE_P(Carriers, BlockProtocol,
                         testing::Values(Carrier::loopback, Carrier::tcp, Carrier::shm),
                         [](const auto& info) { return carrier_name(info.param); });

PeerGet make_get(TestCaller& caller, uint32_t number, size_t bytes) {
  PeerGet get;
  get.request.key = test_key(number);
  get.bytes = caller.room(bytes);
  get.hold = caller.memory;
  return get;
}

bool same(absl::Span<const std::byte> a, absl::Span<const std::byte> b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

TEST_P(BlockProtocol, BlocksOfEverySizeComeBackUnchanged) {
  const auto node = start_server(GetParam());
  TestCaller caller(GetParam(), node->address());
  const std::vector<size_t> sizes = {1,      63,      64,   1000,     4096,        8191,
                                     65'536, 100'000, kMiB, kMiB + 1, 5 * kMiB + 3};
  std::vector<PeerPut> puts;
  for (uint32_t i = 0; i < sizes.size(); ++i) {
    puts.push_back(caller.make_put(i, test_bytes(i, sizes[i])));
  }
  for (const absl::Status& status : caller.put(puts)) EXPECT_TRUE(status.ok()) << status;
  std::vector<PeerGet> gets;
  for (uint32_t i = 0; i < sizes.size(); ++i) gets.push_back(make_get(caller, i, sizes[i] + 128));
  const GetResult got = caller.get(gets);
  ASSERT_TRUE(got.status.ok()) << got.status;
  for (uint32_t i = 0; i < sizes.size(); ++i) {
    ASSERT_TRUE(got.answers[i].ok()) << i << " " << got.answers[i].status();
    EXPECT_EQ(got.answers[i]->bytes, sizes[i]);
    EXPECT_EQ(got.answers[i]->generation, 7u);
    EXPECT_EQ(got.answers[i]->tier, Tier::dram);
    EXPECT_TRUE(same(gets[i].bytes.first(sizes[i]), test_bytes(i, sizes[i]))) << sizes[i];
    EXPECT_TRUE(same(gets[i].bytes.subspan(sizes[i]), std::vector<std::byte>(128))) << sizes[i];
  }
}

TEST_P(BlockProtocol, EveryPeerGreetsAtItsFirstAttempt) {
  const auto node = start_server(GetParam());
  for (int i = 0; i < 20; ++i) {
    TestCaller caller(GetParam(), node->address());
    ASSERT_TRUE(caller.ready());
    EXPECT_EQ(caller.transport->stats().connections_failed, 0u);
  }
}

TEST_P(BlockProtocol, NodeIsFoundByName) {
  const auto node = start_server(GetParam());
  TestCaller caller(GetParam(), {"localhost", node->address().port, 1.0});
  ASSERT_TRUE(caller.ready()) << caller.peer->last_error();
}

// ".invalid" never resolves (RFC 2606).
TEST(BlockPeerNames, NameThatIsNotFoundIsSaid) {
  TestCaller caller(Carrier::tcp, {"node.invalid", 7400, 1.0});
  ASSERT_TRUE(eventually([&] { return caller.peer->state() == PeerState::backing_off; },
                         absl::Seconds(60)));
  EXPECT_THAT(caller.peer->last_error(), testing::HasSubstr("cannot resolve 'node.invalid'"));
}

TEST_P(BlockProtocol, DuplicatePutMovesNoPayload) {
  const auto node = start_server(GetParam());
  TestCaller caller(GetParam(), node->address());
  const std::vector<std::byte> bytes = test_bytes(1, kMiB);
  ASSERT_TRUE(caller.put({caller.make_put(1, bytes)})[0].ok());
  const uint64_t before = caller.transport->stats().payload_bytes_sent;
  EXPECT_TRUE(absl::IsAlreadyExists(caller.put({caller.make_put(1, bytes)})[0]));
  EXPECT_LT(caller.transport->stats().payload_bytes_sent - before, 1024u);
}

TEST_P(BlockProtocol, RefusedOffersSayWhy) {
  const auto node = start_server(GetParam());
  TestCaller caller(GetParam(), node->address());
  PeerPut huge = caller.make_put(1, test_bytes(1, 64));
  const std::vector<std::byte> more(node->slab->bytes().size() + 1);
  huge.bytes = more;
  const auto statuses = caller.put({huge, caller.make_put(2, test_bytes(2, 64))});
  EXPECT_TRUE(absl::IsResourceExhausted(statuses[0])) << statuses[0];
  EXPECT_EQ(statuses[0].message(), "the slab is full");
  EXPECT_TRUE(statuses[1].ok()) << statuses[1];
}

TEST_P(BlockProtocol, LookupReleaseAndReport) {
  const auto node = start_server(GetParam());
  TestCaller caller(GetParam(), node->address());
  ASSERT_TRUE(caller.put({caller.make_put(1, test_bytes(1, 5000))})[0].ok());
  const auto answer = caller.lookup({test_key(1), test_key(2)});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->lease, 250u);
  EXPECT_EQ(answer->keys[0].state, BlockState::present);
  EXPECT_EQ(answer->keys[0].bytes, 5000u);
  EXPECT_EQ(answer->keys[0].precision.key_planes, 5);
  EXPECT_EQ(answer->keys[1].state, BlockState::absent);
  caller.peer->release(answer->lease);
  EXPECT_TRUE(eventually([&] { return node->handler->released_lease == 250; }));

  for (const bool expected : {true, false}) {  // the second time it is gone
    auto gone = std::make_shared<absl::StatusOr<bool>>(absl::UnknownError(""));
    auto come = std::make_shared<absl::Notification>();
    caller.peer->report_bad(test_key(1), 7, absl::Now() + absl::Seconds(10),
                            [gone, come](absl::StatusOr<bool> answer) {
                              *gone = std::move(answer);
                              come->Notify();
                            });
    ASSERT_TRUE(come->WaitForNotificationWithTimeout(absl::Seconds(20)));
    ASSERT_TRUE(gone->ok()) << gone->status();
    EXPECT_EQ(**gone, expected);
  }
  EXPECT_TRUE(absl::IsNotFound(caller.get({make_get(caller, 1, 5000)}).answers[0].status()));
}

TEST_P(BlockProtocol, OneGetOfManyBlocks) {
  const auto node = start_server(GetParam());
  TestCaller caller(GetParam(), node->address());
  constexpr uint32_t kBlocks = 300;
  constexpr size_t kBytes = 100'000;
  std::vector<PeerPut> puts;
  std::vector<PeerGet> gets;
  for (uint32_t i = 0; i < kBlocks; ++i) {
    puts.push_back(caller.make_put(i, test_bytes(i, kBytes)));
    gets.push_back(make_get(caller, i, kBytes));
  }
  for (const absl::Status& status : caller.put(puts)) ASSERT_TRUE(status.ok()) << status;
  const GetResult got = caller.get(gets);
  ASSERT_TRUE(got.status.ok()) << got.status;
  for (uint32_t i = 0; i < kBlocks; ++i)
    ASSERT_TRUE(same(gets[i].bytes, test_bytes(i, kBytes))) << i;
  EXPECT_TRUE(eventually([&] { return node->handler->blocks_out.use_count() == 1; }));
  EXPECT_TRUE(eventually([&] { return node->handler->slots_out.use_count() == 1; }));
}

TEST_P(BlockProtocol, SilentStoreEndsAtTheDeadlineAndLateBlocksAreDropped) {
  const auto node = start_server(GetParam());
  TestCaller caller(GetParam(), node->address());
  ASSERT_TRUE(caller.put({caller.make_put(1, test_bytes(1, kMiB))})[0].ok());
  node->handler->silent = true;
  PeerGet get = make_get(caller, 1, kMiB);
  auto hold = std::make_shared<int>();
  get.hold = hold;
  const absl::Time start = absl::Now();
  const GetResult got = caller.get({get}, absl::Milliseconds(200));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_TRUE(absl::IsDeadlineExceeded(got.status)) << got.status;
  EXPECT_THAT(std::string(got.status.message()), testing::HasSubstr(caller.peer->last_error()));
  EXPECT_EQ(caller.transport->stats().operations_expired, 1u);
  get.hold.reset();
  EXPECT_TRUE(eventually([&] { return hold.use_count() == 1; }));

  node->handler->silent = false;
  const uint64_t before = caller.transport->stats().payload_bytes_received;
  node->handler->answer_kept();
  EXPECT_TRUE(eventually(
      [&] { return caller.transport->stats().payload_bytes_received >= before + kMiB; }));
  EXPECT_TRUE(same(get.bytes, std::vector<std::byte>(kMiB))) << "a late block was written";
  EXPECT_TRUE(caller.get({make_get(caller, 1, kMiB)}).answers[0].ok());
}

// The node reads 64 blocks at a time for a connection; the next ones wait.
TEST_P(BlockProtocol, WaitingReadsGoByPriorityThenByAge) {
  const auto node = start_server(GetParam());
  TestCaller caller(GetParam(), node->address());
  node->handler->silent = true;
  const auto ask = [&](uint32_t number, size_t count, Priority priority) {
    caller.peer->get(
        std::vector<PeerGet>(count, make_get(caller, number, 64)),
        {absl::Now() + absl::Seconds(60), priority}, [](size_t, absl::StatusOr<GetAnswer>) {},
        [](const absl::Status&) {});
  };
  ask(1, 64, Priority::low);
  ask(2, 2, Priority::low);
  ask(3, 2, Priority::normal);
  ask(4, 2, Priority::high);
  ask(5, 1, Priority::normal);
  ask(6, 1, Priority::high);
  ASSERT_TRUE(caller.lookup({test_key(1)}).ok());  // answered after all of them have arrived
  EXPECT_EQ(node->handler->kept(), std::vector<BlockKey>(64, test_key(1)));
  node->handler->answer_kept();
  ASSERT_TRUE(eventually([&] { return node->handler->kept().size() == 8; }));
  std::vector<BlockKey> expected;
  for (const uint32_t number : {4, 4, 6, 3, 3, 5, 2, 2}) expected.push_back(test_key(number));
  EXPECT_EQ(node->handler->kept(), expected);
  node->handler->silent = false;
  node->handler->answer_kept();
}

TEST_P(BlockProtocol, DeadlineThatHasPassedSendsNothing) {
  const auto node = start_server(GetParam());
  TestCaller caller(GetParam(), node->address());
  ASSERT_TRUE(caller.ready());
  EXPECT_TRUE(absl::IsDeadlineExceeded(caller.lookup({test_key(1)}, -absl::Seconds(1)).status()));
}

TEST_P(BlockProtocol, CancelEndsAtOnce) {
  const auto node = start_server(GetParam());
  TestCaller caller(GetParam(), node->address());
  ASSERT_TRUE(caller.put({caller.make_put(1, test_bytes(1, 64))})[0].ok());
  node->handler->silent = true;
  auto status = std::make_shared<absl::Status>();
  auto come = std::make_shared<absl::Notification>();
  const auto id = caller.peer->get(
      {make_get(caller, 1, 64)}, {absl::Now() + absl::Seconds(60)}, [](size_t, auto) { FAIL(); },
      [status, come](absl::Status end) {
        *status = std::move(end);
        come->Notify();
      });
  ASSERT_TRUE(eventually([&] { return node->handler->kept().size() == 1; }));
  caller.peer->cancel(id);
  ASSERT_TRUE(come->WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_TRUE(absl::IsCancelled(*status)) << *status;
  caller.peer->cancel(id);  // has ended: nothing happens
  node->handler->answer_kept();
  EXPECT_TRUE(caller.lookup({test_key(1)}).ok());
}

TEST_P(BlockProtocol, AbsentNodeIsUnavailableAndComesBackByItself) {
  auto node = start_server(GetParam());
  const NodeAddress address = node->address();
  node.reset();
  TestCaller caller(GetParam(), address);
  const absl::Time start = absl::Now();
  const absl::Status away = caller.lookup({test_key(1)}, absl::Seconds(3)).status();
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  EXPECT_TRUE(absl::IsUnavailable(away) || absl::IsDeadlineExceeded(away)) << away;
  ASSERT_TRUE(eventually([&] { return caller.peer->state() == PeerState::backing_off; }));
  EXPECT_THAT(caller.peer->last_error(), testing::HasSubstr(address.host_port()));
  ASSERT_TRUE(eventually([&] {
    return (node = start_server(GetParam(), address.port)) != nullptr;
  })) << "the port stayed in use";
  ASSERT_TRUE(caller.ready()) << caller.peer->last_error();
  EXPECT_EQ(caller.peer->last_error(), "");
  EXPECT_TRUE(caller.lookup({test_key(1)}).ok());
}

TEST_P(BlockProtocol, ServerRestartedMidTransfer) {
  auto node = start_server(GetParam());
  const NodeAddress address = node->address();
  TestCaller caller(GetParam(), address);
  ASSERT_TRUE(caller.put({caller.make_put(1, test_bytes(1, kMiB))})[0].ok());
  const PeerGet get = make_get(caller, 1, kMiB);
  for (int round = 0; round < 3; ++round) {
    std::vector<PeerGet> gets;  // one buffer for all: what arrives is the same
    auto hold = std::make_shared<int>();
    for (int i = 0; i < 400; ++i) gets.push_back({get.request, get.bytes, hold});
    auto ended = std::make_shared<absl::Notification>();
    caller.peer->get(
        std::move(gets), {absl::Now() + absl::Seconds(20)},
        [](size_t, absl::StatusOr<GetAnswer>) {},
        [ended](const absl::Status&) { ended->Notify(); });
    absl::SleepFor(absl::Milliseconds(5 * round));
    node.reset();
    ASSERT_TRUE(ended->WaitForNotificationWithTimeout(absl::Seconds(40)));
    EXPECT_TRUE(eventually([&] { return hold.use_count() == 1; })) << "a hold was kept";
    ASSERT_TRUE(
        eventually([&] { return (node = start_server(GetParam(), address.port)) != nullptr; }));
    ASSERT_TRUE(caller.ready()) << caller.peer->last_error();
    ASSERT_TRUE(caller.put({caller.make_put(1, test_bytes(1, kMiB))})[0].ok());
    EXPECT_TRUE(caller.get({get}).answers[0].ok());
  }
}

TEST_P(BlockProtocol, DestroyingThePeerEndsEverythingAndDropsEveryHold) {
  const auto node = start_server(GetParam());
  TestCaller caller(GetParam(), node->address());
  ASSERT_TRUE(caller.put({caller.make_put(1, test_bytes(1, kMiB))})[0].ok());
  const PeerGet get = make_get(caller, 1, kMiB);
  auto hold = std::make_shared<int>();
  std::vector<PeerGet> gets(200, PeerGet{get.request, get.bytes, hold});
  auto status = std::make_shared<absl::Status>();
  auto come = std::make_shared<absl::Notification>();
  caller.peer->get(
      std::move(gets), {absl::Now() + absl::Seconds(60)}, [](size_t, absl::StatusOr<GetAnswer>) {},
      [status, come](absl::Status end) {
        *status = std::move(end);
        come->Notify();
      });
  caller.peer.reset();
  ASSERT_TRUE(come->HasBeenNotified());
  EXPECT_TRUE(absl::IsCancelled(*status) || status->ok()) << *status;
  EXPECT_TRUE(eventually([&] { return hold.use_count() == 1; }));
  EXPECT_TRUE(eventually([&] { return node->server->peer_count() == 0; }));
  EXPECT_TRUE(eventually([&] { return node->handler->blocks_out.use_count() == 1; }));
}

TEST_P(BlockProtocol, DestroyedServerHoldsNoBlockAndIgnoresLateReads) {
  auto node = start_server(GetParam());
  TestCaller caller(GetParam(), node->address());
  ASSERT_TRUE(caller.put({caller.make_put(1, test_bytes(1, kMiB))})[0].ok());
  const PeerGet get = make_get(caller, 1, kMiB);
  caller.peer->get(
      std::vector<PeerGet>(60, get), {absl::Now() + absl::Seconds(60)},
      [](size_t, absl::StatusOr<GetAnswer>) {}, [](const absl::Status&) {});
  node->handler->silent = true;
  caller.peer->get(
      {get}, {absl::Now() + absl::Seconds(60)}, [](size_t, absl::StatusOr<GetAnswer>) {},
      [](const absl::Status&) {});
  eventually([&] { return node->handler->kept().size() > 0; });
  node->server.reset();
  EXPECT_EQ(node->handler->blocks_out.use_count(), 1) << "a send was left behind";
  node->handler->answer_kept();
}

TEST_P(BlockProtocol, DrainRefusesPutsAndWaitsForWhatIsInFlight) {
  const auto node = start_server(GetParam());
  TestCaller caller(GetParam(), node->address());
  ASSERT_TRUE(caller.put({caller.make_put(1, test_bytes(1, kMiB))})[0].ok());
  EXPECT_TRUE(node->server->drain(absl::Seconds(10)));
  EXPECT_TRUE(absl::IsUnavailable(caller.put({caller.make_put(2, test_bytes(2, 64))})[0]));
  EXPECT_TRUE(caller.get({make_get(caller, 1, kMiB)}).answers[0].ok());
  node->handler->silent = true;
  caller.get({make_get(caller, 1, kMiB)}, absl::Milliseconds(50));
  EXPECT_FALSE(node->server->drain(absl::Milliseconds(100)));
  node->handler->answer_kept();
  EXPECT_TRUE(node->server->drain(absl::Seconds(10)));
}

TEST_P(BlockProtocol, BatchesAndBlocksBeyondTheLimitsAreRefusedWithoutHarm) {
  const auto node = start_server(GetParam());
  TestCaller caller(GetParam(), node->address());
  ASSERT_TRUE(caller.ready());
  EXPECT_TRUE(absl::IsInvalidArgument(caller.lookup(std::vector<BlockKey>(4097)).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(caller.lookup({}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(caller.get({}).status));
  PeerPut put = caller.make_put(1, test_bytes(1, 64));
  put.bytes = {};
  EXPECT_TRUE(absl::IsInvalidArgument(caller.put({put})[0]));
  EXPECT_TRUE(caller.lookup(std::vector<BlockKey>(4096)).ok());
  EXPECT_EQ(node->transport->stats().protocol_errors, 0u);
}

// The deadline passes while bytes arrive. The buffer may change until its hold is dropped, never
// after.
TEST_P(BlockProtocol, BufferIsStillOnceItsHoldIsDropped) {
  const auto node = start_server(GetParam());
  TestCaller caller(GetParam(), node->address());
  constexpr size_t kBytes = 16 * kMiB;
  ASSERT_TRUE(caller.put({caller.make_put(1, test_bytes(1, kBytes))})[0].ok());
  for (const int deadline_us : {300, 1000, 2000, 4000, 8000, 16000}) {
    const PeerGet get = make_get(caller, 1, kBytes);
    std::fill(get.bytes.begin(), get.bytes.end(), std::byte{0});
    caller.used -= kBytes;  // each round the same memory
    auto at_drop = std::make_shared<std::vector<std::byte>>();
    auto dropped = std::make_shared<absl::Notification>();
    std::shared_ptr<const void> hold(nullptr, [=, bytes = get.bytes](std::nullptr_t) {
      at_drop->assign(bytes.begin(), bytes.end());
      dropped->Notify();
    });
    std::vector<PeerGet> gets = {{get.request, get.bytes, std::move(hold)}};
    caller.get(std::move(gets), absl::Microseconds(deadline_us));
    ASSERT_TRUE(dropped->WaitForNotificationWithTimeout(absl::Seconds(20)));
    absl::SleepFor(absl::Milliseconds(100));
    EXPECT_TRUE(same(get.bytes, *at_drop)) << "written after the hold, " << deadline_us << " us";
  }
}

}  // namespace
}  // namespace hadal
