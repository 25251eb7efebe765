#include "service/server.h"

#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "service/admin_service.h"
#include "service/block_service.h"
#include "service/metrics.h"
#include "service/node.h"
#include "transport/transport.h"

namespace hadal {
namespace {

// Bytes that new allocations may take, 0 where unknown: the smaller of the machine's and of the
// control group's.
uint64_t available_memory_bytes() {
  uint64_t available = 0;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);) {
    std::istringstream words(line);
    std::string name;
    uint64_t kib = 0;
    if (words >> name >> kib && name == "MemAvailable:") available = kib * 1024;
  }
  uint64_t limit = 0, used = 0;
  std::ifstream limit_file("/sys/fs/cgroup/memory.max"), used_file("/sys/fs/cgroup/memory.current");
  if (limit_file >> limit && used_file >> used) {
    available = std::min(available, limit > used ? limit - used : 0);
  }
  return available;
}

absl::Status check_memory(const Config& config) {
  const uint64_t available = available_memory_bytes();
  if (available == 0 || config.dram_capacity_bytes <= available) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "dram.capacity is ", format_size(config.dram_capacity_bytes), ", but this machine has ",
      available >> 20, "MiB of memory available; lower dram.capacity in ", config.file));
}

std::string with_port(const std::string& address, uint16_t port) {
  return absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
}

class NodeServer final : public Server {
 public:
  explicit NodeServer(const Config& config) : config_(config) {}

  absl::Status start() {
    if (auto opened = open_store(); !opened.ok()) return opened;
    handler_ = std::make_unique<BlockService>(*store_);
    auto blocks = BlockServer::listen(transport_, config_.data_listen, *handler_);
    if (!blocks.ok()) {
      return absl::Status(
          blocks.status().code(),
          absl::StrCat("data.listen is ", config_.data_listen, ": ", blocks.status().message(),
                       "; change data.listen or stop what uses it"));
    }
    blocks_ = *std::move(blocks);
    addresses_.data = with_port(config_.data_listen, blocks_->port());
    node_.reset(new Node{.config = config_,
                         .store = *store_,
                         .transport = *transport_,
                         .blocks = *blocks_,
                         .data_address = addresses_.data,
                         .started = absl::Now()});
    auto admin = AdminServer::listen(config_.admin_listen, *node_);
    if (!admin.ok()) return admin.status();
    admin_ = *std::move(admin);
    auto metrics = MetricsServer::listen(config_.metrics_listen, *node_);
    if (!metrics.ok()) return metrics.status();
    metrics_ = *std::move(metrics);
    addresses_.admin = with_port(config_.admin_listen, admin_->port());
    addresses_.metrics = with_port(config_.metrics_listen, metrics_->port());
    return absl::OkStatus();
  }

  const ListenAddresses& addresses() const override { return addresses_; }
  std::string transport_description() const override { return transport_->description(); }
  uint64_t recovered_blocks() const override { return store_->stats().recovered_blocks; }

  ShutdownReport shutdown() override {
    const absl::Time deadline = absl::Now() + config_.shutdown_timeout;
    node_->draining = true;
    admin_->set_serving(false);
    ShutdownReport report;
    // Half at most, so that a client that never ends leaves time for the disk.
    report.drained = blocks_->drain(config_.shutdown_timeout / 2);
    const StoreStats before = store_->stats();
    const auto flushed = store_->flush(deadline - absl::Now());
    const StoreStats after = store_->stats();
    report.flushed = flushed.ok();
    if (!flushed.ok()) report.flush_error = flushed.status().ToString();
    report.persisted_blocks = flushed.ok() ? *flushed : after.persisted_blocks;
    report.written_blocks =
        after.persisted_blocks - std::min(after.persisted_blocks, before.persisted_blocks);
    report.written_bytes = nvme_bytes(after) - std::min(nvme_bytes(after), nvme_bytes(before));
    admin_->shutdown(absl::Now() + absl::Milliseconds(200));
    return report;
  }

 private:
  absl::Status open_store() {
    if (auto fits = check_memory(config_); !fits.ok()) return fits;
    auto transport = Transport::create_ucx({.name = "hadal-io", .tls = config_.data_transport});
    if (!transport.ok()) return transport.status();
    transport_ = *std::move(transport);
    auto slab = transport_->allocate(config_.dram_capacity_bytes);
    if (!slab.ok()) {
      return absl::Status(
          slab.status().code(),
          absl::StrCat("dram.capacity is ", format_size(config_.dram_capacity_bytes), ": ",
                       slab.status().message(), "; lower dram.capacity"));
    }
    slab_ = *std::move(slab);
    auto store = TieredStore::open(config_.store, slab_->bytes(), clock_);
    if (!store.ok()) return store.status();
    store_ = *std::move(store);
    return absl::OkStatus();
  }

  static uint64_t nvme_bytes(const StoreStats& stats) {
    for (const TierStats& tier : stats.tiers) {
      if (tier.tier == Tier::nvme) return tier.encoded_bytes;
    }
    return 0;
  }

  const Config config_;
  SystemClock clock_;
  std::shared_ptr<Transport> transport_;
  std::shared_ptr<RegisteredMemory> slab_;
  std::unique_ptr<TieredStore> store_;
  std::unique_ptr<BlockService> handler_;
  std::unique_ptr<BlockServer> blocks_;
  std::unique_ptr<Node> node_;
  std::unique_ptr<AdminServer> admin_;
  std::unique_ptr<MetricsServer> metrics_;
  ListenAddresses addresses_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::start(const Config& config) {
  auto server = std::make_unique<NodeServer>(config);
  if (auto started = server->start(); !started.ok()) return started;
  return server;
}

}  // namespace hadal
