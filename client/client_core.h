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
#include "client/gpu_worker.h"
#include "client/layout_registry.h"
#include "client/request_table.h"
#include "client/scheduler.h"
#include "client/staging_pool.h"
#include "common/ring.h"
#include "storage/hbm_tier.h"

namespace hadal {

struct ClientCore : std::enable_shared_from_this<ClientCore> {
  ClientCore(Ring node_ring, const GpuConfig& gpu)
      : ring(std::move(node_ring)), gpu_device(gpu.device), layouts(gpu.device) {}

  // Starts what a client with a GPU has; staging memory must be there. Errors as Gpu's.
  absl::Status start_gpu(const GpuConfig& config);

  // Groups `indices` of `keys` by the node that owns each: one vector a node.
  std::vector<std::vector<size_t>> by_node(const std::vector<RoutedKey>& keys,
                                           absl::Span<const size_t> indices) const;

  // A new request in the table, watched by the scheduler. The caller gives kind, keys and groups.
  // ResourceExhausted where the table is full.
  absl::StatusOr<std::shared_ptr<Request>> open_request(RequestStart start,
                                                        const RequestOptions& options);

  // Room in the tier in HBM; null where it has none, there is no tier, or the device was given up.
  std::shared_ptr<SlotBlock> reserve_in_hbm(uint32_t bytes, uint64_t began) const;

  // What the tier in HBM has of this key, touched; nothing where there is no tier.
  std::optional<HbmBlock> find_in_hbm(const RoutedKey& key, const Precision& least,
                                      uint64_t token_digest) const;

  // Ends every request, then threads and peers, in the order that leaves no callback dangling.
  void stop();

  const Ring ring;
  std::vector<NodeAddress> nodes;
  std::shared_ptr<Transport> transport;
  std::shared_ptr<StagingPool> pool;
  std::unique_ptr<RequestTable> table;
  std::unique_ptr<Scheduler> scheduler;
  std::unique_ptr<CodecWorkers> workers;
  const std::shared_ptr<Gpu> gpu_device;  // null: none, and no worker and tier either
  std::unique_ptr<GpuWorker> gpu;
  GpuMemory hbm_memory;
  std::unique_ptr<HbmTier> hbm;  // null: no tier
  bool sends_from_hbm = false;   // as the transport can; else blocks are copied to staging slots
  std::vector<std::unique_ptr<BlockPeer>> peers;  // as nodes
  LayoutRegistry layouts;
  StatsCounter stats;

 private:
  bool is_pinned_ = false;
};

using CorePtr = std::shared_ptr<ClientCore>;
using RequestPtr = std::shared_ptr<Request>;
using LayoutPtr = std::shared_ptr<const RegisteredLayout>;

// All indices of a request's keys.
std::vector<size_t> all_indices(const Request& request);

// An error that says which node it came from.
absl::Status at_node(const ClientCore& core, size_t node, const absl::Status& status);

// Each starts an open request and returns without waiting. Arguments were checked.
void start_lookup(const CorePtr& core, const RequestPtr& request, const RequestOptions& options);
struct PutStart {
  LayoutPtr layout;
  std::vector<BlockPut> blocks;
  cudaEvent_t ready = nullptr;
};
void start_put(const CorePtr& core, const RequestPtr& request, PutStart start);

struct GetStart {
  LayoutPtr layout;
  std::vector<BlockGet> blocks;
  Precision least;
  cudaEvent_t ready = nullptr;
};
void start_get(const CorePtr& core, const RequestPtr& request, GetStart start);

// Tells the owner of a key that a block is bad. Generation 0: whatever it holds now.
void send_report_bad(const CorePtr& core, const RoutedKey& block, uint64_t generation);

}  // namespace hadal
