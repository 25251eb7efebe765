#pragma once

// The thread "hadal-timer": ends requests at their deadlines, and starts blocks that wait for
// staging memory as slots come back. It never encodes, decodes or waits for a node, so neither a
// frozen node nor busy codec threads can keep a deadline from passing. Threads: any.

#include <condition_variable>
#include <deque>
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

  // First come, first served within puts and within gets. Bounded by the open requests.
  void submit(std::shared_ptr<StagedWork> work, StagingUse use);

  void stop();

 private:
  using DeadlineKey = std::pair<SteadyTime, RequestId>;
  using Queue = std::deque<std::shared_ptr<StagedWork>>;
  void run();
  void wake();
  void expire_due(std::unique_lock<std::mutex>& lock);
  void admit_front(std::unique_lock<std::mutex>& lock, Queue& queue);

  StagingPool& pool_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<DeadlineKey, std::weak_ptr<Request>> deadlines_;
  Queue queues_[2];  // by StagingUse; only the thread pops
  bool woken_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace hadal
