#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/client.h"
#include "client/layout_registry.h"
#include "common/limits.h"
#include "kernels/codec.h"

namespace hadal::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kBlockOverheadBytes = 4096;  // header and table, generously
constexpr uint64_t kStagingMinBytes = 8u << 20;
constexpr uint64_t kFileMaxBytes = limits::kBlockMaxBytes - kBlockOverheadBytes;

// Files share a namespace of their own; the same name means the same file for every hadalctl.
LayoutConfig file_layout() {
  LayoutConfig config;
  config.layout.dtype = DType::opaque;
  config.codec.family = CodecFamily::raw;
  config.codec.key_bits = config.codec.value_bits = 0;
  config.model = "hadalctl-files";
  config.hash_scheme = "sha256-of-name";
  return config;
}

// As the client library makes it, so that people can look a file up and evict it.
BlockKey file_key(const std::string& name) {
  const LayoutConfig config = file_layout();
  return KeyBinder(key_namespace_of(config), config.shard).bind(digest_engine_string(name));
}

struct Store {
  std::unique_ptr<Client> client;
  LayoutId layout = 0;
  absl::Time deadline;

  RequestOptions options() const {
    RequestOptions options;
    options.timeout = std::max(deadline - absl::Now(), absl::Milliseconds(1));
    return options;
  }
};

absl::StatusOr<Store> connect(const FileTarget& target, absl::Time deadline,
                              uint64_t largest_bytes) {
  auto nodes = parse_node_list(target.nodes);
  if (!nodes.ok()) return nodes.status();
  ClientConfig config;
  config.nodes = *std::move(nodes);
  config.transport = target.transport;
  config.staging_bytes = largest_bytes + kStagingMinBytes;  // one block at a time
  auto client = Client::create(config);
  if (!client.ok()) return client.status();
  auto id = (*client)->register_layout(file_layout());
  if (!id.ok()) return id.status();
  return Store{*std::move(client), *id, deadline};
}

absl::StatusOr<KeyResult> finish(const Store& store, absl::StatusOr<RequestId> request) {
  if (!request.ok()) return request.status();
  auto result = store.client->wait(*request);
  if (!result.ok()) return result.status();
  if (result->keys.size() != 1) return absl::InternalError("one key asked, another count answered");
  KeyResult key = std::move(result->keys.front());
  if (!key.status.ok()) return key.status;
  return key;
}

absl::Status explain(const absl::Status& status, const FileTarget& target,
                     const std::string& what) {
  if (absl::IsNotFound(status)) {
    return absl::NotFoundError(absl::StrCat(what, ": no node has it; put it first"));
  }
  std::string advice;
  if (absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) {
    advice = absl::StrCat("; is hadald running at ", target.nodes, ", and is --nodes right?");
  }
  return absl::Status(status.code(), absl::StrCat(what, ": ", status.ToString(), advice));
}

