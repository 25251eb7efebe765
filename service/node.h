#pragma once

// What the admin service and the metrics look at: the parts of a running node. All borrowed and
// outlived by the node; every method called through it may be called from any thread.

#include <atomic>
#include <string>

#include "absl/time/time.h"
#include "service/config.h"
#include "storage/tiered_store.h"
#include "transport/block_server.h"

namespace hadal {

inline constexpr const char* kHadalVersion = "0.1.0";

struct Node {
  const Config& config;
  TieredStore& store;
  Transport& transport;
  BlockServer& blocks;
  std::string data_address;  // "host:port" with the actual port
  absl::Time started;
  std::atomic<bool> draining = false;
};

}  // namespace hadal
