#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "common/block_key.h"
#include "common/node_address.h"
#include "proto/admin.grpc.pb.h"

namespace hadal::cli {
namespace {

namespace pb = admin::v1;
using Json = nlohmann::ordered_json;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

Json to_json(const Message& message);

// `index` below 0: the field is not repeated.
Json field_json(const Message& message, const FieldDescriptor* field, int index) {
  const auto* reflection = message.GetReflection();
  const bool one = index < 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return to_json(one ? reflection->GetMessage(message, field)
                         : reflection->GetRepeatedMessage(message, field, index));
    case FieldDescriptor::CPPTYPE_STRING:
      return one ? reflection->GetString(message, field)
                 : reflection->GetRepeatedString(message, field, index);
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection->GetUInt64(message, field);
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection->GetUInt32(message, field);
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->GetBool(message, field);
    case FieldDescriptor::CPPTYPE_ENUM:
      return reflection->GetEnum(message, field)->name();
    default:
      return nullptr;  // admin.proto has no other types
  }
}

// Fields by their names in admin.proto, numbers as numbers (protobuf's own JSON makes strings of
// 64-bit ones).
Json to_json(const Message& message) {
  Json object = Json::object();
  const auto* descriptor = message.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    if (!field->is_repeated()) {
      object[field->name()] = field_json(message, field, -1);
      continue;
    }
    Json list = Json::array();
    for (int n = 0; n < message.GetReflection()->FieldSize(message, field); ++n) {
      list.push_back(field_json(message, field, n));
    }
    object[field->name()] = std::move(list);
  }
  return object;
}

void print_json(const AdminTarget& target, const Message& message) {
  std::fprintf(target.out, "%s\n", to_json(message).dump().c_str());
}

template <typename Request, typename Response>
using Method = grpc::Status (pb::Admin::Stub::*)(grpc::ClientContext*, const Request&, Response*);

template <typename Request, typename Response>
absl::Status call(const AdminTarget& target, Method<Request, Response> method,
                  const Request& request, Response* response) {
  // gRPC itself would wait for the name "foo" until the deadline.
  if (auto address = parse_node_address(target.address); !address.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--admin ", target.address, " is not host:port, such as 127.0.0.1:7401"));
  }
  const auto stub =
      pb::Admin::NewStub(grpc::CreateChannel(target.address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + target.timeout));
  const grpc::Status status = ((*stub).*method)(&context, request, response);
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  if (code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kDeadlineExceeded) {
    return absl::Status(code, absl::StrCat("no answer from the admin API at ", target.address, " (",
                                           status.error_message(),
                                           "); is hadald running there, and is --admin right?"));
  }
  return absl::Status(code, status.error_message());
}

// Here, so that a typing error is refused without a node.
template <typename Request>
absl::Status add_keys(const std::vector<std::string>& keys, Request* request) {
  for (const auto& key : keys) {
    if (auto parsed = BlockKey::from_hex(key); !parsed.ok()) return parsed.status();
    request->add_keys(key);
  }
  return absl::OkStatus();
}

double mib(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

void print_blocks(std::FILE* out,
                  const google::protobuf::RepeatedPtrField<pb::BlockStatus>& blocks) {
  std::fprintf(out, "%-64s %-13s %-5s %12s %7s %9s %4s\n", "KEY", "STATE", "TIER", "BYTES",
               "PLANES", "PERSISTED", "PINS");
  for (const auto& block : blocks) {
    const char* state = block.state() == pb::BLOCK_STATE_PRESENT  ? "present"
                        : block.state() == pb::BLOCK_STATE_ABSENT ? "absent"
                                                                  : "being written";
    const std::string planes = block.key_planes() == 255 ? "raw"
                                                         : absl::StrCat("k", block.key_planes(),
                                                                        "v", block.value_planes());
    std::fprintf(out, "%-64s %-13s %-5s %12llu %7s %9s %4u\n", block.key().c_str(), state,
                 block.tier().c_str(), static_cast<unsigned long long>(block.bytes()),
                 planes.c_str(), block.persisted() ? "yes" : "-", block.pins());
  }
}

}  // namespace

