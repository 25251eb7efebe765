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

// Butterflies of one pair of registers within blocks, for strides below kInner. An interleave
// brings the halves of both blocks side by side and moves every index bit up by one; after one more
// than there are bits, all are where they were.
template <int kLanes, int kInner, class D, class V>
HWY_INLINE void butterflies_in_blocks(D d, V& a, V& b) {
  for (int stride = kLanes / 2; stride >= 1; stride /= 2) {
    const V low = hn::InterleaveLower(d, a, b), high = hn::InterleaveUpper(d, a, b);
    a = stride < kInner ? hn::Add(low, high) : low;
    b = stride < kInner ? hn::Sub(low, high) : high;
  }
  const V low = hn::InterleaveLower(d, a, b), high = hn::InterleaveUpper(d, a, b);
  a = low;
  b = high;
}

// The core matrix where a row of it takes whole registers.
template <int kCore, int kRow, class D, class V>
HWY_INLINE void core_of_registers(D d, const int8_t* matrix, V* HWY_RESTRICT x) {
  V rows[kCore * kRow];
  for (int i = 0; i < kCore * kRow; ++i) rows[i] = x[i];
  for (int i = 0; i < kCore; ++i) {
    for (int k = 0; k < kRow; ++k) {
      V sum = hn::Zero(d);
      for (int j = 0; j < kCore; ++j) {
        const V row = rows[j * kRow + k];
        sum = matrix[i * kCore + j] > 0 ? hn::Add(sum, row) : hn::Sub(sum, row);
      }
      x[i * kRow + k] = sum;
    }
  }
}

// And where two rows share a block: every row in both halves, with one sign and with two.
template <int kCore, class D, class V>
HWY_INLINE void core_of_halves(D d, const int8_t* matrix, V* HWY_RESTRICT x) {
  const hn::Repartition<uint64_t, D> d64;
  alignas(16) static constexpr int16_t kSecondNegative[8] = {1, 1, 1, 1, -1, -1, -1, -1};
  const V signs = hn::LoadDup128(d, kSecondNegative);
  V same[kCore], opposite[kCore];
  for (int i = 0; i < kCore; i += 2) {
    const auto both = hn::BitCast(d64, x[i / 2]);
    same[i] = hn::BitCast(d, hn::InterleaveLower(d64, both, both));
    same[i + 1] = hn::BitCast(d, hn::InterleaveUpper(d64, both, both));
    opposite[i] = hn::Mul(same[i], signs);
    opposite[i + 1] = hn::Mul(same[i + 1], signs);
  }
  for (int i = 0; i < kCore; i += 2) {
    V sum = hn::Zero(d);
    for (int j = 0; j < kCore; ++j) {
      const int8_t first = matrix[i * kCore + j], second = matrix[(i + 1) * kCore + j];
      const V row = first == second ? same[j] : opposite[j];
      sum = first > 0 ? hn::Add(sum, row) : hn::Sub(sum, row);
    }
    x[i / 2] = sum;
  }
}

// C, or its transpose if that is given.
template <int kHeadDim, int kInner, class D, class V>
HWY_INLINE void rotate_core(D d, const int8_t* matrix, V* HWY_RESTRICT x) {
  constexpr int kLanes = 16 / sizeof(hn::TFromD<D>);
  constexpr int kCore = kHeadDim / kInner;
  if constexpr (kCore > 1 && kInner >= kLanes) {
    core_of_registers<kCore, kInner / kLanes>(d, matrix, x);
  } else if constexpr (kCore > 1) {
    static_assert(2 * kInner == kLanes, "two rows a block");
    core_of_halves<kCore>(d, matrix, x);
  }
}

