#include "common/block_key.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace hadal {
namespace {

EngineHash hash_of(const std::string& text) {
  return *EngineHash::from_bytes(
      absl::MakeConstSpan(reinterpret_cast<const std::byte*>(text.data()), text.size()));
}

KeyNamespace example() {
  KeyNamespace key_namespace;
  key_namespace.model = "model";
  key_namespace.layout_hash = 7;
  key_namespace.rotation_seed = 3;
  key_namespace.hash_scheme = "vllm";
  key_namespace.tenant = "a";
  return key_namespace;
}

TEST(EngineHash, RefusesZeroAndSixtyFiveBytesByName) {
  const std::vector<std::byte> bytes(65);
  const auto empty = EngineHash::from_bytes({});
  EXPECT_EQ(empty.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(empty.status().message()), testing::HasSubstr("has 0 bytes"));
  const auto long_one = EngineHash::from_bytes(bytes);
  EXPECT_EQ(long_one.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(long_one.status().message()), testing::HasSubstr("has 65 bytes"));
  EXPECT_TRUE(EngineHash::from_bytes(absl::MakeConstSpan(bytes).subspan(0, 64)).ok());
  EXPECT_TRUE(EngineHash::from_bytes(absl::MakeConstSpan(bytes).subspan(0, 1)).ok());
}

TEST(EngineHash, DigestsLongStringsApart) {
  const std::string key(200, 'x');
  EXPECT_EQ(digest_engine_string(key).bytes(), digest_engine_string(key).bytes());
  EXPECT_NE(digest_engine_string(key).bytes(), digest_engine_string(key + "y").bytes());
}

TEST(KeyBinder, EveryFieldChangesTheKey) {
  const EngineHash hash = hash_of("hash");
  std::vector<KeyNamespace> namespaces(8, example());
  namespaces[1].model = "other";
  namespaces[2].layout_hash = 8;
  namespaces[3].family = CodecFamily::raw;
  namespaces[4].rotation_seed = 4;
  namespaces[5].hash_scheme = "sglang";
  namespaces[6].tenant = "b";
  namespaces[7].gaussian_projection = true;
  std::set<BlockKey> keys;
  for (const KeyNamespace& key_namespace : namespaces) {
    for (KeyShard shard :
         {KeyShard{0, 0, 1}, KeyShard{1, 0, 1}, KeyShard{0, 1, 2}, KeyShard{0, 0, 2}}) {
      keys.insert(KeyBinder(key_namespace, shard).bind(hash));
      keys.insert(KeyBinder(key_namespace, shard).bind(hash_of("hash2")));
    }
  }
  EXPECT_EQ(keys.size(), namespaces.size() * 4 * 2);
}

TEST(KeyBinder, FieldsDoNotRunIntoEachOther) {
  KeyNamespace left = example();
  KeyNamespace right = example();
  left.hash_scheme = "ab";
  left.tenant = "c";
  right.hash_scheme = "a";
  right.tenant = "bc";
  EXPECT_NE(KeyBinder(left, {}).bind(hash_of("h")), KeyBinder(right, {}).bind(hash_of("h")));
}

// The binding is a public format: a change would orphan every stored block.
TEST(KeyBinder, StaysAsItWas) {
  EXPECT_EQ(KeyBinder(example(), {1, 2, 4}).bind(hash_of("hash")).hex(),
            "4c9b6a0a7f75c52a431a54c9851766e3253c1f966a433bdbb498a99d23e2402b");
}

TEST(BlockKey, HexRoundTripsAndRefusesOthers) {
  const BlockKey key = KeyBinder(example(), {}).bind(hash_of("h"));
  EXPECT_EQ(*BlockKey::from_hex(key.hex()), key);
  EXPECT_FALSE(BlockKey::from_hex("").ok());
  EXPECT_FALSE(BlockKey::from_hex(key.hex().substr(1)).ok());
  EXPECT_FALSE(BlockKey::from_hex("x" + key.hex().substr(1)).ok());
}

}  // namespace
}  // namespace hadal
