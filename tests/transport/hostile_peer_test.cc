// Peers that break the block protocol, on both sides, over the loopback, tcp and shared memory.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/transport/block_fixture.h"
#include "tests/transport/raw_end.h"

namespace hadal {
namespace {

using testing::HasSubstr;

class HostilePeer : public testing::TestWithParam<Carrier> {};
INSTANTIATE_TEST_SUITE_P(Carriers, HostilePeer,
                         testing::Values(Carrier::loopback, Carrier::tcp, Carrier::shm),
                         [](const auto& info) { return carrier_name(info.param); });

MessageHeader header_of(MessageType type) {
  MessageHeader header;
  header.type = type;
  return header;
}

MessageBytes hello_of_version(uint16_t version) {
  MessageBytes bytes(40, std::byte{0xEE});
  std::memcpy(bytes.data(), &version, sizeof(version));
  return bytes;
}

std::string text_of(const RawEnd::Received& message) {
  return std::string(message_status(message.header, message.payload).message());
}

// More than a block may measure, without memory behind it.
class Enormous {
 public:
  Enormous()
      : memory_(
            mmap(nullptr, kBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    EXPECT_NE(memory_, MAP_FAILED);
  }
  ~Enormous() { munmap(memory_, kBytes); }
  absl::Span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(memory_), kBytes};
  }

