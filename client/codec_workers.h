#pragma once

// The threads "hadal-codec<n>" that encode and decode. Decodes go before encodes, because an engine
// waits for a get and not for a put.
//
// The queue needs no bound of its own: every task holds a staging slot, so there are never more
// than the pool has slots. Threads: any.

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace hadal {

class CodecWorkers {
 public:
  using Task = std::function<void()>;

  explicit CodecWorkers(int threads);
  ~CodecWorkers() { stop(); }
  CodecWorkers(const CodecWorkers&) = delete;
  CodecWorkers& operator=(const CodecWorkers&) = delete;

  void decode(Task task) { submit(std::move(task), decodes_); }
  void encode(Task task) { submit(std::move(task), encodes_); }

  // Finishes the tasks that run, drops the rest and every later one.
  void stop();

 private:
  void submit(Task task, std::deque<Task>& queue);
  void run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Task> decodes_;
  std::deque<Task> encodes_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace hadal
