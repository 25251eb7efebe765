#pragma once

// The one configuration file of hadald (docs/configuration.md, deploy/hadald.toml).
//
// Every setting is described once, in the table of config.cc: its key, what is allowed, how it is
// read and how it is printed. Immutable once loaded. Errors are InvalidArgument and name the file,
// the line, the key, its value and what is allowed.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "storage/tiered_store.h"

namespace hadal {

struct Config {
  std::string file;  // it was read from; empty: defaults

  std::string node_name = "hadald";
  absl::Duration shutdown_timeout = absl::Seconds(20);  // for draining and flushing together

  std::string data_listen = "127.0.0.1:7400";
  std::string data_transport = "auto";
  std::string admin_listen = "127.0.0.1:7401";
  std::string metrics_listen = "127.0.0.1:7402";

  uint64_t dram_capacity_bytes = uint64_t{1} << 30;
  TieredStoreConfig store;

  std::string log_level = "info";
  std::string log_format = "text";
};

// The built-in defaults.
Config default_config();

// Reads and validates. NotFound where the file cannot be read.
absl::StatusOr<Config> load_config(const std::string& file);

// One setting in force, for people.
struct SettingValue {
  std::string key;    // "dram.capacity"
  std::string value;  // as it would stand in the file, without quotes
};

// Every setting, in the order of docs/configuration.md.
std::vector<SettingValue> config_settings(const Config& config);

// "1GiB", "512MiB" or "1000": the shortest exact form.
std::string format_size(uint64_t bytes);

}  // namespace hadal
