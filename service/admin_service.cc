#include "service/admin_service.h"

#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "proto/admin.grpc.pb.h"

namespace hadal {
namespace {

namespace pb = admin::v1;

constexpr uint32_t kListDefaultBlocks = 1000;
constexpr uint32_t kListMaxBlocks = 10000;

void fill_store(const StoreStats& stats, pb::StoreStats* out) {
  out->set_lookups(stats.lookups);
  out->set_lookup_keys(stats.lookup_keys);
  out->set_lookup_hits(stats.lookup_hits);
  out->set_puts_stored(stats.puts_stored);
  out->set_puts_duplicate(stats.puts_duplicate);
  out->set_puts_refused(stats.puts_refused);
  out->set_reads(stats.reads);
  out->set_read_misses(stats.read_misses);
  out->set_bad_blocks(stats.bad_blocks);
  out->set_token_collisions(stats.token_collisions);
  out->set_stored_raw_blocks_non_finite(stats.stored_raw_blocks_non_finite);
  out->set_raw_bytes(stats.raw_bytes);
  out->set_encoded_bytes(stats.encoded_bytes);
  out->set_pinned_bytes(stats.pinned_bytes);
  out->set_nvme_queue_bytes(stats.nvme_queue_bytes);
  out->set_nvme_dropped_blocks(stats.nvme_dropped_blocks);
  out->set_nvme_write_errors(stats.nvme_write_errors);
  out->set_nvme_db_reads(stats.nvme_db_reads);
  out->set_persisted_blocks(stats.persisted_blocks);
  out->set_recovered_blocks(stats.recovered_blocks);
  out->set_recovery_lost(stats.recovery_lost);
  out->set_recovery_repaired(stats.recovery_repaired);
  out->set_oldest_unpersisted_age_ms(absl::ToInt64Milliseconds(stats.oldest_unpersisted_age));
}

void fill_transport(const TransportStats& stats, pb::TransportStats* out) {
  out->set_messages_sent(stats.messages_sent);
  out->set_messages_received(stats.messages_received);
  out->set_payload_bytes_sent(stats.payload_bytes_sent);
  out->set_payload_bytes_received(stats.payload_bytes_received);
  out->set_connections_opened(stats.connections_opened);
  out->set_connections_failed(stats.connections_failed);
  out->set_operations_expired(stats.operations_expired);
  out->set_protocol_errors(stats.protocol_errors);
}

void fill_block(const BlockKey& key, const KeyAnswer& answer, pb::BlockStatus* out) {
  out->set_key(key.hex());
  out->set_state(static_cast<pb::BlockState>(answer.state));
  if (answer.state != BlockState::present) return;
  out->set_tier(std::string(tier_name(answer.tier)));
  out->set_bytes(answer.bytes);
  out->set_dropped_planes(answer.dropped_planes);
  out->set_key_planes(answer.precision.key_planes);
  out->set_value_planes(answer.precision.value_planes);
  out->set_generation(answer.generation);
}

std::string hex_or_empty(const BlockKey& key) { return key == BlockKey{} ? "" : key.hex(); }

void fill_listing(const BlockListing& block, pb::BlockStatus* out) {
  out->set_persisted(block.persisted);
  out->set_pins(block.pins);
  out->set_parent(hex_or_empty(block.origin.parent));
  out->set_route(hex_or_empty(block.origin.route));
  if (block.origin.token_digest == 0) return;
  out->set_token_digest(absl::StrCat(absl::Hex(block.origin.token_digest, absl::kZeroPad16)));
}

// False where a key is not one; `refusal` then says which.
template <typename Keys>
bool parse_keys(const Keys& texts, std::vector<BlockKey>* keys, grpc::Status* refusal) {
  if (static_cast<size_t>(texts.size()) > limits::kBatchMaxKeys) {
    *refusal = {grpc::StatusCode::INVALID_ARGUMENT,
                absl::StrCat("keys holds ", texts.size(), "; at most ", limits::kBatchMaxKeys)};
    return false;
  }
  for (const std::string& text : texts) {
    auto key = BlockKey::from_hex(text);
    if (!key.ok()) {
      *refusal = {grpc::StatusCode::INVALID_ARGUMENT,
                  absl::StrCat("keys holds \"", text, "\": ", std::string(key.status().message()))};
      return false;
    }
    keys->push_back(*key);
  }
  return true;
}

class AdminService final : public pb::Admin::Service {
 public:
  explicit AdminService(const Node& node) : node_(node) {}

  grpc::Status GetStats(grpc::ServerContext*, const pb::GetStatsRequest*,
                        pb::GetStatsResponse* answer) override {
    answer->set_node(node_.config.node_name);
    answer->set_version(kHadalVersion);
    answer->set_uptime_seconds(absl::ToInt64Seconds(absl::Now() - node_.started));
    answer->set_transport(node_.transport.description());
    answer->set_data_address(node_.data_address);
    answer->set_peers(node_.blocks.peer_count());
    answer->set_draining(node_.draining);
    fill_store(node_.store.stats(), answer->mutable_store());
    fill_transport(node_.transport.stats(), answer->mutable_transport_stats());
    return grpc::Status::OK;
  }

