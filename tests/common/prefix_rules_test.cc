#include "common/prefix_rules.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace hadal {
namespace {

PrefixGroup group(PrefixRule rule, uint32_t block_tokens, std::vector<bool> present,
                  uint64_t window_tokens = 0) {
  return {rule, block_tokens, window_tokens, std::move(present)};
}

TEST(PrefixRules, FullAttentionEndsAtTheFirstGap) {
  EXPECT_EQ(longest_prefix_tokens({group(PrefixRule::full_prefix, 16, {true, true, false, true})})
                .value(),
            32u);
  EXPECT_EQ(longest_prefix_tokens({group(PrefixRule::full_prefix, 16, {false, true})}).value(), 0u);
  EXPECT_EQ(longest_prefix_tokens({group(PrefixRule::full_prefix, 16, {})}).value(), 0u);
}

TEST(PrefixRules, SlidingWindowNeedsItsLastTokensAlone) {
  const std::vector<bool> present = {false, false, true, true, false};
  // 32 tokens are two whole blocks; one more token reaches into a third.
  EXPECT_EQ(longest_prefix_tokens({group(PrefixRule::last_tokens, 16, present, 32)}).value(), 64u);
  EXPECT_EQ(longest_prefix_tokens({group(PrefixRule::last_tokens, 16, present, 33)}).value(), 0u);
  // Shorter than its window, a prefix needs all of itself.
  EXPECT_EQ(
      longest_prefix_tokens({group(PrefixRule::last_tokens, 16, {true, false}, 1000)}).value(),
      16u);
}

TEST(PrefixRules, RecurrentStateNeedsTheBlockAtTheBoundary) {
  EXPECT_EQ(longest_prefix_tokens(
                {group(PrefixRule::boundary_state, 64, {false, true, false, true, false})})
                .value(),
            256u);
}

TEST(PrefixRules, HybridIsTheLongestThatAllGroupsMeet) {
  // Full attention reaches 96, the window allows 64 and 96, the state is there at 32 and 64.
  const PrefixGroup full = group(PrefixRule::full_prefix, 16, std::vector<bool>(6, true));
  const PrefixGroup window =
      group(PrefixRule::last_tokens, 16, {false, false, true, true, true, true}, 32);
  const PrefixGroup state = group(PrefixRule::boundary_state, 32, {true, true, false});
  EXPECT_EQ(longest_prefix_tokens({full, window, state}).value(), 64u);
}

TEST(PrefixRules, LengthsAreWholeBlocksOfEveryGroup) {
  const PrefixGroup small = group(PrefixRule::full_prefix, 16, std::vector<bool>(5, true));
  const PrefixGroup large = group(PrefixRule::full_prefix, 64, {true, true});
  EXPECT_EQ(longest_prefix_tokens({small, large}).value(), 64u);
  const PrefixGroup odd = group(PrefixRule::full_prefix, 48, {true});
  EXPECT_EQ(longest_prefix_tokens({small, odd}).value(), 48u);
  const PrefixGroup prime = group(PrefixRule::full_prefix, 4294967291u, {true});
  EXPECT_EQ(longest_prefix_tokens({small, prime}).value(), 0u);
}

TEST(PrefixRules, RefusesByName) {
  EXPECT_TRUE(absl::IsInvalidArgument(longest_prefix_tokens({}).status()));
  const absl::Status block =
      longest_prefix_tokens({group(PrefixRule::full_prefix, 0, {true})}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(block));
  EXPECT_NE(block.message().find("group 0: block_tokens is 0"), absl::string_view::npos) << block;
  const absl::Status window =
      longest_prefix_tokens({group(PrefixRule::last_tokens, 16, {true})}).status();
  EXPECT_NE(window.message().find("window_tokens is 0"), absl::string_view::npos) << window;
}

// Against the definition, token by token.
bool meets(const PrefixGroup& group, uint64_t tokens) {
  if (tokens % group.block_tokens != 0) return false;
  if (group.rule == PrefixRule::boundary_state) {
    return group.present[tokens / group.block_tokens - 1];
  }
  uint64_t begin = 0;
  if (group.rule == PrefixRule::last_tokens) begin = tokens - std::min(tokens, group.window_tokens);
  for (uint64_t token = begin; token < tokens; ++token) {
    if (!group.present[token / group.block_tokens]) return false;
  }
  return true;
}

TEST(PrefixRules, AgreesWithTheDefinition) {
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    std::vector<PrefixGroup> groups(1 + random() % 3);
    uint64_t most = UINT64_MAX;
    for (PrefixGroup& group : groups) {
      group.rule = static_cast<PrefixRule>(random() % 3);
      group.block_tokens = 1 + random() % 6;
      group.window_tokens = 1 + random() % 20;
      group.present.resize(random() % 14);
      for (size_t i = 0; i < group.present.size(); ++i) group.present[i] = random() % 8 != 0;
      most = std::min(most, group.present.size() * uint64_t{group.block_tokens});
    }
    uint64_t expected = most;
    const auto all_meet = [&](uint64_t tokens) {
      return std::all_of(groups.begin(), groups.end(),
                         [&](const PrefixGroup& group) { return meets(group, tokens); });
    };
    while (expected > 0 && !all_meet(expected)) --expected;
    ASSERT_EQ(longest_prefix_tokens(groups).value(), expected) << round;
  }
}

}  // namespace
}  // namespace hadal
