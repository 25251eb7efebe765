#pragma once

// Prometheus text at http://<metrics.listen>/metrics. docs/metrics.md lists every name; a test
// keeps the two equal. Values are read from the node at each scrape; nothing is kept here.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "service/node.h"

namespace hadal {

class MetricsServer {
 public:
  // Listens at once. Unavailable names the address and what to do. `node` outlives the server.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> listen(const std::string& address,
                                                               const Node& node);
  virtual ~MetricsServer() = default;

  virtual uint16_t port() const = 0;
};

}  // namespace hadal
