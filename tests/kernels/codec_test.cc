#include "kernels/codec.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/codebook.h"
#include "kernels/rotation.h"
#include "tests/kernels/backends.h"

namespace hadal {
namespace {

constexpr DType kDTypes[] = {DType::f16, DType::bf16, DType::f32};

std::unique_ptr<const Codec> make(const KvLayout& layout, const CodecSpec& spec,
                                  CodecBackend backend) {
  auto codec = Codec::create(layout, spec, backend);
  EXPECT_TRUE(codec.ok()) << codec.status();
  return *std::move(codec);
}

const BlockKey kKey = [] {
  BlockKey key;
  key.bytes[0] = 42;
  return key;
}();

TEST(Codec, EveryHeadDimAndDTypeHasTheTheoreticalDistortionOnBothBackends) {
  for (int head_dim : kHeadDims) {
    for (DType dtype : kDTypes) {
      for (CodecBackend backend : {CodecBackend::reference, CodecBackend::cpu}) {
        KvExample source(example_layout(dtype, head_dim, head_dim, 32));
        source.fill_normal(head_dim);
        const auto codec = make(source.layout, *parse_codec("k5v3"), backend);
        const auto block = encode_whole(*codec, request_for(source, 32));
        ASSERT_FALSE(block.empty());
        KvExample decoded(source.layout);
        ASSERT_TRUE(codec->decode(block, 0, kKey, decoded.pages()).ok());
        EXPECT_NEAR(source.distortion(Side::key, decoded), 0.0025047, 0.0004) << head_dim;
        EXPECT_NEAR(source.distortion(Side::value, decoded), 0.034548, 0.005) << head_dim;
      }
    }
  }
}

// Same bytes from both encoders but for ties, and the same values from both decoders within one
// rounding.
TEST(Codec, BackendsAgree) {
  for (int head_dim : kHeadDims) {
    for (DType dtype : kDTypes) {
      for (int kind = 0; kind < 7; ++kind) {
        KvExample source(example_layout(dtype, head_dim, 128, 9));
        fill_adversarial(source, kind);
        const CodecSpec spec = *parse_codec(kind % 2 == 0 ? "k5v4" : "k8v6");
        const auto reference = make(source.layout, spec, CodecBackend::reference);
        const auto cpu = make(source.layout, spec, CodecBackend::cpu);
        const auto block = encode_whole(*reference, request_for(source, kind % 3 == 0 ? 0 : 64));
        EXPECT_EQ(block, encode_whole(*cpu, request_for(source, kind % 3 == 0 ? 0 : 64)))
            << head_dim << " " << int(dtype) << " " << kind;
        KvExample a(source.layout), b(source.layout);
        ASSERT_TRUE(reference->decode(block, 0, kKey, a.pages()).ok());
        ASSERT_TRUE(cpu->decode(block, 0, kKey, b.pages()).ok());
        EXPECT_TRUE(a.keys == b.keys) << head_dim << " " << int(dtype) << " " << kind;
        EXPECT_TRUE(a.values == b.values) << head_dim << " " << int(dtype) << " " << kind;
      }
    }
  }
}

// Not only on the best instruction set of this machine: blocks travel between machines.
TEST(Codec, EveryInstructionSetMakesTheSameBytesAndValues) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    for (int head_dim : kHeadDims) {
      for (DType dtype : kDTypes) {
        for (const auto& [name, tokens] : std::initializer_list<std::pair<const char*, uint32_t>>{
                 {"k5v4", 23}, {"k1v3", 23}, {"k2v7", 23}, {"k8v6", 23}, {"k7v2", 1}}) {
          KvLayout layout = example_layout(dtype, head_dim, 128, tokens);  // no width's multiple
          layout.kv_head_count = 3;
          KvExample source(layout);
          source.fill_normal(head_dim);
          const CodecSpec spec = *parse_codec(name);
          const auto reference = make(source.layout, spec, CodecBackend::reference);
          const auto cpu = make(source.layout, spec, CodecBackend::cpu);
          const auto block = encode_whole(*reference, request_for(source, 0));
          EXPECT_EQ(block, encode_whole(*cpu, request_for(source, 0)))
              << hwy::TargetName(target) << " " << head_dim << " " << int(dtype) << " " << name;
          KvExample a(source.layout), b(source.layout);
          ASSERT_TRUE(reference->decode(block, 0, kKey, a.pages()).ok());
          ASSERT_TRUE(cpu->decode(block, 0, kKey, b.pages()).ok());
          EXPECT_TRUE(a.keys == b.keys && a.values == b.values)
              << hwy::TargetName(target) << " " << head_dim << " " << int(dtype) << " " << name;
        }
      }
    }
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

// A block that no encoder makes, with every index the largest or a random one: sums pass 16 bits.
std::vector<std::byte> impossible(std::vector<std::byte> block, bool random_words) {
  const EncodedBlock parsed = *EncodedBlock::parse(block, 0);
  std::mt19937 random(7);
  size_t words[2] = {};
  for (const CellEntry& cell : parsed.cells()) {
    if (cell.plane == 1) words[cell.side] = cell.bytes;
  }
  for (const CellEntry& cell : parsed.cells()) {
    for (size_t i = cell.bytes - words[cell.side]; i < cell.bytes; ++i) {
      block[cell.offset + i] = static_cast<std::byte>(random_words ? random() : 0xffu);
    }
  }
  seal_block(absl::MakeSpan(block));
  return block;
}

TEST(Codec, BlocksThatNoEncoderMakesDecodeAlikeEverywhere) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    for (int head_dim : kHeadDims) {
      for (const int kind : {0, 1, 2, 3}) {
        KvExample source(example_layout(DType::bf16, head_dim, head_dim, 9));
        source.fill_normal(head_dim);
        const CodecSpec spec = *parse_codec(kind < 2 ? "k5v3" : "k8v6");
        const auto reference = make(source.layout, spec, CodecBackend::reference);
        const auto cpu = make(source.layout, spec, CodecBackend::cpu);
        const auto block =
            impossible(encode_whole(*reference, request_for(source, 64)), kind % 2 == 1);
        KvExample a(source.layout), b(source.layout);
        ASSERT_TRUE(reference->decode(block, 0, kKey, a.pages()).ok());
        ASSERT_TRUE(cpu->decode(block, 0, kKey, b.pages()).ok());
        EXPECT_TRUE(a.keys == b.keys && a.values == b.values)
            << hwy::TargetName(target) << " " << head_dim << " " << kind;
      }
    }
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

TEST(Codec, EveryPresetRoundTripsWithFewerPlanesToo) {
  KvExample source(example_layout(DType::f16, 128, 64, 16));
  source.fill_normal(5);
  for (int key_bits = 1; key_bits <= 8; ++key_bits) {
    const int value_bits = 9 - key_bits;
    const CodecSpec spec = *parse_codec(absl::StrCat("k", key_bits, "v", value_bits));
    const auto codec = make(source.layout, spec, CodecBackend::cpu);
    const auto reference = make(source.layout, spec, CodecBackend::reference);
    const auto block = encode_whole(*codec, request_for(source, 64));
    const BlockExtents extents = block_extents(*EncodedBlock::parse(block, 0));
    for (size_t dropped = 0; dropped < extents.prefix_bytes.size(); ++dropped) {
      const auto prefix = absl::MakeConstSpan(block).subspan(0, extents.prefix_bytes[dropped]);
      KvExample decoded(source.layout), again(source.layout);
      ASSERT_TRUE(codec->decode(prefix, int(dropped), kKey, decoded.pages()).ok());
      ASSERT_TRUE(reference->decode(prefix, int(dropped), kKey, again.pages()).ok());
      EXPECT_TRUE(decoded.keys == again.keys);
      const Precision left = extents.precision[dropped];
      const double expected = codebook(key_bits).distortion[left.key_planes - 1];
      EXPECT_NEAR(source.distortion(Side::key, decoded), expected, expected * 0.25 + 2e-6);
      const double value_expected = codebook(value_bits).distortion[left.value_planes - 1];
      EXPECT_NEAR(source.distortion(Side::value, decoded), value_expected,
                  value_expected * 0.25 + 2e-6);
    }
  }
}

TEST(Codec, LayersHaveBitsOfTheirOwn) {
  KvLayout layout = example_layout(DType::bf16, 128, 64, 32);
  layout.layer_count = 4;
  KvExample source(layout);
  source.fill_normal(7);
  const CodecSpec spec = *parse_codec("k5v4/0-0:k8v7/3-3:k3v2");
  const auto codec = make(layout, spec, CodecBackend::cpu);
  const auto reference = make(layout, spec, CodecBackend::reference);
  const auto block = encode_whole(*codec, request_for(source, 64));
  EXPECT_EQ(block, encode_whole(*reference, request_for(source, 64)));
  const BlockExtents extents = block_extents(*EncodedBlock::parse(block, 0));
  for (size_t dropped = 0; dropped < extents.prefix_bytes.size(); ++dropped) {
    const auto prefix = absl::MakeConstSpan(block).subspan(0, extents.prefix_bytes[dropped]);
    KvExample decoded(layout), again(layout);
    ASSERT_TRUE(codec->decode(prefix, int(dropped), kKey, decoded.pages()).ok());
    ASSERT_TRUE(reference->decode(prefix, int(dropped), kKey, again.pages()).ok());
    EXPECT_TRUE(decoded.keys == again.keys);
    EXPECT_TRUE(decoded.values == again.values);
    const Precision left = extents.precision[dropped];
    for (int layer = 0; layer < 4; ++layer) {
      const LayerBits bits = spec.bits_of_layer(layer);
      const double key =
          codebook(bits.key_bits).distortion[std::min(bits.key_bits, left.key_planes) - 1];
      EXPECT_NEAR(source.distortion(Side::key, decoded, layer), key, key * 0.25 + 4e-6);
      const double value =
          codebook(bits.value_bits).distortion[std::min(bits.value_bits, left.value_planes) - 1];
      EXPECT_NEAR(source.distortion(Side::value, decoded, layer), value, value * 0.25 + 4e-6);
    }
  }
}

// What engines hold in 8 bits goes as it is.
TEST(Codec, EightBitValuesAreStoredRaw) {
  for (const DType dtype : {DType::f8_e4m3, DType::f8_e5m2}) {
    KvExample source(example_layout(dtype, 128, 64, 5));
    std::mt19937 random(1);
    for (auto* side : {&source.keys, &source.values}) {
      for (auto& layer : *side) {
        for (std::byte& value : layer) value = static_cast<std::byte>(random());
      }
    }
    const auto codec = make(source.layout, *parse_codec("raw"), CodecBackend::cpu);
    const auto block = encode_whole(*codec, request_for(source, 0));
    KvExample decoded(source.layout);
    for (int layer = 0; layer < source.layout.layer_count; ++layer) {  // bytes before the pages
      decoded.keys[layer][0] = source.keys[layer][0];
      decoded.values[layer][0] = source.values[layer][0];
    }
    ASSERT_TRUE(codec->decode(block, 0, kKey, decoded.pages()).ok());
    EXPECT_TRUE(decoded.keys == source.keys);
    EXPECT_TRUE(decoded.values == source.values);
    EXPECT_EQ(Codec::create(source.layout, *parse_codec("k5v4")).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(Codec, FirstTokensOfASequenceAreExact) {
  KvExample source(example_layout(DType::bf16, 64, 64, 16));
  source.fill_normal(1);
  const auto codec = make(source.layout, CodecSpec(), CodecBackend::cpu);
  const auto block = encode_whole(*codec, request_for(source, 0));
  KvExample decoded(source.layout);
  ASSERT_TRUE(codec->decode(block, 0, kKey, decoded.pages()).ok());
  const size_t exact_bytes = 4 * 2 * 64 * 2;
  for (int layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(std::memcmp(source.key_rows[layer], decoded.key_rows[layer], exact_bytes), 0);
    EXPECT_EQ(std::memcmp(source.value_rows[layer], decoded.value_rows[layer], exact_bytes), 0);
    EXPECT_NE(std::memcmp(source.key_rows[layer], decoded.key_rows[layer], 2 * exact_bytes), 0);
  }
}

// codec.md section 4: a large bias of the key projection, rotated by RoPE. Without the mean key the
// error relative to what varies grows with the bias; with it it stays.
TEST(Codec, KeyOffsetsCureALargeBias) {
  for (double bias_over_signal : {0.0, 49.0, 400.0}) {
    KvExample source(example_layout(DType::f32, 128, 128, 64));
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    const double bias = std::sqrt(bias_over_signal);
    std::vector<double> varying;
    source.fill([&](Side side, int, int token, int, int i) -> float {
      const float signal = normal(random);
      if (side == Side::value) return signal;
      varying.push_back(signal);
      // RoPE turns the pair (i, i + 64) by an angle that falls with i; most of the bias is in slow
      // pairs.
      const double angle = token * std::pow(10000.0, -(i % 64) / 64.0);
      return static_cast<float>(signal + bias * M_SQRT2 *
                                             (i < 64 ? std::cos(angle) : std::sin(angle)) *
                                             (i % 64 >= 48 ? 2.0 : 0.0));
    });
    CodecSpec spec = *parse_codec("k4v4");
    const auto with = make(source.layout, spec, CodecBackend::cpu);
    spec.key_offsets = false;
    const auto without = make(source.layout, spec, CodecBackend::cpu);
    double error[2] = {};
    for (int i = 0; i < 2; ++i) {
      const Codec& codec = i == 0 ? *with : *without;
      const auto block = encode_whole(codec, request_for(source, 64));
      KvExample decoded(source.layout);
      ASSERT_TRUE(codec.decode(block, 0, kKey, decoded.pages()).ok());
      double signal = 0, total = 0;
      for (double value : varying) signal += value * value;
      source.for_each([&](Side side, std::byte* at, int, int, int, int) {
        const double value = KvExample::load(at, DType::f32);
        total += side == Side::key ? value * value : 0;
      });
      error[i] = source.distortion(Side::key, decoded) * total / signal;
    }
    EXPECT_LT(error[0], 0.03) << bias_over_signal;
    EXPECT_LE(error[0], error[1] * 1.02) << bias_over_signal;
    if (bias_over_signal >= 49) {
      EXPECT_GT(error[1], 5 * error[0]) << bias_over_signal;
    }
  }
}

TEST(Codec, RealKeysAndValuesStayNearTheory) {
  const auto source = real_example();
  const auto codec = make(source->layout, CodecSpec(), CodecBackend::cpu);
  const auto block = encode_whole(*codec, request_for(*source, 0));
  KvExample decoded(source->layout);
  ASSERT_TRUE(codec->decode(block, 0, kKey, decoded.pages()).ok());
  EXPECT_LT(source->distortion(Side::key, decoded), 0.0027);
  EXPECT_GT(source->distortion(Side::key, decoded), 0.0);
  EXPECT_LT(source->distortion(Side::value, decoded), 0.0105);
}

TEST(Codec, NonFiniteValuesAreReportedOnEveryInstructionSet) {
  on_every_instruction_set([](const std::string& target) {
    SCOPED_TRACE(target);
    expect_non_finite_is_reported("k5v4", CodecBackend::cpu);
  });
}

TEST(Codec, NonFiniteValuesAnywhereAreReportedAndRawKeepsThem) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity()};
  for (DType dtype : kDTypes) {
    for (CodecBackend backend : {CodecBackend::reference, CodecBackend::cpu}) {
      for (int where = 0; where < 6; ++where) {
        KvExample source(example_layout(dtype, 96, 64, 8));
        source.fill_normal(2);
        std::byte* at = (where % 2 == 0 ? source.key_rows[1] : source.value_rows[0]) +
                        static_cast<size_t>(where) * 37 * dtype_bytes(dtype);
        // KvExample rounds by adding, which would turn a NaN over: write the bits.
        const uint16_t half = where % 3 == 0 ? 0x7e00 : where % 3 == 1 ? 0x7c00 : 0xfc00;
        const uint16_t brain = where % 3 == 0 ? 0x7fc0 : where % 3 == 1 ? 0x7f80 : 0xff80;
        if (dtype == DType::f32) {
          std::memcpy(at, &bad[where % 3], 4);
        } else {
          std::memcpy(at, dtype == DType::f16 ? &half : &brain, 2);
        }
        const auto codec = make(source.layout, CodecSpec(), backend);
        std::vector<std::byte> out(*codec->max_encoded_bytes(8));
        const EncodeRequest request = request_for(source, where < 3 ? 0 : 64);
        const auto result = codec->encode(request, absl::MakeSpan(out));
        ASSERT_TRUE(result.ok());
        EXPECT_TRUE(result->non_finite) << int(dtype) << " " << where;
        const auto raw = codec->encode_raw(request, kBlockNonFinite, absl::MakeSpan(out));
        ASSERT_TRUE(raw.ok()) << raw.status();
        KvExample decoded(source.layout);
        ASSERT_TRUE(
            codec->decode(absl::MakeConstSpan(out).subspan(0, raw->bytes), 0, kKey, decoded.pages())
                .ok());
        EXPECT_TRUE(source.keys == decoded.keys);
        EXPECT_TRUE(source.values == decoded.values);
      }
    }
  }
}

TEST(Codec, DamagedBlocksAreRefusedAndTheDestinationIsUntouched) {
  KvExample source(example_layout(DType::f16, 64, 64, 8));
  source.fill_normal(9);
  const auto codec = make(source.layout, CodecSpec(), CodecBackend::cpu);
  auto block = encode_whole(*codec, request_for(source, 0));
  const auto parsed = EncodedBlock::parse(block, 0);
  KvExample decoded(source.layout);
  const auto untouched = decoded.keys;
  const auto refused = [&](absl::Span<const std::byte> bytes, int dropped, const BlockKey& key) {
    const absl::Status status = codec->decode(bytes, dropped, key, decoded.pages());
    EXPECT_FALSE(status.ok());
    EXPECT_TRUE(decoded.keys == untouched);
  };
  for (const CellEntry& cell : parsed->cells()) {
    for (uint32_t i = 0; i < cell.bytes; i += 41) {
      block[cell.offset + i] ^= std::byte{4};
      refused(block, 0, kKey);
      block[cell.offset + i] ^= std::byte{4};
    }
  }
  for (size_t size = 0; size < block.size(); size += 101) {
    refused(absl::MakeConstSpan(block).subspan(0, size), 0, kKey);
  }
  refused(block, 1, kKey);
  refused(block, -1, kKey);
  refused(block, 0, BlockKey());
  KvLayout other = source.layout;
  other.block_tokens = 16;
  const auto other_codec = make(other, CodecSpec(), CodecBackend::cpu);
  EXPECT_EQ(other_codec->decode(block, 0, kKey, decoded.pages()).code(),
            absl::StatusCode::kFailedPrecondition);
  CodecSpec other_seed;
  other_seed.rotation_seed = 1;
  const auto seed_codec = make(source.layout, other_seed, CodecBackend::cpu);
  EXPECT_EQ(seed_codec->decode(block, 0, kKey, decoded.pages()).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(decoded.keys == untouched);
  EXPECT_TRUE(codec->decode(block, 0, kKey, decoded.pages()).ok());
}

TEST(Codec, ShortBlocksStridedPagesAndBadArguments) {
  KvExample source(example_layout(DType::f16, 64, 64, 64));
  source.fill_normal(4);
  const auto codec = make(source.layout, CodecSpec(), CodecBackend::cpu);
  for (uint32_t tokens : {1u, 3u, 4u, 5u, 63u}) {
    EncodeRequest request = request_for(source, 0);
    request.token_count = tokens;
    const auto block = encode_whole(*codec, request);
    ASSERT_FALSE(block.empty()) << tokens;
    KvExample decoded(source.layout);
    ASSERT_TRUE(codec->decode(block, 0, kKey, decoded.pages()).ok());
  }
  std::vector<std::byte> out(*codec->max_encoded_bytes(64));
  EncodeRequest request = request_for(source, 0);
  for (uint32_t tokens : {0u, 65u}) {
    request.token_count = tokens;
    EXPECT_EQ(codec->encode(request, absl::MakeSpan(out)).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  request.token_count = 64;
  EXPECT_EQ(codec->encode(request, absl::MakeSpan(out).subspan(0, 100)).status().code(),
            absl::StatusCode::kInvalidArgument);
  request.pages.key.layers = request.pages.key.layers.subspan(1);
  EXPECT_EQ(codec->encode(request, absl::MakeSpan(out)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Codec::create(example_layout(DType::f16, 72, 64, 8), CodecSpec()).ok());
  EXPECT_TRUE(Codec::create(example_layout(DType::f16, 72, 64, 8), *parse_codec("raw")).ok());
}

TEST(Opaque, RoundTripsAndRefusesDamage) {
  std::vector<std::byte> payload(100001, std::byte{7});
  std::vector<std::byte> block(*opaque_block_bytes(payload.size()));
  BlockIdentity identity;
  identity.key = kKey;
  ASSERT_TRUE(encode_opaque(payload, identity, absl::MakeSpan(block)).ok());
  const auto back = decode_opaque(block, kKey);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, absl::MakeConstSpan(payload));
  EXPECT_FALSE(decode_opaque(block, BlockKey()).ok());
  block[5000] ^= std::byte{1};
  EXPECT_EQ(decode_opaque(block, kKey).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(opaque_block_bytes(0).ok());
}

}  // namespace
}  // namespace hadal
