#include "bench/report.h"

#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace hadal::bench {
namespace {

using nlohmann::ordered_json;

std::string first_line(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return "";
  char line[256] = "";
  if (fgets(line, sizeof(line), pipe) == nullptr) line[0] = '\0';
  pclose(pipe);
  std::string text = line;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// The value of "key : value" in a file of /proc.
std::string proc_value(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (line.compare(0, key.size(), key) != 0 || colon == std::string::npos) continue;
    const size_t start = line.find_first_not_of(" \t", colon + 1);
    return start == std::string::npos ? "" : line.substr(start);
  }
  return "unknown";
}

std::string load_average() {
  std::ifstream file("/proc/loadavg");
  std::string one;
  file >> one;
  return one;
}

ordered_json machine() {
  utsname system = {};
  uname(&system);
  return {{"cpu", proc_value("/proc/cpuinfo", "model name")},
          {"cores", std::thread::hardware_concurrency()},
          {"memory", proc_value("/proc/meminfo", "MemTotal")},
          {"kernel", absl::StrCat(system.sysname, " ", system.release, " ", system.machine)},
          {"compiler", __VERSION__}};
}

std::string commit() {
  const std::string git = "git -C '" HADAL_SOURCE_DIR "' ";
  const std::string hash = first_line(git + "rev-parse --short=12 HEAD 2>/dev/null");
  if (hash.empty()) return "unknown";
  const std::string change = first_line(git + "status --porcelain -uno 2>/dev/null");
  return change.empty() ? hash : hash + "+changes";
}

std::string cell(const ordered_json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_float()) return absl::StrFormat("%.4g", value.get<double>());
  return value.dump();
}

}  // namespace

Report::Report(std::string name, const std::string& description)
    : name_(std::move(name)), load_at_start_(load_average()), options_(description, name_) {
  options_.add_flag("--json", as_json_, "print one JSON object as the last line, not a table");
  options_.add_option("--out", out_, "file to write that object to");
}

std::optional<int> Report::parse(int argc, char** argv) {
  arguments_.assign(argv + 1, argv + argc);
  try {
    options_.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return options_.exit(error);  // --help
    std::cerr << name_ << ": " << error.what() << "; --help names every option\n";
    return 2;
  }
  // Now, not after minutes of measuring.
  if (out_.empty() || std::ofstream(out_, std::ios::app)) return std::nullopt;
  std::cerr << name_ << ": cannot write --out '" << out_
            << "'; name a file in a folder that exists\n";
  return 1;
}

void Report::add(ordered_json row) { rows_.push_back(std::move(row)); }

void Report::set(const std::string& key, ordered_json value) { summary_[key] = std::move(value); }

void Report::say(const std::string& text) const { std::cerr << text << std::endl; }

ordered_json Report::json() const {
  return {{"benchmark", name_},
          {"commit", commit()},
          {"date", absl::FormatTime(absl::RFC3339_sec, absl::Now(), absl::UTCTimeZone())},
          {"command", absl::StrJoin({name_, absl::StrJoin(arguments_, " ")}, " ")},
          {"machine", machine()},
          {"load_at_start", load_at_start_},
          {"results", rows_},
          {"summary", summary_}};
}

void Report::print_table() const {
  const ordered_json all = json();
  std::cout << name_ << ": " << all["machine"]["cpu"].get<std::string>() << ", "
            << all["machine"]["cores"] << " cores, " << all["machine"]["kernel"].get<std::string>()
            << ", commit " << all["commit"].get<std::string>() << ", load " << load_at_start_
            << "\n";
  std::vector<std::string> columns;
  for (const ordered_json& row : rows_) {
    for (const auto& [key, value] : row.items()) {
      if (std::find(columns.begin(), columns.end(), key) == columns.end()) columns.push_back(key);
    }
  }
  std::vector<std::vector<std::string>> lines = {columns};
  for (const ordered_json& row : rows_) {
    lines.emplace_back();
    for (const std::string& key : columns)
      lines.back().push_back(row.contains(key) ? cell(row[key]) : "");
  }
  for (const std::vector<std::string>& line : lines) {
    for (size_t column = 0; column < columns.size(); ++column) {
      size_t width = 0;
      for (const std::vector<std::string>& other : lines)
        width = std::max(width, other[column].size());
      std::cout << std::string(width - line[column].size(), ' ') << line[column] << "  ";
    }
    std::cout << "\n";
  }
  for (const auto& [key, value] : summary_.items()) std::cout << key << ": " << cell(value) << "\n";
}

int Report::finish() const {
  if (as_json_) {
    std::cout << json().dump() << std::endl;
  } else {
    print_table();
  }
  if (out_.empty()) return 0;
  std::ofstream file(out_);
  file << json().dump(2) << "\n";
  file.close();
  if (file) return 0;
  std::cerr << name_ << ": cannot write --out '" << out_ << "'; is its disk full?\n";
  return 1;
}

}  // namespace hadal::bench
