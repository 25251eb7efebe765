#include "common/encoded_block.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "common/block_plan.h"
#include "common/limits.h"

namespace hadal {
namespace {

KvLayout smollm2() {
  KvLayout layout;
  layout.layer_count = 30;
  layout.kv_head_count = 3;
  layout.key_head_dim = layout.value_head_dim = 64;
  layout.block_tokens = 64;
  return layout;
}

BlockPlan plan_of(const KvLayout& layout, const char* codec, uint32_t tokens) {
  const CodecSpec spec = *parse_codec(codec);
  return *BlockPlan::make(layout, spec, {tokens, std::min<uint16_t>(spec.exact_tokens, tokens), 0});
}

std::vector<std::byte> sealed(const BlockPlan& plan, const BlockKey& key) {
  std::vector<std::byte> block(plan.total_bytes());
  std::mt19937 random(1);
  for (std::byte& byte : block) byte = static_cast<std::byte>(random());
  BlockIdentity identity;
  identity.key = key;
  plan.write_header(identity, 0, absl::MakeSpan(block));
  seal_block(absl::MakeSpan(block));
  return block;
}

TEST(BlockPlan, CellsOfTheDefaultPresetAreLargeEnoughAndInDropOrder) {
  const BlockPlan plan = plan_of(smollm2(), "k5v4", 64);
  EXPECT_EQ(plan.layer_group_count(), 2);
  for (const CellEntry& cell : plan.cells()) EXPECT_GE(cell.bytes, limits::kCellMinBytes);
  const auto block = sealed(plan, {});
  const auto parsed = EncodedBlock::parse(block, 0);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const BlockExtents extents = block_extents(*parsed);
  // K4, then V3, then K3, as decisions say; the floor K4V3 allows two steps.
  EXPECT_EQ(extents.precision[1], (Precision{4, 4}));
  EXPECT_EQ(extents.precision[2], (Precision{4, 3}));
  EXPECT_EQ(extents.precision[3], (Precision{3, 3}));
  EXPECT_EQ(extents.floor_drops, 2);
  EXPECT_EQ(extents.prefix_bytes[0], block.size());
}

// The first block of a sequence pays for its exact tokens; a prompt of 32 blocks must still be
// above.
TEST(BlockPlan, StoredRatioOfTheDefaultPresetIsAboveThreePointTwo) {
  const uint64_t first = plan_of(smollm2(), "k5v4", 64).total_bytes();
  const uint64_t later =
      BlockPlan::make(smollm2(), *parse_codec("k5v4"), {64, 0, 0})->total_bytes();
  EXPECT_GT(first, later);
  EXPECT_GT(32.0 * double(smollm2().raw_bytes(64)) / double(first + 31 * later), 3.2);
}

TEST(BlockPlan, CellsNeverOverlapForAnyLayout) {
  for (const char* codec : {"raw", "k1v1", "k5v4", "k3v8", "k8v8", "k4v3-prod", "qjl", "polar",
                            "e4m3", "tqe", "k5v4/0-0:k8v8"}) {
    for (uint16_t head_dim : {64, 80, 96, 112, 128, 192, 256}) {
      for (uint16_t layers : {1, 2, 7, 61}) {
        for (uint32_t tokens : {1u, 3u, 64u}) {
          KvLayout layout = smollm2();
          layout.layer_count = layers;
          layout.key_head_dim = head_dim;
          const BlockPlan plan = plan_of(layout, codec, tokens);
          uint64_t end = sizeof(BlockHeader) + plan.cells().size() * sizeof(CellEntry);
          std::set<uint32_t> ids;
          for (const CellEntry& cell : plan.cells()) {
            EXPECT_GE(cell.offset, end);
            EXPECT_EQ(cell.offset % limits::kCellAlignBytes, 0u);
            end = cell.offset + cell.bytes;
            EXPECT_TRUE(ids.insert(cell.id()).second);
          }
          EXPECT_GE(plan.total_bytes(), end);
          EXPECT_EQ(plan.group_end(plan.layer_group_count() - 1), layers);
        }
      }
    }
  }
}

TEST(BlockPlan, LayersWithBitsOfTheirOwnAreGroupsOfTheirOwn) {
  const BlockPlan plan = plan_of(smollm2(), "k5v4/0-1:k8v8/20-29:k3v2", 64);
  const std::vector<int> ends = {2, 15, 20, 30};  // 15: the halves that k5v4 alone would have
  ASSERT_EQ(plan.layer_group_count(), 4);
  for (int group = 0; group < 4; ++group) EXPECT_EQ(plan.group_end(group), ends[group]);
  EXPECT_EQ(plan.plane_count(Side::key, 0), 8);
  EXPECT_EQ(plan.plane_count(Side::key, 2), 5);
  EXPECT_EQ(plan.plane_count(Side::value, 3), 2);

  const auto block = sealed(plan, {});
  const auto parsed = EncodedBlock::parse(block, 0);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->codec().bits_of_layer(19).key_bits, 5);
  EXPECT_EQ(parsed->codec().bits_of_layer(29).value_bits, 2);
  // Planes above 5 and 4 are those of the first layers alone.
  const BlockExtents extents = block_extents(*parsed);
  for (size_t dropped = 0; dropped < extents.prefix_bytes.size(); ++dropped) {
    const auto prefix = absl::MakeConstSpan(block).subspan(0, extents.prefix_bytes[dropped]);
    const auto cut = EncodedBlock::parse(prefix, static_cast<int>(dropped));
    ASSERT_TRUE(cut.ok()) << cut.status();
    EXPECT_TRUE(cut->verify_cells().ok());
    EXPECT_EQ(cut->precision(), extents.precision[dropped]);
    for (const CellEntry& cell : cut->cells()) {
      const auto side = static_cast<Side>(cell.side);
      EXPECT_LT(cell.plane, plan.plane_count(side, cell.layer_group));
      EXPECT_LT(cell.plane,
                side == Side::key ? cut->precision().key_planes : cut->precision().value_planes);
    }
  }
  EXPECT_EQ(extents.precision[extents.floor_drops], (Precision{4, 3}));
}

// As many cuts as there can be leave no room for equal groups.
TEST(BlockPlan, AtMostEightLayerGroups) {
  const CodecSpec eight = *parse_codec("k5v4/1-1:k8v8/3-3:k8v8/5-5:k8v8/7-29:k6v6");
  EXPECT_EQ(BlockPlan::make(smollm2(), eight, {64, 0, 0})->layer_group_count(), 8);
  const CodecSpec nine = *parse_codec("k5v4/1-1:k8v8/3-3:k8v8/5-5:k8v8/7-7:k8v8");
  EXPECT_THAT(std::string(BlockPlan::make(smollm2(), nine, {64, 0, 0}).status().message()),
              testing::HasSubstr("makes 9 layer groups; at most 8"));
}

TEST(BlockPlan, RefusesByName) {
  const auto said = [](const absl::StatusOr<BlockPlan>& plan) {
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(plan.status().message());
  };
  const CodecSpec codec = *parse_codec("k5v4");
  EXPECT_THAT(said(BlockPlan::make(smollm2(), codec, {0, 0, 0})), testing::HasSubstr("0 tokens"));
  EXPECT_THAT(said(BlockPlan::make(smollm2(), codec, {65, 0, 0})), testing::HasSubstr("65 tokens"));
  KvLayout huge = smollm2();
  huge.layer_count = 1024;
  huge.kv_head_count = 1024;
  EXPECT_THAT(said(BlockPlan::make(huge, codec, {64, 0, 0})), testing::HasSubstr("2147483647"));
  KvLayout odd = smollm2();
  odd.key_head_dim = 72;
  EXPECT_THAT(said(BlockPlan::make(odd, codec, {64, 0, 0})), testing::HasSubstr("multiple of 16"));
  KvLayout opaque;
  opaque.dtype = DType::opaque;
  const CodecSpec raw = *parse_codec("raw");
  EXPECT_THAT(said(BlockPlan::make(opaque, raw, {0, 0, 0})), testing::HasSubstr("0 bytes"));
  EXPECT_THAT(said(BlockPlan::make(opaque, raw, {0, 0, uint64_t{1} << 32})),
              testing::HasSubstr("4294967296"));
  EXPECT_THAT(said(BlockPlan::make(opaque, codec, {0, 0, 100})), testing::HasSubstr("raw"));
  KvLayout eight_bits = smollm2();
  eight_bits.dtype = DType::f8_e4m3;
  EXPECT_THAT(said(BlockPlan::make(eight_bits, codec, {64, 0, 0})),
              testing::HasSubstr("f8_e4m3 can only be stored with codec raw"));
  EXPECT_TRUE(BlockPlan::make(eight_bits, raw, {64, 0, 0}).ok());
  EXPECT_THAT(said(BlockPlan::make(smollm2(), *parse_codec("k5v4/29-30:k8v8"), {64, 0, 0})),
              testing::HasSubstr("bits for layer 30; the layout has layers 0 to 29"));
  EXPECT_THAT(said(BlockPlan::make(smollm2(), *parse_codec("k5v8/0-29:k6v4"), {64, 0, 0})),
              testing::HasSubstr("gives no layer more than K6V4"));
}

// Sealed anew: the checksum of the header holds.
TEST(EncodedBlock, AHeaderThatSaysOtherBitsThanItsLayersIsRefused) {
  const BlockPlan plan = plan_of(smollm2(), "k4v4/0-1:k8v3", 64);
  std::vector<std::byte> block(plan.total_bytes());
  plan.write_header({}, 0, absl::MakeSpan(block));
  const size_t key_bits = offsetof(BlockHeader, key_bits);
  for (const auto& [key, value] : {std::pair{8, 4}, {7, 4}, {4, 4}, {8, 5}, {8, 3}}) {
    block[key_bits] = static_cast<std::byte>(key);
    block[key_bits + 1] = static_cast<std::byte>(value);
    seal_block(absl::MakeSpan(block));
    EXPECT_EQ(EncodedBlock::parse(block, 0).ok(), key == 8 && value == 4) << key << " " << value;
  }
}

// Sizes that 32 bits do not hold, or that a header cannot say, are refused and never wrap.
TEST(BlockPlan, RefusesBlocksThatAreTooLargeByName) {
  KvLayout layout;
  layout.dtype = DType::f16;
  layout.layer_count = layout.kv_head_count = layout.key_head_dim = layout.value_head_dim = 1024;
  layout.block_tokens = 65536;
  const auto refusal = [&](const BlockShape& shape) {
    return std::string(BlockPlan::make(layout, *parse_codec("k8v8"), shape).status().message());
  };
  EXPECT_THAT(refusal({65536, 65535, 0}),
              testing::HasSubstr("has 281474976710656 bytes; at most 2147483647"));

  // As large as a layout may be; all tokens exact, so that the first cell alone is too large.
  layout.layer_count = 1;
  layout.value_head_dim = 16;
  layout.block_tokens = 1008;
  ASSERT_TRUE(layout.validate().ok()) << layout.validate();
  EXPECT_THAT(
      refusal({1008, 1008, 0}),
      testing::HasSubstr("encoded block needs more than 2147483647 bytes; use fewer tokens"));
  EXPECT_EQ(refusal({1008, 4, 0}), "");
}

TEST(EncodedBlock, EveryPrefixAtADropStepParsesAndVerifies) {
  const auto block = sealed(plan_of(smollm2(), "k5v4", 13), {});
  const BlockExtents extents = block_extents(*EncodedBlock::parse(block, 0));
  for (size_t dropped = 0; dropped < extents.prefix_bytes.size(); ++dropped) {
    const auto prefix = absl::MakeConstSpan(block).subspan(0, extents.prefix_bytes[dropped]);
    const auto parsed = EncodedBlock::parse(prefix, static_cast<int>(dropped));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_TRUE(parsed->verify_cells().ok());
    EXPECT_EQ(parsed->precision(), extents.precision[dropped]);
  }
}

TEST(EncodedBlock, AnyFlippedByteOfHeaderOrTableIsSeen) {
  auto block = sealed(plan_of(smollm2(), "k2v2", 2), {});
  const size_t table_end =
      sizeof(BlockHeader) + EncodedBlock::parse(block, 0)->cells().size() * sizeof(CellEntry);
  for (size_t i = 0; i < table_end; ++i) {
    block[i] ^= std::byte{0x40};
    EXPECT_FALSE(EncodedBlock::parse(block, 0).ok()) << i;
    block[i] ^= std::byte{0x40};
  }
}

TEST(EncodedBlock, AnyFlippedByteOfACellIsSeen) {
  auto block = sealed(plan_of(smollm2(), "k2v2", 1), {});
  const auto parsed = EncodedBlock::parse(block, 0);
  for (const CellEntry& cell : parsed->cells()) {
    for (size_t i = cell.offset; i < cell.offset + cell.bytes; i += 61) {
      block[i] ^= std::byte{1};
      EXPECT_EQ(parsed->verify_cells().code(), absl::StatusCode::kDataLoss);
      block[i] ^= std::byte{1};
    }
  }
  EXPECT_TRUE(parsed->verify_cells().ok());
}

TEST(EncodedBlock, AnyTruncationIsSeen) {
  const auto block = sealed(plan_of(smollm2(), "k3v2", 1), {});
  for (size_t size = 0; size < block.size(); size += 7) {
    EXPECT_FALSE(EncodedBlock::parse(absl::MakeConstSpan(block).subspan(0, size), 0).ok()) << size;
  }
}

TEST(EncodedBlock, OtherVersionsAreRefusedByNumber) {
  auto block = sealed(plan_of(smollm2(), "k3v2", 1), {});
  const uint16_t version = 2;
  std::memcpy(block.data() + offsetof(BlockHeader, version), &version, sizeof(version));
  seal_block(absl::MakeSpan(block));
  const auto parsed = EncodedBlock::parse(block, 0);
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(parsed.status().message()), testing::HasSubstr("version 2"));
}

