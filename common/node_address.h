#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hadal {

// One store node as a client names it: "host:port" or "host:port*weight". An IPv6 host stands in
// brackets. Weight scales the share of keys that the node owns; default 1.
struct NodeAddress {
  std::string host;
  uint16_t port = 0;
  double weight = 1.0;

  std::string host_port() const;
};

// InvalidArgument says what was wrong with which text.
absl::StatusOr<NodeAddress> parse_node_address(absl::string_view text);

// Comma separated list, at least one, no node twice.
absl::StatusOr<std::vector<NodeAddress>> parse_node_list(absl::string_view text);

}  // namespace hadal
