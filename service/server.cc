#include "service/server.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <new>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "service/admin_service.h"
#include "service/block_service.h"
#include "service/metrics.h"
#include "service/node.h"
#include "transport/transport.h"

namespace hadal {
namespace {

// The value of "NAME VALUE ..." in a file of such lines; 0 where there is none.
uint64_t field_of(const std::string& file, absl::string_view name) {
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    std::istringstream words(line);
    std::string word;
    uint64_t value = 0;
    if (words >> word >> value && word == name) return value;
  }
  return 0;
}

// What a control group leaves, UINT64_MAX where it sets no limit. Its page cache counts as used,
// but gives way.
uint64_t group_available_bytes(const std::string& group) {
  uint64_t limit = 0, used = 0;
  std::ifstream limit_file(group + "/memory.max"), used_file(group + "/memory.current");
  if (!(limit_file >> limit) || !(used_file >> used)) return UINT64_MAX;
  const std::string stat = group + "/memory.stat";
  const uint64_t cache = field_of(stat, "inactive_file") + field_of(stat, "active_file");
  used -= std::min(used, cache);
  return limit > used ? limit - used : 0;
}

// Bytes that new allocations may take, 0 where unknown: the least of what the machine and the
// control groups have, ours and all above it.
uint64_t available_memory_bytes() {
  const uint64_t machine = field_of("/proc/meminfo", "MemAvailable:") * 1024;
  if (machine == 0) return 0;
  std::ifstream groups("/proc/self/cgroup");
  std::string group;
  for (std::string line; std::getline(groups, line);) {
    if (absl::StartsWith(line, "0::/")) group = line.substr(3);
  }
  uint64_t available = machine;
  for (; !group.empty(); group.resize(group.rfind('/'))) {
    available = std::min(available, group_available_bytes("/sys/fs/cgroup" + group));
  }
  return std::min(available, group_available_bytes("/sys/fs/cgroup"));
}

absl::Status too_little_memory(const Config& config, absl::string_view found) {
  const StoreMemory store = TieredStore::memory_of(config.store);
  return absl::ResourceExhaustedError(absl::StrCat(
      "dram.capacity is ", format_size(config.dram_capacity_bytes), ", index.max_blocks is ",
      config.store.index_max_blocks, " (", store.index_bytes >> 20, "MiB) and nvme.memtable takes ",
      store.memtable_bytes >> 20, "MiB, but ", found,
      "; lower dram.capacity, index.max_blocks or nvme.memtable in ", config.file,
      " or free memory"));
}

absl::Status check_memory(const Config& config) {
  const uint64_t available = available_memory_bytes();
  const StoreMemory store = TieredStore::memory_of(config.store);
  const uint64_t needed = config.dram_capacity_bytes + store.index_bytes + store.memtable_bytes;
  if (available == 0 || needed <= available) return absl::OkStatus();
  return too_little_memory(
      config, absl::StrCat("this machine has ", available >> 20, "MiB of memory available"));
}

// A full disk later is no trouble, but RocksDB ends the whole process where it finds no room while
// it opens its files.
absl::Status check_disk(const Config& config) {
  const std::string& path = config.store.nvme.path;
  if (path.empty()) return absl::OkStatus();
  struct statvfs info = {};
  const std::string parent = std::filesystem::absolute(path).parent_path();
  if (statvfs(path.c_str(), &info) != 0 && statvfs(parent.c_str(), &info) != 0) {
    return absl::OkStatus();  // the store says better what is wrong with it
  }
  const uint64_t free_bytes = uint64_t{info.f_bavail} * info.f_frsize;
  const bool writable = info.f_blocks > 0 && (info.f_flag & ST_RDONLY) == 0;
  if (!writable || free_bytes >= kNvmeOpenSpaceMinBytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "nvme.path ", path, " lies on a full file system: ", free_bytes >> 10, "KiB are free, ",
      format_size(kNvmeOpenSpaceMinBytes),
      " are needed to start; free space, or choose another nvme.path in ", config.file));
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
  StoreStats stats() const override { return store_->stats(); }

  ShutdownReport shutdown() override {
    const absl::Time deadline = absl::Now() + config_.shutdown_timeout;
    node_->draining = true;
    admin_->set_serving(false);
    ShutdownReport report;
    // Half at most, so that a client that never ends leaves time for the disk.
    report.drained = blocks_->drain(config_.shutdown_timeout / 2);
    flush(deadline, report);
    admin_->shutdown(absl::Now() + absl::Milliseconds(200));
    return report;
  }

 private:
  absl::Status open_store() {
    if (auto fits = check_memory(config_); !fits.ok()) return fits;
    if (auto fits = check_disk(config_); !fits.ok()) return fits;
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

  void flush(absl::Time deadline, ShutdownReport& report) {
    const StoreStats before = store_->stats();
    const bool has_nvme = !config_.store.nvme.path.empty();
    absl::Status flushed = absl::OkStatus();
    if (has_nvme) flushed = store_->flush(deadline - absl::Now()).status();
    const bool time_is_up = absl::Now() >= deadline;
    const StoreStats after = store_->stats();
    const UnpersistedBlocks left = store_->unpersisted();
    report.left_blocks = left.all();
    report.flushed = has_nvme && flushed.ok() && left.all() == 0;
    if (!has_nvme) {
      report.flush_error = "there is no NVMe tier: nvme.path is empty";
      return;
    }
    if (!flushed.ok()) {
      report.flush_error = std::string(flushed.message());
    } else if (!report.flushed) {
      report.flush_error = why_left(left, time_is_up);
    }
    report.persisted_blocks = after.persisted_blocks;
    report.written_blocks =
        after.persisted_blocks - std::min(after.persisted_blocks, before.persisted_blocks);
    report.written_bytes =
        nvme_file_bytes(after) - std::min(nvme_file_bytes(after), nvme_file_bytes(before));
  }

  std::string why_left(const UnpersistedBlocks& left, bool time_is_up) const {
    std::string why;
    if (time_is_up) {
      why = absl::StrCat("node.shutdown_timeout (", absl::FormatDuration(config_.shutdown_timeout),
                         ") was up first; ");
    }
    return absl::StrCat(why, left.all(), " blocks that only DRAM held are lost: ", left.too_large,
                        " larger than nvme.memtable, ", left.in_use, " in use, ", left.waiting,
                        " not written or flushed");
  }

  static uint64_t nvme_file_bytes(const StoreStats& stats) {
    for (const TierStats& tier : stats.tiers) {
      if (tier.tier == Tier::nvme) return tier.used_bytes;
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
  try {
    if (auto started = server->start(); !started.ok()) return started;
  } catch (const std::bad_alloc&) {  // a limit of the process, say
    return too_little_memory(config, "this process was given less memory");
  }
  return server;
}

}  // namespace hadal
