#include "client/codec_workers.h"

#include <pthread.h>

#include <string>
#include <utility>

namespace hadal {

CodecWorkers::CodecWorkers(int threads) {
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this] { run(); });
    pthread_setname_np(threads_.back().native_handle(),
                       ("hadal-codec" + std::to_string(i)).c_str());
  }
}

void CodecWorkers::submit(Task task, Kind kind, Priority priority) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (stopping_) return;
  tasks_.emplace(std::make_tuple(priority_rank(priority), kind, submitted_++), std::move(task));
  wake_.notify_one();
}

void CodecWorkers::run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
    if (stopping_) return;
    Task task = std::move(tasks_.begin()->second);
    tasks_.erase(tasks_.begin());
    lock.unlock();
    task();
    task = nullptr;  // drops its slot before the lock is taken
    lock.lock();
  }
}

void CodecWorkers::stop() {
  decltype(tasks_) dropped;  // destroyed outside the lock: tasks own slots
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    dropped.swap(tasks_);
    wake_.notify_all();
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

}  // namespace hadal
