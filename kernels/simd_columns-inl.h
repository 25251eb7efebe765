// Vectors side by side, a token to every lane: register i has value i of kLanes tokens, in 32 bits.
// A rotation is additions of registers, and the same code serves every width and head_dim. What it
// costs are transposes where values and words are read and written.
//
// Compiled once for every instruction set, by polar_simd.cc, prod_simd.cc and score_simd.cc.

#if defined(HADAL_KERNELS_SIMD_COLUMNS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HADAL_KERNELS_SIMD_COLUMNS_INL_H_
#undef HADAL_KERNELS_SIMD_COLUMNS_INL_H_
#else
#define HADAL_KERNELS_SIMD_COLUMNS_INL_H_
#endif

#include "kernels/reference_math.h"
#include "kernels/rotation.h"
#include "kernels/simd_rotation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

constexpr int kColumnsMax = *std::max_element(kHeadDims.begin(), kHeadDims.end());

// Where the tokens of the lanes lie: lane 4n + k is row n of at[k]. Past the last token it stands
// again.
struct ColumnRows {
  std::byte* at[4][kLanes / 4];
  ColumnRows(std::byte* first, size_t stride_bytes, uint32_t token, uint32_t token_count) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      at[lane % 4][lane / 4] = first + std::min(token + lane, token_count - 1) * stride_bytes;
    }
  }
};

// Within blocks of 4 lanes. Undoes itself.
HWY_INLINE void transpose_fours(VF* HWY_RESTRICT x) {
  interleave<int32_t>(x[0], x[1]);
  interleave<int32_t>(x[2], x[3]);
  interleave<int64_t>(x[0], x[2]);
  interleave<int64_t>(x[1], x[3]);
  std::swap(x[1], x[2]);
}

template <DType kType>
HWY_INLINE VF load_fours(std::byte* const* rows, size_t offset_bytes) {
  const F32 d;
  if constexpr (kType == DType::f32) {
    return gather<4>(d, rows, offset_bytes);
  } else {
    const auto bits = gather<4>(D16(), rows, offset_bytes);
    if constexpr (kType == DType::f16) {
      return from_half(hn::BitCast(hn::Rebind<hwy::float16_t, F32>(), bits));
    } else {
      return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(U32(), bits)));
    }
  }
}
template <DType kType>
HWY_INLINE void store_fours(VF x, std::byte* const* rows, size_t offset_bytes) {
  if constexpr (kType == DType::f32) {
    scatter<4>(F32(), x, rows, offset_bytes);
  } else {
    const auto bits = [&]() HWY_ATTR {
      if constexpr (kType == DType::f16) return half_bits(x);
      // As bf16_rounded_away().
      return hn::ShiftRight<16>(hn::Add(hn::BitCast(U32(), x), hn::Set(U32(), 0x8000u)));
    }();
    scatter<4>(D16(), hn::TruncateTo(D16(), bits), rows, offset_bytes);
  }
}

template <DType kType>
HWY_INLINE void load_columns(const ColumnRows& rows, int head_dim, VF* HWY_RESTRICT x) {
  for (int i = 0; i < head_dim; i += 4) {
    for (int k = 0; k < 4; ++k) x[i + k] = load_fours<kType>(rows.at[k], i * dtype_bytes(kType));
    transpose_fours(x + i);
  }
}

// Rows of values, of which those in memory may lie a power of two apart: pieces of all of them at
// once would push each other out of the cache. Here they do not.
class RowBuffer {
 public:
  template <DType kType>
  HWY_INLINE void store_columns(VF* HWY_RESTRICT x, int head_dim, const ColumnRows& rows) {
    const ColumnRows staged(bytes_, kStrideBytes, 0, kLanes);
    for (int i = 0; i < head_dim; i += 4) {
      transpose_fours(x + i);
      for (int k = 0; k < 4; ++k)
        store_fours<kType>(x[i + k], staged.at[k], i * dtype_bytes(kType));
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      std::memcpy(rows.at[lane % 4][lane / 4], bytes_ + lane * kStrideBytes,
                  head_dim * dtype_bytes(kType));
    }
  }

 private:
  static constexpr size_t kStrideBytes = 4 * kColumnsMax + kLineBytes;
  alignas(64) std::byte bytes_[kStrideBytes * kLanes];
};

