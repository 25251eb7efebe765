#include "kernels/direct_product.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/rotation.h"
#include "tests/kernels/backends.h"

namespace hadal {
namespace {

std::vector<float> normal_query(int head_dim, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> query(head_dim);
  for (float& value : query) value = normal(random);
  return query;
}

// Scores of every layer, head and token against the products of the query with decoded keys.
// `tolerance`: of the product of the lengths.
void expect_products_of_decoded_keys(const Codec& codec, absl::Span<const std::byte> bytes,
                                     int dropped, double tolerance) {
  KvExample decoded(codec.layout());
  BlockKey key;
  key.bytes[0] = 42;
  ASSERT_TRUE(codec.decode(bytes, dropped, key, decoded.pages()).ok());
  const EncodedBlock block = *EncodedBlock::parse(bytes, dropped);
  const KvLayout& layout = codec.layout();
  const auto query = normal_query(layout.key_head_dim, 9);
  const auto direct = DirectQuery::create(codec, query);
  ASSERT_TRUE(direct.ok()) << direct.status();
  const size_t value_bytes = dtype_bytes(layout.dtype);
  for (int layer = 0; layer < layout.layer_count; ++layer) {
    for (int head = 0; head < layout.kv_head_count; ++head) {
      std::vector<float> scores(block.header().token_count);
      const absl::Status status = direct->scores(block, layer, head, absl::MakeSpan(scores));
      ASSERT_TRUE(status.ok()) << status;
      for (size_t token = 0; token < scores.size(); ++token) {
        const std::byte* at = decoded.key_rows[layer] +
                              (token * layout.kv_head_count + head) * query.size() * value_bytes;
        double product = 0, query_squared = 0, key_squared = 0;
        for (size_t i = 0; i < query.size(); ++i) {
          const double value = KvExample::load(at + i * value_bytes, layout.dtype);
          product += query[i] * value;
          query_squared += double{query[i]} * query[i];
          key_squared += value * value;
        }
        EXPECT_NEAR(scores[token], product, tolerance * std::sqrt(query_squared * key_squared))
            << layer << " " << head << " " << token;
      }
    }
  }
}

constexpr const char* kNames[] = {"k4v4-prod", "k2v2-prodg", "k8v8-prod", "qjl",
                                  "qjlg",      "k5v4",       "k1v1",      "raw"};

// With offsets, which normal values with a common mean have, and with exact tokens.
TEST(DirectProduct, IsThatOfTheDecodedKey) {
  for (const char* name : kNames) {
    for (const uint16_t head_dim : kHeadDims) {
      for (const DType dtype : kFloatTypes) {
        SCOPED_TRACE(absl::StrCat(name, " ", head_dim, " ", dtype_name(dtype)));
        KvExample source(example_layout(dtype, head_dim, 64, 7));
        std::mt19937 random(head_dim);
        std::normal_distribution<float> normal;
        source.fill([&](Side, int, int token, int, int i) {
          return normal(random) + (i % 5 == 0 && token % 3 != 0 ? 4.0f : 0.0f);
        });
        const auto codec = make_codec(source.layout, name, CodecBackend::cpu);
        const double tolerance = dtype == DType::f32 ? 2e-6 : dtype == DType::f16 ? 3e-4 : 3e-3;
        for (const uint64_t first : {0, 64}) {
          expect_products_of_decoded_keys(*codec, encode_whole(*codec, request_for(source, first)),
                                          0, tolerance);
        }
      }
    }
  }
}

TEST(DirectProduct, OfBlocksThatLackPlanes) {
  KvLayout layout = example_layout(DType::f32, 128, 64, 9);
  layout.layer_count = 4;
  KvExample source(layout);
  source.fill_normal(3);
  for (const char* name :
       {"k4v4-prod", "k5v2-prodg", "k5v4", "k4v3-prod/0-0:k6v5/3-3:k3v2", "k2v4/2-3:k8v1"}) {
    const auto codec = make_codec(layout, name, CodecBackend::cpu);
    const auto reference = make_codec(layout, name, CodecBackend::reference);
    const auto block = encode_whole(*codec, request_for(source, 0));
    const BlockExtents extents = block_extents(*EncodedBlock::parse(block, 0));
    for (size_t dropped = 0; dropped < extents.prefix_bytes.size(); ++dropped) {
      SCOPED_TRACE(absl::StrCat(name, " ", dropped));
      const auto prefix = absl::MakeConstSpan(block).subspan(0, extents.prefix_bytes[dropped]);
      expect_products_of_decoded_keys(*codec, prefix, static_cast<int>(dropped), 2e-6);
      expect_products_of_decoded_keys(*reference, prefix, static_cast<int>(dropped), 2e-6);
    }
  }
}

// As a client does where values are not finite.
TEST(DirectProduct, OfBlocksThatWereStoredRaw) {
  KvExample source(example_layout(DType::f16, 96, 64, 9));
  source.fill_normal(3);
  const auto codec = make_codec(source.layout, "k4v4-prod", CodecBackend::cpu);
  std::vector<std::byte> block(*codec->max_encoded_bytes(9));
  block.resize(codec->encode_raw(request_for(source, 0), 0, absl::MakeSpan(block))->bytes);
  expect_products_of_decoded_keys(*codec, block, 0, 1e-6);
}

TEST(DirectProduct, NamesWhatIsWrong) {
  KvExample source(example_layout(DType::f16, 64, 80, 8));
  source.fill_normal(1);
  const auto codec = make_codec(source.layout, "k4v4-prod", CodecBackend::cpu);
  const auto bytes = encode_whole(*codec, request_for(source, 64));
  const EncodedBlock block = *EncodedBlock::parse(bytes, 0);
  const auto query = normal_query(64, 1);
  const auto direct = *DirectQuery::create(*codec, query);
  std::vector<float> scores(8, 7.0f);
  const auto expect_refused = [&](const absl::Status& status, absl::StatusCode code,
                                  absl::string_view part) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_NE(status.message().find(part), std::string::npos) << status;
    EXPECT_EQ(scores, std::vector<float>(8, 7.0f));
  };
  const auto out = absl::MakeSpan(scores);
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kFailed = absl::StatusCode::kFailedPrecondition;
  for (const auto& [layer, head] : {std::pair(-1, 0), {2, 0}, {0, -1}, {0, 2}}) {
    expect_refused(direct.scores(block, layer, head, out), kInvalid, absl::StrCat("layer ", layer));
  }
  expect_refused(direct.scores(block, 0, 0, out.subspan(1)), kInvalid, "room for 7 scores");
  expect_refused(DirectQuery::create(*codec, absl::MakeSpan(query).subspan(1)).status(), kInvalid,
                 "query has 63 values");
  for (const char* name : {"k4v4-prodg", "k4v4", "qjl"}) {
    const auto other = make_codec(source.layout, name, CodecBackend::cpu);
    expect_refused(DirectQuery::create(*other, query)->scores(block, 0, 0, out), kFailed,
                   "block has codec k4v4-prod");
  }
  CodecSpec reseeded = codec->spec();
  ++reseeded.rotation_seed;
  const auto other_seed = *Codec::create(source.layout, reseeded);
  expect_refused(DirectQuery::create(*other_seed, query)->scores(block, 0, 0, out), kFailed,
                 "rotation seed");
  const auto other_layout =
      make_codec(example_layout(DType::f16, 64, 64, 8), "k4v4-prod", CodecBackend::cpu);
  expect_refused(DirectQuery::create(*other_layout, query)->scores(block, 0, 0, out), kFailed,
                 "layout");
  for (const char* name : {"polar", "e4m3"}) {
    const auto polar = make_codec(source.layout, name, CodecBackend::cpu);
    expect_refused(DirectQuery::create(*polar, query).status(), absl::StatusCode::kUnimplemented,
                   "no direct products");
  }
  const auto bytes_codec =
      make_codec(example_layout(DType::f8_e4m3, 64, 64, 8), "raw", CodecBackend::cpu);
  expect_refused(DirectQuery::create(*bytes_codec, query).status(),
                 absl::StatusCode::kUnimplemented, "f8_e4m3");
  EXPECT_TRUE(direct.scores(block, 1, 1, out).ok());
  EXPECT_NE(scores, std::vector<float>(8, 7.0f));
}

}  // namespace
}  // namespace hadal
