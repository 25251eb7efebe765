#include "client/request.h"

#include "absl/time/clock.h"

namespace hadal {
namespace {

uint64_t prefix_tokens(std::vector<PrefixGroup> groups, const std::vector<KeyResult>& keys) {
  size_t next = 0;
  for (PrefixGroup& group : groups) {
    for (size_t i = 0; i < group.present.size(); ++i) group.present[i] = keys[next++].status.ok();
  }
  return longest_prefix_tokens(groups).value_or(0);  // checked at submit
}

}  // namespace

Request::Request(RequestStart start)
    : start_(std::move(start)),
      deadline_(absl::Now() + start_.timeout),
      steady_deadline_(std::chrono::steady_clock::now() +
                       std::chrono::duration_cast<SteadyTime::duration>(
                           absl::ToChronoNanoseconds(start_.timeout))),
      states_(start_.keys.size(), KeyState::pending),
      open_keys_(start_.keys.size()) {
  result_.id = start_.id;
  result_.keys.resize(start_.keys.size());
  if (start_.kind == RequestKind::lookup) result_.leases.resize(start_.node_count, 0);
}

bool Request::claim(size_t index) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_ || states_[index] != KeyState::pending) return false;
  states_[index] = KeyState::claimed;
  return true;
}

bool Request::unclaim(size_t index) {
  std::unique_lock<std::mutex> lock(mutex_);
  states_[index] = KeyState::pending;
  if (!closed_) return true;
  KeyResult result;
  result.status = close_status_;
  end_key(index, std::move(result));
  hand_over(std::move(lock));
  return false;
}

void Request::finish(size_t index, KeyResult result) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (states_[index] == KeyState::ended) return;
  end_key(index, std::move(result));
  hand_over(std::move(lock));
}

void Request::finish(size_t index, const absl::Status& status) {
  KeyResult result;
  result.status = status;
  finish(index, std::move(result));
}

bool Request::set_lease(size_t node, uint64_t lease) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_ || open_keys_ == 0) return false;
  result_.leases[node] = lease;
  return true;
}

void Request::add_operation(BlockPeer* peer, BlockPeer::OperationId operation) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!closed_) {
      operations_.emplace_back(peer, operation);
      return;
    }
  }
  peer->cancel(operation);
}

void Request::close(const absl::Status& status) {
  std::vector<std::pair<BlockPeer*, BlockPeer::OperationId>> operations;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    if (closed_ || open_keys_ == 0) return;
    closed_ = true;
    close_status_ = status;
    operations.swap(operations_);
    for (size_t i = 0; i < states_.size(); ++i) {
      if (states_[i] != KeyState::pending) continue;
      KeyResult result;
      result.status = status;
      end_key(i, std::move(result));
    }
    hand_over(std::move(lock));
  }
  for (const auto& [peer, operation] : operations) peer->cancel(operation);
}

bool Request::closed() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return closed_ || open_keys_ == 0;
}

void Request::end_key(size_t index, KeyResult result) {
  states_[index] = KeyState::ended;
  result_.keys[index] = std::move(result);
  --open_keys_;
}

void Request::hand_over(std::unique_lock<std::mutex> lock) {
  if (open_keys_ > 0 || handed_over_) return;
  handed_over_ = true;
  while (result_.prefix_blocks < result_.keys.size() &&
         result_.keys[result_.prefix_blocks].status.ok()) {
    ++result_.prefix_blocks;
  }
  RequestResult result = std::move(result_);
  lock.unlock();
  if (!start_.groups.empty()) {
    result.prefix_tokens = prefix_tokens(std::move(start_.groups), result.keys);
  }
  start_.on_end(std::move(result));
}

}  // namespace hadal
