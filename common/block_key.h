#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/codec_spec.h"
#include "common/kv_layout.h"
#include "common/limits.h"

namespace hadal {

// 32 bytes that name one block everywhere. A SHA-256, so no two tenants can make keys collide.
struct BlockKey {
  std::array<uint8_t, limits::kBlockKeyBytes> bytes = {};

  std::string hex() const;
  static absl::StatusOr<BlockKey> from_hex(absl::string_view hex);

  auto operator<=>(const BlockKey&) const = default;

  template <typename H>
  friend H AbslHashValue(H h, const BlockKey& key) {
    return H::combine(std::move(h), key.bytes);
  }
};

// The engine's own chained block hash, 1 to 64 binary bytes. Longer strings are digested with
// SHA-256 by their connector (digest_engine_string).
class EngineHash {
 public:
  // InvalidArgument names the size where it is 0 or above 64.
  static absl::StatusOr<EngineHash> from_bytes(absl::Span<const std::byte> bytes);

  absl::Span<const std::byte> bytes() const { return {bytes_.data(), size_}; }

 private:
  std::array<std::byte, limits::kEngineHashMaxBytes> bytes_ = {};
  uint8_t size_ = 0;
};

// SHA-256 of a string key of any length, as an engine hash.
EngineHash digest_engine_string(absl::string_view text);

// Everything that must agree before two processes may share KV.
struct KeyNamespace {
  std::string model;  // fingerprint of weights and adapter, such as a file hash
  uint64_t layout_hash = 0;
  CodecFamily family = CodecFamily::turboquant_mse;
  uint64_t rotation_seed = 0;
  bool gaussian_projection = false;
  std::string hash_scheme;  // how the engine chains its block hashes
  std::string tenant;
};

// Place of a block beside its hash: the engine's layer group, and the parallel rank in its world.
struct KeyShard {
  uint32_t group = 0;
  uint32_t rank = 0;
  uint32_t world = 1;
};

// Binds engine hashes to a namespace. The namespace is digested once, at construction. Immutable,
// thread safe. Cost of bind: one SHA-256 of at most 109 bytes.
class KeyBinder {
 public:
  KeyBinder(const KeyNamespace& key_namespace, KeyShard shard);

  BlockKey bind(const EngineHash& hash) const;

 private:
  std::array<uint8_t, 32> namespace_digest_;
  KeyShard shard_;
};

}  // namespace hadal