  grpc::Status ListTiers(grpc::ServerContext*, const pb::ListTiersRequest*,
                         pb::ListTiersResponse* answer) override {
    for (const TierStats& tier : node_.store.stats().tiers) {
      pb::TierStatus* out = answer->add_tiers();
      out->set_tier(std::string(tier_name(tier.tier)));
      out->set_capacity_bytes(tier.capacity_bytes);
      out->set_used_bytes(tier.used_bytes);
      out->set_encoded_bytes(tier.encoded_bytes);
      out->set_raw_bytes(tier.raw_bytes);
      out->set_blocks(tier.blocks);
      out->set_hits(tier.hits);
      out->set_evicted_blocks(tier.evicted_blocks);
    }
    return grpc::Status::OK;
  }

  grpc::Status LookupBlocks(grpc::ServerContext*, const pb::LookupBlocksRequest* request,
                            pb::LookupBlocksResponse* answer) override {
    std::vector<BlockKey> keys;
    grpc::Status refusal;
    if (!parse_keys(request->keys(), &keys, &refusal)) return refusal;
    if (keys.empty()) return {grpc::StatusCode::INVALID_ARGUMENT, "keys is empty; give at least 1"};
    const LookupAnswer found = node_.store.lookup(keys, LookupOptions{});
    const std::vector<BlockListing> listings = node_.store.describe(keys);
    for (size_t i = 0; i < keys.size(); ++i) {
      pb::BlockStatus* out = answer->add_blocks();
      fill_block(keys[i], found.keys[i], out);
      // Not of a block that came or was replaced in between.
      if (listings[i].answer.generation == found.keys[i].generation) fill_listing(listings[i], out);
    }
    return grpc::Status::OK;
  }

  grpc::Status EvictBlocks(grpc::ServerContext*, const pb::EvictBlocksRequest* request,
                           pb::EvictBlocksResponse* answer) override {
    std::vector<BlockKey> keys;
    grpc::Status refusal;
    if (!parse_keys(request->keys(), &keys, &refusal)) return refusal;
    // An empty list means all to the store; here that must be asked for.
    if (request->all() == !keys.empty()) {
      return {grpc::StatusCode::INVALID_ARGUMENT,
              "give either keys or all = true: keys is empty and all is false, or both are set"};
    }
    answer->set_evicted_blocks(node_.store.evict(keys));
    return grpc::Status::OK;
  }

  grpc::Status ListBlocks(grpc::ServerContext*, const pb::ListBlocksRequest* request,
                          pb::ListBlocksResponse* answer) override {
    if (request->at_most() > kListMaxBlocks) {
      return {grpc::StatusCode::INVALID_ARGUMENT,
              absl::StrCat("at_most is ", request->at_most(), "; at most ", kListMaxBlocks)};
    }
    const uint32_t at_most = request->at_most() == 0 ? kListDefaultBlocks : request->at_most();
    for (const BlockListing& block : node_.store.list(at_most)) {
      pb::BlockStatus* out = answer->add_blocks();
      fill_block(block.key, block.answer, out);
      fill_listing(block, out);
    }
    return grpc::Status::OK;
  }

  grpc::Status GetConfig(grpc::ServerContext*, const pb::GetConfigRequest*,
                         pb::GetConfigResponse* answer) override {
    answer->set_file(node_.config.file);
    const std::vector<SettingValue> defaults = config_settings(default_config());
    const std::vector<SettingValue> values = config_settings(node_.config);
    for (size_t i = 0; i < values.size(); ++i) {
      pb::Setting* out = answer->add_settings();
      out->set_key(values[i].key);
      out->set_value(values[i].value);
      out->set_changed(values[i].value != defaults[i].value);
    }
    return grpc::Status::OK;
  }

 private:
  const Node& node_;
};

class GrpcAdminServer final : public AdminServer {
 public:
  explicit GrpcAdminServer(const Node& node) : service_(node) {}
  ~GrpcAdminServer() override { shutdown(absl::Now()); }

  bool start(const std::string& address) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    // With it a second node on the same port would start, and share the first one's calls.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) return false;
    set_serving(true);
    return true;
  }

  uint16_t port() const override { return static_cast<uint16_t>(port_); }

  void set_serving(bool serving) override {
    if (auto* health = server_->GetHealthCheckService()) {
      health->SetServingStatus(serving);
      health->SetServingStatus("hadal.admin.v1.Admin", serving);
    }
  }

  void shutdown(absl::Time deadline) override {
    if (server_ == nullptr) return;
    server_->Shutdown(absl::ToChronoTime(deadline));
    server_->Wait();
    server_.reset();
  }

 private:
  AdminService service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::listen(const std::string& address,
                                                                 const Node& node) {
  auto server = std::make_unique<GrpcAdminServer>(node);
  if (!server->start(address)) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve the admin API on ", address,
                     ": the port is in use or the address is not this machine's; change "
                     "admin.listen or stop what uses it"));
  }
  return server;
}

}  // namespace hadal
