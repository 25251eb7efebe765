#include "common/prefix_rules.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace hadal {
namespace {

absl::Status check_group(size_t index, const PrefixGroup& group) {
  const auto refuse = [index](const auto&... what) {
    return absl::InvalidArgumentError(absl::StrCat("group ", index, ": ", what...));
  };
  if (group.rule > PrefixRule::boundary_state) {
    return refuse("rule is ", static_cast<int>(group.rule),
                  "; allowed are 0 (full_prefix), 1 (last_tokens) and 2 (boundary_state)");
  }
  if (group.block_tokens == 0) return refuse("block_tokens is 0; a block has at least 1 token");
  if (group.rule == PrefixRule::last_tokens && group.window_tokens == 0) {
    return refuse("window_tokens is 0; a window has at least 1 token");
  }
  if (group.token_count == 0) return absl::OkStatus();
  const uint64_t blocks = (group.token_count - 1) / group.block_tokens + 1;
  if (blocks != group.present.size()) {
    return refuse("token_count is ", group.token_count, ", which takes ", blocks, " blocks of ",
                  group.block_tokens, " tokens; ", group.present.size(), " are given");
  }
  return absl::OkStatus();
}

uint64_t all_tokens(const PrefixGroup& group) {
  if (group.token_count != 0) return group.token_count;
  return group.present.size() * uint64_t{group.block_tokens};
}

// By block: how many blocks without a gap end with it.
std::vector<uint64_t> runs(const std::vector<bool>& present) {
  std::vector<uint64_t> run(present.size(), 0);
  for (size_t i = 0; i < present.size(); ++i) {
    if (present[i]) run[i] = 1 + (i > 0 ? run[i - 1] : 0);
  }
  return run;
}

// `tokens` is above 0 and within `run`.
bool satisfied(const PrefixGroup& group, const std::vector<uint64_t>& run, uint64_t tokens) {
  if (tokens % group.block_tokens != 0 && tokens != all_tokens(group)) return false;
  const uint64_t blocks = (tokens - 1) / group.block_tokens + 1;
  uint64_t needed = 1;
  if (group.rule == PrefixRule::full_prefix) needed = blocks;
  if (group.rule == PrefixRule::last_tokens) {
    const uint64_t begin = tokens - std::min(tokens, group.window_tokens);
    needed = blocks - begin / group.block_tokens;
  }
  return run[blocks - 1] >= needed;
}

}  // namespace

absl::StatusOr<uint64_t> longest_prefix_tokens(absl::Span<const PrefixGroup> groups) {
  if (groups.empty()) {
    return absl::InvalidArgumentError("no layer group is given; name at least 1");
  }
  uint64_t longest = UINT64_MAX;
  std::vector<std::vector<uint64_t>> run;
  for (size_t i = 0; i < groups.size(); ++i) {
    if (absl::Status status = check_group(i, groups[i]); !status.ok()) return status;
    longest = std::min(longest, all_tokens(groups[i]));
    run.push_back(runs(groups[i].present));
  }
  const auto all_satisfied = [&](uint64_t tokens) {
    size_t met = 0;
    while (met < groups.size() && satisfied(groups[met], run[met], tokens)) ++met;
    return met == groups.size();
  };
  if (longest > 0 && all_satisfied(longest)) return longest;
  uint64_t step = 1;
  for (const PrefixGroup& group : groups) {
    const uint64_t factor = group.block_tokens / std::gcd(step, uint64_t{group.block_tokens});
    if (factor > longest / step) return 0;
    step *= factor;
  }
  for (uint64_t tokens = longest / step * step; tokens > 0; tokens -= step) {
    if (all_satisfied(tokens)) return tokens;
  }
  return 0;
}

}  // namespace hadal
