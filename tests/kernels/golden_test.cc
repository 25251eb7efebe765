#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

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

// Every codec family, head_dim and dtype. The files are block format v1: they change with its
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
    {"k1v1_f16_d128", "k1v1", DType::f16, 128, 64, 0},
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

std::string path_of(const GoldenCase& golden) {
  return std::string(HADAL_GOLDEN "/") + golden.name + ".hdb1";
}

std::vector<std::byte> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  return {bytes, bytes + text.size()};
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
  // Set once to write the files of a new format version.
  if (::testing::GTEST_FLAG(also_run_disabled_tests) && !std::filesystem::exists(path_of(golden))) {
    std::ofstream(path_of(golden), std::ios::binary)
        .write(reinterpret_cast<const char*>(made.data()),
               static_cast<std::streamsize>(made.size()));
  }
  const auto stored = read(path_of(golden));
  ASSERT_FALSE(stored.empty()) << "no golden file " << path_of(golden);
  EXPECT_EQ(made, stored);
  EXPECT_EQ(encode_whole(*cpu, request), stored);
  KvExample a(layout), b(layout);
  ASSERT_TRUE(reference->decode(stored, 0, request.identity.key, a.pages()).ok());
  ASSERT_TRUE(cpu->decode(stored, 0, request.identity.key, b.pages()).ok());
  EXPECT_TRUE(a.keys == b.keys);
  EXPECT_TRUE(a.values == b.values);
}

INSTANTIATE_TEST_SUITE_P(Format1, Golden, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace hadal
