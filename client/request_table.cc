#include "client/request_table.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace hadal {

absl::StatusOr<std::unique_ptr<RequestTable>> RequestTable::create() {
  const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no event fd for the client: ", strerror(errno)));
  }
  return std::unique_ptr<RequestTable>(new RequestTable(fd));
}

RequestTable::~RequestTable() { close(event_fd_); }

RequestId RequestTable::next_id() {
  std::lock_guard<std::mutex> lock(mutex_);
  return ++last_id_;
}

absl::Status RequestTable::add(std::shared_ptr<Request> request) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (entries_.size() >= kMaxRequests) {
    return absl::ResourceExhaustedError(
        absl::StrCat(kMaxRequests, " requests are open or not fetched; call wait or drain"));
  }
  const RequestId id = request->id();
  entries_[id].open = std::move(request);
  return absl::OkStatus();
}

void RequestTable::complete(RequestResult result) {
  std::shared_ptr<Request> ended;  // dropped outside the lock
  std::lock_guard<std::mutex> lock(mutex_);
  const auto it = entries_.find(result.id);
  if (it == entries_.end()) return;
  ended = std::move(it->second.open);
  it->second.result = std::make_unique<RequestResult>(std::move(result));
  ready_.insert(it->first);
  if (ready_.size() == 1) signal_event();
  ended_.notify_all();
}

absl::StatusOr<RequestResult> RequestTable::wait(RequestId id) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    const auto it = entries_.find(id);
    if (it == entries_.end()) {
      return absl::NotFoundError(
          absl::StrCat("no request ", id, ", or its result was handed out before"));
    }
    if (it->second.result) {
      RequestResult result = std::move(*it->second.result);
      entries_.erase(it);
      take(id);
      return result;
    }
    ended_.wait(lock);  // bounded: the request's own deadline ends it
  }
}

std::vector<RequestResult> RequestTable::drain() {
  std::vector<RequestResult> results;
  std::lock_guard<std::mutex> lock(mutex_);
  if (ready_.empty()) return results;
  results.reserve(ready_.size());
  for (const RequestId id : ready_) {
    const auto it = entries_.find(id);
    results.push_back(std::move(*it->second.result));
    entries_.erase(it);
  }
  ready_.clear();
  clear_event();
  return results;
}

std::shared_ptr<Request> RequestTable::find_open(RequestId id) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto it = entries_.find(id);
  return it == entries_.end() ? nullptr : it->second.open;
}

std::vector<std::shared_ptr<Request>> RequestTable::all_open() const {
  std::vector<std::shared_ptr<Request>> open;
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [id, entry] : entries_) {
    if (entry.open) open.push_back(entry.open);
  }
  return open;
}

void RequestTable::take(RequestId id) {
  ready_.erase(id);
  if (ready_.empty()) clear_event();
}

// The counter is 0 or 1, so neither call can block or fail on a descriptor of our own.
void RequestTable::signal_event() const {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(event_fd_, &one, sizeof(one));
}

void RequestTable::clear_event() const {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = read(event_fd_, &count, sizeof(count));
}

}  // namespace hadal
