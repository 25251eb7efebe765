#pragma once

#include <mutex>

#include "client/request.h"

namespace hadal {

// ClientStats, counted a request at a time as it ends. Threads: any.
class StatsCounter {
 public:
  void add(RequestKind kind, const RequestResult& result);
  ClientStats snapshot() const;

 private:
  mutable std::mutex mutex_;
  ClientStats stats_;
};

}  // namespace hadal
