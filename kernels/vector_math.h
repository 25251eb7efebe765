#pragma once

// One thread's share of a vector: the arithmetic of docs/codec.md for 16 or 32 neighbouring values
// in registers. Kernels put the steps together and exchange what crosses threads.
//
// Integers are kept as uint32_t, whose sums wrap: what a vector with NaN makes is rubbish that
// nobody reads, and must not be undefined.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "common/kv_layout.h"
#include "kernels/host_device.h"
#include "kernels/memory_access.h"
#include "kernels/rotation.h"
#include "kernels/value_conversion.h"
#include "kernels/vector_codec.h"

namespace hadal {

inline constexpr int kWarpThreads = 32;

// How the threads of a warp share vectors. A thread has the values of one word of a plane.
template <int kHeadDim>
struct VectorShare {
  static constexpr int kValues = kHeadDim % 32 == 0 ? 32 : 16;
  static constexpr int kParts = kHeadDim / kValues;  // threads of one vector
  static constexpr int kVectorsPerWarp = kWarpThreads / kParts;
  static constexpr int kCore = core_order(kHeadDim);
  static constexpr int kInner = kHeadDim / kCore;
  using Word = std::conditional_t<kValues == 32, uint32_t, uint16_t>;
  static_assert(kHeadDim % 16 == 0 && kParts <= kWarpThreads, "a vector stays within a warp");
  static_assert(kCore == 1 || kValues % kInner == 0, "a thread has whole rows of the core");
};

template <typename T, int kCount>
struct Values {
  T values[kCount];
  HADAL_HOST_DEVICE T& operator[](int i) { return values[i]; }
  HADAL_HOST_DEVICE const T& operator[](int i) const { return values[i]; }
};

// How rows of values lie in memory.
struct RowFormat {
  DType dtype = DType::f16;
  bool in_chunks = false;  // every share begins at a multiple of 16 bytes
};

// One value, whose dtype is f16, bf16 or f32.
HADAL_HOST_DEVICE float load_value(const std::byte* at, DType dtype) {
  if (dtype == DType::f32) return std::bit_cast<float>(load_aligned<uint32_t>(at));
  const uint32_t bits = load_aligned<uint16_t>(at);
  return dtype == DType::f16 ? half_to_float(bits) : bf16_to_float(bits);
}

// Values of 32 bits, or pairs of 16 bits, as they lie in memory.
template <int kCount>
HADAL_HOST_DEVICE void load_words(const std::byte* at, const RowFormat& format,
                                  Values<uint32_t, kCount>& words) {
  if (format.in_chunks) {
    HADAL_UNROLL
    for (int i = 0; i < kCount; i += 4) {
      const Chunk chunk = load_aligned<Chunk>(at + 4 * i);
      for (int k = 0; k < 4; ++k) words[i + k] = chunk.words[k];
    }
  } else {
    HADAL_UNROLL
    for (int i = 0; i < kCount; ++i) {
      words[i] = format.dtype == DType::f32
                     ? load_aligned<uint32_t>(at + 4 * i)
                     : load_aligned<uint16_t>(at + 4 * i) |
                           uint32_t{load_aligned<uint16_t>(at + 4 * i + 2)} << 16;
    }
  }
}
template <int kCount>
HADAL_HOST_DEVICE void store_words(std::byte* at, const RowFormat& format,
                                   const Values<uint32_t, kCount>& words) {
  if (format.in_chunks) {
    HADAL_UNROLL
    for (int i = 0; i < kCount; i += 4) {
      store_aligned(at + 4 * i, Chunk{{words[i], words[i + 1], words[i + 2], words[i + 3]}});
    }
  } else {
    HADAL_UNROLL
    for (int i = 0; i < kCount; ++i) {
      if (format.dtype == DType::f32) {
        store_aligned(at + 4 * i, words[i]);
      } else {
        store_aligned(at + 4 * i, static_cast<uint16_t>(words[i]));
        store_aligned(at + 4 * i + 2, static_cast<uint16_t>(words[i] >> 16));
      }
    }
  }
}

template <int kCount>
HADAL_HOST_DEVICE void load_share(const std::byte* at, const RowFormat& format,
                                  Values<float, kCount>& x) {
  if (format.dtype == DType::f32) {
    Values<uint32_t, kCount> words;
    load_words(at, format, words);
    HADAL_UNROLL
    for (int i = 0; i < kCount; ++i) x[i] = std::bit_cast<float>(words[i]);
    return;
  }
  Values<uint32_t, kCount / 2> words;
  load_words(at, format, words);
  if (format.dtype == DType::f16) {
    HADAL_UNROLL
    for (int i = 0; i < kCount; ++i) x[i] = half_to_float(words[i / 2] >> (i % 2 * 16) & 0xffffu);
  } else {
    HADAL_UNROLL
    for (int i = 0; i < kCount; ++i) {
      const uint32_t word = words[i / 2];
      x[i] = std::bit_cast<float>(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
    }
  }
}

template <int kCount>
HADAL_HOST_DEVICE void store_share(std::byte* at, const RowFormat& format,
                                   const Values<float, kCount>& x) {
  if (format.dtype == DType::f32) {
    Values<uint32_t, kCount> words;
    HADAL_UNROLL
    for (int i = 0; i < kCount; ++i) words[i] = std::bit_cast<uint32_t>(x[i]);
    store_words(at, format, words);
    return;
  }
  Values<uint32_t, kCount / 2> words;
  if (format.dtype == DType::f16) {
    HADAL_UNROLL
    for (int i = 0; i < kCount; i += 2) {
      words[i / 2] = half_from_float(x[i]) | half_from_float(x[i + 1]) << 16;
    }
  } else {
    HADAL_UNROLL
    for (int i = 0; i < kCount; i += 2) {
      words[i / 2] = bf16_rounded_away(std::bit_cast<uint32_t>(x[i])) |
                     uint32_t{bf16_rounded_away(std::bit_cast<uint32_t>(x[i + 1]))} << 16;
    }
  }
  store_words(at, format, words);
}

// Sums of squares by residue modulo 4, in the order of docs/codec.md. Those of neighbouring shares
// add up as a tree.
struct Squares {
  float residues[4];
  HADAL_HOST_DEVICE void add(const Squares& other) {
    for (int i = 0; i < 4; ++i) residues[i] += other.residues[i];
  }
  HADAL_HOST_DEVICE float total() const {
    return (residues[0] + residues[2]) + (residues[1] + residues[3]);
  }
};
template <int kCount>
HADAL_HOST_DEVICE Squares squares_of(const Values<float, kCount>& x) {
  Squares sums;
  HADAL_UNROLL
  for (int residue = 0; residue < 4; ++residue) {
    float sum = 0;
    HADAL_UNROLL
    for (int i = residue; i < kCount; i += 16) {
      const float run =
          (x[i] * x[i] + x[i + 8] * x[i + 8]) + (x[i + 4] * x[i + 4] + x[i + 12] * x[i + 12]);
      sum = i < 16 ? run : sum + run;
    }
    sums.residues[residue] = sum;
  }
  return sums;
}

// x * scale, rounded, times the diagonal: bit i of `signs` is set where that is -1.
template <int kCount>
HADAL_HOST_DEVICE void quantise(const Values<float, kCount>& x, float scale, uint32_t signs,
                                Values<uint32_t, kCount>& y) {
  HADAL_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(x[i] * scale);
    y[i] = rounded(std::bit_cast<float>(bits ^ (signs << (31 - i) & 0x80000000u)));
  }
}

// Times the diagonal: value i is negated where bit i of `signs` is set.
HADAL_HOST_DEVICE uint32_t with_sign(uint32_t value, uint32_t signs, int i) {
  const uint32_t negative = 0u - (signs >> i & 1u);  // all ones
  return (value ^ negative) - negative;
}

// Butterflies of strides from kFirst up to below kEnd.
template <int kFirst, int kEnd, int kCount>
HADAL_HOST_DEVICE void butterflies(Values<uint32_t, kCount>& y) {
  if constexpr (kFirst < kEnd && kFirst < kCount) {
    HADAL_UNROLL
    for (int i = 0; i < kCount; ++i) {
      if ((i & kFirst) != 0) continue;
      const uint32_t a = y[i], b = y[i + kFirst];
      y[i] = a + b;
      y[i + kFirst] = a - b;
    }
    butterflies<2 * kFirst, kEnd>(y);
  }
}

// Modulo 2^16, as integers with a sign.
template <int kCount>
HADAL_HOST_DEVICE void narrow(Values<uint32_t, kCount>& y) {
  HADAL_UNROLL
  for (int i = 0; i < kCount; ++i) {
    y[i] = static_cast<uint32_t>(static_cast<int32_t>(static_cast<int16_t>(y[i])));
  }
}

// Without the last `places` bits, as integers with a sign.
template <int kCount>
HADAL_HOST_DEVICE void drop_places(int places, Values<uint32_t, kCount>& y) {
  HADAL_UNROLL
  for (int i = 0; i < kCount; ++i) {
    y[i] = static_cast<uint32_t>(static_cast<int32_t>(y[i]) >> places);
  }
}

// The word of one plane: bit i says whether value i is at least the threshold that the more
// significant bits of its index, in `indices`, choose. Appends the bits to the indices.
template <int kCount>
HADAL_HOST_DEVICE uint32_t search_plane(const Values<uint32_t, kCount>& y,
                                        const int16_t* thresholds,
                                        Values<uint32_t, kCount>& indices) {
  uint32_t word = 0;
  HADAL_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const uint32_t bit = static_cast<int32_t>(y[i]) >= thresholds[indices[i]] ? 1 : 0;
    indices[i] = 2 * indices[i] + bit;
    word |= bit << i;
  }
  return word;
}

// The other way.
template <int kCount>
HADAL_HOST_DEVICE void append_plane(uint32_t word, Values<uint32_t, kCount>& indices) {
  HADAL_UNROLL
  for (int i = 0; i < kCount; ++i) indices[i] = 2 * indices[i] + (word >> i & 1u);
}

// Indices become centroids. The answer is the sum of their squares, which fits for any indices.
template <int kCount>
HADAL_HOST_DEVICE uint32_t look_up(const int16_t* centroids, Values<uint32_t, kCount>& values) {
  uint32_t squares = 0;
  HADAL_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const int32_t centroid = centroids[values[i]];
    values[i] = static_cast<uint32_t>(centroid);
    squares += static_cast<uint32_t>(centroid * centroid);
  }
  return squares;
}

// Integers, times the diagonal, times a scale.
template <int kCount>
HADAL_HOST_DEVICE void dequantise(const Values<uint32_t, kCount>& y, float scale, uint32_t signs,
                                  Values<float, kCount>& x) {
  HADAL_UNROLL
  for (int i = 0; i < kCount; ++i) x[i] = float_of(with_sign(y[i], signs, i)) * scale;
}

}  // namespace hadal
