#pragma once

// What every benchmark says beside its figures: machine, commit, date and command, so that a stored
// result can be judged later. Prints a table for people; `--json` prints one JSON object as the
// last line instead, and `--out FILE` writes that object to a file. Not a timer.

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace hadal::bench {

class Report {
 public:
  // `description` is the first line of --help.
  Report(std::string name, const std::string& description);

  // For the benchmark's own options, before parse; --json and --out are there already.
  CLI::App& options() { return options_; }
  // An answer ends the program: 0 after --help, 2 for usage, 1 where --out cannot be written.
  std::optional<int> parse(int argc, char** argv);

  // One line of the table: an object whose keys are the columns, in this order.
  void add(nlohmann::ordered_json row);
  // A figure of the whole run, such as a ratio; printed under the table.
  void set(const std::string& key, nlohmann::ordered_json value);
  // A line for people while the run lasts; goes to standard error, so --json stays clean.
  void say(const std::string& text) const;

  // Prints, and writes the file where asked. The answer is for main: 0, or 1 where the file could
  // not be written.
  int finish() const;

 private:
  nlohmann::ordered_json json() const;
  void print_table() const;

  const std::string name_;
  const std::string load_at_start_;
  CLI::App options_;
  std::vector<std::string> arguments_;  // without the program's name
  bool as_json_ = false;
  std::string out_;
  nlohmann::ordered_json rows_ = nlohmann::ordered_json::array();
  nlohmann::ordered_json summary_ = nlohmann::ordered_json::object();
};

}  // namespace hadal::bench
