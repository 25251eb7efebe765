#include "client/llama/sequence_blob.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace hadal {
namespace {

template <typename T>
void append(std::vector<std::byte>& out, T value) {
  out.resize(out.size() + sizeof(value));
  std::memcpy(out.data() + out.size() - sizeof(value), &value, sizeof(value));
}

// A state as llama.cpp writes it: two caches, as in models with sliding windows.
// The second begins with token `first`.
std::vector<std::byte> example(uint32_t tokens, uint32_t first = 0) {
  std::vector<std::byte> out;
  append(out, uint64_t{0xAF143CD8});
  for (uint32_t layers : {2u, 3u}) {
    const uint32_t begin = layers == 2 ? 0 : first;
    append(out, uint32_t{1});
    append(out, tokens - begin);
    for (uint32_t token = begin; token < tokens; ++token) {
      append(out, static_cast<int32_t>(token));
      append(out, uint32_t{1});
      append(out, int32_t{0});
    }
    append(out, uint32_t{0});
    append(out, layers);
    for (uint32_t row = 0; row < 2 * layers; ++row) {
      append(out, int32_t{1});
      append(out, uint64_t{8});
      for (uint32_t i = 8 * begin; i < 8 * tokens; ++i)
        append(out, static_cast<uint8_t>(row * 16 + i));
    }
  }
  return out;
}

TEST(SequenceBlob, RebuildsTheSameBytes) {
  const std::vector<std::byte> blob = example(5);
  const auto shape = SequenceBlob::parse(blob);
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->token_count(), 5u);
  ASSERT_EQ(shape->layers().size(), 5u);
  ASSERT_EQ(shape->bytes(), blob.size());
  std::vector<std::byte> copy(blob.size());
  shape->write_frame(absl::MakeSpan(copy));
  for (const BlobLayer& layer : shape->layers()) {
    for (const BlobRows& rows : {layer.key, layer.value}) {
      std::memcpy(copy.data() + rows.offset, blob.data() + rows.offset, rows.row_bytes * 5);
    }
  }
  EXPECT_EQ(copy, blob);
}

// What a sliding window passed comes from the save before.
TEST(SequenceBlob, MergesSavesOfASlidingWindowToTheWhole) {
  auto whole = SequenceBlob::merge({}, example(4));
  ASSERT_TRUE(whole.ok()) << whole.status();
  whole = SequenceBlob::merge(*whole, example(7, 4));
  ASSERT_TRUE(whole.ok()) << whole.status();
  whole = SequenceBlob::merge(*whole, example(9, 5));
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(*whole, example(9));
  EXPECT_FALSE(SequenceBlob::parse(example(9, 5))->whole());
  EXPECT_TRUE(SequenceBlob::parse(*whole)->whole());
  // Tokens 9 and 10 are in neither.
  EXPECT_FALSE(SequenceBlob::merge(*whole, example(13, 11)).ok());
  EXPECT_FALSE(SequenceBlob::merge({}, example(9, 5)).ok());
  EXPECT_FALSE(SequenceBlob::merge(example(9, 5), example(12, 8)).ok());
}

TEST(SequenceBlob, AnotherTokenCountHasTheShapeLlamaWouldWrite) {
  const auto shape = SequenceBlob::parse(example(5))->with_tokens(9);
  const auto other = SequenceBlob::parse(example(9));
  ASSERT_EQ(shape.bytes(), other->bytes());
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(shape.layers()[i].key.offset, other->layers()[i].key.offset);
    EXPECT_EQ(shape.layers()[i].value.offset, other->layers()[i].value.offset);
  }
}

TEST(SequenceBlob, AnyTruncationAndDamagedFrameIsRefused) {
  const std::vector<std::byte> blob = example(3);
  for (size_t size = 0; size < blob.size(); ++size) {
    const auto cut = SequenceBlob::parse(absl::MakeConstSpan(blob).subspan(0, size));
    // A cut between the two caches is a whole state of one cache.
    if (cut.ok()) {
      EXPECT_EQ(cut->layers().size(), 2u) << size;
    }
  }
  for (size_t at : {8u, 16u, 20u, 52u, 56u, 60u, 64u}) {
    std::vector<std::byte> other = blob;
    other[at] ^= std::byte{0x7f};
    EXPECT_FALSE(SequenceBlob::parse(other).ok()) << at;
  }
}

}  // namespace
}  // namespace hadal
