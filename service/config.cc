#include "service/config.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <toml.hpp>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/node_address.h"

namespace hadal {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr uint64_t kTiB = uint64_t{1} << 40;
constexpr uint64_t kSizeMaxBytes = 1024 * kTiB;  // sums of a few sizes stay far from overflow

// A TOML scalar as text, so that every setting parses one kind of thing.
struct Scalar {
  enum class Kind { string, integer, floating, other } kind = Kind::other;
  std::string text;
  std::string written;  // as it stands in the file, for messages; of a string its text is shown
};

// The shortest text that reads back as the same number, and as no integer; absl::StrCat would round
// to six digits.
std::string number_text(double value) {
  char digits[32];
  const auto written = std::to_chars(digits, digits + sizeof(digits), value);
  std::string text(digits, written.ptr);
  const bool digits_only = text.find_first_not_of("-0123456789") == std::string::npos;
  return digits_only ? text + ".0" : text;
}

// Readers answer false where the value is not allowed; the caller knows file, line and key.
struct SettingSpec {
  const char* key;
  std::string allowed;
  std::function<bool(const Scalar&, Config&)> read;
  std::function<std::string(const Config&)> print;
};

bool parse_size(const Scalar& scalar, uint64_t* bytes) {
  static const std::pair<absl::string_view, uint64_t> kUnits[] = {
      {"KiB", 1024}, {"MiB", kMiB}, {"GiB", kGiB}, {"TiB", kTiB}};
  absl::string_view text = scalar.text;
  uint64_t unit = 1;
  if (scalar.kind == Scalar::Kind::string) {
    for (const auto& [suffix, factor] : kUnits) {
      if (absl::EndsWith(text, suffix)) {
        unit = factor;
        text.remove_suffix(suffix.size());
        break;
      }
    }
  } else if (scalar.kind != Scalar::Kind::integer) {
    return false;
  }
  uint64_t count = 0;
  if (!absl::SimpleAtoi(text, &count) || count > UINT64_MAX / unit) return false;
  *bytes = count * unit;
  return true;
}

SettingSpec text_setting(const char* key, std::string Config::*field) {
  return {key, "a non-empty string",
          [field](const Scalar& scalar, Config& config) {
            config.*field = scalar.text;
            return scalar.kind == Scalar::Kind::string && !scalar.text.empty();
          },
          [field](const Config& config) { return config.*field; }};
}

SettingSpec choice_setting(const char* key, std::string Config::*field,
                           std::vector<std::string> choices) {
  const std::string allowed = absl::StrCat("one of \"", absl::StrJoin(choices, "\", \""), "\"");
  return {key, allowed,
          [field, choices = std::move(choices)](const Scalar& scalar, Config& config) {
            config.*field = scalar.text;
            return scalar.kind == Scalar::Kind::string &&
                   std::find(choices.begin(), choices.end(), scalar.text) != choices.end();
          },
          [field](const Config& config) { return config.*field; }};
}

bool is_listen_address(absl::string_view text) {
  // Port 0 is no address to connect to, but one to listen on.
  if (absl::EndsWith(text, ":0")) {
    text.remove_suffix(1);
    return parse_node_address(absl::StrCat(text, "1")).ok();
  }
  return !absl::StrContains(text, '*') && parse_node_address(text).ok();
}

SettingSpec listen_setting(const char* key, std::string Config::*field) {
  return {key, "\"host:port\"; port 0 takes a free one",
          [field](const Scalar& scalar, Config& config) {
            config.*field = scalar.text;
            return scalar.kind == Scalar::Kind::string && is_listen_address(scalar.text);
          },
          [field](const Config& config) { return config.*field; }};
}

template <typename Access>
SettingSpec size_setting(const char* key, uint64_t least_bytes, Access access) {
  return {
      key,
      absl::StrCat("from ", format_size(least_bytes), " to ", format_size(kSizeMaxBytes),
                   ", as bytes or as a string with KiB, MiB, GiB or TiB"),
      [access, least_bytes](const Scalar& scalar, Config& config) {
        return parse_size(scalar, &access(config)) && access(config) >= least_bytes &&
               access(config) <= kSizeMaxBytes;
      },
      [access](const Config& config) { return format_size(access(const_cast<Config&>(config))); }};
}

template <typename Access>
SettingSpec duration_setting(const char* key, absl::Duration least, Access access) {
  constexpr absl::Duration kMost = absl::Hours(1);
  return {key,
          absl::StrCat("a string such as \"2s\" or \"500ms\", from ", absl::FormatDuration(least),
                       " to 1h"),
          [access, least](const Scalar& scalar, Config& config) {
            return scalar.kind == Scalar::Kind::string &&
                   absl::ParseDuration(scalar.text, &access(config)) && access(config) >= least &&
                   access(config) <= kMost;
          },
          [access](const Config& config) {
            return absl::FormatDuration(access(const_cast<Config&>(config)));
          }};
}

// `above_zero`: 0 itself is not allowed.
template <typename Access>
SettingSpec fraction_setting(const char* key, bool above_zero, Access access) {
  return {
      key, above_zero ? "a number above 0.0, at most 1.0" : "a number from 0.0 to 1.0",
      [access, above_zero](const Scalar& scalar, Config& config) {
        double& value = access(config);
        const bool number =
            scalar.kind == Scalar::Kind::integer || scalar.kind == Scalar::Kind::floating;
        return number && absl::SimpleAtod(scalar.text, &value) && value <= 1 &&
               (above_zero ? value > 0 : value >= 0);
      },
      [access](const Config& config) { return number_text(access(const_cast<Config&>(config))); }};
}

template <typename Access>
SettingSpec count_setting(const char* key, std::pair<uint64_t, uint64_t> range, Access access) {
  return {
      key, absl::StrCat("an integer from ", range.first, " to ", range.second),
      [access, range](const Scalar& scalar, Config& config) {
        uint64_t value = 0;
        const bool fits = scalar.kind == Scalar::Kind::integer &&
                          absl::SimpleAtoi(scalar.text, &value) && value >= range.first &&
                          value <= range.second;
        if (fits) access(config) = static_cast<std::decay_t<decltype(access(config))>>(value);
        return fits;
      },
      [access](const Config& config) { return absl::StrCat(access(const_cast<Config&>(config))); }};
}

std::vector<SettingSpec> node_settings() {
  return {
      text_setting("node.name", &Config::node_name),
      duration_setting("node.shutdown_timeout", absl::Milliseconds(100),
                       [](Config& c) -> absl::Duration& { return c.shutdown_timeout; }),
      listen_setting("data.listen", &Config::data_listen),
      choice_setting("data.transport", &Config::data_transport, {"auto", "tcp"}),
      listen_setting("admin.listen", &Config::admin_listen),
      listen_setting("metrics.listen", &Config::metrics_listen),
  };
}

std::vector<SettingSpec> dram_settings() {
  return {
      size_setting("dram.capacity", kMiB,
                   [](Config& c) -> uint64_t& { return c.dram_capacity_bytes; }),
      fraction_setting("dram.high_watermark", true,
                       [](Config& c) -> double& { return c.store.high_watermark; }),
      fraction_setting("dram.low_watermark", true,
                       [](Config& c) -> double& { return c.store.low_watermark; }),
      fraction_setting("dram.pinned_max_fraction", false,
                       [](Config& c) -> double& { return c.store.pinned_max_fraction; }),
      count_setting("index.max_blocks", {1024, uint64_t{1} << 28},
                    [](Config& c) -> uint64_t& { return c.store.index_max_blocks; }),
  };
}

std::vector<SettingSpec> nvme_settings() {
  SettingSpec path = {"nvme.path", "a directory, or \"\" for no NVMe tier",
                      [](const Scalar& scalar, Config& config) {
                        config.store.nvme.path = scalar.text;
                        return scalar.kind == Scalar::Kind::string;
                      },
                      [](const Config& config) { return config.store.nvme.path; }};
  return {
      std::move(path),
      size_setting("nvme.capacity", 16 * kMiB,
                   [](Config& c) -> uint64_t& { return c.store.nvme.capacity_bytes; }),
      size_setting("nvme.memtable", kMiB,
                   [](Config& c) -> uint64_t& { return c.store.nvme.memtable_bytes; }),
      duration_setting("nvme.flush_interval", absl::Milliseconds(10),
                       [](Config& c) -> absl::Duration& { return c.store.nvme.flush_interval; }),
      size_setting("nvme.queue_max", kMiB,
                   [](Config& c) -> uint64_t& { return c.store.nvme.queue_max_bytes; }),
      count_setting("nvme.reader_threads", {1, 64},
                    [](Config& c) -> int& { return c.store.nvme.reader_threads; }),
      fraction_setting("nvme.free_space_min_fraction", false,
                       [](Config& c) -> double& { return c.store.nvme.free_space_min_fraction; }),
  };
}

const std::vector<SettingSpec>& setting_specs() {
  static const std::vector<SettingSpec>& specs = *new std::vector<SettingSpec>([] {
    std::vector<SettingSpec> all = node_settings();
    for (auto& setting : dram_settings()) all.push_back(std::move(setting));
    for (auto& setting : nvme_settings()) all.push_back(std::move(setting));
    all.push_back(choice_setting("log.level", &Config::log_level,
                                 {"trace", "debug", "info", "warn", "error"}));
    all.push_back(choice_setting("log.format", &Config::log_format, {"text", "json"}));
    return all;
  }());
  return specs;
}

// What is read of a number may not be what was written: toml11 makes the nearest that fits of an
// integer beyond 64 bits. Of a list over several lines, its first one.
std::string written_text(const toml::value& value) {
  constexpr size_t kShownMax = 120;
  const toml::source_location place = value.location();
  const absl::string_view line = place.line_str();
  const size_t begin = std::min<size_t>(place.column() - 1, line.size());
  return std::string(line.substr(begin, std::min<size_t>(place.region(), kShownMax)));
}

Scalar to_scalar(const toml::value& value) {
  if (value.is_table()) return {Scalar::Kind::other, "", "a section"};
  const std::string written = written_text(value);
  if (value.is_string()) return {Scalar::Kind::string, value.as_string().str, written};
  if (value.is_integer()) return {Scalar::Kind::integer, absl::StrCat(value.as_integer()), written};
  if (value.is_floating()) {
    return {Scalar::Kind::floating, number_text(value.as_floating()), written};
  }
  return {Scalar::Kind::other, "", written};
}

// A message is one line of ASCII whatever the file holds.
std::string one_line(absl::string_view text) {
  std::string shown;
  for (const char c : text) {
    if (c >= ' ' && c <= '~') {
      shown += c;
    } else {
      absl::StrAppend(&shown, "\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    }
  }
  return shown;
}

std::string shown(const Scalar& scalar) {
  return scalar.kind == Scalar::Kind::string ? absl::StrCat("\"", one_line(scalar.text), "\"")
                                             : one_line(scalar.written);
}

// Lines where keys stand, by "section.key"; for messages only.
struct Loading {
  Config config;
  std::map<std::string, size_t> lines;

  absl::Status refuse(const std::string& key, absl::string_view rest) const {
    const auto line = lines.find(key);
    return absl::InvalidArgumentError(absl::StrCat(
        config.file, ":", line == lines.end() ? 0 : line->second, ": ", one_line(key), " ", rest));
  }
};

std::vector<std::string> known_sections() {
  std::vector<std::string> sections;
  for (const auto& setting : setting_specs()) {
    std::string section(setting.key, std::string(setting.key).find('.'));
    if (sections.empty() || sections.back() != section) sections.push_back(std::move(section));
  }
  return sections;
}

absl::Status check_section(const Loading& loading, const std::string& name,
                           const toml::value& body) {
  const std::vector<std::string> sections = known_sections();
  const bool known = std::find(sections.begin(), sections.end(), name) != sections.end();
  if (known && body.is_table()) return absl::OkStatus();
  if (known) {
    return loading.refuse(name, absl::StrCat("is ", shown(to_scalar(body)),
                                             "; it is a section: write [", name, "] once"));
  }
  return loading.refuse(
      name, absl::StrCat("is ", shown(to_scalar(body)), ", and unknown; known are the sections ",
                         absl::StrJoin(sections, ", ")));
}

absl::Status read_setting(Loading& loading, const std::string& key, const toml::value& value) {
  const std::string section = key.substr(0, key.find('.') + 1);
  const Scalar scalar = to_scalar(value);
  std::vector<absl::string_view> known;
  for (const auto& setting : setting_specs()) {
    if (absl::StartsWith(setting.key, section)) known.push_back(setting.key);
    if (key != setting.key) continue;
    if (setting.read(scalar, loading.config)) return absl::OkStatus();
    return loading.refuse(key,
                          absl::StrCat("is ", shown(scalar), "; allowed is ", setting.allowed));
  }
  return loading.refuse(key, absl::StrCat("is ", shown(scalar), ", and unknown; known are ",
                                          absl::StrJoin(known, ", ")));
}

// Two sockets cannot have one port of one address, nor of all addresses and one of them. Names are
// compared as written: what they resolve to is known at start only.
bool same_socket(const std::string& one, const std::string& other) {
  const auto first = parse_node_address(one);  // fails for port 0, which is always another one
  const auto second = parse_node_address(other);
  if (!first.ok() || !second.ok() || first->port != second->port) return false;
  const auto all = [](const std::string& host) { return host == "0.0.0.0" || host == "::"; };
  return first->host == second->host || all(first->host) || all(second->host);
}

absl::Status check_listeners(const Loading& loading) {
  const std::pair<const char*, const std::string&> listeners[] = {
      {"data.listen", loading.config.data_listen},
      {"admin.listen", loading.config.admin_listen},
      {"metrics.listen", loading.config.metrics_listen}};
  for (size_t i = 1; i < std::size(listeners); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (!same_socket(listeners[i].second, listeners[j].second)) continue;
      const bool named = loading.lines.contains(listeners[i].first);
      const auto& [key, address] = listeners[named ? i : j];
      const auto& [other_key, other] = listeners[named ? j : i];
      return loading.refuse(
          key, absl::StrCat("is \"", one_line(address), "\", the port of ", other_key, " (\"",
                            one_line(other), "\"); give each a port of its own, or 0"));
    }
  }
  return absl::OkStatus();
}

absl::Status check_relations(const Loading& loading) {
  const Config& config = loading.config;
  if (auto listeners = check_listeners(loading); !listeners.ok()) return listeners;
  const TieredStoreConfig& store = config.store;
  if (store.low_watermark >= store.high_watermark) {
    const bool named = loading.lines.contains("dram.low_watermark");
    return loading.refuse(
        named ? "dram.low_watermark" : "dram.high_watermark",
        absl::StrCat("is ", number_text(named ? store.low_watermark : store.high_watermark),
                     "; dram.low_watermark (", number_text(store.low_watermark),
                     ") must be below dram.high_watermark (", number_text(store.high_watermark),
                     ")"));
  }
  if (store.nvme.path.empty()) return absl::OkStatus();
  if (store.nvme.memtable_bytes > store.nvme.capacity_bytes / 2) {
    const char* key = loading.lines.contains("nvme.memtable") ? "nvme.memtable" : "nvme.capacity";
    return loading.refuse(
        key, absl::StrCat("does not fit: nvme.memtable (", format_size(store.nvme.memtable_bytes),
                          ") must be at most half of nvme.capacity (",
                          format_size(store.nvme.capacity_bytes), ")"));
  }
  return absl::OkStatus();
}

// In the order of the file, so that the first mistake is the one reported.
absl::Status read_sections(Loading& loading, const toml::value& root) {
  struct Entry {
    std::string key;
    const toml::value* value;
    bool section;
  };
  std::vector<Entry> entries;
  for (const auto& [section, body] : root.as_table()) {
    entries.push_back({section, &body, true});
    if (!body.is_table()) continue;
    for (const auto& [name, value] : body.as_table()) {
      entries.push_back({section + "." + name, &value, false});
    }
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.value->location().line() < b.value->location().line();
  });
  for (const Entry& entry : entries) loading.lines[entry.key] = entry.value->location().line();
  for (const Entry& entry : entries) {
    const auto status = entry.section ? check_section(loading, entry.key, *entry.value)
                                      : read_setting(loading, entry.key, *entry.value);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// toml11's first line without its "[error] toml::function: ", and the line of the file.
absl::Status not_toml(const std::string& file, const std::string& text,
                      const toml::exception& error) {
  std::string reason(error.what(), std::string(error.what()).find('\n'));
  const size_t colon = reason.find(": ");
  if (absl::StartsWith(reason, "[error] ") && colon != std::string::npos) {
    reason.erase(0, colon + 2);
  }
  const size_t number = error.location().line();
  const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
  std::string line;
  if (number >= 1 && number <= lines.size()) line = one_line(lines[number - 1].substr(0, 120));
  return absl::InvalidArgumentError(
      absl::StrCat(file, ":", number, ": not valid TOML: ", one_line(reason), " in '", line,
                   "'; a key stands once, strings in double quotes"));
}

}  // namespace

Config default_config() {
  Config config;
  config.store.nvme.capacity_bytes = 16 * kGiB;
  return config;
}

absl::StatusOr<Config> load_config(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  std::ostringstream text;
  // A directory opens but cannot be read.
  if (!stream || !(text << stream.rdbuf())) {
    return absl::NotFoundError(
        absl::StrCat("cannot read the configuration file ", file,
                     ": it is missing, empty or unreadable; see deploy/hadald.toml for one"));
  }
  Loading loading = {.config = default_config()};
  loading.config.file = file;
  // toml11 reports by throwing.
  try {
    std::istringstream in(text.str());
    const toml::value root = toml::parse(in, file);
    if (auto read = read_sections(loading, root); !read.ok()) return read;
  } catch (const toml::exception& error) {
    return not_toml(file, text.str(), error);
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ":1: not valid TOML: ", one_line(error.what())));
  }
  if (auto relations = check_relations(loading); !relations.ok()) return relations;
  return std::move(loading.config);
}

std::vector<SettingValue> config_settings(const Config& config) {
  std::vector<SettingValue> values;
  for (const auto& setting : setting_specs())
    values.push_back({setting.key, setting.print(config)});
  return values;
}

std::string format_size(uint64_t bytes) {
  const std::pair<const char*, uint64_t> units[] = {
      {"TiB", kTiB}, {"GiB", kGiB}, {"MiB", kMiB}, {"KiB", 1024}};
  for (const auto& [name, unit] : units) {
    if (bytes > 0 && bytes % unit == 0) return absl::StrCat(bytes / unit, name);
  }
  return absl::StrCat(bytes);
}

}  // namespace hadal