// A faulty writer can seal nonsense: fields that contradict the table are refused all the same.
TEST(EncodedBlock, SealedNonsenseIsRefused) {
  const auto block = sealed(plan_of(smollm2(), "k5v4", 8), {});
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    auto other = block;
    // Codec to block_tokens, and the groups: the fields that shape the table.
    const size_t at = round % 3 == 0 ? 144 + random() % 32 : 8 + random() % 40;
    const std::byte value = static_cast<std::byte>(random());
    if (other[at] == value) continue;
    other[at] = value;
    BlockHeader header;
    std::memcpy(&header, other.data(), sizeof(header));
    if (sizeof(BlockHeader) + header.cell_count * sizeof(CellEntry) > other.size()) continue;
    if (header.cell_count > EncodedBlock::parse(block, 0)->cells().size()) continue;
    seal_block(absl::MakeSpan(other));
    const auto parsed = EncodedBlock::parse(other, 0);
    if (parsed.ok()) {
      EXPECT_EQ(parsed->cells().size(), header.cell_count) << at;
    }
  }
}

TEST(EncodedBlock, AnotherKeyOrLayoutIsRefused) {
  BlockKey key;
  key.bytes[3] = 9;
  const auto block = sealed(plan_of(smollm2(), "k5v4", 8), key);
  const auto parsed = EncodedBlock::parse(block, 0);
  EXPECT_TRUE(parsed->expect(key, smollm2().hash()).ok());
  EXPECT_EQ(parsed->expect({}, smollm2().hash()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(parsed->expect(key, 1).code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace hadal
