#pragma once

// How a kernel's body runs on a GPU. A body is a function template over an executor, so that tests
// run the very same code on the host, where HostExecutor (tests/kernels/cuda_host_executor.h) has
// the same members:
//
//   each(f)       f(thread) for every thread of the CTA, without any order between threads. Code
//                 outside is the same for all threads, as are the branches around it.
//   Private<T>    a T of every thread, that lasts from one each() to the next.
//   shuffle       takes a value from another lane of the own warp.
//   barrier       what threads of the CTA wrote before, all of them read after it.
//   warp_barrier  the same within each warp.
//   fence         what this CTA wrote before, a CTA that sees its later add() reads after its own.
//   add, maximum  atomic, on counters that other CTAs change too; add answers the old value.
//
// Only nvcc compiles this.

#include <cstdint>

#include "kernels/host_device.h"

namespace hadal::cuda {

struct DeviceExecutor {
  template <typename T>
  struct Private {
    T value;
    __device__ __forceinline__ T& operator[](int) { return value; }
  };

  __device__ __forceinline__ uint32_t cta() const { return blockIdx.x; }
  __device__ __forceinline__ uint32_t cta_count() const { return gridDim.x; }
  template <typename Work>
  __device__ __forceinline__ void each(Work work) const {
    work(static_cast<int>(threadIdx.x));
  }
  // T consists of 32-bit words.
  template <typename T, typename Source>
  __device__ __forceinline__ void shuffle(Private<T>& from, Private<T>& to, Source source) const {
    static_assert(sizeof(T) % 4 == 0);
    const int lane = source(static_cast<int>(threadIdx.x) % 32);
    struct Words {
      uint32_t words[sizeof(T) / 4];
    };
    Words words = __builtin_bit_cast(Words, from.value);
    HADAL_UNROLL
    for (uint32_t& word : words.words) word = __shfl_sync(0xffffffffu, word, lane);
    to.value = __builtin_bit_cast(T, words);
  }
  __device__ __forceinline__ void barrier() const { __syncthreads(); }
  __device__ __forceinline__ void warp_barrier() const { __syncwarp(); }
  __device__ __forceinline__ void fence() const { __threadfence(); }
  __device__ __forceinline__ uint32_t add(uint32_t* at, uint32_t value) const {
    return atomicAdd(at, value);
  }
  __device__ __forceinline__ void maximum(uint32_t* at, uint32_t value) const {
    atomicMax(at, value);
  }
};

}  // namespace hadal::cuda
