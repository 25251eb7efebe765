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

TEST(CodecSpec, DefaultIsK5V4WithFloorK4V3) {
  EXPECT_EQ(CodecSpec().name(), "k5v4");
  EXPECT_EQ(parse_codec("k5v4")->floor, (Precision{4, 3}));
  EXPECT_EQ(CodecSpec().floor, (Precision{4, 3}));
}

TEST(CodecSpec, RefusesOthers) {
  for (const char* name : {"", "k5", "k0v4", "k9v4", "k5v0", "v4k5", "k5v4 ", "RAW"}) {
    EXPECT_EQ(parse_codec(name).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
  CodecSpec spec;
  spec.floor = {6, 3};
  EXPECT_FALSE(spec.validate().ok());
  spec = CodecSpec();
  spec.exact_tokens = 65;
  EXPECT_FALSE(spec.validate().ok());
}

TEST(Precision, RawSatisfiesEverything) {
  EXPECT_TRUE(parse_codec("raw")->precision().satisfies({8, 8}));
  EXPECT_TRUE((Precision{5, 4}).satisfies({5, 4}));
  EXPECT_FALSE((Precision{5, 3}).satisfies({4, 4}));
}

}  // namespace
}  // namespace hadal
