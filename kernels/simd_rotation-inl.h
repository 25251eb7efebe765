// The rotation of integers of 16 or 32 bits, one token to a 128-bit block of a register.
//
// Compiled once for every instruction set, by codec_simd.cc alone.

#if defined(HADAL_KERNELS_SIMD_ROTATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HADAL_KERNELS_SIMD_ROTATION_INL_H_
#undef HADAL_KERNELS_SIMD_ROTATION_INL_H_
#else
#define HADAL_KERNELS_SIMD_ROTATION_INL_H_
#endif

#include "kernels/simd_blocks-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

template <class V>
HWY_INLINE void butterfly(V& a, V& b) {
  const V sum = hn::Add(a, b);
  b = hn::Sub(a, b);
  a = sum;
}

// Butterflies between registers, for strides of kStride registers and more.
template <int kStride, int kRun, int kCount, class V>
HWY_INLINE void butterflies_across(V* HWY_RESTRICT x) {
  if constexpr (kStride < kRun) {
    for (int base = 0; base < kCount; base += 2 * kStride) {
      for (int i = base; i < base + kStride; ++i) butterfly(x[i], x[i + kStride]);
    }
    butterflies_across<2 * kStride, kRun, kCount>(x);
  }
}

// Where the first registers of a core's rows lie: `step` apart or, of rows of 4 or 8 values, in two
// arrays that lie `step` apart, which have octets in turn and two registers of each.
template <int kRowValues>
constexpr int row_register(int row, int step) {
  if (kRowValues == 4) return row / 4 * 2 + row % 2 + row / 2 % 2 * step;
  if (kRowValues == 8) return row / 2 * 2 + row % 2 * step;
  return row * step;
}
constexpr int kLongRow = 16;  // and more

// C, or its transpose, on a register of every row. Rows of four entries recur: of every four
// registers the 8 sums that differ by more than their sign are made once.
template <int kCore, int kRowValues, bool kTransposed, class V>
HWY_NOINLINE void multiply_core(V* x, int step) {
  static constexpr std::array kMatrix = paley_hadamard<kCore>();
  constexpr int kFours = kCore / 4;
  const auto at = [&](int row) -> V& { return x[row_register<kRowValues>(row, step)]; };
  V sums[kFours][8];  // by the signs of the second, third and fourth
#pragma GCC unroll 9
  for (int four = 0; four < kFours; ++four) {
    const V in[4] = {at(4 * four), at(4 * four + 1), at(4 * four + 2), at(4 * four + 3)};
    const V first[2] = {hn::Add(in[0], in[1]), hn::Sub(in[0], in[1])};
    const V last[2] = {hn::Add(in[2], in[3]), hn::Sub(in[2], in[3])};
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      sums[four][4 * i] = hn::Add(first[i], last[0]);
      sums[four][4 * i + 1] = hn::Add(first[i], last[1]);
      sums[four][4 * i + 2] = hn::Sub(first[i], last[1]);
      sums[four][4 * i + 3] = hn::Sub(first[i], last[0]);
    }
  }
#pragma GCC unroll 36
  for (int row = 0; row < kCore; ++row) {
    V sum = hn::Zero(hn::DFromV<V>());
#pragma GCC unroll 9
    for (int four = 0; four < kFours; ++four) {
      const auto negative = [&](int k) {
        const int column = 4 * four + k;
        return kMatrix[kTransposed ? column * kCore + row : row * kCore + column] < 0;
      };
      const int others = 4 * negative(1) + 2 * negative(2) + negative(3);
      sum = negative(0) ? hn::Sub(sum, sums[four][7 - others]) : hn::Add(sum, sums[four][others]);
    }
    at(row) = sum;
  }
}

// The same on all kColumns registers of every row, and nothing where there is no core.
template <int kCore, int kRowValues, int kColumns, bool kTransposed, class V>
HWY_INLINE void rotate_core(V* x, int step) {
  if constexpr (kCore > 1) {
    for (int k = 0; k < kColumns; ++k) multiply_core<kCore, kRowValues, kTransposed>(x + k, step);
  }
}

// The same of values that lie a register each, of a rotation that is known at run time.
template <bool kTransposed, class V>
HWY_INLINE void rotate_core_of(const Rotation& rotation, V* x) {
  const int inner = rotation.inner;
  for (int k = 0; k < inner && rotation.core != 1; ++k) {
    switch (rotation.core) {
      case 12:
        multiply_core<12, kLongRow, kTransposed>(x + k, inner);
        break;
      case 20:
        multiply_core<20, kLongRow, kTransposed>(x + k, inner);
        break;
      case 28:
        multiply_core<28, kLongRow, kTransposed>(x + k, inner);
        break;
      default:
        multiply_core<36, kLongRow, kTransposed>(x + k, inner);
    }
  }
}

