#pragma once

// What hadalctl does, one function a command. Each writes its answer to `out`: a table for people,
// or with `json` one JSON object (docs/admin_api.md). Errors are for people: they say what, where
// and what to do. Every call ends by `timeout`.

#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace hadal::cli {

struct AdminTarget {
  std::string address = "127.0.0.1:7401";  // admin.listen of a node
  absl::Duration timeout = absl::Seconds(5);
  bool json = false;
  std::FILE* out = stdout;
};

absl::Status show_status(const AdminTarget& target);
absl::Status show_tiers(const AdminTarget& target);
absl::Status show_blocks(const AdminTarget& target, uint32_t at_most);
absl::Status show_lookup(const AdminTarget& target, const std::vector<std::string>& keys);
// All blocks where `keys` is empty.
absl::Status evict(const AdminTarget& target, const std::vector<std::string>& keys);
absl::Status show_config(const AdminTarget& target);

struct FileTarget {
  std::string nodes = "127.0.0.1:7400";  // data.listen of every node
  std::string transport = "auto";
  absl::Duration timeout = absl::Seconds(30);
  bool json = false;
  std::FILE* out = stdout;
};

// Stores each file as one block of opaque bytes under its base name. Before anything is sent, files
// of 0 bytes or above the largest block are refused, and two of one base name. AlreadyExists where
// a file of another size is stored under the name; one of the same size is taken for the same.
absl::Status put_files(const FileTarget& target, const std::vector<std::string>& files);

// Writes the file stored under `name` to `out`, which stays untouched on error.
absl::Status get_file(const FileTarget& target, const std::string& name, const std::string& out);

}  // namespace hadal::cli
