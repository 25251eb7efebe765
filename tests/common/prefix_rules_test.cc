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

TEST(PrefixRules, ShortLastBlockCountsAtTheEndOfTheSequenceAlone) {
  PrefixGroup full = group(PrefixRule::full_prefix, 16, std::vector<bool>(3, true));
  full.token_count = 40;
  EXPECT_EQ(longest_prefix_tokens({full}).value(), 40u);
  PrefixGroup window = group(PrefixRule::last_tokens, 8, std::vector<bool>(5, true), 8);
  EXPECT_EQ(longest_prefix_tokens({full, window}).value(), 40u);
  // The other group knows fewer tokens, so the short block is of no use.
  const PrefixGroup fewer = group(PrefixRule::last_tokens, 8, std::vector<bool>(4, true), 8);
  EXPECT_EQ(longest_prefix_tokens({full, fewer}).value(), 32u);
  full.present[2] = false;
  EXPECT_EQ(longest_prefix_tokens({full, window}).value(), 32u);
  // A window of 9 tokens reaches from a short block of 8 into the one before.
  PrefixGroup tail = group(PrefixRule::last_tokens, 16, {false, false, true}, 8);
  tail.token_count = 40;
  EXPECT_EQ(longest_prefix_tokens({tail}).value(), 40u);
  tail.window_tokens = 9;
  EXPECT_EQ(longest_prefix_tokens({tail}).value(), 0u);
  PrefixGroup state = group(PrefixRule::boundary_state, 16, {false, true, true});
  state.token_count = 40;
  EXPECT_EQ(longest_prefix_tokens({state}).value(), 40u);
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
  for (const uint64_t token_count : {uint64_t{16}, uint64_t{33}, UINT64_MAX}) {
    PrefixGroup wrong = group(PrefixRule::full_prefix, 16, {true, true});
    wrong.token_count = token_count;
    const absl::Status count = longest_prefix_tokens({wrong}).status();
    EXPECT_NE(count.message().find("token_count is"), absl::string_view::npos) << count;
  }
  const auto rule = static_cast<PrefixRule>(3);
  EXPECT_TRUE(absl::IsInvalidArgument(longest_prefix_tokens({group(rule, 16, {true})}).status()));
}

// Against the definition, token by token.
bool meets(const PrefixGroup& group, uint64_t tokens) {
  if (tokens % group.block_tokens != 0 && tokens != group.token_count) return false;
  if (group.rule == PrefixRule::boundary_state) {
    return group.present[(tokens - 1) / group.block_tokens];
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
      const uint64_t whole = group.present.size() * uint64_t{group.block_tokens};
      if (whole > 0 && random() % 2 == 0) group.token_count = whole - random() % group.block_tokens;
      most = std::min(most, group.token_count != 0 ? group.token_count : whole);
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
