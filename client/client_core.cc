#include "client/client_core.h"

#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace hadal {
namespace {

constexpr absl::Duration kReportTimeout = absl::Seconds(1);
constexpr absl::Duration kStopWait = absl::Seconds(2);

}  // namespace

std::vector<std::vector<size_t>> ClientCore::by_node(const std::vector<RoutedKey>& keys,
                                                     absl::Span<const size_t> indices) const {
  std::vector<std::vector<size_t>> groups(nodes.size());
  for (const size_t i : indices) groups[ring.owner(keys[i].route)].push_back(i);
  return groups;
}

std::vector<size_t> all_indices(const Request& request) {
  std::vector<size_t> indices(request.keys().size());
  std::iota(indices.begin(), indices.end(), size_t{0});
  return indices;
}

absl::StatusOr<RequestPtr> ClientCore::open_request(RequestStart start,
                                                    const RequestOptions& options) {
  start.id = table->next_id();
  start.node_count = nodes.size();
  start.timeout = options.timeout;
  start.priority = options.priority;
  // The request lives in the table and in callbacks that hold the core; a bare pointer avoids a
  // cycle for requests that nobody fetches.
  start.on_end = [this, kind = start.kind, id = start.id](RequestResult result) {
    stats.add(kind, result);
    if (const RequestPtr request = table->find_open(id)) scheduler->unwatch(*request);
    table->complete(std::move(result));
  };
  auto request = std::make_shared<Request>(std::move(start));
  if (absl::Status status = table->add(request); !status.ok()) return status;
  scheduler->watch(request);
  return request;
}

absl::Status ClientCore::start_gpu(const GpuConfig& config) {
  if (gpu_device == nullptr) return absl::OkStatus();
  if (config.hbm_bytes > 0) {
    absl::StatusOr<GpuMemory> memory = gpu_device->allocate_device(config.hbm_bytes);
    if (!memory.ok()) return memory.status();
    hbm_memory = *std::move(memory);
    hbm = std::make_unique<HbmTier>(absl::MakeSpan(hbm_memory.get(), config.hbm_bytes));
  }
  absl::StatusOr<std::unique_ptr<GpuWorker>> worker =
      GpuWorker::create(gpu_device, config.patience);
  if (!worker.ok()) return worker.status();
  gpu = *std::move(worker);
  sends_from_hbm = config.send_from_hbm && transport->can_send(gpu_device->memory_kind());
  if (absl::Status status = gpu_device->pin(pool->memory()); !status.ok()) return status;
  is_pinned_ = true;
  return absl::OkStatus();
}

std::optional<HbmBlock> ClientCore::find_in_hbm(const RoutedKey& key, const Precision& least,
                                                uint64_t token_digest) const {
  if (!hbm || !key.on_gpu || gpu->is_broken()) return std::nullopt;
  return hbm->find(key.key, least, token_digest);
}

std::shared_ptr<SlotBlock> ClientCore::reserve_in_hbm(uint32_t bytes, uint64_t began) const {
  if (!hbm || gpu->is_broken()) return nullptr;
  return hbm->reserve(bytes, began);
}

void ClientCore::stop() {
  for (const RequestPtr& request : table->all_open()) {
    request->close(absl::CancelledError("the client was destroyed"));
  }
  scheduler->stop();
  workers->stop();
  const bool is_gpu_done = !gpu || gpu->stop();
  peers.clear();
  // The network may still hold slots; the transport outlives them where it can.
  pool->wait_idle(kStopWait);
  if (is_pinned_ && is_gpu_done) gpu_device->unpin(pool->memory());
  transport.reset();
}

absl::Status at_node(const ClientCore& core, size_t node, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("node ", core.nodes[node].host_port(), ": ", status.message()));
}

void send_report_bad(const CorePtr& core, const RoutedKey& block, uint64_t generation) {
  const BlockKey& key = block.key;
  BlockPeer* const peer = core->peers[core->ring.owner(block.route)].get();
  const absl::Time deadline = absl::Now() + kReportTimeout;
  if (generation != 0) {
    peer->report_bad(key, generation, deadline, [](const absl::StatusOr<bool>&) {});
    return;
  }
  peer->lookup({key}, LookupOptions{}, {deadline},
               [peer, key, deadline](const absl::StatusOr<LookupAnswer>& answer) {
                 if (!answer.ok() || answer->keys.size() != 1) return;
                 const uint64_t found = answer->keys[0].generation;
                 if (found == 0) return;
                 peer->report_bad(key, found, deadline, [](const absl::StatusOr<bool>&) {});
               });
}

}  // namespace hadal