// Squares of the columns value(i), added up as reference::squared_length() does.
template <class Value>
VF sum_column_runs(int first, int count, const Value& value) {
  if (count > 1) {
    const int left = largest_power_below(count);
    const VF lower = sum_column_runs(first, left, value);
    return hn::Add(lower, sum_column_runs(first + 16 * left, count - left, value));
  }
  const auto square = [&](int i) HWY_ATTR {
    const VF x = value(first + i);
    return hn::Mul(x, x);
  };
  return hn::Add(hn::Add(square(0), square(8)), hn::Add(square(4), square(12)));
}
template <class Value>
HWY_INLINE VF squared_columns(int head_dim, const Value& value) {
  const int runs = head_dim / 16;
  const VF even = hn::Add(sum_column_runs(0, runs, value), sum_column_runs(2, runs, value));
  return hn::Add(even, hn::Add(sum_column_runs(1, runs, value), sum_column_runs(3, runs, value)));
}

// Butterflies of two strides, `low` below `high`.
HWY_INLINE void two_strides(V32* HWY_RESTRICT x, int count, int low, int high) {
  for (int base = 0; base < count; base += 2 * high) {
    for (int middle = base; middle < base + high; middle += 2 * low) {
      for (int i = middle; i < middle + low; ++i) {
        V32 a = x[i], b = x[i + low], c = x[i + high], d = x[i + low + high];
        butterfly(a, b);
        butterfly(c, d);
        butterfly(a, c);
        butterfly(b, d);
        x[i] = a, x[i + low] = b, x[i + high] = c, x[i + low + high] = d;
      }
    }
  }
}
HWY_INLINE void one_stride(V32* HWY_RESTRICT x, int count, int stride) {
  for (int base = 0; base < count; base += 2 * stride) {
    for (int i = base; i < base + stride; ++i) butterfly(x[i], x[i + stride]);
  }
}
constexpr int kLastStride = 8;  // of an inverse

HWY_INLINE void all_strides_but_last(V32* HWY_RESTRICT x, const Rotation& rotation) {
  int waiting = 0;
  for (int stride = 1; stride < rotation.inner; stride *= 2) {
    if (stride == kLastStride) continue;
    if (waiting != 0) two_strides(x, rotation.head_dim, waiting, stride);
    waiting = waiting != 0 ? 0 : stride;
  }
  if (waiting != 0) one_stride(x, rotation.head_dim, waiting);
}

HWY_INLINE V32 with_sign(V32 x, int16_t sign) {
  const V32 negative = hn::Set(I32(), sign >> 15);
  return hn::Sub(hn::Xor(x, negative), negative);
}

// (C (x) W) S x.
inline void rotate_columns(V32* HWY_RESTRICT x, const Rotation& rotation) {
  for (int i = 0; i < rotation.head_dim; ++i) x[i] = with_sign(x[i], rotation.signs[i]);
  all_strides_but_last(x, rotation);
  if (kLastStride < rotation.inner) one_stride(x, rotation.head_dim, kLastStride);
  rotate_core_of<false>(rotation, x);
}

// S (C (x) W)^T x; narrow as reference::inverse_hadamard().
inline void rotate_columns_back(V32* HWY_RESTRICT x, const Rotation& rotation, bool narrow) {
  rotate_core_of<true>(rotation, x);
  all_strides_but_last(x, rotation);
  for (int i = 0; i < rotation.head_dim && narrow; ++i) {
    x[i] = hn::ShiftRight<16>(hn::ShiftLeft<16>(x[i]));
  }
  if (kLastStride < rotation.inner) one_stride(x, rotation.head_dim, kLastStride);
  for (int i = 0; i < rotation.head_dim; ++i) x[i] = with_sign(x[i], rotation.signs[i]);
}

// 8 x 8 bits, of which bit k of byte n becomes bit n of byte k (Hacker's Delight, 7-3).
constexpr uint64_t transposed_bits(uint64_t x) {
  uint64_t t = (x ^ (x >> 7)) & 0x00aa00aa00aa00aau;
  x ^= t ^ (t << 7);
  t = (x ^ (x >> 14)) & 0x0000cccc0000ccccu;
  x ^= t ^ (t << 14);
  t = (x ^ (x >> 28)) & 0x00000000f0f0f0f0u;
  return x ^ t ^ (t << 28);
}

