#include "common/node_address.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace hadal {
namespace {

absl::Status bad_address(absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("node address '", text, "' ", why,
                                                 "; write host:port or host:port*weight, such as ",
                                                 "10.0.0.7:7400"));
}

}  // namespace

std::string NodeAddress::host_port() const {
  const bool brackets = host.find(':') != std::string::npos;
  return brackets ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::StatusOr<NodeAddress> parse_node_address(absl::string_view text) {
  NodeAddress address;
  absl::string_view rest = text;
  if (const size_t star = rest.find('*'); star != absl::string_view::npos) {
    const absl::string_view weight = rest.substr(star + 1);
    if (!absl::SimpleAtod(weight, &address.weight) || !std::isfinite(address.weight) ||
        address.weight <= 0 || address.weight > 1e6) {
      return bad_address(text, absl::StrCat("has weight '", weight, "', not a number above 0"));
    }
    rest = rest.substr(0, star);
  }
  const size_t colon = rest.rfind(':');
  if (colon == absl::string_view::npos) return bad_address(text, "has no port");
  absl::string_view host = rest.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != absl::string_view::npos) {
    return bad_address(text, "has an IPv6 host without brackets");
  }
  if (host.empty()) return bad_address(text, "has no host");
  uint32_t port = 0;
  if (!absl::SimpleAtoi(rest.substr(colon + 1), &port) || port == 0 || port > 65535) {
    return bad_address(text, absl::StrCat("has port '", rest.substr(colon + 1),
                                          "', not a number from 1 to 65535"));
  }
  address.host = std::string(host);
  address.port = static_cast<uint16_t>(port);
  return address;
}

absl::StatusOr<std::vector<NodeAddress>> parse_node_list(absl::string_view text) {
  std::vector<NodeAddress> nodes;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    absl::StatusOr<NodeAddress> node = parse_node_address(absl::StripAsciiWhitespace(part));
    if (!node.ok()) return node.status();
    for (const NodeAddress& known : nodes) {
      if (known.host_port() == node->host_port()) {
        return absl::InvalidArgumentError(
            absl::StrCat("node list names ", node->host_port(), " twice; name each node once"));
      }
    }
    nodes.push_back(*std::move(node));
  }
  return nodes;
}

}  // namespace hadal
