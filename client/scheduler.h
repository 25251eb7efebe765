#pragma once

// The thread "hadal-timer": ends requests at their deadlines, and starts blocks that wait for
// staging memory as slots come back. It never encodes, decodes or waits for a node, so neither a
// frozen node nor busy codec threads can keep a deadline from passing. Threads: any.

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "client/request.h"
#include "client/staging_pool.h"

namespace hadal {

// Blocks of one request and node that need staging slots.
class StagedWork {
 public:
  virtual ~StagedWork() = default;
  // Starts as many blocks as there are slots for. True where none is left to start.
  virtual bool admit(StagingPool& pool) = 0;
};

class Scheduler {
 public:
  // `pool` outlives the scheduler.
  explicit Scheduler(StagingPool& pool);
  ~Scheduler() { stop(); }
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  void watch(const std::shared_ptr<Request>& request);
  void unwatch(const Request& request);

  // Higher priority first, of equals gets before puts, then the older one. A put never keeps a get
  // waiting; what waits for slots keeps lower priorities of its use waiting, and a get puts too.
  // Bounded by the open requests.
  void submit(std::shared_ptr<StagedWork> work, StagingUse use, Priority priority);

  void stop();

 private:
  using DeadlineKey = std::pair<SteadyTime, RequestId>;
  // By rank, then age.
  using Queue = std::map<std::pair<uint8_t, uint64_t>, std::shared_ptr<StagedWork>>;
  void run();
  void wake();
  void expire_due(std::unique_lock<std::mutex>& lock);
  void admit_all(std::unique_lock<std::mutex>& lock);
  bool admit_down_to(uint8_t rank, Queue& queue, std::unique_lock<std::mutex>& lock);

  StagingPool& pool_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<DeadlineKey, std::weak_ptr<Request>> deadlines_;
  Queue gets_, puts_;  // only the thread erases
  uint64_t submitted_ = 0;
  bool woken_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace hadal
