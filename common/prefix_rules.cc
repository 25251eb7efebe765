#include "common/prefix_rules.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace hadal {
namespace {

absl::Status check_groups(absl::Span<const PrefixGroup> groups) {
  if (groups.empty()) {
    return absl::InvalidArgumentError("no layer group is given; name at least 1");
  }
  for (size_t i = 0; i < groups.size(); ++i) {
    if (groups[i].block_tokens == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("group ", i, ": block_tokens is 0; a block has at least 1 token"));
    }
    if (groups[i].rule == PrefixRule::last_tokens && groups[i].window_tokens == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("group ", i, ": window_tokens is 0; a window has at least 1 token"));
    }
  }
  return absl::OkStatus();
}

// By block: how many blocks without a gap end with it.
std::vector<uint64_t> runs(const std::vector<bool>& present) {
  std::vector<uint64_t> run(present.size(), 0);
  for (size_t i = 0; i < present.size(); ++i) {
    if (present[i]) run[i] = 1 + (i > 0 ? run[i - 1] : 0);
  }
  return run;
}

// `tokens` is above 0, a multiple of the group's block and within `run`.
bool satisfied(const PrefixGroup& group, const std::vector<uint64_t>& run, uint64_t tokens) {
  const uint64_t blocks = tokens / group.block_tokens;
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
  if (absl::Status status = check_groups(groups); !status.ok()) return status;
  uint64_t longest = UINT64_MAX;
  std::vector<std::vector<uint64_t>> run;
  for (const PrefixGroup& group : groups) {
    longest = std::min(longest, group.present.size() * uint64_t{group.block_tokens});
    run.push_back(runs(group.present));
  }
  uint64_t step = 1;
  for (const PrefixGroup& group : groups) {
    const uint64_t factor = group.block_tokens / std::gcd(step, uint64_t{group.block_tokens});
    if (factor > longest / step) return 0;
    step *= factor;
  }
  for (uint64_t tokens = longest / step * step; tokens > 0; tokens -= step) {
    size_t met = 0;
    while (met < groups.size() && satisfied(groups[met], run[met], tokens)) ++met;
    if (met == groups.size()) return tokens;
  }
  return 0;
}

}  // namespace hadal
