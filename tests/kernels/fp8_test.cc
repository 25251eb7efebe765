#include "kernels/fp8.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "tests/kernels/backends.h"

namespace hadal {
namespace {

// As the specification's table has them, apart from kernels/fp8.h.
struct Format {
  const char* name;
  CodecFamily family;
  int fraction_bits, bias;
  int code_max;  // of the largest number
  double value_max, normal_min, subnormal_min;
};
constexpr Format kFormats[] = {
    {"e4m3", CodecFamily::fp8_e4m3, 3, 7, 0x7e, 448, 0x1p-6, 0x1p-9},
    {"e5m2", CodecFamily::fp8_e5m2, 2, 15, 0x7b, 57344, 0x1p-14, 0x1p-16},
};

// What a code stands for; of infinity and NaN, which are never written, the largest number.
double value_of(const Format& format, int code) {
  const int magnitude = std::min(code & 0x7f, format.code_max);
  const int exponent = magnitude >> format.fraction_bits;
  const double fraction =
      (magnitude & ((1 << format.fraction_bits) - 1)) / std::pow(2, format.fraction_bits);
  const double value = exponent == 0 ? fraction * std::pow(2, 1 - format.bias)
                                     : (1 + fraction) * std::pow(2, exponent - format.bias);
  return (code & 0x80) != 0 ? -value : value;
}

// One vector through a backend's functions.
struct Coded {
  uint16_t scale = 0;
  std::vector<uint8_t> codes;
  bool finite = false;
};
Coded encode(const Format& format, CodecBackend backend, const std::vector<float>& values) {
  Coded coded;
  coded.codes.resize(values.size());
  EncodeRun run;
  run.values = reinterpret_cast<const std::byte*>(values.data());
  run.dtype = DType::f32;
  run.token_count = 1;
  run.head_dim = static_cast<int>(values.size());
  run.plane_count = 1;
  run.norms = &coded.scale;
  run.planes[0] = reinterpret_cast<std::byte*>(coded.codes.data());
  coded.finite = vector_codec(format.family, backend).encode(run);
  return coded;
}
std::vector<float> decode(const Format& format, CodecBackend backend, const Coded& coded) {
  std::vector<float> values(coded.codes.size());
  DecodeRun run;
  run.values = reinterpret_cast<std::byte*>(values.data());
  run.dtype = DType::f32;
  run.token_count = 1;
  run.head_dim = static_cast<int>(values.size());
  run.plane_count = 1;
  run.norms = &coded.scale;
  run.planes[0] = reinterpret_cast<const std::byte*>(coded.codes.data());
  vector_codec(format.family, backend).decode(run);
  return values;
}

TEST(Fp8, EveryCodeDecodesAsTheSpecificationSays) {
  for (const Format& format : kFormats) {
    EXPECT_EQ(value_of(format, format.code_max), format.value_max);
    EXPECT_EQ(value_of(format, 1 << format.fraction_bits), format.normal_min);
    EXPECT_EQ(value_of(format, 1), format.subnormal_min);
    on_every_instruction_set([&](const std::string& target) {
      for (const CodecBackend backend : kBackends) {
        Coded coded;
        coded.scale = 0x4040;  // 3
        for (int code = 0; code < 256; ++code) coded.codes.push_back(static_cast<uint8_t>(code));
        const std::vector<float> values = decode(format, backend, coded);
        for (int code = 0; code < 256; ++code) {
          EXPECT_EQ(values[code], 3 * value_of(format, code)) << format.name << " " << code;
          EXPECT_EQ(std::signbit(values[code]), code >= 128) << target << " " << code;
        }
      }
    });
  }
}

// Magnitudes up to the largest: every bf16 value; of f32 every code, every midpoint, and their
// neighbours.
std::vector<float> values_to_round(const Format& format) {
  std::vector<float> values;
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    values.push_back(std::bit_cast<float>(bits << 16));
  }
  for (int code = 0; code < format.code_max; ++code) {
    const double low = value_of(format, code), high = value_of(format, code + 1);
    for (const double exact : {low, (low + high) / 2, high}) {
      const auto value = static_cast<float>(exact);
      for (const float near : {std::nextafter(value, 0.0f), value, std::nextafter(value, 1e6f)}) {
        values.push_back(near);
        values.push_back(-near);
      }
    }
  }
  values.erase(std::remove_if(values.begin(), values.end(),
                              [&](float value) { return !(std::abs(value) <= format.value_max); }),
               values.end());
  return values;
}

uint8_t nearest_code(const Format& format, float value) {
  int best = 0;
  for (int code = 1; code <= format.code_max; ++code) {
    const double magnitude = std::abs(static_cast<double>(value));
    const double error = std::abs(value_of(format, code) - magnitude);
    const double best_error = std::abs(value_of(format, best) - magnitude);
    if (error < best_error || (error == best_error && code % 2 == 0)) best = code;
  }
  return static_cast<uint8_t>(best | (std::signbit(value) ? 0x80 : 0));
}

TEST(Fp8, ValuesRoundToTheNearestCodeTiesToEven) {
  for (const Format& format : kFormats) {
    std::vector<float> values = values_to_round(format);
    EXPECT_GT(values.size(), 30000u);
    values.resize((values.size() + 254) / 255 * 255);
    std::vector<uint8_t> expected;
    for (const float value : values) expected.push_back(nearest_code(format, value));
    on_every_instruction_set([&](const std::string& target) {
      for (const CodecBackend backend : kBackends) {
        size_t wrong = 0;
        for (size_t i = 0; i < values.size(); i += 255) {
          // The largest code's value makes the scale 1.
          std::vector<float> vector(values.begin() + i, values.begin() + i + 255);
          vector.push_back(static_cast<float>(format.value_max));
          const Coded coded = encode(format, backend, vector);
          ASSERT_TRUE(coded.finite);
          ASSERT_EQ(coded.scale, 0x3f80);
          for (size_t k = 0; k < 255; ++k) wrong += coded.codes[k] != expected[i + k];
        }
        EXPECT_EQ(wrong, 0u) << format.name << " " << target;
      }
    });
  }
}

// From the smallest vector that is not stored as zero to the largest that is not refused.
TEST(Fp8, TheScaleUsesTheWholeRangeAndNothingSaturates) {
  std::mt19937 random(1);
  for (const Format& format : kFormats) {
    for (const CodecBackend backend : kBackends) {
      for (int exponent = -64; exponent < 127; ++exponent) {
        std::vector<float> values(16);
        const float mantissa = 1 + static_cast<float>(random() % (1u << 23)) * 0x1p-23f;
        values[5] = std::ldexp(mantissa, exponent);
        const Coded coded = encode(format, backend, values);
        EXPECT_TRUE(coded.finite);
        const double scale = std::bit_cast<float>(uint32_t{coded.scale} << 16);
        const double largest = values[5];
        EXPECT_GE(scale * format.value_max, largest * (1 - 0x1p-23)) << exponent;
        EXPECT_LE(scale * format.value_max, largest * (1 + 0x1p-6)) << exponent;
        const double decoded = decode(format, backend, coded)[5];
        EXPECT_LE(std::abs(decoded - largest), largest / (2 << format.fraction_bits)) << exponent;
      }
    }
  }
}

TEST(Fp8, EmptyTinyAndHugeVectors) {
  const float huge = std::bit_cast<float>(0x7effffffu);  // just below 2^127
  for (const Format& format : kFormats) {
    for (const CodecBackend backend : kBackends) {
      for (const float value : {0.0f, -0.0f, 1e-40f, -0x1.fffffep-65f}) {
        const Coded coded = encode(format, backend, std::vector<float>(32, value));
        EXPECT_TRUE(coded.finite);
        EXPECT_EQ(coded.scale, 0);
        for (const float decoded : decode(format, backend, coded)) EXPECT_EQ(decoded, 0.0f);
      }
      const Coded coded = encode(format, backend, std::vector<float>(16, -huge));
      EXPECT_TRUE(coded.finite);
      EXPECT_NEAR(decode(format, backend, coded)[15] / huge, -1, 0.07);
      for (const float refused : {0x1p127f, -std::numeric_limits<float>::max()}) {
        EXPECT_FALSE(encode(format, backend, std::vector<float>(16, refused)).finite);
      }
    }
  }
}

TEST(Fp8, NonFiniteValuesAreReported) {
  on_every_instruction_set([](const std::string& target) {
    SCOPED_TRACE(target);
    for (const Format& format : kFormats) {
      for (const CodecBackend backend : kBackends) {
        expect_non_finite_is_reported(format.name, backend);
      }
    }
  });
}

// head_dims that no rotation has too.
TEST(Fp8, BackendsAgree) {
  on_every_instruction_set([](const std::string& target) {
    for (const uint16_t head_dim : {16, 48, 64, 80, 112, 128, 192, 256, 576}) {
      for (const DType dtype : kFloatTypes) {
        for (int kind = 0; kind < kAdversarialKinds; ++kind) {
          for (const Format& format : kFormats) {
            SCOPED_TRACE(absl::StrCat(target, " ", head_dim, " ", dtype_name(dtype), " ", kind));
            KvExample source(example_layout(dtype, head_dim, 128, 9));
            fill_adversarial(source, kind);
            expect_backends_agree(source, format.name, kind % 3 == 0 ? 0 : 64);
          }
        }
      }
    }
  });
}

TEST(Fp8, AnyBytesDecodeToFiniteValuesAlikeEverywhere) {
  on_every_instruction_set([](const std::string& target) {
    for (const DType dtype : kFloatTypes) {
      for (const Format& format : kFormats) {
        SCOPED_TRACE(absl::StrCat(target, " ", dtype_name(dtype), " ", format.name));
        KvExample source(example_layout(dtype, 128, 48, 64));
        source.fill_normal(3);
        const auto codec = make_codec(source.layout, format.name, CodecBackend::reference);
        const auto block =
            with_random_vectors(encode_whole(*codec, request_for(source, 64)), source.layout);
        expect_backends_agree(source, format.name, 64, block);
        decode_whole(*codec, block)->for_each([&](Side, std::byte* at, int, int, int, int) {
          EXPECT_LE(std::abs(KvExample::load(at, dtype)), 0x1.02p127f);
        });
      }
    }
  });
}

TEST(Fp8, DistortionIsThatOfTheFormat) {
  for (const DType dtype : kFloatTypes) {
    for (const CodecBackend backend : kBackends) {
      KvExample source(example_layout(dtype, 128, 80, 64));
      source.fill_normal(7);
      for (const Format& format : kFormats) {
        const auto codec = make_codec(source.layout, format.name, backend);
        const auto decoded = decode_whole(*codec, encode_whole(*codec, request_for(source, 64)));
        // It moves with where the scale puts the values between two powers of two.
        const double expected = format.fraction_bits == 3 ? 0.00065 : 0.0026;
        EXPECT_NEAR(source.distortion(Side::key, *decoded), expected, expected * 0.07);
        EXPECT_NEAR(source.distortion(Side::value, *decoded), expected, expected * 0.07);
      }
    }
  }
}

TEST(Fp8, FirstTokensOfASequenceAreExact) {
  for (const CodecBackend backend : kBackends) {
    KvExample source(example_layout(DType::bf16, 64, 48, 16));
    source.fill_normal(1);
    const auto codec = make_codec(source.layout, "e4m3", backend);
    const auto decoded = decode_whole(*codec, encode_whole(*codec, request_for(source, 0)));
    const size_t exact_bytes = 4 * 2 * 48 * 2;
    for (int layer = 0; layer < 2; ++layer) {
      const std::byte* rows[] = {source.value_rows[layer], decoded->value_rows[layer]};
      EXPECT_EQ(std::memcmp(rows[0], rows[1], exact_bytes), 0);
      EXPECT_NE(std::memcmp(rows[0], rows[1], 2 * exact_bytes), 0);
    }
  }
}

TEST(Fp8, OtherHeadDimsAreRefused) {
  const auto codec = Codec::create(example_layout(DType::f16, 72, 64, 8), *parse_codec("e4m3"));
  EXPECT_EQ(codec.status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace hadal
