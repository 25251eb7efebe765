#pragma once

// The threads "hadal-codec<n>" that encode and decode: higher priority first, of equals decodes
// before encodes, because an engine waits for a get and not for a put, and then the older one.
//
// The queue needs no bound of its own: every task holds a staging slot, so there are never more
// than the pool has slots. Threads: any.

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>
#include <vector>

#include "common/block_ops.h"

namespace hadal {

class CodecWorkers {
 public:
  using Task = std::function<void()>;

  explicit CodecWorkers(int threads);
  ~CodecWorkers() { stop(); }
  CodecWorkers(const CodecWorkers&) = delete;
  CodecWorkers& operator=(const CodecWorkers&) = delete;

  void decode(Task task, Priority priority) { submit(std::move(task), Kind::decode, priority); }
  void encode(Task task, Priority priority) { submit(std::move(task), Kind::encode, priority); }

  // Finishes the tasks that run, drops the rest and every later one.
  void stop();

 private:
  enum class Kind : uint8_t { decode, encode };
  void submit(Task task, Kind kind, Priority priority);
  void run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<std::tuple<uint8_t, Kind, uint64_t>, Task> tasks_;  // by rank, kind and age
  uint64_t submitted_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace hadal
