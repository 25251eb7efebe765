#pragma once

// Engine pages for tests: bf16 KV of one block, token-major, with the values of an engine.

#include <cstdint>
#include <string>
#include <vector>

#include "client/client.h"

namespace hadal {

// 4 layers x 2 heads x 64 x bf16, 16 tokens a block: 32 KiB raw.
KvLayout small_layout();
LayoutConfig layout_config(const KvLayout& layout, const std::string& codec);

EngineHash hash_of(const std::string& text);

// Memory of one block and the page pointers into it. Not movable: pages point inside.
class KvBuffer {
 public:
  explicit KvBuffer(const KvLayout& layout);
  // In memory of the caller's, of bytes_for(layout).
  KvBuffer(const KvLayout& layout, std::byte* memory);
  KvBuffer(const KvBuffer&) = delete;
  KvBuffer& operator=(const KvBuffer&) = delete;

  static size_t bytes_for(const KvLayout& layout);

  void fill_random(uint32_t seed);  // normal values
  void fill(std::byte value);
  // Every value is a bf16.
  void set_value(size_t index, uint16_t bits);

  KvPages pages() const;
  absl::Span<std::byte> bytes() const { return {memory_, bytes_}; }
  bool equals(const KvBuffer& other) const;
  bool all(std::byte value) const;
  // Mean squared difference over mean square of this one's values.
  double relative_error(const KvBuffer& other) const;

 private:
  void point();

  const KvLayout layout_;
  const size_t bytes_;
  std::vector<std::byte> owned_;
  std::byte* const memory_;
  std::vector<std::byte*> key_layers_;
  std::vector<std::byte*> value_layers_;
};

}  // namespace hadal
