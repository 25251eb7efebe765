#include "common/ring.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace hadal {
namespace {

BlockKey key_of(uint64_t number) {
  BlockKey key;
  std::memcpy(key.bytes.data(), &number, sizeof(number));
  return key;
}

std::vector<size_t> owners(const Ring& ring, uint64_t keys) {
  std::vector<size_t> result;
  for (uint64_t i = 0; i < keys; ++i) result.push_back(ring.owner(key_of(i)));
  return result;
}

TEST(Ring, SharesFollowWeights) {
  const Ring ring = *Ring::create(*parse_node_list("a:1*1,b:1*2,c:1*5"));
  std::vector<double> counts(3);
  const uint64_t keys = 80000;
  for (size_t owner : owners(ring, keys)) ++counts[owner];
  EXPECT_NEAR(counts[0], keys * 1 / 8.0, 5 * std::sqrt(keys));
  EXPECT_NEAR(counts[1], keys * 2 / 8.0, 5 * std::sqrt(keys));
  EXPECT_NEAR(counts[2], keys * 5 / 8.0, 5 * std::sqrt(keys));
}

TEST(Ring, ALeavingNodeMovesOnlyItsOwnKeys) {
  const Ring all = *Ring::create(*parse_node_list("a:1,b:1,c:1"));
  const Ring fewer = *Ring::create(*parse_node_list("a:1,b:1"));
  const std::vector<size_t> before = owners(all, 5000);
  const std::vector<size_t> after = owners(fewer, 5000);
  for (size_t i = 0; i < before.size(); ++i) {
    if (before[i] != 2) {
      EXPECT_EQ(before[i], after[i]);
    }
  }
}

TEST(Ring, OrderOfTheListDoesNotMatter) {
  const Ring forward = *Ring::create(*parse_node_list("a:1,b:1"));
  const Ring backward = *Ring::create(*parse_node_list("b:1,a:1"));
  for (uint64_t i = 0; i < 1000; ++i) {
    EXPECT_EQ(forward.owner(key_of(i)), 1 - backward.owner(key_of(i)));
  }
}

TEST(Ring, RefusesEmptyListsAndWeightsOfNothing) {
  EXPECT_FALSE(Ring::create({}).ok());
  NodeAddress node;
  node.host = "a";
  node.port = 1;
  node.weight = 0;
  EXPECT_FALSE(Ring::create({node}).ok());
}

}  // namespace
}  // namespace hadal
