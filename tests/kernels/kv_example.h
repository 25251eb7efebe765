#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <new>
#include <random>
#include <vector>

#include "kernels/codec.h"

namespace hadal {

#if defined(__clang__) && __clang_major__ < 15
using Half = __fp16;  // there is no _Float16 yet
#else
using Half = _Float16;
#endif

// Memory that starts where a cache line does.
template <typename T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};
  LineAllocator() = default;
  template <typename U>
  LineAllocator(const LineAllocator<U>&) {}  // NOLINT: allocators convert
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
  void deallocate(T* at, size_t) { ::operator delete(at, kLine); }
  bool operator==(const LineAllocator&) const { return true; }
};

// KV of one block in dense pages [token, head, value] a layer, as floats beside their bytes. Pages
// of every second layer begin within a cache line: kernels store to them in another way.
struct KvExample {
  using Bytes = std::vector<std::byte, LineAllocator<std::byte>>;
  KvLayout layout;
  std::vector<Bytes> keys, values;
  std::vector<std::byte*> key_rows, value_rows;

  explicit KvExample(const KvLayout& of) : layout(of) {
    const size_t tokens = layout.block_tokens, heads = layout.kv_head_count,
                 bytes = dtype_bytes(layout.dtype);
    for (int layer = 0; layer < layout.layer_count; ++layer) {
      keys.emplace_back(tokens * heads * layout.key_head_dim * bytes);
      values.emplace_back(tokens * heads * layout.value_head_dim * bytes);
    }
    for (auto* side : {&keys, &values}) {
      for (size_t layer = 0; layer < side->size(); ++layer) {
        const size_t begin = layer % 2 * bytes;
        (*side)[layer].resize((*side)[layer].size() + begin);
        (side == &keys ? key_rows : value_rows).push_back((*side)[layer].data() + begin);
      }
    }
  }
  KvExample(const KvExample&) = delete;

  KvPages pages() {
    const size_t bytes = dtype_bytes(layout.dtype), heads = layout.kv_head_count;
    return {{key_rows, heads * layout.key_head_dim * bytes, layout.key_head_dim * bytes},
            {value_rows, heads * layout.value_head_dim * bytes, layout.value_head_dim * bytes}};
  }
  static void store(std::byte* at, float value, DType dtype) {
    if (dtype == DType::f32) {
      std::memcpy(at, &value, 4);
    } else if (dtype == DType::bf16) {
      const uint16_t bits = static_cast<uint16_t>((std::bit_cast<uint32_t>(value) + 0x8000u) >> 16);
      std::memcpy(at, &bits, 2);
    } else if (dtype_bytes(dtype) == 1) {  // any byte
      *at = static_cast<std::byte>(std::lrint(64 * value));
    } else {
      const Half half = static_cast<Half>(value);
      std::memcpy(at, &half, 2);
    }
  }
  static float load(const std::byte* at, DType dtype) {
    float value = 0;
    if (dtype == DType::f32) {
      std::memcpy(&value, at, 4);
    } else if (dtype == DType::bf16) {
      uint16_t bits;
      std::memcpy(&bits, at, 2);
      value = std::bit_cast<float>(uint32_t{bits} << 16);
    } else {
      Half half;
      std::memcpy(&half, at, 2);
      value = static_cast<float>(half);
    }
    return value;
  }
  // Calls fill(side, layer, token, head, i) for every value.
  template <typename Fill>
  void fill(Fill fill) {
    for_each([&](Side side, std::byte* at, int layer, int token, int head, int i) {
      store(at, fill(side, layer, token, head, i), layout.dtype);
    });
  }
  void fill_normal(unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    fill([&](Side, int, int, int, int) { return normal(random); });
  }
  template <typename Visit>
  void for_each(Visit visit) {
    const size_t bytes = dtype_bytes(layout.dtype);
    for (Side side : {Side::key, Side::value}) {
      const auto head_dim = static_cast<int>(side_head_dim(layout, side));
      for (int layer = 0; layer < layout.layer_count; ++layer) {
        std::byte* at = side == Side::key ? key_rows[layer] : value_rows[layer];
        for (uint32_t token = 0; token < layout.block_tokens; ++token) {
          for (int head = 0; head < layout.kv_head_count; ++head) {
            for (int i = 0; i < head_dim; ++i, at += bytes) {
              visit(side, at, layer, static_cast<int>(token), head, i);
            }
          }
        }
      }
    }
  }
  // Relative squared error of one side, or a layer of it, against another example of the same
  // layout.
  double distortion(Side wanted, KvExample& other, int wanted_layer = -1) {
    double error = 0, total = 0;
    std::vector<float> theirs;
    const auto is_wanted = [&](Side side, int layer) {
      return side == wanted && (wanted_layer < 0 || layer == wanted_layer);
    };
    other.for_each([&](Side side, std::byte* at, int layer, int, int, int) {
      if (is_wanted(side, layer)) theirs.push_back(load(at, layout.dtype));
    });
    size_t next = 0;
    for_each([&](Side side, std::byte* at, int layer, int, int, int) {
      if (!is_wanted(side, layer)) return;
      const double mine = load(at, layout.dtype);
      const double difference = mine - theirs[next++];
      error += difference * difference;
      total += mine * mine;
    });
    return total == 0 ? 0 : error / total;
  }
};

// Values of every kind that a kernel can trip over; `kind` picks one of 7.
inline void fill_adversarial(KvExample& example, int kind) {
  std::mt19937 random(kind);
  std::normal_distribution<float> normal;
  const float huge = example.layout.dtype == DType::f16 ? 4000.0f : 1e15f;
  example.fill([&](Side, int, int token, int, int i) -> float {
    switch (kind) {
      case 0:
        return 0;
      case 1:
        return 1.5f;
      case 2:
        return i == 3 ? huge : 0.0f;
      case 3:
        return token % 2 == 0 ? 1e-7f * normal(random) : normal(random);
      case 4:
        return normal(random) * huge / 8;
      case 5:
        return (i + token) % 2 == 0 ? 1.0f : -1.0f;
      default:
        return normal(random) + (i % 7 == 0 ? 20.0f : 0.0f);
    }
  });
}

inline KvLayout example_layout(DType dtype, uint16_t key_head_dim, uint16_t value_head_dim,
                               uint32_t tokens) {
  KvLayout layout;
  layout.dtype = dtype;
  layout.layer_count = 2;
  layout.kv_head_count = 2;
  layout.key_head_dim = key_head_dim;
  layout.value_head_dim = value_head_dim;
  layout.block_tokens = tokens;
  return layout;
}

inline EncodeRequest request_for(KvExample& example, uint64_t first_token_index) {
  EncodeRequest request;
  request.pages = example.pages();
  request.identity.key.bytes[0] = 42;
  request.identity.first_token_index = first_token_index;
  request.token_count = example.layout.block_tokens;
  return request;
}

inline std::vector<std::byte> encode_whole(const Codec& codec, const EncodeRequest& request) {
  std::vector<std::byte> out(*codec.max_encoded_bytes(request.token_count));
  const auto result = codec.encode(request, absl::MakeSpan(out));
  out.resize(result.ok() ? result->bytes : 0);
  return out;
}

}  // namespace hadal
