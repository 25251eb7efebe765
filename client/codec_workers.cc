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

void CodecWorkers::submit(Task task, std::deque<Task>& queue) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (stopping_) return;
  queue.push_back(std::move(task));
  wake_.notify_one();
}

void CodecWorkers::run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !decodes_.empty() || !encodes_.empty(); });
    if (stopping_) return;
    std::deque<Task>& queue = decodes_.empty() ? encodes_ : decodes_;
    Task task = std::move(queue.front());
    queue.pop_front();
    lock.unlock();
    task();
    task = nullptr;  // drops its slot before the lock is taken
    lock.lock();
  }
}

void CodecWorkers::stop() {
  std::deque<Task> dropped_decodes;  // destroyed outside the lock: tasks own slots
  std::deque<Task> dropped_encodes;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    dropped_decodes.swap(decodes_);
    dropped_encodes.swap(encodes_);
    wake_.notify_all();
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

}  // namespace hadal