// Of two registers, in units of T: the lower halves of their blocks in turn, and the upper ones.
template <class T, class V>
HWY_INLINE void interleave(V& a, V& b) {
  const hn::Repartition<T, I16> d;
  const hn::DFromV<V> original;
  const auto low = hn::InterleaveLower(d, hn::BitCast(d, a), hn::BitCast(d, b));
  b = hn::BitCast(original, hn::InterleaveUpper(d, hn::BitCast(d, a), hn::BitCast(d, b)));
  a = hn::BitCast(original, low);
}

// Even lanes of both, and odd lanes of both. Undoes itself.
HWY_INLINE void swap_odd_with_even(V16& a, V16& b) {
  const V16 odd_of_a = hn::BitCast(I16(), hn::ShiftRight<16>(hn::BitCast(U32(), a)));
  const V16 even_of_b = hn::BitCast(I16(), hn::ShiftLeft<16>(hn::BitCast(U32(), b)));
  a = hn::OddEven(even_of_b, a);
  b = hn::OddEven(b, odd_of_a);
}

// The two upper bits of a block's lanes come into registers, and two bits of a register's number
// into lanes; with the butterflies of the first, or of the second of them.
template <int kCount, bool kFirst, bool kSecond, class V>
HWY_INLINE void octets(V* HWY_RESTRICT x) {
#pragma GCC unroll 4
  for (int i = 0; i < kCount; i += 8) {
#pragma GCC unroll 4
    for (int k = i; k < i + 4; ++k) {
      interleave<int32_t>(x[k], x[k + 4]);
      if constexpr (kFirst) butterfly(x[k], x[k + 4]);
    }
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n) {
      const int k = i + n / 2 * 4 + n % 2;
      interleave<int32_t>(x[k], x[k + 2]);
      if constexpr (kSecond) butterfly(x[k], x[k + 2]);
    }
  }
}

// The rotation of the vectors of a group, in 16 bits.
//
// Of a vector register 8n + k has in lane j value 64n + 8j + k: planes are made and read so
// (simd_planes-inl.h). Vectors follow each other, and one may end within 8 registers, where the
// next one begins.
template <int kHeadDim, int kInner, int kSets>
struct GroupRotation {
  static constexpr int kCore = kHeadDim / kInner;
  static constexpr int kCount = kHeadDim / 8;  // registers of a vector
  static constexpr int kRegisters = kCount * kSets;
  static_assert(kInner >= 8 || kInner == 4, "a block has a run, or two");
  static_assert(kInner > 8 || kSets % 2 == 0, "two vectors share registers");

  // Where to_octets(), or to_octets_wide(), has value 64n + 8j + k.
  static constexpr int made_register(int k, bool wide) {
    return kInner == 4 && !wide ? k % 2 * 2 + k / 2 % 2 * 4 + k / 4
                                : k % 2 * 4 + k / 4 * 2 + k / 2 % 2;
  }
  // Where from_octets() wants it.
  static constexpr int wanted_register(int k) {
    return kInner == 4 ? k % 2 * 2 + k / 2 % 2 * 4 + k / 4 : k;
  }

  // C (x) W. Before, lanes of register i have values 8i + 0 4 1 5 2 6 3 7. Where kInner is 4, two
  // vectors are in the even and in the odd lanes, values 0 0 1 1 2 2 3 3 of the runs that
  // row_register() names.
  static HWY_INLINE void to_octets(V16* HWY_RESTRICT x) {
    if constexpr (kInner == 4) {
      for (int first = 0; first < kRegisters; first += 2 * kCount) {
        rotate_core<kCore, 4, 1, false>(x + first, kCount);
        for (int i = first; i < first + kCount; ++i) swap_odd_with_even(x[i], x[i + kCount]);
      }
    } else {
      butterflies_across<1, kInner / 8, kRegisters>(x);
      for (int set = 0; set < kSets; ++set) {
        rotate_core<kCore, kLongRow, kInner / 8, false>(x + kCount * set, kInner / 8);
      }
#pragma GCC unroll 16
      for (int i = 0; i < kRegisters; i += 2) {
        interleave<int16_t>(x[i], x[i + 1]);
        butterfly(x[i], x[i + 1]);
      }
    }
    octets<kRegisters, true, true>(x);
  }

