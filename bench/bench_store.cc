// Blocks of about 1 MiB through a real hadald process with the client library: put, get from DRAM,
// and get from NVMe after a restart, beside what the disk, memory and the network stack give alone.
// GB/s are 10^9 bytes: encoded is what moves and is stored, raw what it decodes to.

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "bench/report.h"
#include "client/client.h"

namespace hadal::bench {
namespace {

using nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr int kBatchBlocks = 16;
constexpr int kBatches = 20;
constexpr int kReadRounds = 3;     // of gets from DRAM
constexpr int kWarmUpBatches = 2;  // before anything is timed
constexpr uint64_t kDiskBlockBytes = 1u << 20;
constexpr uint64_t kDiskBlocks = 384;
constexpr int kDiskThreads = 2;  // as hadald's readers
constexpr absl::Duration kTimeout = absl::Seconds(20);

struct Options {
  std::string hadald = HADALD_BINARY;
  std::string directory = BENCH_DIRECTORY;
  std::string transport = "auto";
  int codec_threads = 1;
};

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The p-th of 100, by nearest rank.
double percentile(std::vector<double> values, double p) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto rank = static_cast<size_t>(p / 100 * static_cast<double>(values.size()));
  return values[std::min(rank, values.size() - 1)];
}

double rounded(double value) { return static_cast<int64_t>(value * 1000 + 0.5) / 1000.0; }

// 32 layers of 8 heads of 128 values, as an 8B model has: 128 KiB of raw KV a token.
KvLayout layout_of(uint32_t block_tokens) {
  KvLayout layout;
  layout.dtype = DType::bf16;
  layout.layer_count = 32;
  layout.kv_head_count = 8;
  layout.key_head_dim = layout.value_head_dim = 128;
  layout.block_tokens = block_tokens;
  return layout;
}

// Pages of one block, token-major.
class Pages {
 public:
  explicit Pages(const KvLayout& layout) : bytes_(layout.raw_bytes(layout.block_tokens)) {
    const size_t run = bytes_.size() / layout.layer_count / 2;
    for (int i = 0; i < layout.layer_count; ++i) {
      key_.push_back(bytes_.data() + 2 * i * run);
      value_.push_back(bytes_.data() + (2 * i + 1) * run);
    }
    head_bytes_ = size_t{layout.key_head_dim} * 2;
    token_bytes_ = head_bytes_ * layout.kv_head_count;
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  // Finite values of moderate size.
  void fill(uint32_t seed) {
    std::mt19937 random(seed);
    for (size_t i = 0; i < bytes_.size(); i += 2) {
      const auto value = static_cast<uint16_t>(0x3c00u + (random() & 0x83ffu));
      std::memcpy(bytes_.data() + i, &value, 2);
    }
  }
  void clear() { std::fill(bytes_.begin(), bytes_.end(), std::byte{0}); }
  bool operator==(const Pages& other) const { return bytes_ == other.bytes_; }
  KvPages pages() const {
    return {{key_, token_bytes_, head_bytes_}, {value_, token_bytes_, head_bytes_}};
  }

 private:
  std::vector<std::byte> bytes_;
  std::vector<std::byte*> key_, value_;
  size_t head_bytes_ = 0, token_bytes_ = 0;
};

// hadald in a process of its own, with a directory of its own that goes with it.
class Node {
 public:
  explicit Node(const Options& options) : binary_(options.hadald), transport_(options.transport) {
    std::string pattern = options.directory + "/bench-store-XXXXXX";
    if (mkdtemp(pattern.data()) != nullptr) directory_ = pattern;
  }
  ~Node() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    std::error_code ignored;
    if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
  }
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  // Waits until it says "ready", at most 20 seconds.
  bool start() {
    if (directory_.empty()) return false;
    std::ofstream(directory_ + "/hadald.toml")
        << "[data]\nlisten = \"127.0.0.1:0\"\ntransport = \"" << transport_ << "\"\n"
        << "[admin]\nlisten = \"127.0.0.1:0\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n"
        << "[dram]\ncapacity = \"1GiB\"\n[nvme]\npath = \"" << directory_ << "/nvme\"\n"
        << "capacity = \"1GiB\"\nmemtable = \"64MiB\"\nfree_space_min_fraction = 0.01\n"
        << "[log]\nlevel = \"warn\"\n";
    const std::string config = directory_ + "/hadald.toml";
    int output[2];
    if (pipe2(output, O_CLOEXEC) != 0) return false;
    pid_ = fork();
    if (pid_ == 0) {
      dup2(output[1], STDOUT_FILENO);
      execl(binary_.c_str(), binary_.c_str(), "--config", config.c_str(), nullptr);
      _exit(127);
    }
    close(output[1]);
    FILE* lines = fdopen(output[0], "r");
    char line[512];
    unsigned port = 0;
    // Its standard output closes where it fails to start.
    while (port == 0 && fgets(line, sizeof(line), lines) != nullptr) {
      const char* at = strstr(line, "ready data=127.0.0.1:");
      if (at != nullptr) sscanf(at, "ready data=127.0.0.1:%u", &port);
    }
    fclose(lines);
    port_ = static_cast<uint16_t>(port);
    return port_ != 0;
  }

