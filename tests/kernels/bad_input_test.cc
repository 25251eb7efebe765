// What every codec does with input that is wrong: it says what, and changes nothing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tests/kernels/backends.h"

namespace hadal {
namespace {

using testing::HasSubstr;

constexpr const char* kCodecs[] = {"raw",       "k8v8", "k5v4", "k1v1",  "k4v4/1-1:k8v3",
                                   "k4v4-prod", "qjl",  "qjlg", "polar", "k3v2-prodg",
                                   "e4m3",      "e5m2", "tqe"};

class BadInput : public testing::TestWithParam<const char*> {
 protected:
  BadInput() : source_(example_layout(DType::bf16, 64, 64, 8)) {
    source_.fill_normal(1);
    codec_ = make_codec(source_.layout, GetParam(), CodecBackend::cpu);
    out_.resize(*codec_->max_encoded_bytes(8));
  }

  absl::Status encode(const EncodeRequest& request) {
    return codec_->encode(request, absl::MakeSpan(out_)).status();
  }
  // Expects that both directions name `what` of pages that `change` made wrong.
  void expect_pages_are_refused(const std::function<void(KvPages&)>& change,
                                const std::string& what) {
    SCOPED_TRACE(what);
    const std::vector<std::byte> block = encode_whole(*codec_, request_for(source_, 0));
    EncodeRequest request = request_for(source_, 0);
    change(request.pages);
    const absl::Status encoded = encode(request);
    EXPECT_EQ(encoded.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(encoded.message()), HasSubstr(what));
    KvExample decoded(source_.layout);
    const auto before = decoded.keys;
    KvPages pages = decoded.pages();
    change(pages);
    const absl::Status status = codec_->decode(block, 0, request.identity.key, pages);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
    EXPECT_TRUE(decoded.keys == before);
  }
  void expect_block_is_refused(absl::Span<const std::byte> block, int dropped_planes) {
    KvExample decoded(source_.layout);
    const auto keys = decoded.keys, values = decoded.values;
    BlockKey key;
    key.bytes[0] = 42;  // as request_for()
    const absl::Status status = codec_->decode(block, dropped_planes, key, decoded.pages());
    EXPECT_FALSE(status.ok());
    EXPECT_FALSE(status.message().empty());
    EXPECT_TRUE(decoded.keys == keys && decoded.values == values);
  }

  KvExample source_;
  std::unique_ptr<const Codec> codec_;
  std::vector<std::byte> out_;
};

TEST_P(BadInput, TokensAndRoomAreNamed) {
  EncodeRequest request = request_for(source_, 0);
  for (const uint32_t tokens : {0u, 9u, UINT32_MAX}) {
    request.token_count = tokens;
    const absl::Status status = encode(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat(tokens)));
  }
  request.token_count = 8;
  for (const size_t room : {size_t{0}, size_t{100}}) {
    const auto refused = codec_->encode(request, absl::MakeSpan(out_).first(room));
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("max_encoded_bytes"));
  }
}

TEST_P(BadInput, PagesAreNamed) {
  std::vector<std::byte*> with_null = {source_.value_rows[0], nullptr};
  expect_pages_are_refused([](KvPages& pages) { pages.key.layers.remove_suffix(1); }, "1 layers");
  expect_pages_are_refused([&](KvPages& pages) { pages.value.layers = with_null; }, "null");
  expect_pages_are_refused([](KvPages& pages) { pages.key.token_stride_bytes /= 2; }, "K strides");
  expect_pages_are_refused([](KvPages& pages) { pages.value.head_stride_bytes -= 2; }, "V strides");
  expect_pages_are_refused([](KvPages& pages) { pages.key.token_stride_bytes = 0; }, "K strides");
  expect_pages_are_refused([](KvPages& pages) { pages.value.token_stride_bytes = SIZE_MAX - 1; },
                           "V strides");
  expect_pages_are_refused([](KvPages& pages) { pages.key.head_stride_bytes = size_t{1} << 62; },
                           "K strides");
}

