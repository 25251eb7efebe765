#pragma once

// One request from submit to its end: the state of every key, who may touch the caller's memory,
// and the one moment at which the result is handed over.
//
// A key is pending, claimed (a codec thread is reading or writing the caller's memory for it) or
// ended. Closing a request (deadline, cancel, shutdown) ends its pending keys at once; a claimed
// key ends when its claimer is done with one block. The request ends with its last key, so nobody
// touches the caller's memory afterwards. Threads: any.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "client/client.h"

namespace hadal {

// A block and what its owner is chosen by: where no route was given, the key itself.
struct RoutedKey {
  BlockKey key;
  BlockKey route;
  bool on_gpu = false;  // of a layout whose pages lie there: the tier in HBM may have it
};

enum class RequestKind : uint8_t { lookup, put, get };

using SteadyTime = std::chrono::steady_clock::time_point;

struct RequestStart {
  RequestId id = 0;
  RequestKind kind = RequestKind::lookup;
  std::vector<RoutedKey> keys;
  // Lookup: what the keys are blocks of, in order, with a place in `present` for each key.
  std::vector<PrefixGroup> groups;
  size_t node_count = 0;
  absl::Duration timeout;
  Priority priority = Priority::normal;
  // Called once, by whichever thread ended the last key, with no lock held.
  std::function<void(RequestResult)> on_end;
};

class Request {
 public:
  explicit Request(RequestStart start);

  RequestId id() const { return start_.id; }
  RequestKind kind() const { return start_.kind; }
  const std::vector<RoutedKey>& keys() const { return start_.keys; }
  Priority priority() const { return start_.priority; }
  absl::Time deadline() const { return deadline_; }
  OperationOptions operation_options() const { return {deadline_, start_.priority}; }
  SteadyTime steady_deadline() const { return steady_deadline_; }

  // Leave to touch the caller's memory for one key; every true is followed by unclaim or finish.
  bool claim(size_t index);
  // The key goes on; false where the request was closed meanwhile, which ends the key.
  bool unclaim(size_t index);
  // Ends one key, unless it has ended.
  void finish(size_t index, KeyResult result);
  void finish(size_t index, const absl::Status& status);

  // False where the request was closed or has ended: the lease is not in the result.
  bool set_lease(size_t node, uint64_t lease);

  // An operation to cancel when the request is closed. `peer` outlives the request's use of it.
  void add_operation(BlockPeer* peer, BlockPeer::OperationId operation);

  // Ends every pending key with `status` and lets no claim begin any more.
  void close(const absl::Status& status);
  bool closed() const;

 private:
  enum class KeyState : uint8_t { pending, claimed, ended };
  void end_key(size_t index, KeyResult result);  // with mutex_ held
  void hand_over(std::unique_lock<std::mutex> lock);

  RequestStart start_;
  const absl::Time deadline_;
  const SteadyTime steady_deadline_;

  mutable std::mutex mutex_;
  std::vector<KeyState> states_;
  RequestResult result_;
  size_t open_keys_;
  bool closed_ = false;
  bool handed_over_ = false;
  absl::Status close_status_;
  std::vector<std::pair<BlockPeer*, BlockPeer::OperationId>> operations_;
};

}  // namespace hadal