  // SIGTERM: writes what DRAM alone holds. Returns the seconds it took.
  double stop() {
    const auto start = Clock::now();
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
    return since(start);
  }

  uint16_t port() const { return port_; }
  const std::string& directory() const { return directory_; }

 private:
  const std::string binary_;
  const std::string transport_;
  std::string directory_;
  pid_t pid_ = 0;
  uint16_t port_ = 0;
};

struct Case {
  std::string codec;
  uint32_t block_tokens;  // so that a block is encoded to about 1 MiB
};

// Times of batches, and what they moved.
struct Measured {
  std::vector<double> seconds;
  uint64_t encoded_bytes = 0, raw_bytes = 0;
  uint64_t missed = 0;
  Tier tier = Tier::none;
};

class Session {
 public:
  Session(Report& report, const Options& options, const Case& which, Node& node)
      : report_(report),
        options_(options),
        case_(which),
        node_(node),
        layout_(layout_of(which.block_tokens)) {
    for (int i = 0; i < kBatchBlocks; ++i) {
      in_.push_back(std::make_unique<Pages>(layout_));
      in_.back()->fill(static_cast<uint32_t>(i));
      out_.push_back(std::make_unique<Pages>(layout_));
    }
  }

  bool connect() {
    client_.reset();
    ClientConfig config;
    config.nodes = {{"127.0.0.1", node_.port(), 1.0}};
    config.transport = options_.transport;
    config.codec_threads = options_.codec_threads;
    auto client = Client::create(config);
    if (!client.ok()) {
      report_.say(std::string(client.status().message()));
      return false;
    }
    client_ = *std::move(client);
    const LayoutConfig layout = {layout_,   parse_codec(case_.codec).value(), "bench", "bench", "",
                                 KeyShard()};
    id_ = client_->register_layout(layout).value();
    const EngineHash nobody = digest_engine_string("nobody");
    const GroupLookup group = {.layout = id_, .hashes = {&nobody, 1}};
    const auto found = client_->wait(client_->lookup({&group, 1}, options()).value());
    return found.ok() && absl::IsNotFound(found->keys[0].status);
  }

  // Untimed: pages of slab and staging that nobody has touched yet.
  void warm_up() {
    for (int batch = 0; batch < kWarmUpBatches; ++batch) {
      put(kBatches + batch);
      get(kBatches + batch);
    }
  }

  Measured put_all() {
    Measured all;
    for (int batch = 0; batch < kBatches; ++batch) add(all, [&] { return put(batch); });
    return all;
  }
  Measured get_all(int rounds) {
    Measured all;
    for (int i = 0; i < rounds * kBatches; ++i) add(all, [&] { return get(i % kBatches); });
    return all;
  }

  // Of the last batch that was got, where the codec loses nothing.
  bool equal() const {
    if (case_.codec != "raw") return true;
    for (int i = 0; i < kBatchBlocks; ++i) {
      if (!(*in_[i] == *out_[i])) return false;
    }
    return true;
  }
  void clear() {
    for (auto& out : out_) out->clear();
  }

 private:
  static RequestOptions options() {
    RequestOptions options;
    options.timeout = kTimeout;
    return options;
  }
  static EngineHash hash(int batch, int block) {
    return digest_engine_string(absl::StrCat(batch, "/", block));
  }

