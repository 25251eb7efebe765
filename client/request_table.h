#pragma once

// Requests that are open, and results that wait to be fetched; the event fd is readable exactly
// while there is one of the latter. Threads: any.

#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "client/request.h"

namespace hadal {

class RequestTable {
 public:
  // Requests that are open or not fetched; beyond it a submit is refused.
  static constexpr size_t kMaxRequests = 65536;

  // ResourceExhausted where the process has no file descriptor left.
  static absl::StatusOr<std::unique_ptr<RequestTable>> create();
  ~RequestTable();
  RequestTable(const RequestTable&) = delete;
  RequestTable& operator=(const RequestTable&) = delete;

  RequestId next_id();
  // ResourceExhausted beyond kMaxRequests.
  absl::Status add(std::shared_ptr<Request> request);
  void complete(RequestResult result);

  // See Client for these four.
  absl::StatusOr<RequestResult> wait(RequestId id);
  std::vector<RequestResult> drain();
  int event_fd() const { return event_fd_; }
  std::shared_ptr<Request> find_open(RequestId id) const;

  std::vector<std::shared_ptr<Request>> all_open() const;

 private:
  explicit RequestTable(int event_fd) : event_fd_(event_fd) {}
  struct Entry {
    std::shared_ptr<Request> open;
    std::unique_ptr<RequestResult> result;  // once ended
  };
  void take(RequestId id);    // out of ready_; with mutex_ held
  void clear_event() const;   // with mutex_ held
  void signal_event() const;  // with mutex_ held

  const int event_fd_;
  mutable std::mutex mutex_;
  std::condition_variable ended_;
  absl::flat_hash_map<RequestId, Entry> entries_;
  std::set<RequestId> ready_;
  RequestId last_id_ = 0;
};

}  // namespace hadal
