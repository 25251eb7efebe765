// How much of what UCX can move do blocks get? Gets of 1 MiB blocks between two processes on this
// machine, over tcp and over shared memory, against ucx_perftest's active messages of the same size
// with the same settings, and with the best of its settings. All alternate within one run, because
// a machine's figures drift; the ratio of medians is the result.

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "bench/report.h"
#include "transport/block_peer.h"
#include "transport/block_server.h"

namespace hadal {
namespace {

constexpr size_t kBlockBytes = size_t{1} << 20;
constexpr size_t kStoredBlocks = 64;  // more than any cache holds

[[noreturn]] void die(const std::string& why) {
  std::fprintf(stderr, "bench_transport: %s\n", why.c_str());
  std::exit(1);
}

// Blocks of registered memory, any key.
class SlabHandler final : public BlockHandler {
 public:
  explicit SlabHandler(std::shared_ptr<RegisteredMemory> slab) : slab_(std::move(slab)) {
    std::memset(slab_->bytes().data(), 0x5A, slab_->bytes().size());
  }
  LookupAnswer lookup(absl::Span<const BlockKey> keys, const LookupOptions&) override {
    return {std::vector<KeyAnswer>(keys.size()), 0};
  }
  void release(uint64_t) override {}
  absl::StatusOr<PutSlot> reserve(const PutOffer&) override {
    return absl::UnimplementedError("this server only reads");
  }
  absl::Status commit(uint64_t) override { return absl::UnimplementedError("only reads"); }
  void read(const ReadRequest&, ReadReply reply) override {
    StoredBlock block;
    block.bytes = slab_->bytes().subspan(next_++ % kStoredBlocks * kBlockBytes, kBlockBytes);
    block.tier = Tier::dram;
    block.hold = slab_;
    reply(block);
  }
  bool report_bad(const BlockKey&, uint64_t) override { return false; }

 private:
  const std::shared_ptr<RegisteredMemory> slab_;
  size_t next_ = 0;
};

std::shared_ptr<Transport> make_transport(const std::string& tls) {
  TransportConfig config;
  config.tls = tls;
  auto transport = Transport::create_ucx(config);
  if (!transport.ok()) die(std::string(transport.status().message()));
  return *transport;
}

std::shared_ptr<RegisteredMemory> allocate(Transport& transport, size_t bytes) {
  auto memory = transport.allocate(bytes);
  if (!memory.ok()) die(std::string(memory.status().message()));
  return *memory;
}

// The other process: says its port, serves until its standard input ends.
int serve(const std::string& tls) {
  const auto transport = make_transport(tls);
  SlabHandler handler(allocate(*transport, kStoredBlocks * kBlockBytes));
  auto server = BlockServer::listen(transport, "127.0.0.1:0", handler);
  if (!server.ok()) die(std::string(server.status().message()));
  std::printf("%d\n", (*server)->port());
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  return 0;
}

// This program as a server in a process of its own.
class ServerProcess {
 public:
  explicit ServerProcess(const std::string& tls) {
    int to_child[2], from_child[2];
    if (pipe2(to_child, O_CLOEXEC) != 0 || pipe2(from_child, O_CLOEXEC) != 0) die("no pipe");
    pid_ = fork();
    if (pid_ == 0) {
      dup2(to_child[0], 0);
      dup2(from_child[1], 1);
      execl("/proc/self/exe", "bench_transport", "--serve", tls.c_str(), nullptr);
      _exit(127);
    }
    close(to_child[0]);
    close(from_child[1]);
    input_ = to_child[1];
    // UCX may say something on standard output before; the port is a line of digits.
    FILE* output = fdopen(from_child[0], "r");
    char line[512];
    uint32_t port = 0;
    while (port == 0 && fgets(line, sizeof(line), output) != nullptr) {
      if (!absl::SimpleAtoi(line, &port)) port = 0;
    }
    fclose(output);
    if (port == 0) die("the server process did not start");
    port_ = static_cast<uint16_t>(port);
  }
  ~ServerProcess() {
    close(input_);
    waitpid(pid_, nullptr, 0);
  }
  uint16_t port() const { return port_; }

