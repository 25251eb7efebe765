#include "client/client_stats.h"

namespace hadal {
namespace {

void count_miss_reason(const absl::Status& status, ClientStats& stats) {
  stats.misses_deadline += absl::IsDeadlineExceeded(status);
  stats.misses_unavailable += absl::IsUnavailable(status);
  stats.misses_data_loss += absl::IsDataLoss(status);
}

void count_lookup(const KeyResult& key, ClientStats& stats) {
  ++stats.keys_looked_up;
  if (key.status.ok()) {
    ++stats.keys_found;
  } else {
    count_miss_reason(key.status, stats);
  }
}

void count_put(const KeyResult& key, ClientStats& stats) {
  stats.keys_non_finite += key.non_finite;
  stats.wire_bytes_put += key.wire_bytes;
  if (!key.status.ok()) {
    ++stats.keys_put_failed;
    return;
  }
  ++stats.keys_put;
  stats.keys_put_duplicate += key.duplicate;
  stats.raw_bytes_put += key.raw_bytes;
}

void count_get(const KeyResult& key, ClientStats& stats) {
  stats.wire_bytes_get += key.wire_bytes;
  if (!key.status.ok()) {
    ++stats.keys_missed;
    count_miss_reason(key.status, stats);
    return;
  }
  ++stats.keys_got;
  stats.raw_bytes_get += key.raw_bytes;
}

}  // namespace

void StatsCounter::add(RequestKind kind, const RequestResult& result) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const KeyResult& key : result.keys) {
    switch (kind) {
      case RequestKind::lookup:
        count_lookup(key, stats_);
        break;
      case RequestKind::put:
        count_put(key, stats_);
        break;
      case RequestKind::get:
        count_get(key, stats_);
        break;
    }
  }
}

ClientStats StatsCounter::snapshot() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

}  // namespace hadal
