#include "client/client.h"

#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/client_core.h"

namespace hadal {
namespace {

constexpr uint64_t kStagingMinBytes = 64 * 1024;
constexpr int kCodecThreadsMax = 64;
constexpr absl::string_view kLoopbackPrefix = "loopback:";

absl::Status check_config(const ClientConfig& config) {
  std::set<std::string> names;
  for (const NodeAddress& node : config.nodes) {
    if (!names.insert(node.host_port()).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("ClientConfig.nodes names ", node.host_port(), " twice"));
    }
  }
  if (config.staging_bytes < kStagingMinBytes) {
    return absl::InvalidArgumentError(absl::StrCat("ClientConfig.staging_bytes is ",
                                                   config.staging_bytes, "; allowed are at least ",
                                                   kStagingMinBytes));
  }
  if (config.gpu.hbm_bytes != 0 && config.gpu.device == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("ClientConfig.gpu.hbm_bytes is ", config.gpu.hbm_bytes,
                     " without a device; give ClientConfig.gpu.device, or 0"));
  }
  if (config.gpu.patience <= absl::ZeroDuration() || config.gpu.patience > absl::Hours(1)) {
    return absl::InvalidArgumentError(absl::StrCat("ClientConfig.gpu.patience is ",
                                                   absl::FormatDuration(config.gpu.patience),
                                                   "; it is above 0 and at most 1h"));
  }
  if (config.codec_threads < 1 || config.codec_threads > kCodecThreadsMax) {
    return absl::InvalidArgumentError(absl::StrCat("ClientConfig.codec_threads is ",
                                                   config.codec_threads, "; allowed are 1 to ",
                                                   kCodecThreadsMax));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Transport>> make_transport(const std::string& name) {
  TransportConfig config;
  absl::string_view network = name;
  if (absl::ConsumePrefix(&network, kLoopbackPrefix) && !network.empty()) {
    return Transport::create_loopback(std::string(network), config);
  }
  if (name != "auto" && name != "tcp") {
    return absl::InvalidArgumentError(absl::StrCat(
        "ClientConfig.transport is \"", name, "\"; allowed are auto, tcp and loopback:<network>"));
  }
  config.tls = name;
  return Transport::create_ucx(config);
}

RoutedKey bind_routed(const RegisteredLayout& layout, const EngineHash& hash,
                      const std::optional<EngineHash>& route) {
  const BlockKey key = layout.binder->bind(hash);
  return {key, route.has_value() ? layout.binder->bind(*route) : key, layout.gpu != nullptr};
}

class ClientImpl final : public Client {
 public:
  explicit ClientImpl(CorePtr core)
      : core_(std::move(core)), transport_description_(core_->transport->description()) {}
  ~ClientImpl() override { core_->stop(); }

  absl::StatusOr<LayoutId> register_layout(const LayoutConfig& config) override {
    return core_->layouts.add(config);
  }

  absl::StatusOr<RequestId> lookup(absl::Span<const GroupLookup> groups,
                                   const RequestOptions& options) override;
  absl::StatusOr<RequestId> put(LayoutId layout, absl::Span<const BlockPut> blocks,
                                const RequestOptions& options) override;
  absl::StatusOr<RequestId> get(LayoutId layout, absl::Span<const BlockGet> blocks,
                                const RequestOptions& options) override;

  absl::StatusOr<RequestResult> wait(RequestId request) override {
    return core_->table->wait(request);
  }
  std::vector<RequestResult> drain() override { return core_->table->drain(); }
  int event_fd() const override { return core_->table->event_fd(); }
  void cancel(RequestId request) override;
  void report_bad(LayoutId layout, const EngineHash& hash,
                  const std::optional<EngineHash>& route) override;
  void release(const RequestResult& lookup) override;
  ClientStats stats() const override;
  std::vector<NodeStatus> nodes() const override;
  std::string transport_description() const override { return transport_description_; }

 private:
  // The layout of a submit whose options and size are right.
  absl::StatusOr<LayoutPtr> begin(LayoutId layout, size_t key_count,
                                  const RequestOptions& options) const;

  const CorePtr core_;
  const std::string transport_description_;
};

absl::StatusOr<LayoutPtr> ClientImpl::begin(LayoutId layout, size_t key_count,
                                            const RequestOptions& options) const {
  if (absl::Status status = check_options(options); !status.ok()) return status;
  if (absl::Status status = check_batch(key_count); !status.ok()) return status;
  absl::StatusOr<LayoutPtr> found = core_->layouts.find(layout);
  if (!found.ok() || options.ready == nullptr) return found;
  if ((*found)->gpu == nullptr) {
    return absl::InvalidArgumentError("RequestOptions.ready is set for pages in host memory");
  }
  if (absl::Status status = core_->gpu_device->happened(options.ready).status(); !status.ok()) {
    return status;
  }
  return found;
}

absl::StatusOr<RequestId> ClientImpl::lookup(absl::Span<const GroupLookup> groups,
                                             const RequestOptions& options) {
  if (absl::Status status = check_options(options); !status.ok()) return status;
  if (absl::Status status = check_groups(groups); !status.ok()) return status;
  RequestStart start;
  start.kind = RequestKind::lookup;
  bool counts_tokens = true;
  for (const GroupLookup& group : groups) {
    absl::StatusOr<LayoutPtr> layout = core_->layouts.find(group.layout);
    if (!layout.ok()) return layout.status();
    std::optional<EngineHash> route;
    for (size_t i = 0; i < group.hashes.size(); ++i) {
      if (!group.routes.empty()) route = group.routes[i];
      start.keys.push_back(bind_routed(**layout, group.hashes[i], route));
    }
    const uint32_t of_layout = (*layout)->config.layout.block_tokens;
    if (of_layout != 0 && group.block_tokens != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("group ", start.groups.size(), ": block_tokens is ", group.block_tokens,
                       " beside the layout's ", of_layout, "; leave it 0"));
    }
    counts_tokens = counts_tokens && of_layout + group.block_tokens > 0;
    start.groups.push_back({group.rule, of_layout + group.block_tokens, group.window_tokens,
                            std::vector<bool>(group.hashes.size(), false), group.token_count});
  }
  if (!counts_tokens) {
    start.groups.clear();
  } else if (absl::Status status = longest_prefix_tokens(start.groups).status(); !status.ok()) {
    return status;
  }
  absl::StatusOr<RequestPtr> request = core_->open_request(std::move(start), options);
  if (!request.ok()) return request.status();
  const RequestId id = (*request)->id();
  if (options.no_load) {
    (*request)->close(absl::NotFoundError("no_load"));
  } else {
    start_lookup(core_, *request, options);
  }
  return id;
}

absl::StatusOr<RequestId> ClientImpl::put(LayoutId layout, absl::Span<const BlockPut> blocks,
                                          const RequestOptions& options) {
  absl::StatusOr<LayoutPtr> found = begin(layout, blocks.size(), options);
  if (!found.ok()) return found.status();
  absl::Status status = check_puts(**found, blocks, core_->pool->capacity_bytes());
  if (!status.ok()) return status;
  RequestStart start;
  start.kind = RequestKind::put;
  for (const BlockPut& block : blocks) {
    start.keys.push_back(bind_routed(**found, block.hash, block.route));
  }
  absl::StatusOr<RequestPtr> request = core_->open_request(std::move(start), options);
  if (!request.ok()) return request.status();
  const RequestId id = (*request)->id();
  if (options.no_store) {
    (*request)->close(absl::CancelledError("no_store"));
  } else {
    start_put(core_, *request, {*std::move(found), {blocks.begin(), blocks.end()}, options.ready});
  }
  return id;
}

absl::StatusOr<RequestId> ClientImpl::get(LayoutId layout, absl::Span<const BlockGet> blocks,
                                          const RequestOptions& options) {
  absl::StatusOr<LayoutPtr> found = begin(layout, blocks.size(), options);
  if (!found.ok()) return found.status();
  absl::Status status = check_gets(**found, blocks, core_->pool->capacity_bytes());
  if (!status.ok()) return status;
  RequestStart start;
  start.kind = RequestKind::get;
  for (const BlockGet& block : blocks) {
    start.keys.push_back(bind_routed(**found, block.hash, block.route));
  }
  absl::StatusOr<RequestPtr> request = core_->open_request(std::move(start), options);
  if (!request.ok()) return request.status();
  const RequestId id = (*request)->id();
  if (options.no_load) {
    (*request)->close(absl::NotFoundError("no_load"));
  } else {
    start_get(core_, *request,
              {*std::move(found), {blocks.begin(), blocks.end()}, options.least, options.ready});
  }
  return id;
}

void ClientImpl::cancel(RequestId request) {
  const RequestPtr open = core_->table->find_open(request);
  if (open) open->close(absl::CancelledError("cancelled by the caller"));
}

void ClientImpl::report_bad(LayoutId layout, const EngineHash& hash,
                            const std::optional<EngineHash>& route) {
  const absl::StatusOr<LayoutPtr> found = core_->layouts.find(layout);
  if (!found.ok() || hash.bytes().empty() || (route.has_value() && route->bytes().empty())) return;
  const RoutedKey key = bind_routed(**found, hash, route);
  if (core_->hbm && key.on_gpu) core_->hbm->remove(key.key);
  send_report_bad(core_, key, 0);
}

void ClientImpl::release(const RequestResult& lookup) {
  for (size_t node = 0; node < lookup.leases.size() && node < core_->peers.size(); ++node) {
    if (lookup.leases[node] != 0) core_->peers[node]->release(lookup.leases[node]);
  }
}

ClientStats ClientImpl::stats() const {
  ClientStats stats = core_->stats.snapshot();
  if (!core_->hbm) return stats;
  const HbmStats hbm = core_->hbm->stats();
  stats.hbm_capacity_bytes = hbm.capacity_bytes;
  stats.hbm_used_bytes = hbm.used_bytes;
  stats.hbm_blocks = hbm.blocks;
  stats.hbm_hits = hbm.hits;
  stats.hbm_evicted_blocks = hbm.evicted_blocks;
  return stats;
}

std::vector<Client::NodeStatus> ClientImpl::nodes() const {
  std::vector<NodeStatus> all;
  for (size_t i = 0; i < core_->nodes.size(); ++i) {
    all.push_back({core_->nodes[i], core_->peers[i]->state(), core_->peers[i]->last_error()});
  }
  return all;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::create(const ClientConfig& config) {
  if (absl::Status status = check_config(config); !status.ok()) return status;
  absl::StatusOr<Ring> ring = Ring::create(config.nodes);
  if (!ring.ok()) return ring.status();
  absl::StatusOr<std::shared_ptr<Transport>> transport = make_transport(config.transport);
  if (!transport.ok()) return transport.status();
  absl::StatusOr<std::shared_ptr<StagingPool>> pool =
      StagingPool::create(**transport, config.staging_bytes);
  if (!pool.ok()) return pool.status();
  absl::StatusOr<std::unique_ptr<RequestTable>> table = RequestTable::create();
  if (!table.ok()) return table.status();
  auto core = std::make_shared<ClientCore>(*std::move(ring), config.gpu);
  core->nodes = config.nodes;
  core->transport = *std::move(transport);
  core->pool = *std::move(pool);
  core->table = *std::move(table);
  if (absl::Status status = core->start_gpu(config.gpu); !status.ok()) return status;
  core->scheduler = std::make_unique<Scheduler>(*core->pool);
  core->workers = std::make_unique<CodecWorkers>(config.codec_threads);
  for (const NodeAddress& node : core->nodes) {
    core->peers.push_back(BlockPeer::create(core->transport, node, config.peer));
  }
  return std::make_unique<ClientImpl>(std::move(core));
}

}  // namespace hadal
