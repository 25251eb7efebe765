#pragma once

// The gRPC control plane (proto/admin.proto) and the standard health service on one listener.
// Never on the hot path. Threads: gRPC's own. Health says NOT_SERVING while the node drains.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "service/node.h"

namespace hadal {

class AdminServer {
 public:
  // Listens at once. Unavailable names the address and what to do. `node` outlives the server.
  static absl::StatusOr<std::unique_ptr<AdminServer>> listen(const std::string& address,
                                                             const Node& node);
  virtual ~AdminServer() = default;

  virtual uint16_t port() const = 0;
  virtual void set_serving(bool serving) = 0;
  // Ends calls in flight by the deadline. Idempotent.
  virtual void shutdown(absl::Time deadline) = 0;
};

}  // namespace hadal
