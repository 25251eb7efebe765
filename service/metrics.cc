#include "service/metrics.h"

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace hadal {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily family(const std::string& name, const std::string& help, MetricType type) {
  MetricFamily made;
  made.name = name;
  made.help = help;
  made.type = type;
  return made;
}

void add(MetricFamily& family, double value, std::vector<ClientMetric::Label> labels = {}) {
  ClientMetric metric;
  metric.label = std::move(labels);
  if (family.type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family.metric.push_back(std::move(metric));
}

template <typename Stats>
struct Row {
  const char* name;
  const char* help;
  MetricType type;
  uint64_t Stats::*field;
};

constexpr auto kCounter = MetricType::Counter;
constexpr auto kGauge = MetricType::Gauge;

constexpr Row<StoreStats> kStoreRows[] = {
    {"hadal_lookups_total", "Lookup requests", kCounter, &StoreStats::lookups},
    {"hadal_lookup_keys_total", "Keys asked for in lookups", kCounter, &StoreStats::lookup_keys},
    {"hadal_lookup_hits_total", "Keys of lookups that were present", kCounter,
     &StoreStats::lookup_hits},
    {"hadal_puts_stored_total", "Puts whose payload was stored", kCounter,
     &StoreStats::puts_stored},
    {"hadal_puts_duplicate_total", "Puts of a block that was there; no payload moved", kCounter,
     &StoreStats::puts_duplicate},
    {"hadal_puts_refused_total", "Puts refused: no room, bad offer or bad bytes", kCounter,
     &StoreStats::puts_refused},
    {"hadal_reads_total", "Blocks asked for by reads", kCounter, &StoreStats::reads},
    {"hadal_read_misses_total", "Reads that missed", kCounter, &StoreStats::read_misses},
    {"hadal_bad_blocks_total", "Blocks found damaged and dropped", kCounter,
     &StoreStats::bad_blocks},
    {"hadal_token_collisions_total", "Puts and reads of a key that holds other tokens", kCounter,
     &StoreStats::token_collisions},
    {"hadal_non_finite_blocks_total", "Blocks stored raw because of NaN or infinity", kCounter,
     &StoreStats::stored_raw_blocks_non_finite},
    {"hadal_raw_bytes_total", "Bytes that the stored puts encode", kCounter,
     &StoreStats::raw_bytes},
    {"hadal_encoded_bytes_total", "Bytes that the stored puts were encoded to", kCounter,
     &StoreStats::encoded_bytes},
    {"hadal_pinned_bytes", "Bytes pinned by leases", kGauge, &StoreStats::pinned_bytes},
    {"hadal_nvme_queue_bytes", "Bytes waiting to be written to NVMe", kGauge,
     &StoreStats::nvme_queue_bytes},
    {"hadal_nvme_dropped_blocks_total", "Blocks not written to NVMe: queue or disk full", kCounter,
     &StoreStats::nvme_dropped_blocks},
    {"hadal_nvme_write_errors_total", "Failed writes to NVMe", kCounter,
     &StoreStats::nvme_write_errors},
    {"hadal_nvme_lost_blocks_total", "Copies on NVMe lost to damage or a failing disk since start",
     kCounter, &StoreStats::nvme_lost_blocks},
    {"hadal_nvme_repairs_total", "Times the NVMe directory was found damaged since start", kCounter,
     &StoreStats::nvme_repairs},
    {"hadal_nvme_db_reads_total", "Reads that reached NVMe's database; a miss adds none", kCounter,
     &StoreStats::nvme_db_reads},
    {"hadal_persisted_blocks", "Blocks that survive kill -9", kGauge,
     &StoreStats::persisted_blocks},
    {"hadal_recovered_blocks", "Blocks that NVMe held at start", kGauge,
     &StoreStats::recovered_blocks},
    {"hadal_recovery_repaired", "1 where the NVMe directory was damaged at start and made good",
     kGauge, &StoreStats::recovery_repaired},
    {"hadal_recovery_lost", "1 where blocks were lost by damage of the NVMe directory at start",
     kGauge, &StoreStats::recovery_lost},
};

constexpr Row<TierStats> kTierRows[] = {
    {"hadal_tier_capacity_bytes", "Hard bound of a tier", kGauge, &TierStats::capacity_bytes},
    {"hadal_tier_used_bytes", "Slab bytes handed out, or bytes of files", kGauge,
     &TierStats::used_bytes},
    {"hadal_tier_encoded_bytes", "Bytes of the blocks in a tier, without rounding", kGauge,
     &TierStats::encoded_bytes},
    {"hadal_tier_raw_bytes", "Bytes that the blocks in a tier encode", kGauge,
     &TierStats::raw_bytes},
    {"hadal_tier_blocks", "Blocks in a tier", kGauge, &TierStats::blocks},
    {"hadal_tier_hits_total", "Reads served from a tier", kCounter, &TierStats::hits},
    {"hadal_tier_evicted_blocks_total", "Blocks that left a tier to make room", kCounter,
     &TierStats::evicted_blocks},
};

constexpr Row<TransportStats> kTransportRows[] = {
    {"hadal_transport_messages_sent_total", "Messages sent", kCounter,
     &TransportStats::messages_sent},
    {"hadal_transport_messages_received_total", "Messages received", kCounter,
     &TransportStats::messages_received},
    {"hadal_transport_payload_sent_bytes_total", "Bytes sent with messages: blocks, keys, answers",
     kCounter, &TransportStats::payload_bytes_sent},
    {"hadal_transport_payload_received_bytes_total",
     "Bytes received with messages: blocks, keys, answers", kCounter,
     &TransportStats::payload_bytes_received},
    {"hadal_transport_connections_opened_total", "Connections established", kCounter,
     &TransportStats::connections_opened},
    {"hadal_transport_connections_failed_total", "Connections never established, or lost", kCounter,
     &TransportStats::connections_failed},
    {"hadal_transport_operations_expired_total", "Operations that ran out of time", kCounter,
     &TransportStats::operations_expired},
    {"hadal_transport_protocol_errors_total", "Malformed messages; each closed its connection",
     kCounter, &TransportStats::protocol_errors},
};

class NodeCollectable final : public prometheus::Collectable {
 public:
  explicit NodeCollectable(const Node& node) : node_(node) {}

  std::vector<MetricFamily> Collect() const override {
    std::vector<MetricFamily> families;
    const StoreStats store = node_.store.stats();
    for (const auto& row : kStoreRows) {
      add(families.emplace_back(family(row.name, row.help, row.type)), store.*row.field);
    }
    for (const auto& row : kTierRows) {
      MetricFamily& made = families.emplace_back(family(row.name, row.help, row.type));
      for (const TierStats& tier : store.tiers) {
        add(made, tier.*row.field, {{"tier", std::string(tier_name(tier.tier))}});
      }
    }
    const TransportStats transport = node_.transport.stats();
    for (const auto& row : kTransportRows) {
      add(families.emplace_back(family(row.name, row.help, row.type)), transport.*row.field);
    }
    add_node_gauges(store, families);
    return families;
  }

 private:
  void add_node_gauges(const StoreStats& store, std::vector<MetricFamily>& families) const {
    add(families.emplace_back(
            family("hadal_oldest_unpersisted_age_seconds",
                   "Age of the oldest block that kill -9 would lose; 0: all is persisted", kGauge)),
        absl::ToDoubleSeconds(store.oldest_unpersisted_age));
    add(families.emplace_back(family("hadal_peers", "Connected clients", kGauge)),
        node_.blocks.peer_count());
    add(families.emplace_back(family("hadal_draining", "1 while the node shuts down", kGauge)),
        node_.draining ? 1 : 0);
    add(families.emplace_back(
            family("hadal_uptime_seconds", "Time since the node became ready", kGauge)),
        absl::ToDoubleSeconds(absl::Now() - node_.started));
    add(families.emplace_back(family("hadal_build_info",
                                     "Always 1; labels name version, node and transport", kGauge)),
        1,
        {{"version", kHadalVersion},
         {"node", node_.config.node_name},
         {"transport", node_.transport.description()}});
  }

  const Node& node_;
};

class PrometheusServer final : public MetricsServer {
 public:
  PrometheusServer(const std::string& address, const Node& node)
      : collectable_(std::make_shared<NodeCollectable>(node)), exposer_(options(address)) {
    exposer_.RegisterCollectable(collectable_);
  }

  uint16_t port() const override {
    const std::vector<int> ports = exposer_.GetListeningPorts();
    return ports.empty() ? 0 : static_cast<uint16_t>(ports.front());
  }

 private:
  // The library's own are 2 threads and 30 seconds: two clients that connect and say nothing would
  // keep every scrape waiting for so long.
  static std::vector<std::string> options(const std::string& address) {
    return {"listening_ports", address, "num_threads", "8", "request_timeout_ms", "2000"};
  }

  std::shared_ptr<NodeCollectable> collectable_;
  prometheus::Exposer exposer_;  // before the collectable in destruction: no scrape outlives it
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::listen(const std::string& address,
                                                                     const Node& node) {
  // prometheus-cpp reports by throwing.
  try {
    return std::make_unique<PrometheusServer>(address, node);
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on ", address, " (", error.what(),
                     "): the port is in use or the address is not this machine's; change "
                     "metrics.listen or stop what uses it"));
  }
}

}  // namespace hadal
