#pragma once

// That all backends, on every instruction set, make the same bytes and values.

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <cctype>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/rotation.h"
#include "tests/kernels/kv_example.h"

namespace hadal {

inline constexpr CodecBackend kBackends[] = {CodecBackend::reference, CodecBackend::cpu};
inline constexpr DType kFloatTypes[] = {DType::f16, DType::bf16, DType::f32};
inline constexpr int kAdversarialKinds = 7;

// A codec's name as GoogleTest takes it.
inline std::string test_name(std::string codec) {
  for (char& c : codec) c = std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return codec;
}

// Blocks travel between machines, so all instruction sets matter, not only the best one of this
// machine. Calls work(name) on each.
template <typename Work>
void on_every_instruction_set(Work work) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    work(std::string(hwy::TargetName(target)));
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

inline std::unique_ptr<const Codec> make_codec(const KvLayout& layout, absl::string_view name,
                                               CodecBackend backend) {
  auto codec = Codec::create(layout, parse_codec(name).value(), backend);
  EXPECT_TRUE(codec.ok()) << codec.status();
  return *std::move(codec);
}

// What a codec decodes a whole block to.
inline std::unique_ptr<KvExample> decode_whole(const Codec& codec,
                                               absl::Span<const std::byte> block) {
  auto decoded = std::make_unique<KvExample>(codec.layout());
  BlockKey key;
  key.bytes[0] = 42;  // as request_for()
  const absl::Status status = codec.decode(block, 0, key, decoded->pages());
  EXPECT_TRUE(status.ok()) << status;
  return decoded;
}

// Of one block, or of the reference's where `block` is empty.
inline void expect_backends_agree(KvExample& source, absl::string_view name,
                                  uint64_t first_token_index, std::vector<std::byte> block = {}) {
  const auto reference = make_codec(source.layout, name, CodecBackend::reference);
  const auto cpu = make_codec(source.layout, name, CodecBackend::cpu);
  if (block.empty()) {
    block = encode_whole(*reference, request_for(source, first_token_index));
    EXPECT_EQ(block, encode_whole(*cpu, request_for(source, first_token_index)));
  }
  const auto expected = decode_whole(*reference, block), found = decode_whole(*cpu, block);
  EXPECT_TRUE(expected->keys == found->keys);
  EXPECT_TRUE(expected->values == found->values);
}

// NaN and infinity, in keys and in values, among exact tokens and others.
inline void expect_non_finite_is_reported(absl::string_view name, CodecBackend backend) {
  constexpr uint32_t kBits[] = {0x7fc00000u, 0x7f800000u, 0xff800000u};
  constexpr uint16_t kHalfBits[] = {0x7e00u, 0x7c00u, 0xfc00u};
  for (const DType dtype : kFloatTypes) {
    for (int where = 0; where < 12; ++where) {
      KvExample source(example_layout(dtype, 96, 64, 8));
      source.fill_normal(2);
      std::byte* at = (where % 2 == 0 ? source.key_rows[1] : source.value_rows[0]) +
                      static_cast<size_t>(where) * 61 * dtype_bytes(dtype);
      const uint32_t bits = dtype == DType::f32    ? kBits[where % 3]
                            : dtype == DType::bf16 ? kBits[where % 3] >> 16
                                                   : kHalfBits[where % 3];
      std::memcpy(at, &bits, dtype_bytes(dtype));
      const auto codec = make_codec(source.layout, name, backend);
      std::vector<std::byte> out(*codec->max_encoded_bytes(8));
      const auto result =
          codec->encode(request_for(source, where < 6 ? 0 : 64), absl::MakeSpan(out));
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_TRUE(result->non_finite) << dtype_name(dtype) << " " << where;
    }
  }
}

// A block with every scalar and word random, and checksums that fit. Offsets stay, since a codec
// adds what they are.
inline std::vector<std::byte> with_random_vectors(std::vector<std::byte> block,
                                                  const KvLayout& layout) {
  const EncodedBlock parsed = *EncodedBlock::parse(block, 0);
  const BlockShape shape = {parsed.header().token_count, parsed.header().exact_token_count, 0};
  const BlockPlan plan = BlockPlan::make(layout, parsed.codec(), shape).value();
  std::mt19937 random(5);
  for (const CellEntry& cell : parsed.cells()) {
    const CellSections sections =
        plan.sections(static_cast<Side>(cell.side), cell.plane, cell.layer_group);
    for (uint64_t i = sections.scalars; i < sections.end; ++i) {
      if (i >= sections.offsets && i < sections.words) continue;
      block[cell.offset + i] = static_cast<std::byte>(random());
    }
  }
  seal_block(absl::MakeSpan(block));
  return block;
}

// Keys and values of layer 0 of a real model, 64 tokens (data/README.md).
inline std::unique_ptr<KvExample> real_example() {
  KvLayout layout = example_layout(DType::f16, 64, 64, 64);
  layout.layer_count = 1;
  layout.kv_head_count = 3;
  auto example = std::make_unique<KvExample>(layout);
  for (const char* side : {"k", "v"}) {
    std::ifstream file(absl::StrCat(HADAL_KERNELS_DATA "/smollm2_layer00_", side, ".f16"),
                       std::ios::binary);
    auto& row = side[0] == 'k' ? example->keys[0] : example->values[0];
    file.read(reinterpret_cast<char*>(row.data()), static_cast<std::streamsize>(row.size()));
    EXPECT_TRUE(file.good());
  }
  return example;
}

// Relative squared error of one side of it.
inline double real_distortion(absl::string_view name, Side side) {
  const auto source = real_example();
  const auto codec = make_codec(source->layout, name, CodecBackend::cpu);
  const auto block = encode_whole(*codec, request_for(*source, 0));
  return source->distortion(side, *decode_whole(*codec, block));
}

// Of normal values, on both backends.
inline void expect_distortion(absl::string_view name, double expected, double room) {
  for (const uint16_t head_dim : kHeadDims) {
    for (const DType dtype : kFloatTypes) {
      for (const CodecBackend backend : kBackends) {
        KvExample source(example_layout(dtype, head_dim, head_dim, 32));
        source.fill_normal(head_dim);
        const auto codec = make_codec(source.layout, name, backend);
        const auto decoded = decode_whole(*codec, encode_whole(*codec, request_for(source, 64)));
        EXPECT_NEAR(source.distortion(Side::key, *decoded), expected, room) << head_dim;
        EXPECT_NEAR(source.distortion(Side::value, *decoded), expected, room) << head_dim;
      }
    }
  }
}

}  // namespace hadal
