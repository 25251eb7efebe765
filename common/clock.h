#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace hadal {

// Where policy code reads the time, so that tests can move it by hand. Thread safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time now() const = 0;
};

class SystemClock final : public Clock {
 public:
  absl::Time now() const override { return absl::Now(); }
};

}  // namespace hadal
