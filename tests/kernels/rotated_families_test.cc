// What TurboQuant-prod, QJL, PolarQuant and tqe have in common with TurboQuant-MSE, whose tests are
// in codec_test.cc. What each is for is tested in a file of its own.

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "kernels/polar.h"
#include "kernels/projection.h"
#include "kernels/rotation.h"
#include "tests/kernels/backends.h"

namespace hadal {
namespace {

struct Family {
  const char* name;
  float huge;          // a value; 8 times that is a vector's length
  double huge_error;   // at most
  double error;        // squared, of normal values
  float decoded_most;  // whatever the bytes are
};
constexpr float kProjectedMost = 16 * kProjectedLengthMax;  // the largest centroid, or 64 signs
constexpr float kAny = std::numeric_limits<float>::max();
constexpr Family kFamilies[] = {
    // No value is longer than its vector, of 16 radii at most.
    {"polar", 0x1.fp56f, 0.1, 0.032, 4.1f * kPolarLengthMax},
    {"tqe", 0x1.fp59f, 0.0075, 0.0049, kAny},
    {"k2v2-prod", 0x1.fp60f, 2.5, 0.207, kProjectedMost},
    {"k4v4-prod", 0x1.fp60f, 2.5, 0.0197, kProjectedMost},
    {"k6v6-prod", 0x1.fp60f, 2.5, 0.00143, kProjectedMost},
    {"k8v8-prod", 0x1.fp60f, 2.5, 0.0000955, kProjectedMost},
    {"k8v8-prodg", 0x1.fp60f, 2.5, 0.00026, kProjectedMost},
    {"qjl", 0x1.fp60f, 2.5, 0.571, kProjectedMost},
    {"qjlg", 0x1.fp60f, 2.5, 1.571, kProjectedMost},
};

class RotatedFamily : public testing::TestWithParam<Family> {
 protected:
  // The reference takes d^2 steps a vector with a Gaussian projection: the smallest head_dim, one
  // with a core and the largest. Prod.BackendsAgreeOnTheLargestGaussianSums has all.
  static std::vector<uint16_t> head_dims() {
    if (parse_codec(GetParam().name)->gaussian_projection) return {64, 80, 576};
    return {kHeadDims.begin(), kHeadDims.end()};
  }
  // Calls work(backend, codec).
  template <typename Work>
  void on_backends(const KvLayout& layout, Work work) {
    for (const CodecBackend backend : kBackends) {
      work(*make_codec(layout, GetParam().name, backend));
    }
  }
};

TEST_P(RotatedFamily, BackendsAgree) {
  on_every_instruction_set([](const std::string& target) {
    int turn = 0;
    for (const uint16_t head_dim : head_dims()) {
      for (int kind = 0; kind < kAdversarialKinds; ++kind) {
        const DType dtype = kFloatTypes[turn++ % 3];
        SCOPED_TRACE(absl::StrCat(target, " ", head_dim, " ", dtype_name(dtype), " ", kind));
        // Tokens that are no multiple of any width; from kind 4 on with exact ones.
        KvExample source(example_layout(dtype, head_dim, 128, kind % 2 == 0 ? 9 : 35));
        fill_adversarial(source, kind);
        expect_backends_agree(source, GetParam().name, kind >= 4 ? 0 : 64);
      }
    }
  });
}

TEST_P(RotatedFamily, AnyBytesDecodeToFiniteValuesAlikeEverywhere) {
  on_every_instruction_set([](const std::string& target) {
    int turn = 0;
    for (const uint16_t head_dim : head_dims()) {
      const DType dtype = kFloatTypes[turn++ % 3];
      SCOPED_TRACE(absl::StrCat(target, " ", head_dim, " ", dtype_name(dtype)));
      KvExample source(example_layout(dtype, head_dim, 64, 33));
      source.fill_normal(3);
      const auto codec = make_codec(source.layout, GetParam().name, CodecBackend::reference);
      const auto block =
          with_random_vectors(encode_whole(*codec, request_for(source, 64)), source.layout);
      expect_backends_agree(source, GetParam().name, 64, block);
      decode_whole(*codec, block)->for_each([&](Side, std::byte* at, int, int, int, int) {
        EXPECT_LE(std::abs(KvExample::load(at, dtype)), GetParam().decoded_most);
      });
    }
  });
}

TEST_P(RotatedFamily, NonFiniteValuesAreReported) {
  on_every_instruction_set([](const std::string& target) {
    SCOPED_TRACE(target);
    for (const CodecBackend backend : kBackends) {
      expect_non_finite_is_reported(GetParam().name, backend);
    }
  });
}

TEST_P(RotatedFamily, EmptyTinyAndHugeVectors) {
  KvExample source(example_layout(DType::f32, 64, 64, 4));
  on_backends(source.layout, [&](const Codec& codec) {
    for (const float value : {0.0f, -0.0f, 1e-40f, -0x1.0p-68f}) {  // 8 times that is their length
      source.fill([&](Side, int, int, int, int) { return value; });
      const auto decoded = decode_whole(codec, encode_whole(codec, request_for(source, 64)));
      decoded->for_each([](Side side, std::byte* at, int, int, int, int) {
        if (side == Side::key) return;  // keys are their mean
        EXPECT_EQ(KvExample::load(at, DType::f32), 0.0f);
      });
    }
    for (const float value : {0x1.0p-67f, GetParam().huge}) {
      source.fill([&](Side, int, int, int, int i) { return i % 3 == 0 ? -value : value; });
      const auto decoded = decode_whole(codec, encode_whole(codec, request_for(source, 64)));
      EXPECT_LT(source.distortion(Side::value, *decoded), GetParam().huge_error) << value;
    }
  });
}

TEST_P(RotatedFamily, KeyOffsetsCureACommonMean) {
  KvExample source(example_layout(DType::f32, 128, 128, 64));
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  source.fill([&](Side, int, int, int, int i) { return normal(random) + (i % 5 == 0 ? 9.0f : 0); });
  on_backends(source.layout, [&](const Codec& codec) {
    const auto decoded = decode_whole(codec, encode_whole(codec, request_for(source, 64)));
    // The mean square is 17.2, of which 1 varies.
    EXPECT_NEAR(source.distortion(Side::key, *decoded) * 17.2, GetParam().error,
                0.12 * GetParam().error);
    EXPECT_GT(source.distortion(Side::value, *decoded) * 17.2, 8 * GetParam().error);
  });
}

TEST_P(RotatedFamily, FirstTokensOfASequenceAreExact) {
  KvExample source(example_layout(DType::bf16, 64, 64, 16));
  source.fill_normal(1);
  on_backends(source.layout, [&](const Codec& codec) {
    const auto decoded = decode_whole(codec, encode_whole(codec, request_for(source, 0)));
    const size_t exact_bytes = 4 * 2 * 64 * 2;
    for (int layer = 0; layer < 2; ++layer) {
      const std::byte* rows[] = {source.key_rows[layer], decoded->key_rows[layer]};
      EXPECT_EQ(std::memcmp(rows[0], rows[1], exact_bytes), 0);
      EXPECT_NE(std::memcmp(rows[0], rows[1], 2 * exact_bytes), 0);
    }
  });
}

TEST_P(RotatedFamily, OtherHeadDimsAreRefused) {
  const auto codec =
      Codec::create(example_layout(DType::f16, 48, 64, 8), *parse_codec(GetParam().name));
  EXPECT_EQ(codec.status().code(), absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(All, RotatedFamily, testing::ValuesIn(kFamilies),
                         [](const auto& info) { return test_name(info.param.name); });

}  // namespace
}  // namespace hadal
