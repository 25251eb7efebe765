#include "common/node_address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace hadal {
namespace {

TEST(NodeAddress, ReadsHostPortWeight) {
  const auto nodes = parse_node_list("a:7400, [::1]:7401*2.5");
  ASSERT_TRUE(nodes.ok()) << nodes.status();
  EXPECT_EQ((*nodes)[0].host_port(), "a:7400");
  EXPECT_EQ((*nodes)[0].weight, 1.0);
  EXPECT_EQ((*nodes)[1].host, "::1");
  EXPECT_EQ((*nodes)[1].host_port(), "[::1]:7401");
  EXPECT_EQ((*nodes)[1].weight, 2.5);
}

TEST(NodeAddress, RefusesWithTheTextAndTheReason) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "no port"},       {"a", "no port"},     {":1", "no host"},     {"a:0", "port '0'"},
      {"a:65536", "port"},   {"a:x", "port 'x'"},  {"::1:5", "brackets"}, {"a:1*0", "weight '0'"},
      {"a:1*inf", "weight"}, {"a:1,a:1", "twice"}, {"a:1,", "no port"}};
  for (const auto& [text, reason] : cases) {
    const auto nodes = parse_node_list(text);
    EXPECT_EQ(nodes.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(nodes.status().message()), testing::HasSubstr(reason)) << text;
  }
}

}  // namespace
}  // namespace hadal