// Names of files need not be UTF-8.
void print_json(const FileTarget& target, const Json& json) {
  std::fprintf(target.out, "%s\n",
               json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
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

// Refused before anything is fetched: the rename below would put a file in place of a device.
absl::Status check_out(const std::string& out) {
  std::error_code error;
  if (!std::filesystem::exists(out, error) || std::filesystem::is_regular_file(out, error)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--out ", out, " is not a regular file; name a file, new or to replace"));
}

// Through a file beside it, so that a full disk leaves `out` as it was.
absl::Status write_file(const std::string& out, absl::Span<const std::byte> content) {
  const std::string partial = absl::StrCat(out, ".partial-", getpid());
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
  const std::string key = file_key(name).hex();
  BlockPut put = {.hash = digest_engine_string(name), .opaque = *content};
  auto result = finish(store, store.client->put(store.layout, {&put, 1}, store.options()));
  if (!result.ok()) return explain(result.status(), target, file);
  const auto expected = opaque_block_bytes(*bytes);
  if (result->duplicate && expected.ok() && result->encoded_bytes != *expected) {
    return absl::AlreadyExistsError(
        absl::StrCat(file, ": another file is stored as ", name,
                     "; rename yours, or evict it first: hadalctl evict ", key));
  }
  return Json{{"name", name},
              {"key", key},
              {"bytes", *bytes},
              {"encoded_bytes", result->encoded_bytes},
              {"wire_bytes", result->wire_bytes},
              {"duplicate", result->duplicate}};
}

// Checks all files before the first is sent; answers the size of the largest.
absl::StatusOr<uint64_t> check_files(const std::vector<std::string>& files) {
  uint64_t largest_bytes = 0;
  std::set<std::string> names;
  for (const auto& file : files) {
    auto bytes = file_size(file);
    if (!bytes.ok()) return bytes.status();
    largest_bytes = std::max(largest_bytes, *bytes);
    const std::string name = std::filesystem::path(file).filename();
    if (!names.insert(name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": another file of this command has the same base name, ", name,
                       ", which is what files are stored under; rename one"));
    }
  }
  return largest_bytes;
}

// Of the encoded block. The size decides how much staging memory a get needs.
absl::StatusOr<uint64_t> stored_bytes(const FileTarget& target, absl::Time deadline,
                                      const EngineHash& hash) {
  auto store = connect(target, deadline, 0);
  if (!store.ok()) return store.status();
  const GroupLookup file = {.layout = store->layout, .hashes = {&hash, 1}};
  auto found = finish(*store, store->client->lookup({&file, 1}, store->options()));
  if (!found.ok()) return found.status();
  return found->encoded_bytes;
}

}  // namespace

absl::Status put_files(const FileTarget& target, const std::vector<std::string>& files) {
  const absl::Time deadline = absl::Now() + target.timeout;
  auto largest_bytes = check_files(files);
  if (!largest_bytes.ok()) return largest_bytes.status();
  auto store = connect(target, deadline, *largest_bytes);
  if (!store.ok()) return store.status();
  Json answers = Json::array();
  for (const auto& file : files) {
    auto answer = put_file(*store, target, file);
    if (!answer.ok()) return answer.status();
    if (!target.json) {
      std::fprintf(target.out, "put %s, %llu bytes, key %s%s\n",
                   (*answer)["name"].get<std::string>().c_str(),
                   static_cast<unsigned long long>((*answer)["bytes"].get<uint64_t>()),
                   (*answer)["key"].get<std::string>().c_str(),
                   (*answer)["duplicate"].get<bool>() ? ", was stored already and is kept" : "");
    }
    answers.push_back(*std::move(answer));
  }
  if (target.json) print_json(target, Json{{"files", answers}});
  return absl::OkStatus();
}

absl::Status get_file(const FileTarget& target, const std::string& name, const std::string& out) {
  if (auto checked = check_out(out); !checked.ok()) return checked;
  const absl::Time deadline = absl::Now() + target.timeout;
  const EngineHash hash = digest_engine_string(name);
  auto bytes = stored_bytes(target, deadline, hash);
  if (!bytes.ok()) return explain(bytes.status(), target, name);
  auto store = connect(target, deadline, *bytes);
  if (!store.ok()) return store.status();
  std::vector<std::byte> content(*bytes);
  BlockGet get = {.hash = hash, .opaque = absl::MakeSpan(content)};
  auto result = finish(*store, store->client->get(store->layout, {&get, 1}, store->options()));
  if (!result.ok()) return explain(result.status(), target, name);
  content.resize(result->raw_bytes);
  if (auto written = write_file(out, content); !written.ok()) return written;
  const std::string tier(tier_name(result->tier));
  if (target.json) {
    print_json(target, {{"name", name},
                        {"key", file_key(name).hex()},
                        {"file", out},
                        {"bytes", result->raw_bytes},
                        {"encoded_bytes", result->encoded_bytes},
                        {"tier", tier}});
  } else {
    std::fprintf(target.out, "got %s from %s, %llu bytes, into %s\n", name.c_str(), tier.c_str(),
                 static_cast<unsigned long long>(result->raw_bytes), out.c_str());
  }
  return absl::OkStatus();
}

}  // namespace hadal::cli