 private:
  pid_t pid_ = 0;
  int input_ = -1;
  uint16_t port_ = 0;
};

struct Load {
  size_t blocks = 0;
  size_t window = 0;  // blocks asked for and not arrived
};

// Keeps a window of blocks on their way, in gets of half a window each.
class Getter {
 public:
  Getter(const std::string& tls, uint16_t port, const Load& load)
      : load_(load),
        transport_(make_transport(tls)),
        memory_(allocate(*transport_, load.window * kBlockBytes)),
        peer_(BlockPeer::create(transport_, {"127.0.0.1", port, 1.0}, {})) {}

  // GB/s of a run; the first blocks connect and warm up outside of it.
  double run() {
    get_all(2 * load_.window);
    const absl::Time start = absl::Now();
    get_all(load_.blocks);
    return load_.blocks * kBlockBytes / absl::ToDoubleNanoseconds(absl::Now() - start);
  }

 private:
  void get_all(size_t blocks) {
    absl::MutexLock lock(&mutex_);
    left_ = blocks;
    for (size_t half = 0; half < 2; ++half) ask(half);
    const auto all_arrived = [this]()
                                 ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return open_gets_ == 0; };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&all_arrived), absl::Seconds(120)))
      die("blocks did not arrive in 120 s");
    if (!failure_.ok()) die(std::string(failure_.message()));
  }

  void ask(size_t half) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const size_t count = std::min(left_, load_.window / 2);
    if (count == 0 || !failure_.ok()) return;
    left_ -= count;
    ++open_gets_;
    std::vector<PeerGet> gets(count);
    for (size_t i = 0; i < count; ++i) {
      const size_t slot = half * (load_.window / 2) + i;
      gets[i].bytes = memory_->bytes().subspan(slot * kBlockBytes, kBlockBytes);
      gets[i].hold = memory_;
    }
    peer_->get(
        std::move(gets), {absl::Now() + absl::Seconds(60)},
        [this](size_t, const absl::StatusOr<GetAnswer>& answer) {
          if (answer.ok() && answer->bytes == kBlockBytes) return;
          absl::MutexLock lock(&mutex_);
          failure_ = answer.ok() ? absl::DataLossError("a short block") : answer.status();
        },
        [this, half](const absl::Status& status) {
          absl::MutexLock lock(&mutex_);
          if (!status.ok()) failure_ = status;
          --open_gets_;
          ask(half);
        });
  }

  const Load load_;
  const std::shared_ptr<Transport> transport_;
  const std::shared_ptr<RegisteredMemory> memory_;
  absl::Mutex mutex_;
  size_t left_ ABSL_GUARDED_BY(mutex_) = 0;
  int open_gets_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  const std::unique_ptr<BlockPeer> peer_;
};

double run_blocks(const std::string& tls, const Load& load) {
  const ServerProcess server(tls);
  return Getter(tls, server.port(), load).run();
}

// One setting of ucx_perftest.
struct PerfSetting {
  std::string environment;
  std::string options;
  std::string text() const { return absl::StrCat(environment, options); }
};

// What our own transport sets.
PerfSetting our_setting(const std::string& tls) {
  return {absl::StrCat(tls == "tcp" ? "UCX_TLS=tcp " : "", "UCX_MM_ERROR_HANDLING=y ",
                       "UCX_CMA_MEMORY_INVALIDATE=y "),
          "-e"};
}