absl::Status show_status(const AdminTarget& target) {
  pb::GetStatsResponse stats;
  auto called = call(target, &pb::Admin::Stub::GetStats, pb::GetStatsRequest{}, &stats);
  if (!called.ok()) return called;
  if (target.json) {
    print_json(target, stats);
    return absl::OkStatus();
  }
  const auto& store = stats.store();
  std::fprintf(target.out, "%s %s, up %llu s%s\n", stats.node().c_str(), stats.version().c_str(),
               static_cast<unsigned long long>(stats.uptime_seconds()),
               stats.draining() ? ", draining" : "");
  std::fprintf(target.out, "data       %s over %s, %llu peers\n", stats.data_address().c_str(),
               stats.transport().c_str(), static_cast<unsigned long long>(stats.peers()));
  std::fprintf(target.out, "lookups    %llu keys, %llu hits\n",
               static_cast<unsigned long long>(store.lookup_keys()),
               static_cast<unsigned long long>(store.lookup_hits()));
  std::fprintf(target.out, "puts       %llu stored, %llu duplicate, %llu refused\n",
               static_cast<unsigned long long>(store.puts_stored()),
               static_cast<unsigned long long>(store.puts_duplicate()),
               static_cast<unsigned long long>(store.puts_refused()));
  std::fprintf(target.out, "reads      %llu, %llu misses, %llu bad blocks\n",
               static_cast<unsigned long long>(store.reads()),
               static_cast<unsigned long long>(store.read_misses()),
               static_cast<unsigned long long>(store.bad_blocks()));
  std::fprintf(target.out, "bytes      %.1f MiB raw as %.1f MiB encoded\n", mib(store.raw_bytes()),
               mib(store.encoded_bytes()));
  std::fprintf(target.out, "persisted  %llu blocks, oldest unpersisted %.1f s\n",
               static_cast<unsigned long long>(store.persisted_blocks()),
               static_cast<double>(store.oldest_unpersisted_age_ms()) / 1000);
  return absl::OkStatus();
}

absl::Status show_tiers(const AdminTarget& target) {
  pb::ListTiersResponse tiers;
  auto called = call(target, &pb::Admin::Stub::ListTiers, pb::ListTiersRequest{}, &tiers);
  if (!called.ok()) return called;
  if (target.json) {
    print_json(target, tiers);
    return absl::OkStatus();
  }
  std::fprintf(target.out, "%-5s %13s %10s %13s %6s %9s %9s %9s\n", "TIER", "CAPACITY MiB",
               "USED MiB", "ENCODED MiB", "RATIO", "BLOCKS", "HITS", "EVICTED");
  for (const auto& tier : tiers.tiers()) {
    const double ratio =
        tier.used_bytes() == 0 ? 0 : mib(tier.raw_bytes()) / mib(tier.used_bytes());
    std::fprintf(target.out, "%-5s %13.1f %10.1f %13.1f %6.2f %9llu %9llu %9llu\n",
                 tier.tier().c_str(), mib(tier.capacity_bytes()), mib(tier.used_bytes()),
                 mib(tier.encoded_bytes()), ratio, static_cast<unsigned long long>(tier.blocks()),
                 static_cast<unsigned long long>(tier.hits()),
                 static_cast<unsigned long long>(tier.evicted_blocks()));
  }
  return absl::OkStatus();
}

absl::Status show_blocks(const AdminTarget& target, uint32_t at_most) {
  pb::ListBlocksRequest request;
  request.set_at_most(at_most);
  pb::ListBlocksResponse blocks;
  auto called = call(target, &pb::Admin::Stub::ListBlocks, request, &blocks);
  if (!called.ok()) return called;
  target.json ? print_json(target, blocks) : print_blocks(target.out, blocks.blocks());
  return absl::OkStatus();
}

absl::Status show_lookup(const AdminTarget& target, const std::vector<std::string>& keys) {
  pb::LookupBlocksRequest request;
  if (auto added = add_keys(keys, &request); !added.ok()) return added;
  pb::LookupBlocksResponse blocks;
  auto called = call(target, &pb::Admin::Stub::LookupBlocks, request, &blocks);
  if (!called.ok()) return called;
  target.json ? print_json(target, blocks) : print_blocks(target.out, blocks.blocks());
  return absl::OkStatus();
}

absl::Status evict(const AdminTarget& target, const std::vector<std::string>& keys) {
  pb::EvictBlocksRequest request;
  if (auto added = add_keys(keys, &request); !added.ok()) return added;
  request.set_all(keys.empty());
  pb::EvictBlocksResponse evicted;
  auto called = call(target, &pb::Admin::Stub::EvictBlocks, request, &evicted);
  if (!called.ok()) return called;
  if (target.json) {
    print_json(target, evicted);
  } else {
    std::fprintf(target.out, "evicted %llu blocks\n",
                 static_cast<unsigned long long>(evicted.evicted_blocks()));
  }
  return absl::OkStatus();
}

absl::Status show_config(const AdminTarget& target) {
  pb::GetConfigResponse config;
  auto called = call(target, &pb::Admin::Stub::GetConfig, pb::GetConfigRequest{}, &config);
  if (!called.ok()) return called;
  if (target.json) {
    print_json(target, config);
    return absl::OkStatus();
  }
  std::fprintf(target.out, "from %s; * differs from the default\n", config.file().c_str());
  for (const auto& setting : config.settings()) {
    std::fprintf(target.out, "%s %-30s %s\n", setting.changed() ? "*" : " ", setting.key().c_str(),
                 setting.value().c_str());
  }
  return absl::OkStatus();
}

}  // namespace hadal::cli
