#pragma once

// What the three request flows share, and the flows themselves. One ClientCore a client.
//
// Callbacks of the transport hold a shared_ptr to the core, so one that comes late finds it whole;
// stop() breaks the cycle. Members below are thread safe by themselves and fixed after start.

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "client/arguments.h"
#include "client/client_stats.h"
#include "client/codec_workers.h"
#include "client/layout_registry.h"
#include "client/request_table.h"
#include "client/scheduler.h"
#include "client/staging_pool.h"
#include "common/ring.h"

namespace hadal {

struct ClientCore : std::enable_shared_from_this<ClientCore> {
  explicit ClientCore(Ring node_ring) : ring(std::move(node_ring)) {}

  // Groups indices of `keys` by the node that owns each: one vector a node.
  std::vector<std::vector<size_t>> by_node(const std::vector<RoutedKey>& keys) const;

  // A new request in the table, watched by the scheduler. The caller gives kind, keys and groups.
  // ResourceExhausted where the table is full.
  absl::StatusOr<std::shared_ptr<Request>> open_request(RequestStart start,
                                                        const RequestOptions& options);

  // Ends every request, then threads and peers, in the order that leaves no callback dangling.
  void stop();

  const Ring ring;
  std::vector<NodeAddress> nodes;
  std::shared_ptr<Transport> transport;
  std::shared_ptr<StagingPool> pool;
  std::unique_ptr<RequestTable> table;
  std::unique_ptr<Scheduler> scheduler;
  std::unique_ptr<CodecWorkers> workers;
  std::vector<std::unique_ptr<BlockPeer>> peers;  // as nodes
  LayoutRegistry layouts;
  StatsCounter stats;
};

using CorePtr = std::shared_ptr<ClientCore>;
using RequestPtr = std::shared_ptr<Request>;
using LayoutPtr = std::shared_ptr<const RegisteredLayout>;

// An error that says which node it came from.
absl::Status at_node(const ClientCore& core, size_t node, const absl::Status& status);

// Each starts an open request and returns without waiting. Arguments were checked.
void start_lookup(const CorePtr& core, const RequestPtr& request, const RequestOptions& options);
void start_put(const CorePtr& core, const RequestPtr& request, LayoutPtr layout,
               absl::Span<const BlockPut> blocks);

struct GetStart {
  LayoutPtr layout;
  std::vector<BlockGet> blocks;
  Precision least;
};
void start_get(const CorePtr& core, const RequestPtr& request, GetStart start);

// Tells the owner of a key that a block is bad. Generation 0: whatever it holds now.
void send_report_bad(const CorePtr& core, const RoutedKey& block, uint64_t generation);

}  // namespace hadal