TEST_P(BadInput, LayoutsAreNamed) {
  const CodecSpec spec = *parse_codec(GetParam());
  const auto refused = [&](const KvLayout& layout, const std::string& what) {
    const auto codec = Codec::create(layout, spec);
    ASSERT_EQ(codec.status().code(), absl::StatusCode::kInvalidArgument) << what;
    EXPECT_THAT(std::string(codec.status().message()), HasSubstr(what));
  };
  KvLayout layout = source_.layout;
  layout.key_head_dim = 0;
  refused(layout, "head_dim");
  if (spec.family == CodecFamily::raw) return;  // takes all others
  layout.key_head_dim = 72;
  refused(layout, "72");
  layout = source_.layout;
  layout.dtype = DType::f8_e4m3;
  refused(layout, "f8_e4m3");
}

TEST_P(BadInput, AnyAddressIsTaken) {
  const std::vector<std::byte> expected = encode_whole(*codec_, request_for(source_, 0));
  const auto sides = {&source_.keys, &source_.values};
  std::vector<std::vector<std::byte>> moved;
  for (const auto* side : sides) {
    for (const auto& layer : *side) {
      moved.emplace_back(layer.size() + 1);
      std::copy(layer.begin(), layer.end(), moved.back().begin() + 1);
    }
  }
  const size_t begin = dtype_bytes(source_.layout.dtype);  // of layer 1 in its page
  std::vector<std::byte*> keys = {moved[0].data() + 1, moved[1].data() + 1 + begin};
  std::vector<std::byte*> values = {moved[2].data() + 1, moved[3].data() + 1 + begin};
  EncodeRequest request = request_for(source_, 0);
  request.pages.key.layers = keys;
  request.pages.value.layers = values;
  EXPECT_EQ(encode_whole(*codec_, request), expected);
}

TEST_P(BadInput, BlocksThatSayOtherThingsAreRefused) {
  const std::vector<std::byte> block = encode_whole(*codec_, request_for(source_, 0));
  const auto with = [&](size_t offset, uint8_t value) {
    std::vector<std::byte> changed = block;
    changed[offset] = std::byte{value};
    seal_block(absl::MakeSpan(changed));
    return changed;
  };
  for (const uint8_t codec : {uint8_t{8}, uint8_t{200}}) {
    expect_block_is_refused(with(offsetof(BlockHeader, codec), codec), 0);
  }
  for (const size_t bits : {offsetof(BlockHeader, key_bits), offsetof(BlockHeader, value_bits)}) {
    const auto stored = static_cast<uint8_t>(block[bits]);
    expect_block_is_refused(with(bits, static_cast<uint8_t>(stored + 1)), 0);
    expect_block_is_refused(with(bits, 255), 0);
  }
  for (const int dropped : {-1, 1, 15, 1000}) expect_block_is_refused(block, dropped);
  expect_block_is_refused({}, 0);
  expect_block_is_refused(absl::MakeConstSpan(block).first(block.size() - 1), 0);
}

TEST_P(BadInput, ExtremeValuesComeBackFinite) {
  const float extremes[] = {0x1.0p-133f, -0x1.0p-126f, 0x1.0p-64f, 1e18f, 3e38f, -3e38f};
  for (const float extreme : extremes) {
    SCOPED_TRACE(extreme);
    source_.fill([&](Side, int, int token, int, int i) {
      return token % 2 == 0 || i == 5 ? extreme : 0.0f;
    });
    const auto result = codec_->encode(request_for(source_, UINT64_MAX), absl::MakeSpan(out_));
    ASSERT_TRUE(result.ok());
    if (result->non_finite) {  // lengths that are not finite: the caller stores the values as they
                               // are
      EXPECT_GE(std::abs(extreme), 1e18f);
      continue;
    }
    const auto decoded = decode_whole(*codec_, absl::MakeSpan(out_).first(result->bytes));
    decoded->for_each([&](Side, std::byte* at, int, int, int, int) {
      ASSERT_TRUE(std::isfinite(KvExample::load(at, DType::bf16)));
    });
  }
}

INSTANTIATE_TEST_SUITE_P(EveryCodec, BadInput, testing::ValuesIn(kCodecs),
                         [](const auto& info) { return test_name(info.param); });

}  // namespace
}  // namespace hadal
