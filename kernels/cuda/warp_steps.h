#pragma once

// The steps of a vector that cross threads: sums, the last butterflies, the core matrix.

#include "kernels/cuda/launch.h"
#include "kernels/vector_math.h"

namespace hadal::cuda {

inline constexpr int kCtaWarps = kCtaThreads / kWarpThreads;

// Which vector of those that a CTA works on side by side a thread belongs to, and which part of it.
template <int kHeadDim>
struct ThreadPlace {
  using Share = VectorShare<kHeadDim>;
  static constexpr int kVectors = Share::kVectorsPerWarp * kCtaWarps;
  int part, vector;
  bool active;  // other threads of a warp repeat its last vector and store nothing

  HADAL_HOST_DEVICE explicit ThreadPlace(int thread) {
    const int lane = thread % kWarpThreads, in_warp = lane / Share::kParts;
    part = lane % Share::kParts;
    active = in_warp < Share::kVectorsPerWarp;
    vector = thread / kWarpThreads * Share::kVectorsPerWarp +
             (active ? in_warp : Share::kVectorsPerWarp - 1);
  }
};

// The sum over the parts of a vector, as a tree that is halved at the largest power of two below
// their number (docs/codec.md), in the thread of its first part.
template <int kParts, typename Executor, typename T>
HADAL_HOST_DEVICE void add_parts(Executor& executor, T& sums) {
  T others;
  HADAL_UNROLL
  for (int stride = 1; stride < kParts; stride *= 2) {
    executor.shuffle(sums, others, [=](int lane) { return (lane + stride) % kWarpThreads; });
    executor.each([&](int thread) {
      // Sums in between are nobody's: only those that begin at multiples of 2 * stride count.
      if (thread % kWarpThreads % kParts + stride < kParts) sums[thread].add(others[thread]);
    });
  }
}

// Everywhere what the thread of the first part has.
template <int kParts, typename Executor, typename T>
HADAL_HOST_DEVICE void share_first(Executor& executor, T& values) {
  executor.shuffle(values, values, [](int lane) { return lane - lane % kParts; });
}

struct WordSum {
  uint32_t sum;
  HADAL_HOST_DEVICE void add(const WordSum& other) { sum += other.sum; }
};

// Butterflies of strides from kValues up. `kNarrow`: of integers of 16 bits, two to a shuffle.
template <int kHeadDim, bool kNarrow, typename Executor, typename T>
HADAL_HOST_DEVICE void butterflies_across(Executor& executor, T& y) {
  using Share = VectorShare<kHeadDim>;
  constexpr int kValues = Share::kValues, kPacked = kNarrow ? kValues / 2 : kValues;
  using Packed = Values<uint32_t, kPacked>;
  typename Executor::template Private<Packed> mine, others;
  HADAL_UNROLL
  for (int stride = 1; stride * kValues < Share::kInner; stride *= 2) {
    executor.each([&](int thread) {
      HADAL_UNROLL
      for (int i = 0; i < kPacked; ++i) {
        mine[thread][i] =
            kNarrow ? (y[thread][i] & 0xffffu) | y[thread][i + kPacked] << 16 : y[thread][i];
      }
    });
    executor.shuffle(mine, others, [=](int lane) { return lane ^ stride; });
    executor.each([&](int thread) {
      const bool upper = (thread % kWarpThreads & stride) != 0;
      const auto butterfly = [&](uint32_t& own, uint32_t other) {
        own = other + (upper ? 0u - own : own);
      };
      HADAL_UNROLL
      for (int i = 0; i < kPacked; ++i) {
        const uint32_t other = others[thread][i];
        if constexpr (kNarrow) {
          butterfly(y[thread][i], static_cast<uint32_t>(static_cast<int32_t>(other << 16) >> 16));
          butterfly(y[thread][i + kPacked],
                    static_cast<uint32_t>(static_cast<int32_t>(other) >> 16));
        } else {
          butterfly(y[thread][i], other);
        }
      }
    });
  }
}

// Where threads leave their values for the others of the vector. Rows of vectors begin in banks of
// their own.
template <int kHeadDim>
struct CoreScratch {
  uint32_t values[ThreadPlace<kHeadDim>::kVectors][kHeadDim + 1];
};

// All of y, for the warp to read.
template <int kHeadDim, typename Executor, typename T>
HADAL_HOST_DEVICE void leave_values(Executor& executor, CoreScratch<kHeadDim>& scratch, T& y) {
  using Share = VectorShare<kHeadDim>;
  executor.warp_barrier();  // what was left before has been read
  executor.each([&](int thread) {
    const ThreadPlace<kHeadDim> place(thread);
    if (!place.active) return;
    HADAL_UNROLL
    for (int i = 0; i < Share::kValues; ++i) {
      scratch.values[place.vector][place.part * Share::kValues + i] = y[thread][i];
    }
  });
  executor.warp_barrier();
}

// C y, or its transpose where that is given by `rows`, whose bits are set for -1.
template <int kHeadDim, typename Executor, typename T>
HADAL_HOST_DEVICE void multiply_core(Executor& executor, CoreScratch<kHeadDim>& scratch,
                                     const std::array<uint64_t, kCoreOrderMax>& rows, T& y) {
  using Share = VectorShare<kHeadDim>;
  constexpr int kInner = Share::kInner, kRows = Share::kValues / kInner;
  leave_values(executor, scratch, y);
  executor.each([&](int thread) {
    const ThreadPlace<kHeadDim> place(thread);
    uint64_t signs[kRows];
    HADAL_UNROLL
    for (int row = 0; row < kRows; ++row) signs[row] = rows[place.part * kRows + row];
    HADAL_UNROLL
    for (int i = 0; i < Share::kValues; ++i) y[thread][i] = 0;
    HADAL_UNROLL_BY(2)
    for (int column = 0; column < Share::kCore; ++column) {
      uint32_t values[kInner];
      HADAL_UNROLL
      for (int k = 0; k < kInner; ++k) {
        values[k] = scratch.values[place.vector][column * kInner + k];
      }
      HADAL_UNROLL
      for (int row = 0; row < kRows; ++row) {
        const uint32_t sign = 1u - 2u * static_cast<uint32_t>(signs[row] >> column & 1u);
        HADAL_UNROLL
        for (int k = 0; k < kInner; ++k) y[thread][row * kInner + k] += sign * values[k];
      }
    }
  });
}

template <int kHeadDim>
using RotationScratch =
    std::conditional_t<VectorShare<kHeadDim>::kCore == 1, uint32_t, CoreScratch<kHeadDim>>;

// (C (x) W) y. `kNarrow`: no sum of the butterflies takes more than 16 bits.
template <int kHeadDim, bool kNarrow, typename Executor, typename T>
HADAL_HOST_DEVICE void rotate(Executor& executor, RotationScratch<kHeadDim>& scratch,
                              const RotationBits& rotation, T& y) {
  using Share = VectorShare<kHeadDim>;
  executor.each([&](int thread) { butterflies<1, Share::kInner>(y[thread]); });
  butterflies_across<kHeadDim, kNarrow>(executor, y);
  if constexpr (Share::kCore > 1) {
    multiply_core<kHeadDim>(executor, scratch, rotation.core_rows, y);
  }
}

// The transpose. `kNarrow`: modulo 2^16 but for stride 8, which comes last.
template <int kHeadDim, bool kNarrow, typename Executor, typename T>
HADAL_HOST_DEVICE void rotate_back(Executor& executor, RotationScratch<kHeadDim>& scratch,
                                   const RotationBits& rotation, T& y) {
  using Share = VectorShare<kHeadDim>;
  if constexpr (Share::kCore > 1) {
    multiply_core<kHeadDim>(executor, scratch, rotation.core_columns, y);
  }
  butterflies_across<kHeadDim, kNarrow>(executor, y);
  executor.each([&](int thread) {
    butterflies<1, (Share::kInner < 8 ? Share::kInner : 8)>(y[thread]);
    butterflies<16, Share::kInner>(y[thread]);
    if constexpr (kNarrow) narrow(y[thread]);
    butterflies<8, (Share::kInner < 16 ? Share::kInner : 16)>(y[thread]);
  });
}

HADAL_HOST_DEVICE uint32_t signs_of(const RotationBits& rotation, int first_value) {
  return rotation.signs[first_value / 32] >> (first_value % 32);
}

}  // namespace hadal::cuda