// C (x) W, or with the transpose of C given.
template <int kHeadDim, int kInner, class D, class V>
HWY_INLINE void rotate(D d, const int8_t* core_matrix, V* HWY_RESTRICT x) {
  constexpr int kLanes = 16 / sizeof(hn::TFromD<D>);
  constexpr int kCount = kHeadDim / kLanes;
  static_assert(kCount % 2 == 0, "registers go in pairs");
  butterflies_across<1, kInner / kLanes, kCount>(x);
  for (int i = 0; i < kCount; i += 2) butterflies_in_blocks<kLanes, kInner>(d, x[i], x[i + 1]);
  rotate_core<kHeadDim, kInner>(d, core_matrix, x);
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

// The same but for the butterflies of stride 8 and the diagonal, which Rotation::last_weights do.
// Of values 16n to 16n + 15 register 2n then has the even ones, register 2n + 1 the odd ones, in
// the order 0 8 2 10 4 12 6 14. Before, value i is in lane i % 8 of register i / 8.
template <int kHeadDim, int kInner>
HWY_INLINE void rotate_pairs(const int8_t* core_matrix, V16* HWY_RESTRICT x) {
  constexpr int kCount = kHeadDim / 8;
  rotate_core<kHeadDim, kInner>(I16(), core_matrix, x);
  butterflies_across<2, kInner / 8, kCount>(x);
  for (int i = 0; i < kCount; i += 2) {
    interleave<int16_t>(x[i], x[i + 1]);
    if constexpr (kInner > 4) butterfly(x[i], x[i + 1]);
    interleave<int32_t>(x[i], x[i + 1]);
    butterfly(x[i], x[i + 1]);
    interleave<int32_t>(x[i], x[i + 1]);
    butterfly(x[i], x[i + 1]);
  }
}

// Butterflies of the two upper bits of a block's lanes. They come into registers, and two bits of a
// register's number into lanes.
template <int kCount, class V>
HWY_INLINE void butterflies_of_octets(V* HWY_RESTRICT x) {
#pragma GCC unroll 4
  for (int i = 0; i < kCount; i += 8) {
#pragma GCC unroll 4
    for (int k = i; k < i + 4; ++k) {
      interleave<int32_t>(x[k], x[k + 4]);
      butterfly(x[k], x[k + 4]);
    }
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n) {
      const int k = i + n / 2 * 4 + n % 2;
      interleave<int32_t>(x[k], x[k + 2]);
      butterfly(x[k], x[k + 2]);
    }
  }
}

// As rotate_pairs() for a power of two, where value 64g + 8j + k is in lane j of register 8g + k
// before, as nibbles_of() has it. kSets vectors one after the other. In 32 bits the same of one of
// the two halves that butterfly_of_pairs() makes: of values 16n to 16n + 15 register 2n then has
// the even ones of that half, register 2n + 1 the odd ones, in their order.
template <int kHeadDim, int kSets, class V>
HWY_INLINE void rotate_octets(V* HWY_RESTRICT x) {
  butterflies_across<1, kHeadDim / 8, kHeadDim / 8 * kSets>(x);
  butterflies_of_octets<kHeadDim / 8 * kSets>(x);
}

// All of W for a power of two. Before, lanes of register i have values 8i + 0 4 1 5 2 6 3 7; after,
// value 64g + 8j + k is in lane j of register 8g + octet_register(k).
template <int kHeadDim, int kSets>
HWY_INLINE void rotate_to_octets(V16* HWY_RESTRICT x) {
  constexpr int kCount = kHeadDim / 8 * kSets;
  butterflies_across<1, kHeadDim / 8, kCount>(x);
#pragma GCC unroll 16
  for (int i = 0; i < kCount; i += 2) {
    interleave<int16_t>(x[i], x[i + 1]);
    butterfly(x[i], x[i + 1]);
  }
  butterflies_of_octets<kCount>(x);
}
// Where it has value 64g + 8j + k.
constexpr int octet_register(int k) { return k % 2 * 4 + k / 4 * 2 + k / 2 % 2; }

// Sums of products of pairs.
HWY_INLINE V32 multiply_pairs(V16 x, const int16_t* weights) {
  V32 unused = hn::Zero(I32());
  return hn::ReorderWidenMulAccumulate(I32(), x, hn::LoadDup128(I16(), weights), unused, unused);
}

// Butterflies of neighbouring lanes, which lie 8 apart in octets, exactly.
HWY_INLINE void butterfly_of_pairs(V16 x, V32& sum, V32& difference) {
  alignas(16) static constexpr int16_t kWeights[2][8] = {{1, 1, 1, 1, 1, 1, 1, 1},
                                                         {1, -1, 1, -1, 1, -1, 1, -1}};
  sum = multiply_pairs(x, kWeights[0]);
  difference = multiply_pairs(x, kWeights[1]);
}

}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#endif  // HADAL_KERNELS_SIMD_ROTATION_INL_H_
