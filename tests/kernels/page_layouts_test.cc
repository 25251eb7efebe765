// How engines lay KV out: whatever the strides, the block is the same, and decoding writes nothing
// but its values.

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/kernels/backends.h"

namespace hadal {
namespace {

constexpr const char* kCodecs[] = {"raw", "k5v4", "k4v4-prod", "qjl", "polar", "tqe", "e4m3"};
constexpr std::byte kUntouched{0xa5};

// Both sides of a layer in one page of bytes. Strides and where V begins, in values.
struct PageForm {
  const char* name;
  size_t token_stride, head_stride, value_begin;
};

// A block whose sides lie in common pages, one a layer.
class CommonPages {
 public:
  CommonPages(const KvLayout& layout, const PageForm& form) : layout_(layout), form_(form) {
    const size_t bytes = dtype_bytes(layout.dtype);
    const size_t values = (layout.block_tokens - 1) * form.token_stride +
                          (layout.kv_head_count - 1) * form.head_stride + form.value_begin +
                          layout.value_head_dim;
    pages_.assign(layout.layer_count, KvExample::Bytes(values * bytes, kUntouched));
    for (auto& page : pages_) {
      keys_.push_back(page.data());
      values_.push_back(page.data() + form.value_begin * bytes);
    }
  }
  KvPages pages() const {
    const size_t bytes = dtype_bytes(layout_.dtype);
    return {{keys_, form_.token_stride * bytes, form_.head_stride * bytes},
            {values_, form_.token_stride * bytes, form_.head_stride * bytes}};
  }
  // Copies between here and dense pages, both ways.
  void exchange(KvExample& dense, bool to_dense) {
    const size_t bytes = dtype_bytes(layout_.dtype);
    dense.for_each([&](Side side, std::byte* at, int layer, int token, int head, int i) {
      std::byte* const here = (side == Side::key ? keys_ : values_)[layer] +
                              (token * form_.token_stride + head * form_.head_stride + i) * bytes;
      std::memcpy(to_dense ? at : here, to_dense ? here : at, bytes);
    });
  }
  // Whether nothing but values was written. They are overwritten.
  bool gaps_are_untouched() {
    KvExample painted(layout_);
    for (auto* side : {&painted.keys, &painted.values}) {
      for (auto& layer : *side) std::fill(layer.begin(), layer.end(), kUntouched);
    }
    exchange(painted, false);
    return std::all_of(pages_.begin(), pages_.end(), [](const KvExample::Bytes& page) {
      return std::all_of(page.begin(), page.end(), [](std::byte b) { return b == kUntouched; });
    });
  }

 private:
  KvLayout layout_;
  PageForm form_;
  std::vector<KvExample::Bytes> pages_;
  std::vector<std::byte*> keys_, values_;
};

class PageLayouts : public testing::TestWithParam<const char*> {
 protected:
  void expect_same_block(const KvLayout& layout, const PageForm& form) {
    SCOPED_TRACE(form.name);
    KvExample dense(layout);
    dense.fill_normal(5);
    CommonPages source(layout, form), decoded(layout, form);
    source.exchange(dense, false);
    EncodeRequest request = request_for(dense, 0);
    for (const CodecBackend backend : kBackends) {
      const auto codec = make_codec(layout, GetParam(), backend);
      const std::vector<std::byte> expected = encode_whole(*codec, request);
      EncodeRequest common = request;
      common.pages = source.pages();
      EXPECT_EQ(encode_whole(*codec, common), expected);
      const BlockKey& key = request.identity.key;
      ASSERT_TRUE(codec->decode(expected, 0, key, decoded.pages()).ok());
      KvExample back(layout);
      decoded.exchange(back, true);
      const auto wanted = decode_whole(*codec, expected);
      EXPECT_TRUE(back.keys == wanted->keys && back.values == wanted->values);
    }
    EXPECT_TRUE(decoded.gaps_are_untouched());
  }
};

TEST_P(PageLayouts, PackedHeadsOfKeysAndValues) {
  // [head, token, key and value]
  expect_same_block(example_layout(DType::bf16, 64, 64, 9), {"packed", 128, 9 * 128, 64});
  expect_same_block(example_layout(DType::f16, 128, 64, 17), {"unequal", 192, 17 * 192, 128});
  // [token, key and value, head], each row followed by something else
  expect_same_block(example_layout(DType::f32, 64, 64, 5), {"in a row", 2 * 2 * 64 + 8, 64, 128});
}

TEST_P(PageLayouts, LatentAndRopeInOneRow) {
  KvLayout layout = example_layout(DType::bf16, 512, 64, 19);
  layout.kv_head_count = 1;
  expect_same_block(layout, {"MLA", 576, 0, 512});
}

INSTANTIATE_TEST_SUITE_P(EveryCodec, PageLayouts, testing::ValuesIn(kCodecs),
                         [](const auto& info) { return test_name(info.param); });

}  // namespace
}  // namespace hadal
