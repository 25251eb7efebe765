#include "common/codec_spec.h"

#include <gtest/gtest.h>

namespace hadal {
namespace {

TEST(CodecSpec, ParsesEveryPresetAndPrintsItBack) {
  for (int key_bits = 1; key_bits <= 8; ++key_bits) {
    for (int value_bits = 1; value_bits <= 8; ++value_bits) {
      const std::string name = "k" + std::to_string(key_bits) + "v" + std::to_string(value_bits);
      const auto spec = parse_codec(name);
      ASSERT_TRUE(spec.ok()) << name;
      EXPECT_EQ(spec->name(), name);
      EXPECT_TRUE(spec->validate().ok()) << spec->validate();
    }
  }
  EXPECT_EQ(parse_codec("raw")->name(), "raw");
  EXPECT_TRUE(parse_codec("raw")->validate().ok());
}

TEST(CodecSpec, ParsesTheWholeFamilyAndPrintsItBack) {
  for (const char* name :
       {"k2v2-prod", "k4v4-prod", "k8v3-prodg", "qjl", "qjlg", "polar", "e4m3", "e5m2", "tqe",
        "k5v4/0-1:k8v8", "k5v4/0-0:k8v8/30-31:k1v2", "k4v4-prodg/3-5:k2v2"}) {
    const auto spec = parse_codec(name);
    ASSERT_TRUE(spec.ok()) << spec.status();
    EXPECT_EQ(spec->name(), name);
    EXPECT_TRUE(spec->validate().ok()) << spec->validate();
  }
  EXPECT_EQ(parse_codec("k4v4-prod")->family, CodecFamily::turboquant_prod);
  EXPECT_FALSE(parse_codec("k4v4-prod")->gaussian_projection);
  EXPECT_TRUE(parse_codec("qjlg")->gaussian_projection);
  EXPECT_FALSE(parse_codec("e4m3")->key_offsets);
  EXPECT_TRUE(parse_codec("tqe")->precision().satisfies({8, 8}));
}

TEST(CodecSpec, LayersHaveBitsOfTheirOwn) {
  const CodecSpec spec = *parse_codec("k5v4/0-1:k8v8/4-4:k3v2");
  const auto bits = [&](int layer) {
    const LayerBits of = spec.bits_of_layer(layer);
    return 10 * of.key_bits + of.value_bits;
  };
  EXPECT_EQ(bits(0), 88);
  EXPECT_EQ(bits(1), 88);
  EXPECT_EQ(bits(2), 54);
  EXPECT_EQ(bits(4), 32);
  EXPECT_EQ(bits(5), 54);
  EXPECT_EQ(spec.precision(), (Precision{8, 8}));
  EXPECT_EQ(spec.floor, (Precision{4, 3}));
}

TEST(CodecSpec, DefaultIsK5V4WithFloorK4V3) {
  EXPECT_EQ(CodecSpec().name(), "k5v4");
  EXPECT_EQ(parse_codec("k5v4")->floor, (Precision{4, 3}));
  EXPECT_EQ(parse_codec("k5v8")->floor, (Precision{4, 8}));  // MLA
  EXPECT_EQ(CodecSpec().floor, (Precision{4, 3}));
}

TEST(CodecSpec, RefusesOthers) {
  for (const char* name :
       {"",
        "k5",
        "k0v4",
        "k9v4",
        "k5v0",
        "v4k5",
        "k5v4 ",
        "RAW",
        "k1v4-prod",
        "k4v4-prodx",
        "qjlgg",
        "rawg",
        "k5v4/",
        "k5v4/0:k8v8",
        "k5v4/0-1:k9v8",
        "k5v4/1-0:k8v8",
        "k5v4/0-1:k8v8x",
        "polar/0-1:k8v8",
        "k5v4/0-1024:k8v8",
        "k5v4/2-3:k8v8/0-1:k8v8",
        "k5v4/0-1:k8v8/1-2:k8v8",
        "k5v4/-1-2:k8v8",
        "k5v4/0-0:k8v8/1-1:k8v8/2-2:k8v8/3-3:k8v8/4-4:k8v8/5-5:k8v8/6-6:k8v8/7-7:k8v8/8-8:k8v8"}) {
    EXPECT_EQ(parse_codec(name).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
  CodecSpec spec;
  spec.floor = {6, 3};
  EXPECT_FALSE(spec.validate().ok());
  spec = CodecSpec();
  spec.exact_tokens = 65;
  EXPECT_FALSE(spec.validate().ok());
  spec = *parse_codec("qjl");
  spec.key_bits = 1;
  EXPECT_FALSE(spec.validate().ok());
  spec = CodecSpec();
  spec.gaussian_projection = true;
  EXPECT_FALSE(spec.validate().ok());
  spec = CodecSpec();
  spec.family = static_cast<CodecFamily>(8);
  EXPECT_FALSE(spec.validate().ok());
}

TEST(Precision, RawSatisfiesEverything) {
  EXPECT_TRUE(parse_codec("raw")->precision().satisfies({8, 8}));
  EXPECT_TRUE((Precision{5, 4}).satisfies({5, 4}));
  EXPECT_FALSE((Precision{5, 3}).satisfies({4, 4}));
}

}  // namespace
}  // namespace hadal
