// Bit planes to indices and back, 8 values of every byte of a plane at a time, without masks: bytes
// of 4 planes are 4 x 8 matrices of bits, and two rounds of swaps transpose them.
//
// Value 8j + k of a token is bit k of byte j of its plane. Register k of 8 then has in byte j what
// belongs to that value.
//
// A block holds as many tokens, one after the other, as fill 64 bits of a plane with theirs, or 128
// with two vectors of 64. So a group has several sets of tokens: of kSets = 2 the even and the odd
// ones.
//
// Compiled once for every instruction set, by codec_simd.cc alone.

#if defined(HADAL_KERNELS_SIMD_PLANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HADAL_KERNELS_SIMD_PLANES_INL_H_
#undef HADAL_KERNELS_SIMD_PLANES_INL_H_
#else
#define HADAL_KERNELS_SIMD_PLANES_INL_H_
#endif

#include <numeric>

#include "kernels/simd_blocks-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

// How the tokens of a group and their planes lie for a head_dim.
template <int kHeadDim>
struct GroupShape {
  static constexpr int kSets = kHeadDim == 64 ? 2 : 8 / std::gcd(8, kHeadDim / 8);
  static constexpr int kGroupTokens = kSets * kTokens;
  static constexpr int kGroups = kBatch / kGroupTokens;
  static constexpr size_t kPlaneBytes = kHeadDim / 8;         // of a token
  static constexpr size_t kBlockBytes = kPlaneBytes * kSets;  // of a block's tokens
  static constexpr size_t kGroupBytes = kBlockBytes * kTokens;
  static constexpr int kChunks = static_cast<int>(kBlockBytes) / 8;
  static constexpr int kSections = (kChunks + 1) / 2;  // of 16 bytes; of the last maybe one chunk
  static_assert(kBlockBytes % 8 == 0 && kBatch % kGroupTokens == 0, "whole chunks and groups");

  // The rows of a set's tokens, in a run whose values begin at `first`.
  template <class Run>
  static HWY_INLINE Rows rows(const Run& run, std::byte* first, uint32_t token, int set) {
    Rows rows;
    if (HWY_LIKELY(token + kGroupTokens <= run.token_count)) {
      std::byte* const begin = first + (token + set) * run.token_stride_bytes;
      for (int t = 0; t < kTokens; ++t) rows.at[t] = begin + t * kSets * run.token_stride_bytes;
      return rows;
    }
    for (uint32_t t = 0; t < kTokens; ++t) {
      const uint32_t row = std::min(token + t * kSets + set, run.token_count - 1);
      rows.at[t] = first + row * run.token_stride_bytes;
    }
    return rows;
  }

  static constexpr bool has_two_chunks(int section) { return 2 * section + 1 < kChunks; }

  // A section of each block of a group whose plane begins at `at`. Of one chunk the upper half is
  // zero.
  static HWY_INLINE hn::VFromD<U8> load_section(const std::byte* at, int section) {
    const U8 d8;
    if constexpr (kBlockBytes == 16) return hn::LoadU(d8, reinterpret_cast<const uint8_t*>(at));
    const Rows rows = rows_of(const_cast<std::byte*>(at), kBlockBytes, 0, kTokens);
    if (has_two_chunks(section)) return gather<16>(d8, rows.at, 16 * section);
    return hn::ShiftRightBytes<8>(d8, gather<16>(d8, rows.at, 16 * section - 8));
  }
  static HWY_INLINE void store_section(hn::VFromD<U8> bytes, std::byte* at, int section) {
    const U8 d8;
    if constexpr (kBlockBytes == 16) {
      hn::StoreU(bytes, d8, reinterpret_cast<uint8_t*>(at));
    } else if (has_two_chunks(section)) {
      const Rows rows = rows_of(at, kBlockBytes, 0, kTokens);
      scatter<16>(d8, bytes, rows.at, 16 * section);
    } else {
      alignas(64) uint8_t buffer[16 * kTokens];
      hn::Store(bytes, d8, buffer);
      for (int t = 0; t < kTokens; ++t) {
        std::memcpy(at + t * kBlockBytes + 16 * section, buffer + 16 * t, 8);
      }
    }
  }
};

template <int kBits>
HWY_INLINE V8 shifted_left(V8 v) {
  return hn::BitCast(U8(), hn::ShiftLeft<kBits>(hn::BitCast(U16(), v)));
}
template <int kBits>
HWY_INLINE V8 shifted_right(V8 v) {
  return hn::BitCast(U8(), hn::ShiftRight<kBits>(hn::BitCast(U16(), v)));
}

// Of every 2 * kBits bits, `low` has the lower halves of a and b, and `high` the upper halves; in
// both those of `a` come first. Bits that a shift carries into another byte are masked away.
template <int kBits>
HWY_INLINE void swap_bits(V8 a, V8 b, V8& low, V8& high) {
  const V8 lower = hn::Set(U8(), kBits == 1 ? 0x55 : 0x33);
  low = bits_of_both(lower, a, shifted_left<kBits>(b));
  high = bits_of_both(lower, shifted_right<kBits>(a), b);
}

// Bytes of kCount tables of 16, which one by the bits of `index` from 16 up, and within it by
// `within`, the 4 bits below.
template <int kCount>
HWY_INLINE V8 lookup_bytes(const uint8_t (*tables)[16], V8 within, V8 index) {
  if constexpr (kCount == 1) {
    return hn::TableLookupBytes(hn::LoadDup128(U8(), *tables), within);
  } else {
    const auto upper = hn::TestBit(index, hn::Set(U8(), 8 * kCount));
    return hn::IfThenElse(upper, lookup_bytes<kCount / 2>(tables + kCount / 2, within, index),
                          lookup_bytes<kCount / 2>(tables, within, index));
  }
}

// `planes`: 4, least significant first. `nibbles[k]`: the 4 bits of value 8j + k, in byte j.
HWY_INLINE void nibbles_of(const V8* HWY_RESTRICT planes, V8* HWY_RESTRICT nibbles) {
  V8 even[2], odd[2];
  swap_bits<1>(planes[0], planes[1], even[0], odd[0]);
  swap_bits<1>(planes[2], planes[3], even[1], odd[1]);
  V8 pairs[4];  // of values k and k + 4
  swap_bits<2>(even[0], even[1], pairs[0], pairs[2]);
  swap_bits<2>(odd[0], odd[1], pairs[1], pairs[3]);
  const V8 low = hn::Set(U8(), 0x0f);
  for (int k = 0; k < 4; ++k) {
    nibbles[k] = hn::And(pairs[k], low);
    nibbles[k + 4] = hn::And(shifted_right<4>(pairs[k]), low);
  }
}

// The other way.
HWY_INLINE void planes_of(const V8* HWY_RESTRICT nibbles, V8* HWY_RESTRICT planes) {
  V8 pairs[4], even[2], odd[2];
  for (int k = 0; k < 4; ++k) pairs[k] = hn::Or(nibbles[k], shifted_left<4>(nibbles[k + 4]));
  swap_bits<2>(pairs[0], pairs[2], even[0], even[1]);
  swap_bits<2>(pairs[1], pairs[3], odd[0], odd[1]);
  swap_bits<1>(even[0], odd[0], planes[0], planes[1]);
  swap_bits<1>(even[1], odd[1], planes[2], planes[3]);
}

}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#endif  // HADAL_KERNELS_SIMD_PLANES_INL_H_
