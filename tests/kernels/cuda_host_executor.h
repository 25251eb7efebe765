#pragma once

#include <array>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/vector_math.h"

namespace hadal::cuda {

// Runs the body of a kernel on the host, as kernels/cuda/device_executor.h describes it: each()
// takes the threads of a CTA one after the other, up or down in turn, since no order is promised.
class HostExecutor {
 public:
  template <typename T>
  struct Private {
    std::array<T, kCtaThreads> values;
    T& operator[](int thread) { return values[thread]; }
  };

  HostExecutor(uint32_t cta, uint32_t cta_count) : cta_(cta), cta_count_(cta_count) {}

  uint32_t cta() const { return cta_; }
  uint32_t cta_count() const { return cta_count_; }
  template <typename Work>
  void each(Work work) {
    upwards_ = !upwards_;
    for (int i = 0; i < kCtaThreads; ++i) work(upwards_ ? i : kCtaThreads - 1 - i);
  }
  template <typename T, typename Source>
  void shuffle(Private<T>& from, Private<T>& to, Source source) {
    const Private<T> before = from;
    for (int thread = 0; thread < kCtaThreads; ++thread) {
      const int lane = thread % kWarpThreads;
      to[thread] = before.values[thread - lane + source(lane)];
    }
  }
  void barrier() {}
  void warp_barrier() {}
  void fence() {}
  uint32_t add(uint32_t* at, uint32_t value) {
    const uint32_t before = *at;
    *at += value;
    return before;
  }
  void maximum(uint32_t* at, uint32_t value) {
    if (*at < value) *at = value;
  }

 private:
  const uint32_t cta_, cta_count_;
  bool upwards_ = false;
};

// Runs a whole grid, CTAs in any order. Shared memory holds rubbish at first.
template <typename Shared, typename Body>
void run_grid(uint32_t cta_count, unsigned seed, Body body) {
  std::vector<uint32_t> order(cta_count);
  for (uint32_t i = 0; i < cta_count; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937(seed));
  const auto shared = std::make_unique<Shared>();
  for (const uint32_t cta : order) {
    std::memset(static_cast<void*>(shared.get()), 0x5a, sizeof(Shared));
    HostExecutor executor(cta, cta_count);
    body(executor, *shared);
  }
}

}  // namespace hadal::cuda
