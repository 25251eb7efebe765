#pragma once

// What every benchmark says beside its figures: machine, commit, date and command, so that a stored
// result can be judged later. Prints a table for people; `--json` prints one JSON object as the
// last line instead, and `--out FILE` writes that object to a file. Not a timer.

#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace hadal::bench {

class Report {
 public:
  // Reads --json, --out FILE and the benchmark's own options from the command line.
  Report(std::string name, int argc, char** argv);

  // Value of an option of the benchmark's own, as "--runs 5"; `otherwise` where it is not given.
  std::string option(const std::string& name, const std::string& otherwise) const;
  bool flag(const std::string& name) const;

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
  const std::vector<std::string> arguments_;  // without the program's name
  std::string load_at_start_;
  nlohmann::ordered_json rows_ = nlohmann::ordered_json::array();
  nlohmann::ordered_json summary_ = nlohmann::ordered_json::object();
};

}  // namespace hadal::bench
