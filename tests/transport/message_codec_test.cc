#include "transport/message_codec.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <random>

#include "common/limits.h"
#include "tests/transport/block_fixture.h"
#include "transport/message_header.h"

namespace hadal {
namespace {

PutOffer make_offer() {
  PutOffer offer;
  offer.key = test_key(3);
  offer.bytes = 0x01020304;
  offer.dropped_planes = 2;
  offer.precision = {5, 4};
  offer.layout_hash = 0x1122334455667788;
  offer.first_token_index = 99;
  offer.token_digest = 0xABCDEF;
  offer.parent = test_key(4);
  offer.route = test_key(6);
  return offer;
}

// docs/wire_protocol.md shows these bytes.
TEST(MessageCodec, HeaderHasTheDocumentedBytes) {
  MessageHeader header;
  header.type = MessageType::lookup;
  header.operation = 7;
  header.index = 250;
  header.payload_bytes = 32;
  header.count = 1;
  uint8_t bytes[64];
  std::memcpy(bytes, &header, sizeof(header));
  const uint8_t expected[64] = {0x48, 0x44, 0x4c, 0x31, 1, 0, 5, 0,    7, 0, 0, 0, 0,
                                0,    0,    0,    0xfa, 0, 0, 0, 0x20, 0, 0, 0, 0, 0,
                                0,    0,    0,    0,    0, 0, 0, 0,    0, 0, 1, 0};
  EXPECT_EQ(std::memcmp(bytes, expected, sizeof(bytes)), 0);
  static_assert(offsetof(MessageHeader, generation) == 24);
  static_assert(offsetof(MessageHeader, tier) == 35);
  static_assert(offsetof(MessageHeader, lease) == 40);
  static_assert(offsetof(MessageHeader, priority) == 48);
  static_assert(offsetof(MessageHeader, for_put) == 49);
}

TEST(MessageCodec, HelloRoundTrip) {
  const auto hello = read_hello(write_hello({kWireVersion, "ucx 1.13.1", "node-1", "token"}));
  ASSERT_TRUE(hello.ok()) << hello.status();
  EXPECT_EQ(hello->protocol_version, kWireVersion);
  EXPECT_EQ(hello->library, "ucx 1.13.1");
  EXPECT_EQ(hello->name, "node-1");
  EXPECT_EQ(hello->token, "token");
}

TEST(MessageCodec, HelloOfAnotherVersionTellsItsVersionWhateverFollows) {
  for (const size_t junk : {0, 1, 7, 500}) {
    MessageBytes bytes(2 + junk, std::byte{0xEE});
    bytes[0] = std::byte{9};
    bytes[1] = std::byte{0};
    const auto hello = read_hello(bytes);
    ASSERT_TRUE(hello.ok()) << hello.status();
    EXPECT_EQ(hello->protocol_version, 9);
  }
  EXPECT_FALSE(read_hello({}).ok());
  EXPECT_FALSE(read_hello(MessageBytes(1)).ok());
}

TEST(MessageCodec, LongTextsAreCut) {
  const auto hello = read_hello(write_hello({kWireVersion, std::string(5000, 'x'), "", ""}));
  ASSERT_TRUE(hello.ok()) << hello.status();
  EXPECT_EQ(hello->library, std::string(1024, 'x'));
}

TEST(MessageCodec, OffersRoundTripInTheDocumentedSize) {
  const std::vector<PutOffer> offers(3, make_offer());
  const MessageBytes bytes = write_offers(offers);
  EXPECT_EQ(bytes.size(), 3u * 127);
  const auto read = read_offers(bytes, 3);
  ASSERT_TRUE(read.ok()) << read.status();
  const PutOffer& last = read->back();
  EXPECT_EQ(last.key, test_key(3));
  EXPECT_EQ(last.bytes, 0x01020304u);
  EXPECT_EQ(last.dropped_planes, 2);
  EXPECT_EQ(last.precision.key_planes, 5);
  EXPECT_EQ(last.precision.value_planes, 4);
  EXPECT_EQ(last.layout_hash, 0x1122334455667788u);
  EXPECT_EQ(last.first_token_index, 99u);
  EXPECT_EQ(last.token_digest, 0xABCDEFu);
  EXPECT_EQ(last.parent, test_key(4));
  EXPECT_EQ(last.route, test_key(6));
}

TEST(MessageCodec, AnswersReadsKeysAndStatusesRoundTrip) {
  const KeyAnswer answer = {
      BlockState::being_written, Tier::nvme, 12, 1, {3, 2}, 0xFFFFFFFFFF, 0xD1};
  const MessageBytes answer_bytes = write_answers({&answer, 1});
  EXPECT_EQ(answer_bytes.size(), 25u);
  const auto answers = read_answers(answer_bytes, 1);
  ASSERT_TRUE(answers.ok()) << answers.status();
  EXPECT_EQ(answers->front().state, BlockState::being_written);
  EXPECT_EQ(answers->front().tier, Tier::nvme);
  EXPECT_EQ(answers->front().bytes, 12u);
  EXPECT_EQ(answers->front().generation, 0xFFFFFFFFFFu);
  EXPECT_EQ(answers->front().token_digest, 0xD1u);

  const ReadRequest request = {test_key(5), {4, 3}, 77, 0xD2D3D4D5D6D7D8D9};
  const MessageBytes read_bytes = write_reads({&request, 1});
  EXPECT_EQ(read_bytes.size(), 46u);
  const auto reads = read_reads(read_bytes, 1);
  ASSERT_TRUE(reads.ok()) << reads.status();
  EXPECT_EQ(reads->front().key, test_key(5));
  EXPECT_EQ(reads->front().least.key_planes, 4);
  EXPECT_EQ(reads->front().max_bytes, 77u);
  EXPECT_EQ(reads->front().token_digest, 0xD2D3D4D5D6D7D8D9u);

  const BlockKey keys[] = {test_key(1), test_key(2)};
  const auto read_back = read_keys(write_keys(keys), 2);
  ASSERT_TRUE(read_back.ok()) << read_back.status();
  EXPECT_EQ((*read_back)[1], test_key(2));

  const absl::Status said[] = {absl::OkStatus(), absl::AbortedError("another put")};
  const auto statuses = read_statuses(write_statuses(said), 2);
  ASSERT_TRUE(statuses.ok()) << statuses.status();
  EXPECT_TRUE((*statuses)[0].ok());
  EXPECT_EQ((*statuses)[1], said[1]);
}

TEST(MessageCodec, FieldsThatAreNoEnumeratorAreClamped) {
  MessageBytes bytes = write_answers(std::vector<KeyAnswer>(1));
  bytes[0] = bytes[1] = std::byte{0xFF};
  const auto answers = read_answers(bytes, 1);
  ASSERT_TRUE(answers.ok());
  EXPECT_EQ(answers->front().state, BlockState::being_written);
  EXPECT_EQ(answers->front().tier, Tier::nvme);
  EXPECT_EQ(wire_code(200), absl::StatusCode::kUnknown);
  EXPECT_EQ(wire_priority(2), Priority::low);
  EXPECT_EQ(wire_priority(3), Priority::normal);
}

template <typename T>
void expect_count(const absl::StatusOr<std::vector<T>>& read, uint32_t count) {
  if (read.ok()) {
    EXPECT_EQ(read->size(), count);
  }
}

// Every reader on the same bytes; none may crash, and success means that all bytes were used.
void read_all(absl::Span<const std::byte> bytes, uint32_t count) {
  (void)read_hello(bytes);
  expect_count(read_keys(bytes, count), count);
  expect_count(read_answers(bytes, count), count);
  expect_count(read_offers(bytes, count), count);
  expect_count(read_statuses(bytes, count), count);
  expect_count(read_reads(bytes, count), count);
}

TEST(MessageCodec, WrongCountsAreRefused) {
  const MessageBytes bytes = write_offers(std::vector<PutOffer>(3, make_offer()));
  for (const uint32_t count : {0u, 1u, 2u, 4u, 4096u, 4097u, 0x80000000u, 0xFFFFFFFFu}) {
    EXPECT_TRUE(absl::IsInvalidArgument(read_offers(bytes, count).status())) << count;
    read_all(bytes, count);
  }
}

TEST(MessageCodec, TruncatedBytesAreRefused) {
  const MessageBytes bytes = write_offers(std::vector<PutOffer>(2, make_offer()));
  for (size_t size = 0; size < bytes.size(); ++size) {
    // An own allocation of exactly this size, so that sanitizers see a read beyond it.
    const MessageBytes cut(bytes.begin(), bytes.begin() + size);
    EXPECT_FALSE(read_offers(cut, 2).ok()) << size;
    read_all(cut, 2);
  }
}

TEST(MessageCodec, RandomBytesNeverCrash) {
  std::mt19937 random(42);
  for (int round = 0; round < 20'000; ++round) {
    MessageBytes bytes(random() % 400);
    for (std::byte& byte : bytes) byte = std::byte(static_cast<uint8_t>(random()));
    if (round % 3 == 0 && bytes.size() > 2) bytes[1] = std::byte{0};  // a version that may be ours
    read_all(bytes, round % 2 == 0 ? random() % 20 : random());
  }
}

}  // namespace
}  // namespace hadal
