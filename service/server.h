#pragma once

// A whole store node in one object: slab, store, data plane, admin API and metrics.
//
// Start order is also the order of dependence: memory, store, data plane, admin, metrics; the end
// is the reverse. Threads: start and shutdown are called by one thread, main's; the parts own
// theirs.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "service/config.h"

namespace hadal {

// Where a running node listens, "host:port" with actual ports.
struct ListenAddresses {
  std::string data;
  std::string admin;
  std::string metrics;
};

struct ShutdownReport {
  bool drained = false;           // nothing was in flight when draining ended
  bool flushed = false;           // every block is persisted
  std::string flush_error;        // why not; empty where flushed
  uint64_t left_blocks = 0;       // that only DRAM held, lost with the process
  uint64_t written_blocks = 0;    // persisted by this shutdown
  uint64_t written_bytes = 0;     // that NVMe's files grew by
  uint64_t persisted_blocks = 0;  // in all
};

class Server {
 public:
  // Errors say what, where and what to do. ResourceExhausted: slab, index and memtables
  // do not fit into memory.
  // Unavailable: a listener's port is in use. Others come from the store's directory.
  static absl::StatusOr<std::unique_ptr<Server>> start(const Config& config);
  virtual ~Server() = default;

  virtual const ListenAddresses& addresses() const = 0;
  virtual std::string transport_description() const = 0;
  virtual StoreStats stats() const = 0;

  // Refuses puts, lets what is in flight end, and flushes DRAM to NVMe, all within
  // node.shutdown_timeout. Call once.
  virtual ShutdownReport shutdown() = 0;
};

}  // namespace hadal
