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

void Scheduler::submit(std::shared_ptr<StagedWork> work, StagingUse use) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (stopping_) return;
  queues_[static_cast<size_t>(use)].push_back(std::move(work));
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
    admit_front(lock, queues_[static_cast<size_t>(StagingUse::get)]);
    admit_front(lock, queues_[static_cast<size_t>(StagingUse::put)]);
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

void Scheduler::admit_front(std::unique_lock<std::mutex>& lock, Queue& queue) {
  while (!queue.empty() && !stopping_) {
    const std::shared_ptr<StagedWork> work = queue.front();
    lock.unlock();
    const bool started = work->admit(pool_);
    lock.lock();
    if (!started) return;
    if (!queue.empty()) queue.pop_front();
  }
}

void Scheduler::stop() {
  pool_.set_on_free(nullptr);
  Queue dropped[2];  // destroyed outside the lock
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
  std::lock_guard<std::mutex> lock(mutex_);
  dropped[0].swap(queues_[0]);
  dropped[1].swap(queues_[1]);
}

}  // namespace hadal
