#include "tests/client/kv_buffer.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <random>

namespace hadal {
namespace {

float to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

}  // namespace

KvLayout small_layout() {
  KvLayout layout;
  layout.dtype = DType::bf16;
  layout.layer_count = 4;
  layout.kv_head_count = 2;
  layout.key_head_dim = 64;
  layout.value_head_dim = 64;
  layout.block_tokens = 16;
  return layout;
}

LayoutConfig layout_config(const KvLayout& layout, const std::string& codec) {
  LayoutConfig config;
  config.layout = layout;
  config.codec = parse_codec(codec).value();
  config.model = "test model";
  config.hash_scheme = "test";
  config.tenant = "tenant";
  return config;
}

EngineHash hash_of(const std::string& text) { return digest_engine_string(text); }

KvBuffer::KvBuffer(const KvLayout& layout)
    : layout_(layout), bytes_(bytes_for(layout)), owned_(bytes_), memory_(owned_.data()) {
  point();
}

KvBuffer::KvBuffer(const KvLayout& layout, std::byte* memory)
    : layout_(layout), bytes_(bytes_for(layout)), memory_(memory) {
  point();
}

size_t KvBuffer::bytes_for(const KvLayout& layout) { return layout.raw_bytes(layout.block_tokens); }

void KvBuffer::point() {
  const size_t rows = size_t{layout_.kv_head_count} * layout_.block_tokens * 2;
  std::byte* at = memory_;
  for (int layer = 0; layer < layout_.layer_count; ++layer) {
    key_layers_.push_back(at);
    at += rows * layout_.key_head_dim;
    value_layers_.push_back(at);
    at += rows * layout_.value_head_dim;
  }
}

void KvBuffer::fill_random(uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < bytes_ / 2; ++i) {
    set_value(i, static_cast<uint16_t>(std::bit_cast<uint32_t>(normal(random)) >> 16));
  }
}

void KvBuffer::fill(std::byte value) { std::fill_n(memory_, bytes_, value); }

void KvBuffer::set_value(size_t index, uint16_t bits) {
  std::memcpy(memory_ + index * 2, &bits, sizeof(bits));
}

KvPages KvBuffer::pages() const {
  const size_t key_bytes = size_t{layout_.key_head_dim} * 2;
  const size_t value_bytes = size_t{layout_.value_head_dim} * 2;
  KvPages pages;
  pages.key = {key_layers_, key_bytes * layout_.kv_head_count, key_bytes};
  pages.value = {value_layers_, value_bytes * layout_.kv_head_count, value_bytes};
  return pages;
}

bool KvBuffer::equals(const KvBuffer& other) const {
  return bytes_ == other.bytes_ && std::memcmp(memory_, other.memory_, bytes_) == 0;
}

bool KvBuffer::all(std::byte value) const {
  return std::all_of(memory_, memory_ + bytes_, [value](std::byte b) { return b == value; });
}

double KvBuffer::relative_error(const KvBuffer& other) const {
  double error = 0;
  double power = 0;
  for (size_t i = 0; i < bytes_ / 2; ++i) {
    uint16_t a;
    uint16_t b;
    std::memcpy(&a, memory_ + i * 2, 2);
    std::memcpy(&b, other.memory_ + i * 2, 2);
    const double difference = double{to_float(a)} - to_float(b);
    error += difference * difference;
    power += double{to_float(a)} * to_float(a);
  }
  return error / power;
}

}  // namespace hadal