// The bits of one plane, for every value a mask of the lanes.
class ColumnBits {
 public:
  HWY_INLINE void set(int i, hn::MFromD<I32> mask) {
    hn::StoreMaskBits(I32(), mask, masks_ + kMaskBytes * i);
  }
  HWY_INLINE hn::MFromD<I32> get(int i) const {
    return hn::LoadMaskBits(I32(), masks_ + kMaskBytes * i);
  }

  // Of tokens below `token_count`.
  void write(std::byte* words, int head_dim, uint32_t token, uint32_t token_count) const {
    for (int octet = 0; octet < head_dim / 8; ++octet) {
      for (int part = 0; part < kMaskBytes; ++part) {
        uint64_t bits = 0;
        for (int k = 0; k < 8; ++k) {
          bits |= uint64_t{masks_[kMaskBytes * (8 * octet + k) + part]} << (8 * k);
        }
        bits = transposed_bits(bits);
        const uint32_t first = token + 8 * part;
        for (uint32_t t = 0; t < kPartLanes && first + t < token_count; ++t) {
          words[(first + t) * (head_dim / 8) + octet] = static_cast<std::byte>(bits >> (8 * t));
        }
      }
    }
  }
  void read(const DecodeRun& run, int plane, uint32_t token) {
    const std::byte* const words = run.planes[plane];
    const int octets = run.head_dim / 8;
    for (int octet = 0; octet < octets; ++octet) {
      for (int part = 0; part < kMaskBytes; ++part) {
        uint64_t bits = 0;
        for (uint32_t t = 0; t < kPartLanes; ++t) {
          const uint32_t from = std::min(token + 8 * part + t, run.token_count - 1);
          bits |= static_cast<uint64_t>(words[from * octets + octet]) << (8 * t);
        }
        bits = transposed_bits(bits);
        for (int k = 0; k < 8; ++k) {
          masks_[kMaskBytes * (8 * octet + k) + part] = static_cast<uint8_t>(bits >> (8 * k));
        }
      }
    }
  }
  // What the first planes say of every value.
  void read_indices(const DecodeRun& run, int planes, uint32_t token, V32* HWY_RESTRICT indices) {
    for (int i = 0; i < run.head_dim; ++i) indices[i] = hn::Zero(I32());
    for (int plane = 0; plane < planes; ++plane) {
      read(run, plane, token);
      for (int i = 0; i < run.head_dim; ++i) {
        const V32 bit = hn::IfThenElseZero(get(i), hn::Set(I32(), 1));
        indices[i] = hn::Add(hn::Add(indices[i], indices[i]), bit);
      }
    }
  }

 private:
  static constexpr int kMaskBytes = std::max(1, kLanes / 8);
  static constexpr uint32_t kPartLanes = std::min(kLanes, 8);
  uint8_t masks_[kMaskBytes * kColumnsMax + 8] = {};  // loads may reach 8 bytes
};

// Norms, or the lengths of residuals.
HWY_INLINE VF lengths_of(const uint16_t* scalars, uint32_t token, uint32_t token_count) {
  alignas(64) float lengths[kLanes];
  for (uint32_t t = 0; t < kLanes; ++t) {
    lengths[t] = reference::length_of(scalars[std::min(token + t, token_count - 1)]);
  }
  return hn::Load(F32(), lengths);
}

// A table of words, by the lanes of an index.
class ColumnTable {
 public:
  HWY_INLINE void set(const int16_t* words, int count) {
    std::copy_n(words, count, words_);
    in_register_ = kLanes == 16 && count <= 16;
  }
  HWY_INLINE V32 operator[](V32 index) const {
    if (in_register_) {
      return hn::TableLookupLanes(hn::Load(I32(), words_), hn::IndicesFromVec(I32(), index));
    }
    return hn::GatherIndex(I32(), words_, index);
  }

 private:
  alignas(64) int32_t words_[kCodebookMaxSize] = {};
  bool in_register_ = false;
};

}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#endif  // HADAL_KERNELS_SIMD_COLUMNS_INL_H_