double run_perftest(const PerfSetting& setting, const Load& load) {
  static int port = 14'000 + getpid() % 4000;
  ++port;
  const std::string server =
      absl::StrCat(setting.environment, "timeout 120 ucx_perftest -p ", port);
  const std::string client =
      absl::StrCat(setting.environment, "timeout 100 ucx_perftest 127.0.0.1 -t ucp_am_bw -f -v ",
                   setting.options, " -p ", port, " -s ", kBlockBytes, " -n ", load.blocks, " -w ",
                   2 * load.window, " -O ", load.window);
  FILE* pipe = popen(
      absl::StrCat(server, " >/dev/null 2>&1 & sleep 0.3; ", client, " 2>/dev/null; wait").c_str(),
      "r");
  if (pipe == nullptr) die("cannot start ucx_perftest");
  // The last line: iterations, percentile, average and overall latency, average and overall MiB/s.
  std::string last;
  char line[512];
  while (fgets(line, sizeof(line), pipe) != nullptr) last = line;
  pclose(pipe);
  const std::vector<std::string> fields = absl::StrSplit(last, ',');
  double mib_per_s = 0;
  if (fields.size() < 6 || !absl::SimpleAtod(fields[5], &mib_per_s)) {
    die(absl::StrCat("ucx_perftest said '", last, "'; is the package ucx-utils installed?"));
  }
  return mib_per_s * (1 << 20) / 1e9;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

PerfSetting best_setting(const std::string& tls, const Load& load) {
  const std::string only = tls == "tcp" ? "UCX_TLS=tcp " : "";
  const PerfSetting candidates[] = {
      our_setting(tls),
      {only, ""},
      {only + "UCX_RNDV_THRESH=inf ", ""},
      {only + "UCX_RNDV_THRESH=8192 ", ""},
      {only + "UCX_MM_ERROR_HANDLING=y UCX_CMA_MEMORY_INVALIDATE=y UCX_RNDV_THRESH=inf ", "-e"}};
  const PerfSetting* best = nullptr;
  double best_gbps = 0;
  for (const PerfSetting& candidate : candidates) {
    const double gbps = run_perftest(candidate, load);
    if (gbps > best_gbps) {
      best = &candidate;
      best_gbps = gbps;
    }
  }
  return *best;
}

void measure(bench::Report& report, const std::string& tls, int runs, const Load& load) {
  const std::string name = tls == "auto" ? "shared_memory" : tls;
  const PerfSetting ours = our_setting(tls), best = best_setting(tls, load);
  std::vector<double> blocks, same, at_best;
  for (int run = 0; run < runs; ++run) {
    blocks.push_back(run_blocks(tls, load));
    same.push_back(run_perftest(ours, load));
    at_best.push_back(run_perftest(best, load));
    report.say(absl::StrCat(name, " run ", run + 1, ": blocks ", blocks.back(), ", perftest ",
                            same.back(), ", at its best ", at_best.back(), " GB/s"));
  }
  const double gbps = median(blocks);
  report.add({{"transport", name},
              {"blocks_gbps", gbps},
              {"perftest_gbps", median(same)},
              {"ratio", gbps / median(same)},
              {"perftest_best_gbps", median(at_best)},
              {"ratio_to_best", gbps / median(at_best)},
              {"best_setting", best.text()}});
}

int main_of(int argc, char** argv) {
  bench::Report report("bench_transport",
                       "Gets of 1 MiB blocks between two processes, beside ucx_perftest (package "
                       "ucx-utils), over tcp and shared memory");
  Load load = {3000, 16};
  int runs = 5;
  std::string serve_tls;
  CLI::App& options = report.options();
  options.add_option("--runs", runs, "runs of each, alternating; their medians count")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  options.add_option("--blocks", load.blocks, "blocks a run")
      ->capture_default_str()
      ->check(CLI::Range(1, 1'000'000));
  options.add_option("--window", load.window, "blocks on their way at once")
      ->capture_default_str()
      ->check(CLI::Range(2, 1024));
  options.add_option("--serve", serve_tls)->group("");  // what ServerProcess starts
  if (const std::optional<int> code = report.parse(argc, argv)) return *code;
  if (!serve_tls.empty()) return serve(serve_tls);
  for (const char* tls : {"tcp", "auto"}) measure(report, tls, runs, load);
  report.set("block_bytes", kBlockBytes);
  report.set("window_blocks", load.window);
  return report.finish();
}

}  // namespace
}  // namespace hadal

int main(int argc, char** argv) { return hadal::main_of(argc, argv); }
