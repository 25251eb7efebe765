#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/client.h"
#include "common/limits.h"

namespace hadal::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kBlockOverheadBytes = 4096;  // header and table, generously
constexpr uint64_t kStagingMinBytes = 8u << 20;
constexpr uint64_t kFileMaxBytes = limits::kBlockMaxBytes - kBlockOverheadBytes;

struct Store {
  std::unique_ptr<Client> client;
  LayoutId layout = 0;
};

// Files share a namespace of their own; the same name means the same file for every hadalctl.
absl::StatusOr<Store> connect(const FileTarget& target, uint64_t largest_bytes) {
  auto nodes = parse_node_list(target.nodes);
  if (!nodes.ok()) return nodes.status();
  ClientConfig config;
  config.nodes = *std::move(nodes);
  config.transport = target.transport;
  config.staging_bytes = std::max(2 * largest_bytes + kStagingMinBytes, kStagingMinBytes);
  auto client = Client::create(config);
  if (!client.ok()) return client.status();
  LayoutConfig layout;
  layout.layout.dtype = DType::opaque;
  layout.codec.family = CodecFamily::raw;
  layout.codec.key_bits = layout.codec.value_bits = 0;
  layout.model = "hadalctl-files";
  layout.hash_scheme = "sha256-of-name";
  auto id = (*client)->register_layout(layout);
  if (!id.ok()) return id.status();
  return Store{*std::move(client), *id};
}

absl::StatusOr<KeyResult> finish(const Store& store, absl::StatusOr<RequestId> request) {
  if (!request.ok()) return request.status();
  auto result = store.client->wait(*request);
  if (!result.ok()) return result.status();
  if (result->keys.size() != 1) return absl::InternalError("one key asked, another count answered");
  return std::move(result->keys.front());
}

absl::Status explain(const absl::Status& status, const FileTarget& target,
                     const std::string& what) {
  std::string advice;
  if (absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) {
    advice = absl::StrCat("; is hadald running at ", target.nodes, ", and is --nodes right?");
  }
  return absl::Status(status.code(), absl::StrCat(what, ": ", status.ToString(), advice));
}

absl::StatusOr<uint64_t> file_size(const std::string& file) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error)) {
    return absl::NotFoundError(
        absl::StrCat(file, ": ", error ? error.message() : "not a regular file, or missing"));
  }
  const uint64_t bytes = std::filesystem::file_size(file, error);
  if (error) return absl::NotFoundError(absl::StrCat(file, ": ", error.message()));
  if (bytes == 0) return absl::InvalidArgumentError(absl::StrCat(file, ": empty; at least 1 byte"));
  if (bytes > kFileMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": ", bytes, " bytes; at most ", kFileMaxBytes, " fit into one block"));
  }
  return bytes;
}

absl::StatusOr<std::vector<std::byte>> read_file(const std::string& file, uint64_t bytes) {
  std::vector<std::byte> content(bytes);
  std::ifstream in(file, std::ios::binary);
  if (!in.read(reinterpret_cast<char*>(content.data()), static_cast<std::streamsize>(bytes))) {
    return absl::PermissionDeniedError(absl::StrCat(file, ": cannot be read"));
  }
  return content;
}

// Through a file beside it, so that a full disk leaves `out` as it was.
absl::Status write_file(const std::string& out, absl::Span<const std::byte> content) {
  const std::string partial = out + ".partial";
  std::ofstream file(partial, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(content.data()),
             static_cast<std::streamsize>(content.size()));
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(partial, out, error);
  if (file && !error) return absl::OkStatus();
  std::filesystem::remove(partial, error);
  return absl::PermissionDeniedError(absl::StrCat(out,
                                                  ": cannot be written; check directory, "
                                                  "permissions and free space"));
}

absl::StatusOr<Json> put_file(const Store& store, const FileTarget& target,
                              const std::string& file) {
  auto bytes = file_size(file);
  if (!bytes.ok()) return bytes.status();
  auto content = read_file(file, *bytes);
  if (!content.ok()) return content.status();
  const std::string name = std::filesystem::path(file).filename();
  BlockPut put = {.hash = digest_engine_string(name), .opaque = *content};
  RequestOptions options;
  options.timeout = target.timeout;
  auto result = finish(store, store.client->put(store.layout, {&put, 1}, options));
  const absl::Status status = result.ok() ? result->status : result.status();
  if (!status.ok()) return explain(status, target, file);
  return Json{{"name", name},
              {"bytes", *bytes},
              {"encoded_bytes", result->encoded_bytes},
              {"wire_bytes", result->wire_bytes},
              {"duplicate", result->duplicate}};
}

}  // namespace

absl::Status put_files(const FileTarget& target, const std::vector<std::string>& files) {
  uint64_t largest_bytes = 0;
  for (const auto& file : files) {
    auto bytes = file_size(file);
    if (!bytes.ok()) return bytes.status();
    largest_bytes = std::max(largest_bytes, *bytes);
  }
  auto store = connect(target, largest_bytes);
  if (!store.ok()) return store.status();
  Json answers = Json::array();
  for (const auto& file : files) {
    auto answer = put_file(*store, target, file);
    if (!answer.ok()) return answer.status();
    if (!target.json) {
      std::printf("put %s, %llu bytes%s\n", (*answer)["name"].get<std::string>().c_str(),
                  static_cast<unsigned long long>((*answer)["bytes"].get<uint64_t>()),
                  (*answer)["duplicate"].get<bool>() ? ", was stored already" : "");
    }
    answers.push_back(*std::move(answer));
  }
  if (target.json) std::printf("%s\n", Json{{"files", answers}}.dump().c_str());
  return absl::OkStatus();
}

absl::Status get_file(const FileTarget& target, const std::string& name, const std::string& out) {
  RequestOptions options;
  options.timeout = target.timeout;
  const EngineHash hash = digest_engine_string(name);
  // The size decides how much staging memory the get needs: ask first.
  auto probe = connect(target, 0);
  if (!probe.ok()) return probe.status();
  auto found = finish(*probe, probe->client->lookup(probe->layout, {&hash, 1}, options));
  absl::Status status = found.ok() ? found->status : found.status();
  if (absl::IsNotFound(status)) {
    return absl::NotFoundError(absl::StrCat(name, ": no node has it; put it first"));
  }
  if (!status.ok()) return explain(status, target, name);
  auto store = connect(target, found->encoded_bytes);
  if (!store.ok()) return store.status();
  std::vector<std::byte> content(found->encoded_bytes);
  BlockGet get = {.hash = hash, .opaque = absl::MakeSpan(content)};
  auto result = finish(*store, store->client->get(store->layout, {&get, 1}, options));
  status = result.ok() ? result->status : result.status();
  if (!status.ok()) return explain(status, target, name);
  content.resize(result->raw_bytes);
  if (auto written = write_file(out, content); !written.ok()) return written;
  const std::string tier(tier_name(result->tier));
  if (target.json) {
    const Json answer = {{"name", name},
                         {"file", out},
                         {"bytes", result->raw_bytes},
                         {"encoded_bytes", result->encoded_bytes},
                         {"tier", tier}};
    std::printf("%s\n", answer.dump().c_str());
  } else {
    std::printf("got %s from %s, %llu bytes, into %s\n", name.c_str(), tier.c_str(),
                static_cast<unsigned long long>(result->raw_bytes), out.c_str());
  }
  return absl::OkStatus();
}

}  // namespace hadal::cli
