#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "common/checksum.h"
#include "tests/kernels/kv_example.h"

namespace hadal {
namespace {

struct GoldenCase {
  const char* name;
  const char* codec;
  DType dtype;
  uint16_t key_head_dim, value_head_dim;
  uint64_t first_token_index;
};

// Every codec family, head_dim and dtype. The files are block format v2: they change with its
// version only.
constexpr GoldenCase kCases[] = {
    {"raw_f16_d64", "raw", DType::f16, 64, 64, 0},
    {"raw_f32_d80", "raw", DType::f32, 80, 48, 64},
    {"k5v4_f16_d64", "k5v4", DType::f16, 64, 64, 0},
    {"k5v4_f16_d80", "k5v4", DType::f16, 80, 80, 64},
    {"k5v4_bf16_d96", "k5v4", DType::bf16, 96, 96, 0},
    {"k4v4_bf16_d112", "k4v4", DType::bf16, 112, 112, 64},
    {"k4v4_bf16_d128", "k4v4", DType::bf16, 128, 128, 64},
    {"k3v2_f32_d192", "k3v2", DType::f32, 192, 128, 0},
    {"k8v8_f32_d256", "k8v8", DType::f32, 256, 256, 64},
    {"k7v6_bf16_d64", "k7v6", DType::bf16, 64, 96, 64},
    {"k1v1_f16_d128", "k1v1", DType::f16, 128, 64, 0},
    {"e4m3_bf16_d128", "e4m3", DType::bf16, 128, 48, 0},
    {"e5m2_f16_d64", "e5m2", DType::f16, 64, 64, 64},
    {"polar_bf16_d128", "polar", DType::bf16, 128, 64, 0},
    {"polar_f32_d80", "polar", DType::f32, 80, 112, 64},
    {"k4v4_prod_bf16_d128", "k4v4-prod", DType::bf16, 128, 64, 0},
    {"k4v8_prod_f16_d576", "k4v8-prod", DType::f16, 576, 64, 64},
    {"k3v2_prodg_f32_d80", "k3v2-prodg", DType::f32, 80, 64, 64},
    {"qjl_f16_d64", "qjl", DType::f16, 64, 112, 0},
    {"qjlg_bf16_d96", "qjlg", DType::bf16, 96, 64, 64},
    {"tqe_bf16_d128", "tqe", DType::bf16, 128, 64, 0},
    {"tqe_f32_d80", "tqe", DType::f32, 80, 576, 64},
    {"k5v4_layer1_k3v2_bf16_d64", "k5v4/1-1:k3v2", DType::bf16, 64, 64, 0},
    {"k5v3_f32_d320", "k5v3", DType::f32, 320, 160, 64},
    {"k5v8_bf16_d512", "k5v8", DType::bf16, 512, 64, 64},  // latent and rope of MLA
    {"k4v6_f16_d576", "k4v6", DType::f16, 576, 576, 64},
};

class Golden : public testing::TestWithParam<GoldenCase> {};

// Dyadic values from a fixed sequence: exact in every dtype, the same on every machine.
void fill(KvExample& example) {
  uint32_t state = 12345;
  example.fill([&](Side, int, int, int, int) {
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(static_cast<int>(state >> 24) - 128) / 32.0f;
  });
}

std::vector<std::byte> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  return {bytes, bytes + text.size()};
}

// The file of that name. To write the files of a new format version, which are `made`, remove the
// old ones and run with --gtest_also_run_disabled_tests once.
std::vector<std::byte> stored_as(const std::string& name, absl::Span<const std::byte> made) {
  const std::string path = HADAL_GOLDEN "/" + name + ".hdb1";
  if (::testing::GTEST_FLAG(also_run_disabled_tests) && !std::filesystem::exists(path)) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(made.data()),
               static_cast<std::streamsize>(made.size()));
  }
  std::vector<std::byte> stored = read(path);
  EXPECT_FALSE(stored.empty()) << "no golden file " << path;
  return stored;
}

