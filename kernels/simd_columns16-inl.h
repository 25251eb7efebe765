// Vectors side by side, one to a lane: a register has one value of 8 vectors for every 128-bit
// block of its. Then all that is done to a vector is plain arithmetic between registers, for every
// head_dim in the same loops; loads and stores transpose.
//
// Floats of 32 bits take two registers: those of the lower four vectors of every block, and those
// of the upper four.
//
// Compiled once for every instruction set, by tqe_simd.cc alone.

#if defined(HADAL_KERNELS_SIMD_COLUMNS16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HADAL_KERNELS_SIMD_COLUMNS16_INL_H_
#undef HADAL_KERNELS_SIMD_COLUMNS16_INL_H_
#else
#define HADAL_KERNELS_SIMD_COLUMNS16_INL_H_
#endif

#include "kernels/simd_rotation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

constexpr int kColumns = 8 * kTokens;  // vectors
constexpr int kColumnValuesMax = kHeadDims.back();

// Rows of vector 8b + t at [t][b].
struct ColumnRows {
  std::byte* at[8][kTokens];
};

// Of the vectors from `first` on. Those past `count` stand in row `spare`.
HWY_INLINE ColumnRows column_rows(std::byte* first, size_t stride_bytes, uint32_t count,
                                  std::byte* spare) {
  ColumnRows rows;
  for (uint32_t i = 0; i < kColumns; ++i) {
    rows.at[i % 8][i / 8] = i < count ? first + i * stride_bytes : spare;
  }
  return rows;
}

// Lane j of register k and lane k of register j of 8, in every block. A round rotates the 6 bits of
// both numbers by one.
HWY_INLINE void transpose_octets(V16* HWY_RESTRICT x) {
  for (int round = 0; round < 3; ++round) {
    V16 y[8];
    for (int k = 0; k < 4; ++k) {
      y[2 * k] = hn::InterleaveLower(I16(), x[k], x[k + 4]);
      y[2 * k + 1] = hn::InterleaveUpper(I16(), x[k], x[k + 4]);
    }
    for (int k = 0; k < 8; ++k) x[k] = y[k];
  }
}

// 8 words of every row.
HWY_INLINE void load_columns(const ColumnRows& rows, size_t offset_bytes, V16* HWY_RESTRICT x) {
  for (int t = 0; t < 8; ++t) x[t] = gather<8>(I16(), rows.at[t], offset_bytes);
  transpose_octets(x);
}
HWY_INLINE void store_columns(V16* HWY_RESTRICT x, const ColumnRows& rows, size_t offset_bytes) {
  transpose_octets(x);
  for (int t = 0; t < 8; ++t) scatter<8>(I16(), x[t], rows.at[t], offset_bytes);
}

struct FloatPair {
  VF half[2];
};
struct IntegerPair {
  V32 half[2];
};

// Where a vector's lane is when both halves of a pair lie in memory one after the other.
constexpr int pair_lane(int vector) {
  return vector % 8 / 4 * (kColumns / 2) + vector / 8 * 4 + vector % 4;
}

HWY_INLINE IntegerPair widened(V16 x) {
  return {hn::ShiftRight<16>(hn::BitCast(I32(), hn::InterleaveLower(I16(), x, x))),
          hn::ShiftRight<16>(hn::BitCast(I32(), hn::InterleaveUpper(I16(), x, x)))};
}
// Of integers that fit.
HWY_INLINE V16 narrowed(const IntegerPair& x) {
  return hn::ReorderDemote2To(I16(), x.half[0], x.half[1]);
}
// The lower and the upper halves of 32 bits.
template <class V>
HWY_INLINE V16 lower_words(V low, V high) {
  return narrowed({hn::ShiftRight<16>(hn::ShiftLeft<16>(hn::BitCast(I32(), low))),
                   hn::ShiftRight<16>(hn::ShiftLeft<16>(hn::BitCast(I32(), high)))});
}
template <class V>
HWY_INLINE V16 upper_words(V low, V high) {
  return narrowed(
      {hn::ShiftRight<16>(hn::BitCast(I32(), low)), hn::ShiftRight<16>(hn::BitCast(I32(), high))});
}

template <DType kType>
constexpr int kColumnWords = static_cast<int>(dtype_bytes(kType)) / 2;  // registers of a value