  RequestResult put(int batch) {
    std::vector<BlockPut> puts(kBatchBlocks);
    for (int i = 0; i < kBatchBlocks; ++i) {
      puts[i].hash = hash(batch, i);
      puts[i].pages = in_[i]->pages();
      puts[i].token_count = layout_.block_tokens;
    }
    return client_->wait(client_->put(id_, puts, options()).value()).value();
  }
  RequestResult get(int batch) {
    std::vector<BlockGet> gets(kBatchBlocks);
    for (int i = 0; i < kBatchBlocks; ++i) {
      gets[i].hash = hash(batch, i);
      gets[i].pages = out_[i]->pages();
    }
    return client_->wait(client_->get(id_, gets, options()).value()).value();
  }

  void add(Measured& all, const std::function<RequestResult()>& call) {
    const auto start = Clock::now();
    const RequestResult result = call();
    all.seconds.push_back(since(start));
    for (const KeyResult& key : result.keys) {
      all.encoded_bytes += key.wire_bytes;
      all.raw_bytes += key.wire_bytes > 0 ? key.raw_bytes : 0;
      if (!key.status.ok() && all.missed++ == 0) report_.say(key.status.ToString());
      all.tier = key.tier;
    }
  }

  Report& report_;
  const Options& options_;
  const Case case_;
  Node& node_;
  const KvLayout layout_;
  std::vector<std::unique_ptr<Pages>> in_, out_;
  std::unique_ptr<Client> client_;
  LayoutId id_ = 0;
};

void add_row(Report& report, const std::string& codec, const std::string& path,
             const Measured& measured) {
  double seconds = 0;
  for (const double each : measured.seconds) seconds += each;
  report.add({{"codec", codec},
              {"path", path},
              {"encoded_GB_s", rounded(measured.encoded_bytes / seconds / 1e9)},
              {"raw_GB_s", rounded(measured.raw_bytes / seconds / 1e9)},
              {"batch_p50_ms", rounded(percentile(measured.seconds, 50) * 1e3)},
              {"batch_p99_ms", rounded(percentile(measured.seconds, 99) * 1e3)},
              {"batches", measured.seconds.size()},
              {"missed", measured.missed}});
}

// False where the node did not come up or gave back something else than was put.
bool run_case(Report& report, const Options& options, const Case& which) {
  Node node(options);
  Session session(report, options, which, node);
  report.say(absl::StrCat(which.codec, ": put, then get from DRAM"));
  if (!node.start() || !session.connect()) return false;
  session.warm_up();
  const Measured put = session.put_all();
  add_row(report, which.codec, "put to DRAM", put);
  add_row(report, which.codec, "get from DRAM", session.get_all(kReadRounds));
  bool equal = session.equal();
  report.say(absl::StrCat(which.codec, ": restart, then get from NVMe"));
  report.set(absl::StrCat(which.codec, "_shutdown_flush_s"), rounded(node.stop()));
  session.clear();
  if (!node.start() || !session.connect()) return false;
  const Measured cold = session.get_all(1);
  if (cold.tier != Tier::nvme) report.say("the last block did not come from NVMe");
  add_row(report, which.codec, "get from NVMe, cold", cold);
  equal = equal && session.equal();
  report.set(absl::StrCat(which.codec, "_block_bytes"),
             cold.encoded_bytes / (kBatches * kBatchBlocks));
  if (!equal) report.say(absl::StrCat(which.codec, ": what came back is not what was put"));
  return equal && put.missed == 0 && cold.missed == 0;
}

// Random 1 MiB transfers without the page cache, by two threads; 0 where the file system refuses.
double direct_bytes_a_second(const std::string& path, bool write) {
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0640);
  if (file < 0) return 0;
  std::atomic<bool> failed{false};
  const auto work = [&](int thread) {
    auto* buffer = static_cast<char*>(aligned_alloc(4096, kDiskBlockBytes));
    std::memset(buffer, thread + 1, kDiskBlockBytes);
    std::vector<uint64_t> order;
    for (uint64_t i = thread; i < kDiskBlocks; i += kDiskThreads) order.push_back(i);
    std::shuffle(order.begin(), order.end(), std::mt19937(thread));
    for (const uint64_t block : order) {
      const auto at = static_cast<off_t>(block * kDiskBlockBytes);
      const ssize_t moved = write ? pwrite(file, buffer, kDiskBlockBytes, at)
                                  : pread(file, buffer, kDiskBlockBytes, at);
      if (moved != static_cast<ssize_t>(kDiskBlockBytes)) failed = true;
    }
    free(buffer);
  };
  const auto start = Clock::now();
  std::vector<std::thread> threads;
  for (int i = 0; i < kDiskThreads; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
  const double seconds = since(start);
  close(file);
  return failed ? 0 : kDiskBlocks * kDiskBlockBytes / seconds;
}

// What fio says of the same, 0 where there is no fio.
double fio_bytes_a_second(const std::string& path, bool write) {
  const std::string command =
      absl::StrCat("fio --name=disk --filename=", path, " --rw=", write ? "randwrite" : "randread",
                   " --bs=1m --direct=1 --ioengine=psync --thread --numjobs=", kDiskThreads,
                   " --size=", kDiskBlocks, "m --io_size=", kDiskBlocks / kDiskThreads,
                   "m --group_reporting --output-format=json 2>/dev/null");
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return 0;
  std::string text;
  char part[4096];
  for (size_t got = 0; (got = fread(part, 1, sizeof(part), pipe)) > 0;) text.append(part, got);
  if (pclose(pipe) != 0) return 0;
  const auto parsed = nlohmann::json::parse(text, nullptr, false);
  if (parsed.is_discarded() || !parsed.contains("jobs") || parsed["jobs"].empty()) return 0;
  return parsed["jobs"][0][write ? "write" : "read"].value("bw_bytes", 0.0);
}

void measure_disk(Report& report, const std::string& parent) {
  report.say("disk: direct random writes and reads of 1 MiB");
  const std::string path = absl::StrCat(parent, "/bench-store-disk-", getpid());
  double fio[2] = {0, 0};
  double own[2] = {0, 0};
  for (const bool write : {true, false}) {
    own[write] = direct_bytes_a_second(path, write);
    fio[write] = fio_bytes_a_second(path, write);
  }
  unlink(path.c_str());
  if (fio[0] == 0) report.say("there is no fio here: the disk is measured by this program alone");
  report.set("disk_read_GB_s", rounded(own[0] / 1e9));
  report.set("disk_write_GB_s", rounded(own[1] / 1e9));
  report.set("fio_read_GB_s", fio[0] == 0 ? ordered_json() : ordered_json(rounded(fio[0] / 1e9)));
  report.set("fio_write_GB_s", fio[1] == 0 ? ordered_json() : ordered_json(rounded(fio[1] / 1e9)));
}

void measure_memcpy(Report& report) {
  constexpr size_t kBytes = 256u << 20;
  std::vector<std::byte> from(kBytes, std::byte{1}), to(kBytes, std::byte{2});
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    const auto start = Clock::now();
    std::memcpy(to.data(), from.data(), kBytes);
    best = std::min(best, since(start));
  }
  report.set("memcpy_GB_s", rounded(kBytes / best / 1e9));
}

int run(int argc, char** argv) {
  Report report(
      "bench_store",
      "Blocks of about 1 MiB through a hadald process: put, get from DRAM, get from NVMe");
  Options options;
  report.options()
      .add_option("--hadald", options.hadald, "the store node's binary")
      ->capture_default_str()
      ->check(CLI::ExistingFile);
  report.options()
      .add_option("--directory", options.directory, "folder on the disk to measure")
      ->capture_default_str()
      ->check(CLI::ExistingDirectory);
  report.options()
      .add_option("--transport", options.transport, "auto or tcp")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "tcp"}));
  report.options()
      .add_option("--codec-threads", options.codec_threads, "of the client")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  if (const std::optional<int> code = report.parse(argc, argv)) return *code;
  measure_memcpy(report);
  measure_disk(report, options.directory);
  bool good = true;
  for (const Case& which : {Case{"k4v4", 32}, Case{"raw", 8}}) {
    good = run_case(report, options, which) && good;
  }
  const int written = report.finish();
  return good ? written : 1;
}

}  // namespace
}  // namespace hadal::bench

int main(int argc, char** argv) { return hadal::bench::run(argc, argv); }
