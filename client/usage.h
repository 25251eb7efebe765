#pragma once

// What programs with subcommands say of a command line that is wrong.

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace hadal {

// CLI11 misses the subcommand before it looks at the word in its place.
inline std::string usage_problem(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<std::string> words = app.remaining();
  if (!app.get_subcommands().empty() || words.empty()) return error.what();
  return absl::StrCat("'", words.front(), "' is no subcommand");
}

}  // namespace hadal