TEST_P(Golden, EncodersMakeTheseBytesAndDecodersReadThem) {
  const GoldenCase& golden = GetParam();
  KvLayout layout = example_layout(golden.dtype, golden.key_head_dim, golden.value_head_dim, 5);
  KvExample source(layout);
  fill(source);
  const auto reference =
      *Codec::create(layout, *parse_codec(golden.codec), CodecBackend::reference);
  const auto cpu = *Codec::create(layout, *parse_codec(golden.codec), CodecBackend::cpu);
  const EncodeRequest request = request_for(source, golden.first_token_index);
  const auto made = encode_whole(*reference, request);
  const auto stored = stored_as(golden.name, made);
  EXPECT_EQ(made, stored);
  EXPECT_EQ(encode_whole(*cpu, request), stored);
  KvExample a(layout), b(layout);
  ASSERT_TRUE(reference->decode(stored, 0, request.identity.key, a.pages()).ok());
  ASSERT_TRUE(cpu->decode(stored, 0, request.identity.key, b.pages()).ok());
  EXPECT_TRUE(a.keys == b.keys);
  EXPECT_TRUE(a.values == b.values);
}

INSTANTIATE_TEST_SUITE_P(Format2, Golden, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

// What a client stores where a codec answers non_finite.
TEST(GoldenFlags, ABlockIsRawBecauseOfNaN) {
  KvExample source(example_layout(DType::f16, 64, 64, 5));
  fill(source);
  const uint16_t nan = 0x7e00;
  std::memcpy(source.key_rows[1] + 2 * 100, &nan, sizeof(nan));
  const EncodeRequest request = request_for(source, 64);
  for (const CodecBackend backend : {CodecBackend::reference, CodecBackend::cpu}) {
    const auto codec = *Codec::create(source.layout, *parse_codec("k5v4"), backend);
    std::vector<std::byte> made(*codec->max_encoded_bytes(request.token_count));
    EXPECT_TRUE(codec->encode(request, absl::MakeSpan(made))->non_finite);
    made.resize(codec->encode_raw(request, kBlockNonFinite, absl::MakeSpan(made))->bytes);
    const auto stored = stored_as("raw_because_of_nan_f16_d64", made);
    EXPECT_EQ(made, stored);
    KvExample decoded(source.layout);
    ASSERT_TRUE(codec->decode(stored, 0, request.identity.key, decoded.pages()).ok());
    EXPECT_TRUE(decoded.keys == source.keys);
    EXPECT_TRUE(decoded.values == source.values);
  }
}

TEST(GoldenOpaque, BytesAreKept) {
  std::vector<std::byte> payload(3000);  // leaves of 1 KiB, the last one short
  for (size_t i = 0; i < payload.size(); ++i) payload[i] = static_cast<std::byte>(i * i >> 3);
  BlockIdentity identity;
  identity.key.bytes[0] = 42;
  std::vector<std::byte> made(*opaque_block_bytes(payload.size()));
  ASSERT_TRUE(encode_opaque(payload, identity, absl::MakeSpan(made)).ok());
  const auto stored = stored_as("opaque", made);
  EXPECT_EQ(made, stored);
  const auto read_back = decode_opaque(stored, identity.key);
  ASSERT_TRUE(read_back.ok()) << read_back.status();
  EXPECT_EQ(*read_back, absl::MakeConstSpan(payload));
}

// The most layer groups, of 1 and 2 layers. A block of them has over 1 MB: its digest stands here.
TEST(GoldenDigest, EightLayerGroups) {
  KvLayout layout = example_layout(DType::bf16, 128, 128, 456);
  layout.layer_count = 9;
  KvExample source(layout);
  fill(source);
  const EncodeRequest request = request_for(source, 0);
  for (const CodecBackend backend : {CodecBackend::reference, CodecBackend::cpu}) {
    const auto codec = *Codec::create(layout, *parse_codec("k5v4"), backend);
    const auto made = encode_whole(*codec, request);
    const auto block = EncodedBlock::parse(made, 0);
    ASSERT_TRUE(block.ok()) << block.status();
    EXPECT_EQ(block->header().layer_group_count, 8);
    EXPECT_EQ(hash64(made), 16563161052964104967u);  // changes with the format's version only
    KvExample decoded(layout);
    ASSERT_TRUE(codec->decode(made, 0, request.identity.key, decoded.pages()).ok());
    EXPECT_LT(source.distortion(Side::key, decoded), 0.01);
    EXPECT_LT(source.distortion(Side::value, decoded), 0.02);
  }
}

}  // namespace
}  // namespace hadal