// All values of the vectors: of f32 pairs, else their bits.
template <DType kType>
HWY_INLINE void load_values_of(const ColumnRows& rows, int head_dim, V16* HWY_RESTRICT x) {
  for (int i = 0; i < head_dim * kColumnWords<kType>; i += 8) {
    load_columns(rows, i * sizeof(int16_t), x + i);
    if constexpr (kType == DType::f32) {
      for (int k = 0; k < 8; k += 2) interleave<int16_t>(x[i + k], x[i + k + 1]);
    }
  }
}
template <DType kType>
HWY_INLINE FloatPair value_at(const V16* x, int i) {
  FloatPair value;
  load_values<kType>(x, i, value.half[0], value.half[1]);
  return value;
}

// The other way, of one value: as many registers.
template <DType kType>
HWY_INLINE void words_of(const FloatPair& x, V16* HWY_RESTRICT words) {
  if constexpr (kType == DType::f32) {
    words[0] = lower_words(x.half[0], x.half[1]);
    words[1] = upper_words(x.half[0], x.half[1]);
  } else if constexpr (kType == DType::f16) {
    words[0] = lower_words(half_bits(x.half[0]), half_bits(x.half[1]));
  } else {
    const auto round = [](VF value) HWY_ATTR {  // as bf16_rounded_away()
      return hn::Add(hn::BitCast(U32(), value), hn::Set(U32(), 0x8000u));
    };
    words[0] = upper_words(round(x.half[0]), round(x.half[1]));
  }
}

// Squared lengths of `value(i)`, in the order of squared_length(): runs join as the bits of a
// counter carry.
template <class Value>
HWY_INLINE FloatPair squared_lengths_of(int head_dim, const Value& value) {
  constexpr int kLevels = 6;
  static_assert(kColumnValuesMax / 16 < 1 << kLevels);
  const int runs = head_dim / 16;
  FloatPair partial[kLevels][4];  // by residue
  const auto add = [](FloatPair& to, const FloatPair& other) HWY_ATTR {
    for (int h = 0; h < 2; ++h) to.half[h] = hn::Add(to.half[h], other.half[h]);
  };
  const auto square = [&](int i) HWY_ATTR {
    FloatPair x = value(i);
    for (VF& half : x.half) half = hn::Mul(half, half);
    return x;
  };
  for (int run = 0; run < runs; ++run) {
    int level = 0;
    while ((run >> level & 1) != 0) ++level;
    for (int residue = 0; residue < 4; ++residue) {
      const int first = 16 * run + residue;
      FloatPair sum = square(first), other = square(first + 4);
      add(sum, square(first + 8));
      add(other, square(first + 12));
      add(sum, other);
      for (int k = 0; k < level; ++k) add(sum, partial[k][residue]);
      partial[level][residue] = sum;
    }
  }
  const int lowest = hwy::Num0BitsBelowLS1Bit_Nonzero32(static_cast<uint32_t>(runs));
  FloatPair* sums = partial[lowest];
  for (int level = lowest + 1; level < kLevels; ++level) {
    for (int residue = 0; (runs >> level & 1) != 0 && residue < 4; ++residue) {
      add(sums[residue], partial[level][residue]);
    }
  }
  add(sums[0], sums[2]);
  add(sums[1], sums[3]);
  add(sums[0], sums[1]);
  return sums[0];
}

HWY_INLINE void column_butterflies(const Rotation& rotation, V16* HWY_RESTRICT x) {
  for (int stride = 1; stride < rotation.inner; stride *= 2) {
    for (int first = 0; first < rotation.head_dim; first += 2 * stride) {
      for (int i = first; i < first + stride; ++i) butterfly(x[i], x[i + stride]);
    }
  }
}
// (C (x) W) and its transpose, modulo 2^16.
HWY_NOINLINE void rotate_columns(const Rotation& rotation, V16* x) {
  column_butterflies(rotation, x);
  rotate_core_of<false>(rotation, x);
}
HWY_NOINLINE void rotate_columns_back(const Rotation& rotation, V16* x) {
  rotate_core_of<true>(rotation, x);
  column_butterflies(rotation, x);
}

}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#endif  // HADAL_KERNELS_SIMD_COLUMNS16_INL_H_
