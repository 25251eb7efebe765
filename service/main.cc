// hadald: the store node. Exit codes: 0 after a clean shutdown, 2 for usage (command line or
// configuration), 1 for the rest.

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "service/config.h"
#include "service/log.h"
#include "service/node.h"
#include "service/nvme_watch.h"
#include "service/server.h"

namespace hadal {
namespace {

constexpr int kExitUsage = 2;
constexpr int kExitFailure = 1;

// What node.shutdown_timeout does not cover: closing connections, listeners and the database.
constexpr absl::Duration kCloseTimeout = absl::Seconds(5);

// Turns SIGTERM and SIGINT into a state that main waits for. A second one, or a shutdown that hangs
// (on a dead disk, say), ends the process with 1. Made before any other thread, which all inherit
// the mask.
class Signals {
 public:
  explicit Signals(absl::Duration exit_timeout) : exit_timeout_(exit_timeout) {
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    thread_ = std::thread([this] { watch(); });
    pthread_setname_np(thread_.native_handle(), "hadal-signal");
  }

  ~Signals() {
    ending_ = true;
    thread_.join();
  }

  // True where one has arrived.
  bool wait(std::chrono::milliseconds at_most) {
    std::unique_lock lock(mutex_);
    return arrived_.wait_for(lock, at_most, [this] { return count_ > 0; });
  }

 private:
  void watch() {
    const timespec tick = {.tv_sec = 0, .tv_nsec = 50'000'000};
    auto deadline = std::chrono::steady_clock::time_point::max();
    while (!ending_) {
      const bool arrived = sigtimedwait(&set_, nullptr, &tick) >= 0;
      const auto now = std::chrono::steady_clock::now();
      if (now >= deadline) {
        leave(absl::StrCat("the node did not end within ", absl::FormatDuration(exit_timeout_),
                           "; blocks that only DRAM held may be lost"));
      }
      if (!arrived) continue;
      std::lock_guard lock(mutex_);
      if (++count_ > 1) leave("a second signal came; blocks that only DRAM held may be lost");
      deadline = now + absl::ToChronoMilliseconds(exit_timeout_);
      arrived_.notify_all();
    }
  }

  // No destructors: what hangs would hang them too.
  [[noreturn]] static void leave(const std::string& reason) {
    log_event(LogLevel::error, "ended at once", {{"reason", reason}});
    _exit(kExitFailure);
  }

  const absl::Duration exit_timeout_;
  sigset_t set_;
  std::atomic<bool> ending_ = false;
  std::mutex mutex_;
  std::condition_variable arrived_;
  int count_ = 0;
  std::thread thread_;
};

int say(int code, absl::string_view text) {
  const std::string line = absl::StrCat("hadald: ", text, "\n");
  std::fputs(line.c_str(), stderr);
  return code;
}

void log_shutdown(const Config& config, const ShutdownReport& report) {
  const bool as_wished = report.flushed || config.store.nvme.path.empty();
  const LogLevel level = as_wished ? LogLevel::info : LogLevel::warn;
  log_event(level, "stopped",
            {{"drained", report.drained ? "yes" : "no"},
             {"flushed", report.flushed ? "yes" : absl::StrCat("no: ", report.flush_error)},
             {"left_blocks", absl::StrCat(report.left_blocks)},
             {"written_blocks", absl::StrCat(report.written_blocks)},
             {"written_bytes", absl::StrCat(report.written_bytes)},
             {"persisted_blocks", absl::StrCat(report.persisted_blocks)}});
}

void log_trouble(const Config& config, const NvmeTrouble& trouble) {
  const bool lost = trouble.lost_blocks > 0 || trouble.repairs > 0;
  log_event(LogLevel::warn, lost ? "NVMe directory was damaged" : "blocks not written to NVMe",
            {{"path", config.store.nvme.path},
             {"dropped_blocks", absl::StrCat(trouble.dropped_blocks)},
             {"write_errors", absl::StrCat(trouble.write_errors)},
             {"lost_blocks", absl::StrCat(trouble.lost_blocks)},
             {"repairs", absl::StrCat(trouble.repairs)},
             {"reason", trouble.reason}});
}

int serve(const Config& config) {
  // First, since the signal thread logs.
  start_logging(config.log_level, config.log_format);
  Signals signals(config.shutdown_timeout + kCloseTimeout);
  auto server = Server::start(config);
  if (!server.ok()) {
    log_event(LogLevel::error, "cannot start",
              {{"reason", std::string(server.status().message())}});
    return kExitFailure;
  }
  const ListenAddresses& listening = (*server)->addresses();
  log_event(LogLevel::info, "ready",
            {{"node", config.node_name},
             {"version", kHadalVersion},
             {"transport", (*server)->transport_description()},
             {"data", listening.data},
             {"admin", listening.admin},
             {"metrics", listening.metrics},
             {"recovered_blocks", absl::StrCat((*server)->stats().recovered_blocks)}});
  if ((*server)->stats().recovery_repaired != 0) {
    const bool lost = (*server)->stats().recovery_lost != 0;
    log_event(LogLevel::warn, "NVMe directory was damaged",
              {{"path", config.store.nvme.path},
               {"recovered_blocks", absl::StrCat((*server)->stats().recovered_blocks)},
               {"reason", lost ? "blocks were lost, and none is served wrong; test the disk"
                               : "it was repaired, and no block was lost; test the disk"}});
  }
  std::printf("hadald ready data=%s admin=%s metrics=%s\n", listening.data.c_str(),
              listening.admin.c_str(), listening.metrics.c_str());
  std::fflush(stdout);
  NvmeWatch watch(config);
  while (!signals.wait(std::chrono::seconds(1))) {
    if (auto trouble = watch.look((*server)->stats(), absl::Now())) log_trouble(config, *trouble);
  }
  log_event(LogLevel::info, "stopping", {{"bound", absl::FormatDuration(config.shutdown_timeout)}});
  log_shutdown(config, (*server)->shutdown());
  server->reset();
  return 0;
}

int run(int argc, char** argv) {
  CLI::App app("hadald keeps KV-cache blocks in host memory and on NVMe for serving nodes.");
  std::string file;
  bool check_only = false;
  app.add_option("--config", file, "configuration file, see deploy/hadald.toml")->required();
  app.add_flag("--check-config", check_only, "check the configuration file and exit");
  app.set_version_flag("--version", absl::StrCat("hadald ", kHadalVersion));
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& wish) {  // --help, --version
    return app.exit(wish);
  } catch (const CLI::ParseError& error) {
    std::fputs(app.help().c_str(), stderr);
    // CLI11 misses --config before it looks at the words that it does not know.
    const std::vector<std::string> words = app.remaining();
    if (words.empty()) return say(kExitUsage, error.what());
    return say(kExitUsage, absl::StrCat("unknown argument '", words.front(), "'"));
  }
  const auto config = load_config(file);
  if (!config.ok()) {
    return say(kExitUsage, absl::string_view(config.status().message()));
  }
  if (check_only) {
    std::printf("%s: good\n", file.c_str());
    return 0;
  }
  return serve(*config);
}

}  // namespace
}  // namespace hadal

int main(int argc, char** argv) { return hadal::run(argc, argv); }
