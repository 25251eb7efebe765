#include "common/block_key.h"

#include <openssl/sha.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace hadal {
namespace {

std::array<uint8_t, 32> sha256(absl::string_view bytes) {
  std::array<uint8_t, 32> digest;
  SHA256(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), digest.data());
  return digest;
}

template <typename T>
void append_integer(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Length first, so that no two field lists have the same bytes.
void append_text(std::string& out, absl::string_view text) {
  append_integer(out, static_cast<uint64_t>(text.size()));
  out.append(text.data(), text.size());
}

}  // namespace

std::string BlockKey::hex() const {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

absl::StatusOr<BlockKey> BlockKey::from_hex(absl::string_view hex) {
  const auto is_hex = [](char c) { return absl::ascii_isxdigit(static_cast<unsigned char>(c)); };
  if (hex.size() != 2 * limits::kBlockKeyBytes || !std::all_of(hex.begin(), hex.end(), is_hex)) {
    return absl::InvalidArgumentError(
        absl::StrCat("block key is '", hex, "'; a key is 64 hexadecimal digits"));
  }
  BlockKey key;
  const std::string raw = absl::HexStringToBytes(hex);
  std::memcpy(key.bytes.data(), raw.data(), key.bytes.size());
  return key;
}

absl::StatusOr<EngineHash> EngineHash::from_bytes(absl::Span<const std::byte> bytes) {
  if (bytes.empty() || bytes.size() > limits::kEngineHashMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("engine hash has ", bytes.size(), " bytes; allowed are 1 to ",
                     limits::kEngineHashMaxBytes, " (digest longer ones with SHA-256)"));
  }
  EngineHash hash;
  std::memcpy(hash.bytes_.data(), bytes.data(), bytes.size());
  hash.size_ = static_cast<uint8_t>(bytes.size());
  return hash;
}

EngineHash digest_engine_string(absl::string_view text) {
  const std::array<uint8_t, 32> digest = sha256(text);
  return *EngineHash::from_bytes(
      absl::MakeConstSpan(reinterpret_cast<const std::byte*>(digest.data()), digest.size()));
}

KeyBinder::KeyBinder(const KeyNamespace& key_namespace, KeyShard shard) : shard_(shard) {
  std::string fields = "hadal namespace 2";
  append_text(fields, key_namespace.model);
  append_integer(fields, key_namespace.layout_hash);
  append_integer(fields, static_cast<uint8_t>(key_namespace.family));
  append_integer(fields, key_namespace.rotation_seed);
  append_integer(fields, static_cast<uint8_t>(key_namespace.gaussian_projection));
  append_text(fields, key_namespace.hash_scheme);
  append_text(fields, key_namespace.tenant);
  namespace_digest_ = sha256(fields);
}

BlockKey KeyBinder::bind(const EngineHash& hash) const {
  std::string fields(reinterpret_cast<const char*>(namespace_digest_.data()),
                     namespace_digest_.size());
  append_integer(fields, shard_.group);
  append_integer(fields, shard_.rank);
  append_integer(fields, shard_.world);
  append_text(fields, absl::string_view(reinterpret_cast<const char*>(hash.bytes().data()),
                                        hash.bytes().size()));
  BlockKey key;
  key.bytes = sha256(fields);
  return key;
}

}  // namespace hadal