 private:
  static constexpr size_t kBytes = size_t{3} << 30;
  void* const memory_;
};

// A node and a raw client of it.
struct UnderAttack {
  explicit UnderAttack(Carrier carrier, const BlockServerConfig& config = {})
      : node(start_server(carrier, 0, config)), raw(make_transport(carrier, "raw-io")) {}
  void greet() { raw.connect(node->server->port()); }
  void begin_with(const MessageHeader& header, MessageBytes payload = {}) {
    raw.connect(node->server->port(), header, std::move(payload));
  }
  void expect_closed_with_one_error() {
    EXPECT_TRUE(eventually([&] { return raw.closed(); })) << "it was not closed";
    EXPECT_TRUE(eventually([&] { return node->server->peer_count() == 0; }));
    EXPECT_EQ(node->transport->stats().protocol_errors, 1u);
  }
  std::unique_ptr<TestServer> node;
  RawEnd raw;
};

TEST_P(HostilePeer, ServerClosesOnAnotherMagic) {
  UnderAttack attack(GetParam());
  MessageHeader header = header_of(MessageType::hello);
  header.magic = 0x20544547;  // "GET "
  attack.begin_with(header, write_hello({kWireVersion, "test", "", ""}));
  attack.expect_closed_with_one_error();
}

TEST_P(HostilePeer, ServerClosesOnAMessageBeforeHello) {
  UnderAttack attack(GetParam());
  attack.begin_with(header_of(MessageType::ping));
  attack.expect_closed_with_one_error();
  EXPECT_TRUE(attack.raw.received().empty());
}

TEST_P(HostilePeer, ServerRefusesAnotherVersionAndNamesBoth) {
  UnderAttack attack(GetParam());
  MessageHeader header = header_of(MessageType::hello);
  header.version = 9;
  attack.begin_with(header, hello_of_version(9));
  const RawEnd::Received reply = attack.raw.wait_for(MessageType::hello_reply);
  EXPECT_EQ(reply.header.status, static_cast<int>(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(text_of(reply), HasSubstr("the node speaks protocol version 1 ("));
  EXPECT_THAT(text_of(reply), HasSubstr("the client 9 ("));
  attack.expect_closed_with_one_error();
}

TEST_P(HostilePeer, ServerClosesOnAnUnknownType) {
  UnderAttack attack(GetParam());
  attack.greet();
  attack.raw.say(header_of(static_cast<MessageType>(99)), MessageBytes(10));
  attack.expect_closed_with_one_error();
}

TEST_P(HostilePeer, ServerClosesOnCountsThatDoNotFit) {
  for (const MessageType type :
       {MessageType::lookup, MessageType::put_offer, MessageType::get, MessageType::report_bad}) {
    for (const uint32_t count : {0u, 2u, 0xFFFFFFFFu}) {
      if (type == MessageType::report_bad && count != 0) continue;  // it has no count
      UnderAttack attack(GetParam());
      attack.greet();
      MessageHeader header = header_of(type);
      header.count = count;
      attack.raw.say(header, MessageBytes(31));
      attack.expect_closed_with_one_error();
    }
  }
}

TEST_P(HostilePeer, ServerClosesOnAnEnormousPayload) {
  const Enormous enormous;
  for (const MessageType type : {MessageType::put_block, MessageType::lookup}) {
    UnderAttack attack(GetParam());
    attack.greet();
    attack.raw.say_bytes(header_of(type), enormous.bytes());
    attack.expect_closed_with_one_error();
  }
}

TEST_P(HostilePeer, ServerClosesOnAControlMessageOfABlocksSize) {
  UnderAttack attack(GetParam());
  attack.greet();
  attack.raw.say(header_of(MessageType::lookup), MessageBytes(kControlMaxBytes + 1));
  attack.expect_closed_with_one_error();
}

TEST_P(HostilePeer, ServerDropsABlockThatWasNotOffered) {
  UnderAttack attack(GetParam());
  attack.greet();
  attack.raw.say(header_of(MessageType::put_block), MessageBytes(size_t{9} << 20));
  attack.raw.say(header_of(MessageType::put_block), MessageBytes(1));
  attack.raw.say(header_of(MessageType::put_block));
  attack.raw.say(header_of(MessageType::ping));
  attack.raw.wait_for(MessageType::pong);
  EXPECT_FALSE(attack.raw.closed());
}

TEST_P(HostilePeer, ServerRefusesABlockOfAnotherSizeThanOffered) {
  for (const size_t sent : {size_t{0}, size_t{99}, size_t{101}, size_t{1} << 20}) {
    UnderAttack attack(GetParam());
    attack.greet();
    PutOffer offer;
    offer.key = test_key(1);
    offer.bytes = 100;
    MessageHeader header = header_of(MessageType::put_offer);
    header.operation = 5;
    header.count = 1;
    attack.raw.say(header, write_offers({&offer, 1}));
    attack.raw.wait_for(MessageType::put_verdict);
    header = header_of(MessageType::put_block);
    header.operation = 5;
    attack.raw.say(header, MessageBytes(sent));
    const RawEnd::Received result = attack.raw.wait_for(MessageType::put_result);
    EXPECT_EQ(result.header.status, static_cast<int>(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(text_of(result), HasSubstr(absl::StrCat(sent, " bytes was sent, 100 were")));
    EXPECT_EQ(attack.node->handler->slots_out.use_count(), 1) << "its slot was kept";
    EXPECT_TRUE(attack.node->handler->stored(test_key(1)).empty());
  }
}

TEST_P(HostilePeer, SecondPayloadOfAPutNeverTouchesTheStoredBlock) {
  UnderAttack attack(GetParam());
  attack.greet();
  constexpr size_t kBytes = size_t{4} << 20;
  PutOffer offer;
  offer.key = test_key(1);
  offer.bytes = kBytes;
  MessageHeader header = header_of(MessageType::put_offer);
  header.count = 1;
  attack.raw.say(header, write_offers({&offer, 1}));
  attack.raw.wait_for(MessageType::put_verdict);
  attack.raw.say(header_of(MessageType::put_block), test_bytes(1, kBytes));
  attack.raw.say(header_of(MessageType::put_block), test_bytes(2, kBytes));
  attack.raw.say(header_of(MessageType::ping));
  eventually([&] {
    return attack.raw.closed() || attack.raw.received().back().header.type == MessageType::pong;
  });
  const std::vector<std::byte> stored = attack.node->handler->stored(test_key(1));
  EXPECT_TRUE(stored.empty() || stored == test_bytes(1, kBytes));
}

TEST_P(HostilePeer, RandomMessagesLeaveTheServerWhole) {
  const auto node = start_server(GetParam());
  std::mt19937 random(7);
  const auto raw_transport = make_transport(GetParam(), "raw-io");
  for (int round = 0; round < 40; ++round) {
    RawEnd raw(raw_transport);
    raw.connect(node->server->port());
    for (int i = 0; i < 20; ++i) {
      MessageHeader header = header_of(static_cast<MessageType>(random() % 18));
      header.operation = random() % 3;
      header.index = random() % 3;
      header.count = i % 2 == 0 ? random() % 4 : random();
      MessageBytes payload(random() % 300);
      for (std::byte& byte : payload) byte = std::byte(static_cast<uint8_t>(random()));
      raw.say(header, std::move(payload));
    }
  }
  TestCaller caller(GetParam(), node->address());
  ASSERT_TRUE(caller.put({caller.make_put(1, test_bytes(1, 1 << 20))})[0].ok());
  EXPECT_TRUE(eventually([&] { return node->server->peer_count() == 1; }));
}

// A client that offers blocks and sends none.
struct Hoarder {
  explicit Hoarder(Carrier carrier, const BlockServerConfig& config = {})
      : attack(carrier, config) {
    attack.node->handler->boundless = true;
    attack.greet();
  }

  // The verdicts' codes.
  std::vector<absl::StatusCode> offer(uint64_t operation, uint32_t count, uint32_t bytes) {
    std::vector<PutOffer> offers(count);
    for (PutOffer& offer : offers) {
      offer.key = test_key(++keys);
      offer.bytes = bytes;
    }
    MessageHeader header = header_of(MessageType::put_offer);
    header.operation = operation;
    header.count = count;
    attack.raw.say(header, write_offers(offers));
    std::vector<absl::StatusCode> codes;
    eventually([&] {
      for (const RawEnd::Received& message : attack.raw.received()) {
        if (message.header.type != MessageType::put_verdict) continue;
        if (message.header.operation != operation) continue;
        const auto verdicts = read_statuses(message.payload, count);
        if (!verdicts.ok()) return false;
        for (const absl::Status& verdict : *verdicts) codes.push_back(verdict.code());
        return true;
      }
      return false;
    });
    return codes;
  }

  UnderAttack attack;
  uint32_t keys = 0;
};

TEST_P(HostilePeer, OffersThatAreNeverSentReserveABoundedNumberOfSlots) {
  Hoarder hoarder(GetParam());
  EXPECT_THAT(hoarder.offer(1, 4000, 100), testing::Each(absl::StatusCode::kOk));
  std::vector<absl::StatusCode> verdicts = hoarder.offer(2, 200, 100);
  ASSERT_EQ(verdicts.size(), 200u);
  for (size_t i = 0; i < verdicts.size(); ++i) {
    EXPECT_EQ(verdicts[i], i < 96 ? absl::StatusCode::kOk : absl::StatusCode::kResourceExhausted)
        << i;
  }
  EXPECT_EQ(hoarder.attack.node->handler->slots_out.use_count(), 1 + 4096);
  // A block that comes makes room for one more, whatever becomes of it.
  MessageHeader header = header_of(MessageType::put_block);
  header.operation = 1;
  hoarder.attack.raw.say(header, MessageBytes(99));
  hoarder.attack.raw.wait_for(MessageType::put_result);
  verdicts = hoarder.offer(3, 2, 100);
  EXPECT_THAT(verdicts,
              testing::ElementsAre(absl::StatusCode::kOk, absl::StatusCode::kResourceExhausted));
}

TEST_P(HostilePeer, OffersThatAreNeverSentReserveABoundedNumberOfBytes) {
  Hoarder hoarder(GetParam());
  constexpr uint32_t kBytes = 60u << 20;  // the fifth passes 256 MiB, as one may
  const auto verdicts = hoarder.offer(1, 7, kBytes);
  ASSERT_EQ(verdicts.size(), 7u);
  for (size_t i = 0; i < verdicts.size(); ++i) {
    EXPECT_EQ(verdicts[i], i < 5 ? absl::StatusCode::kOk : absl::StatusCode::kResourceExhausted)
        << i;
  }
  EXPECT_EQ(hoarder.attack.node->handler->slots_out.use_count(), 1 + 5);
  // Others are not refused for it.
  TestCaller caller(GetParam(), hoarder.attack.node->address());
  EXPECT_TRUE(caller.put({caller.make_put(1000, test_bytes(1, 1000))})[0].ok());
}

TEST_P(HostilePeer, SlotsWhosePayloadNeverCameAreGivenBackAndItIsLateThen) {
  BlockServerConfig config;
  config.put_timeout = absl::Milliseconds(100);
  Hoarder hoarder(GetParam(), config);
  EXPECT_THAT(hoarder.offer(1, 4096, 100), testing::Each(absl::StatusCode::kOk));
  EXPECT_TRUE(eventually([&] { return hoarder.attack.node->handler->slots_out.use_count() == 1; }));
  MessageHeader header = header_of(MessageType::put_block);
  header.operation = 1;
  hoarder.attack.raw.say(header, MessageBytes(100));
  // The connection goes on, and has its whole share again.
  EXPECT_THAT(hoarder.offer(2, 4096, 100), testing::Each(absl::StatusCode::kOk));
  EXPECT_TRUE(hoarder.attack.node->handler->stored(test_key(1)).empty());
  EXPECT_FALSE(hoarder.attack.raw.closed());
}

TEST_P(HostilePeer, SilentClientIsClosedAndOneThatPingsIsNot) {
  BlockServerConfig config;
  config.silence_timeout = absl::Seconds(1);
  UnderAttack attack(GetParam(), config);
  BlockPeerConfig pinging;
  pinging.ping_interval = absl::Milliseconds(50);
  TestCaller caller(GetParam(), attack.node->address(), pinging);
  ASSERT_TRUE(caller.ready());
  attack.greet();
  EXPECT_TRUE(eventually([&] { return attack.raw.closed(); })) << "it was not closed";
  EXPECT_EQ(attack.node->server->peer_count(), 1u);
  EXPECT_EQ(caller.transport->stats().connections_failed, 0u);
  EXPECT_EQ(attack.node->transport->stats().protocol_errors, 0u);
}

// A client that takes no blocks may pin only so many of them.
TEST_P(HostilePeer, StoppedClientPinsABoundedNumberOfBlocks) {
  const auto node = start_server(GetParam());
  TestCaller caller(GetParam(), node->address());
  ASSERT_TRUE(caller.put({caller.make_put(1, test_bytes(1, 1 << 20))})[0].ok());
  absl::Mutex stopped;
  RawEnd raw(make_transport(GetParam(), "raw-io"), [&](RawEnd&, const RawEnd::Received& message) {
    if (message.header.type == MessageType::get_block) absl::MutexLock wait(&stopped);
  });
  raw.connect(node->server->port());
  std::vector<ReadRequest> reads(500);
  for (ReadRequest& read : reads) read.key = test_key(1);
  MessageHeader header = header_of(MessageType::get);
  header.count = reads.size();
  {
    absl::MutexLock stop(&stopped);
    raw.say(header, write_reads(reads));
    EXPECT_TRUE(eventually([&] { return node->handler->blocks_out.use_count() > 10; }));
    for (int i = 0; i < 50; ++i) {
      EXPECT_LE(node->handler->blocks_out.use_count(), 1 + 64);
      absl::SleepFor(absl::Milliseconds(5));
    }
  }
  EXPECT_TRUE(eventually([&] { return raw.count() == 1 + reads.size(); }));
  EXPECT_TRUE(eventually([&] { return node->handler->blocks_out.use_count() == 1; }));
}

// A client and a raw node that answers it.
struct FalseNode {
  FalseNode(Carrier carrier, RawEnd::Answer answer)
      : raw_transport(make_transport(carrier, "raw-io")),
        raw(raw_transport, std::move(answer)),
        caller(carrier, {"127.0.0.1", raw.listen(), 1.0}, config()) {}
  static BlockPeerConfig config() {
    BlockPeerConfig config;
    config.connect_timeout = absl::Milliseconds(500);
    config.ping_interval = absl::Milliseconds(100);
    config.ping_timeout = absl::Milliseconds(300);
    return config;
  }
  uint64_t errors() { return caller.transport->stats().protocol_errors; }
  void expect_away(const std::string& why) {
    EXPECT_TRUE(eventually([&] {
      return caller.peer->last_error().find(why) != std::string::npos;
    })) << caller.peer->last_error();
    EXPECT_NE(caller.peer->state(), PeerState::ready);
    EXPECT_FALSE(caller.lookup({test_key(1)}, absl::Milliseconds(200)).ok());
  }

  std::shared_ptr<Transport> raw_transport;
  RawEnd raw;
  TestCaller caller;
};

// Greets, then answers with `then`.
RawEnd::Answer greet_and(RawEnd::Answer then) {
  return [then](RawEnd& raw, const RawEnd::Received& asked) {
    if (asked.header.type == MessageType::hello) {
      raw.say(header_of(MessageType::hello_reply), write_hello({kWireVersion, "false", "", ""}));
    } else if (asked.header.type == MessageType::ping) {
      raw.say(header_of(MessageType::pong));
    } else if (then) {
      then(raw, asked);
    }
  };
}

TEST_P(HostilePeer, ClientRefusesAnotherVersionAndNamesBoth) {
  FalseNode node(GetParam(), [](RawEnd& raw, const RawEnd::Received& asked) {
    if (asked.header.type != MessageType::hello) return;
    MessageHeader reply = header_of(MessageType::hello_reply);
    reply.version = 9;
    raw.say(reply, hello_of_version(9));
  });
  node.expect_away("the node speaks protocol version 9 (");
  EXPECT_THAT(node.caller.peer->last_error(), HasSubstr("the client 1 ("));
  EXPECT_GE(node.errors(), 1u);
}

TEST_P(HostilePeer, ClientTellsTheNodesRefusal) {
  FalseNode node(GetParam(), [](RawEnd& raw, const RawEnd::Received&) {
    MessageHeader reply = header_of(MessageType::hello_reply);
    reply.status = static_cast<uint8_t>(absl::StatusCode::kFailedPrecondition);
    const std::string text = "no versions today";
    MessageBytes bytes(text.size());
    std::memcpy(bytes.data(), text.data(), text.size());
    raw.say(reply, bytes);
  });
  node.expect_away("no versions today");
}

TEST_P(HostilePeer, ClientGivesUpOnANodeThatNeverGreets) {
  FalseNode node(GetParam(), nullptr);
  node.expect_away("no answer to HELLO");
}

TEST_P(HostilePeer, ClientClosesOnAnotherMagic) {
  FalseNode node(GetParam(), [](RawEnd& raw, const RawEnd::Received&) {
    MessageHeader reply = header_of(MessageType::hello_reply);
    reply.magic = 1;
    raw.say(reply);
  });
  node.expect_away("magic");
  EXPECT_GE(node.errors(), 1u);
}

TEST_P(HostilePeer, ClientClosesOnAMessageBeforeTheGreeting) {
  FalseNode node(GetParam(), [](RawEnd& raw, const RawEnd::Received&) {
    raw.say(header_of(MessageType::pong));
  });
  node.expect_away("before its HELLO");
}

TEST_P(HostilePeer, ClientLeavesANodeThatStopsAnsweringPings) {
  FalseNode node(GetParam(), [](RawEnd& raw, const RawEnd::Received& asked) {
    if (asked.header.type == MessageType::hello) {
      raw.say(header_of(MessageType::hello_reply), write_hello({kWireVersion, "false", "", ""}));
    }
  });
  EXPECT_TRUE(node.caller.ready());
  EXPECT_TRUE(eventually([&] {
    return node.caller.peer->last_error().find("no answer to a ping") != std::string::npos;
  }));
}

TEST_P(HostilePeer, SilentNodeEndsEveryOperationAtItsDeadline) {
  FalseNode node(GetParam(), greet_and(nullptr));
  ASSERT_TRUE(node.caller.ready());
  PeerGet get;
  get.bytes = node.caller.room(64);
  EXPECT_TRUE(absl::IsDeadlineExceeded(node.caller.get({get}, absl::Milliseconds(100)).status));
  const auto puts =
      node.caller.put({node.caller.make_put(1, test_bytes(1, 64))}, absl::Milliseconds(100));
  EXPECT_TRUE(absl::IsDeadlineExceeded(puts[0])) << puts[0];
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      node.caller.lookup({test_key(1)}, absl::Milliseconds(100)).status()));
}

TEST_P(HostilePeer, LookupAnswersOfAnotherNumberAreAnError) {
  for (const uint32_t count : {0u, 1u, 3u, 5000u}) {
    FalseNode node(GetParam(), greet_and([count](RawEnd& raw, const RawEnd::Received& asked) {
                     MessageHeader reply = header_of(MessageType::lookup_reply);
                     reply.operation = asked.header.operation;
                     reply.count = count;
                     raw.say(reply, write_answers(std::vector<KeyAnswer>(count)));
                   }));
    const auto answer = node.caller.lookup({test_key(1), test_key(2)});
    EXPECT_FALSE(answer.ok()) << count;
    EXPECT_FALSE(absl::IsDeadlineExceeded(answer.status())) << answer.status();
  }
}

TEST_P(HostilePeer, AnswersOfAnotherTypeCloseTheConnection) {
  FalseNode node(GetParam(), greet_and([](RawEnd& raw, const RawEnd::Received& asked) {
                   MessageHeader reply = header_of(MessageType::report_reply);
                   reply.operation = asked.header.operation;
                   raw.say(reply);
                 }));
  EXPECT_TRUE(absl::IsUnavailable(node.caller.lookup({test_key(1)}).status()));
  EXPECT_GE(node.errors(), 1u);
}

TEST_P(HostilePeer, BlockBeyondItsBufferIsDataLossAndNothingIsWritten) {
  FalseNode node(GetParam(), greet_and([](RawEnd& raw, const RawEnd::Received& asked) {
                   MessageHeader reply = header_of(MessageType::get_block);
                   reply.operation = asked.header.operation;
                   raw.say(reply, MessageBytes(200'000, std::byte{0xEE}));
                 }));
  PeerGet get;
  get.bytes = node.caller.room(100'000);
  const absl::Span<std::byte> beyond = node.caller.room(200'000);
  const GetResult got = node.caller.get({get});
  EXPECT_TRUE(absl::IsDataLoss(got.answers[0].status())) << got.answers[0].status();
  EXPECT_THAT(std::string(got.answers[0].status().message()), HasSubstr("200000"));
  for (const std::byte byte : get.bytes) ASSERT_EQ(byte, std::byte{0});
  for (const std::byte byte : beyond) ASSERT_EQ(byte, std::byte{0});
}

TEST_P(HostilePeer, BlocksTwiceOrUnaskedCloseTheConnection) {
  for (const uint32_t second : {0u, 2u, 0xFFFFFFFFu}) {
    FalseNode node(GetParam(), greet_and([second](RawEnd& raw, const RawEnd::Received& asked) {
                     MessageHeader reply = header_of(MessageType::get_block);
                     reply.operation = asked.header.operation;
                     raw.say(reply, MessageBytes(100));
                     reply.index = second;
                     raw.say(reply, MessageBytes(100));
                   }));
    PeerGet get;
    get.bytes = node.caller.room(100);
    const GetResult got = node.caller.get({get, get});
    EXPECT_TRUE(absl::IsUnavailable(got.status)) << got.status;
    EXPECT_TRUE(got.answers[0].ok()) << got.answers[0].status();
    EXPECT_EQ(node.errors(), 1u);
  }
}

TEST_P(HostilePeer, ClientClosesOnAnEnormousBlock) {
  const Enormous enormous;
  FalseNode node(GetParam(), greet_and([&](RawEnd& raw, const RawEnd::Received& asked) {
                   MessageHeader reply = header_of(MessageType::get_block);
                   reply.operation = asked.header.operation;
                   raw.say_bytes(reply, enormous.bytes());
                 }));
  PeerGet get;
  get.bytes = node.caller.room(100);
  EXPECT_TRUE(absl::IsUnavailable(node.caller.get({get}).status));
  EXPECT_EQ(node.errors(), 1u);
}

TEST_P(HostilePeer, SecondVerdictSendsNothingAgain) {
  FalseNode node(GetParam(), greet_and([](RawEnd& raw, const RawEnd::Received& asked) {
                   if (asked.header.type != MessageType::put_offer) return;
                   MessageHeader reply = header_of(MessageType::put_verdict);
                   reply.operation = asked.header.operation;
                   reply.count = 1;
                   for (int i = 0; i < 2; ++i)
                     raw.say(reply, write_statuses(std::vector<absl::Status>(1)));
                 }));
  const auto puts = node.caller.put({node.caller.make_put(1, test_bytes(1, 1000))});
  EXPECT_TRUE(absl::IsUnavailable(puts[0])) << puts[0];
  EXPECT_EQ(node.errors(), 1u);
  EXPECT_LE(node.caller.transport->stats().payload_bytes_sent, 2000u);
}

}  // namespace
}  // namespace hadal