  // The same in 32 bits, of which the lowest kWideShift are cut. Before, registers of even octets
  // and of odd ones have values 0 1 2 3 and 4 5 6 7.
  static HWY_INLINE void to_octets_wide(V32 (*halves)[kRegisters], V16* HWY_RESTRICT x) {
    if constexpr (kInner > 8) {
      for (int i = 0; i < kRegisters; ++i) butterfly(halves[0][i], halves[1][i]);
    } else {
      for (int set = 0; set < kSets; ++set) {
        rotate_core<kCore, kInner, kInner / 4, false>(halves[0] + kCount * set, kRegisters);
      }
    }
    for (int half = 0; half < 2; ++half) {
      V32* const of_half = halves[half];
      for (int i = 0; i < kRegisters; i += 2) {
        interleave<int32_t>(of_half[i], of_half[i + 1]);
        butterfly(of_half[i], of_half[i + 1]);
      }
      if constexpr (kInner > 8) {
        butterflies_across<2, kInner / 8, kRegisters>(of_half);
        for (int set = 0; set < kSets; ++set) {
          rotate_core<kCore, kLongRow, kInner / 8, false>(of_half + kCount * set, kInner / 8);
        }
      }
      octets<kRegisters, true, (kInner > 4)>(of_half);
    }
    for (int i = 0; i < kRegisters; ++i) {
      const V32 even = hn::ShiftRight<kWideShift>(halves[0][i]);
      const V32 odd = hn::ShiftLeft<16 - kWideShift>(halves[1][i]);
      x[i] = hn::OddEven(hn::BitCast(I16(), odd), hn::BitCast(I16(), even));
    }
  }

  // (C (x) W)^T but for the butterflies of stride 8 and the diagonal, which Rotation::last_weights
  // do. Of values 16n to 16n + 15 register 2n then has the even ones, register 2n + 1 the odd ones,
  // in the order 0 8 2 10 4 12 6 14.
  static HWY_INLINE void from_octets(V16* HWY_RESTRICT x) {
    from_octets_of_runs(x);
    if constexpr (kInner <= 8) {
      for (int first = 0; first < kRegisters; first += 2 * kCount) {
        for (int i = first; i < first + kCount; ++i) swap_odd_with_even(x[i], x[i + kCount]);
        rotate_core<kCore, kInner, kInner / 4, true>(x + first, kCount);
        for (int i = first; i < first + kCount; ++i) swap_odd_with_even(x[i], x[i + kCount]);
      }
    }
    even_ones_first(x);
  }

  // The same in 32 bits, and with the butterflies of stride 8. Before, halves have what are even
  // and odd lanes of 16 bits or, where kInner is above 8, their sums and differences; after, values
  // 0 2 4 6 and 1 3 5 7 of 16 are in the first, and those that are 8 up in the second.
  static HWY_INLINE void from_octets_wide(V32 (*halves)[kRegisters]) {
    for (int half = 0; half < 2; ++half) from_octets_of_runs(halves[half]);
    if constexpr (kInner <= 8) {
      for (int set = 0; set < kSets; ++set) {
        rotate_core<kCore, kInner, kInner / 4, true>(halves[0] + kCount * set, kRegisters);
      }
    }
    for (int half = 0; half < 2; ++half) even_ones_first(halves[half]);
  }

 private:
  template <class V>
  static HWY_INLINE void from_octets_of_runs(V* HWY_RESTRICT x) {
    butterflies_across<kInner == 4 ? 2 : 1, kCore == 1 ? kCount : 8, kRegisters>(x);
    octets<kRegisters, (kInner > 32), (kInner > 16)>(x);
    if constexpr (kInner > 8) {
      for (int set = 0; set < kSets; ++set) {
        rotate_core<kCore, kLongRow, kInner / 8, true>(x + kCount * set, kInner / 8);
      }
    }
  }

  // Where kInner is 4, a register has runs, not every second value.
  template <class V>
  static HWY_INLINE void even_ones_first(V* HWY_RESTRICT x) {
    if constexpr (kInner == 4) {
      for (int i = 0; i < kRegisters; i += 2) {
        interleave<int32_t>(x[i], x[i + 1]);
        interleave<int32_t>(x[i], x[i + 1]);
      }
    }
  }
};

// Sums of products of pairs.
HWY_INLINE V32 multiply_pairs(V16 x, V16 weights) {
  V32 unused = hn::Zero(I32());
  return hn::ReorderWidenMulAccumulate(I32(), x, weights, unused, unused);
}

// Neighbouring lanes, which lie 8 apart in octets, in 32 bits: their sum and difference exactly, or
// one after the other.
template <bool kButterfly>
HWY_INLINE void widen_pairs(V16 x, V32& first, V32& second) {
  alignas(16) static constexpr int16_t kWeights[4][8] = {{1, 1, 1, 1, 1, 1, 1, 1},
                                                         {1, -1, 1, -1, 1, -1, 1, -1},
                                                         {1, 0, 1, 0, 1, 0, 1, 0},
                                                         {0, 1, 0, 1, 0, 1, 0, 1}};
  first = multiply_pairs(x, hn::LoadDup128(I16(), kWeights[kButterfly ? 0 : 2]));
  second = multiply_pairs(x, hn::LoadDup128(I16(), kWeights[kButterfly ? 1 : 3]));
}

}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#endif  // HADAL_KERNELS_SIMD_ROTATION_INL_H_
