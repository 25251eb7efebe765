#include "client/scheduler.h"

#include <pthread.h>

namespace hadal {

Scheduler::Scheduler(StagingPool& pool) : pool_(pool) {
  pool_.set_on_free([this] { wake(); });
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "hadal-timer");
}

void Scheduler::watch(const std::shared_ptr<Request>& request) {
  std::lock_guard<std::mutex> lock(mutex_);
  const DeadlineKey key(request->steady_deadline(), request->id());
  deadlines_[key] = request;
  if (deadlines_.begin()->first == key) wake_.notify_one();
}

void Scheduler::unwatch(const Request& request) {
  std::lock_guard<std::mutex> lock(mutex_);
  deadlines_.erase({request.steady_deadline(), request.id()});
}

void Scheduler::submit(std::shared_ptr<StagedWork> work, StagingUse use, Priority priority) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (stopping_) return;
  Queue& queue = use == StagingUse::get ? gets_ : puts_;
  queue.emplace(std::make_pair(priority_rank(priority), submitted_++), std::move(work));
  woken_ = true;
  wake_.notify_one();
}

void Scheduler::wake() {
  std::lock_guard<std::mutex> lock(mutex_);
  woken_ = true;
  wake_.notify_one();
}

void Scheduler::run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping_) {
    woken_ = false;
    expire_due(lock);
    admit_all(lock);
    if (woken_ || stopping_) continue;
    if (deadlines_.empty()) {
      wake_.wait(lock);
    } else {
      wake_.wait_until(lock, SteadyTime(deadlines_.begin()->first.first));
    }
  }
}

void Scheduler::expire_due(std::unique_lock<std::mutex>& lock) {
  while (!deadlines_.empty() &&
         deadlines_.begin()->first.first <= std::chrono::steady_clock::now()) {
    const std::shared_ptr<Request> request = deadlines_.begin()->second.lock();
    deadlines_.erase(deadlines_.begin());
    if (!request) continue;
    lock.unlock();
    request->close(absl::DeadlineExceededError("the request's deadline passed"));
    lock.lock();
  }
}

void Scheduler::admit_all(std::unique_lock<std::mutex>& lock) {
  bool gets_go = true;
  bool puts_go = true;
  for (uint8_t rank = 0; rank < kPriorityCount; ++rank) {
    // A put takes no slot that a get of higher priority waits for. The other way round there is
    // nothing to keep: puts wait for their half of the pool, which gets do not need.
    puts_go = puts_go && gets_go;
    gets_go = gets_go && admit_down_to(rank, gets_, lock);
    puts_go = puts_go && admit_down_to(rank, puts_, lock);
  }
}

// False where slots ran out.
bool Scheduler::admit_down_to(uint8_t rank, Queue& queue, std::unique_lock<std::mutex>& lock) {
  while (!stopping_ && !queue.empty() && queue.begin()->first.first <= rank) {
    const auto [place, work] = *queue.begin();
    lock.unlock();
    const bool started = work->admit(pool_);
    lock.lock();
    if (!started) return false;
    queue.erase(place);  // not begin(): a higher one may have come meanwhile
  }
  return true;
}

void Scheduler::stop() {
  pool_.set_on_free(nullptr);
  Queue dropped_gets, dropped_puts;  // destroyed outside the lock
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
  std::lock_guard<std::mutex> lock(mutex_);
  dropped_gets.swap(gets_);
  dropped_puts.swap(puts_);
}

}  // namespace hadal
