// The registers, and what AVX-512 does to their lanes in instructions that Highway has no name for.
//
// Compiled once for every instruction set, by codec_simd.cc alone.

#if defined(HADAL_KERNELS_SIMD_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HADAL_KERNELS_SIMD_LANES_INL_H_
#undef HADAL_KERNELS_SIMD_LANES_INL_H_
#else
#define HADAL_KERNELS_SIMD_LANES_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using I16 = hn::CappedTag<int16_t, 32>;
using U16 = hn::RebindToUnsigned<I16>;
using U8 = hn::Repartition<uint8_t, I16>;
using I32 = hn::RepartitionToWide<I16>;
using U32 = hn::RebindToUnsigned<I32>;
using F32 = hn::RebindToFloat<I32>;
using V16 = hn::VFromD<I16>;
using V32 = hn::VFromD<I32>;
using V8 = hn::VFromD<U8>;
using VF = hn::VFromD<F32>;
constexpr int kTokens = static_cast<int>(hn::MaxLanes(I16())) / 8;  // side by side

// Registers with a block of every token become registers of one token each, and the other way.
#if HWY_TARGET <= HWY_AVX3
HWY_INLINE void transpose_blocks(V16* HWY_RESTRICT x) {
  const __m512i lower01 = _mm512_shuffle_i64x2(x[0].raw, x[1].raw, 0x44);
  const __m512i lower23 = _mm512_shuffle_i64x2(x[2].raw, x[3].raw, 0x44);
  const __m512i upper01 = _mm512_shuffle_i64x2(x[0].raw, x[1].raw, 0xee);
  const __m512i upper23 = _mm512_shuffle_i64x2(x[2].raw, x[3].raw, 0xee);
  x[0].raw = _mm512_shuffle_i64x2(lower01, lower23, 0x88);
  x[1].raw = _mm512_shuffle_i64x2(lower01, lower23, 0xdd);
  x[2].raw = _mm512_shuffle_i64x2(upper01, upper23, 0x88);
  x[3].raw = _mm512_shuffle_i64x2(upper01, upper23, 0xdd);
}
#else
HWY_INLINE void transpose_blocks(V16* HWY_RESTRICT x) {
  static_assert(kTokens <= 2, "of two blocks at most");
  if constexpr (kTokens == 2) {
    const V16 first = hn::ConcatLowerLower(I16(), x[1], x[0]);
    x[1] = hn::ConcatUpperUpper(I16(), x[1], x[0]);
    x[0] = first;
  }
}
#endif

// Bits of `a` where `mask` has them, else of `b`.
HWY_INLINE V8 bits_of_both(V8 mask, V8 a, V8 b) {
#if HWY_TARGET <= HWY_AVX3
  // The operand that it overwrites is one that callers shift first, and so need no more.
  return V8{_mm512_ternarylogic_epi64(b.raw, mask.raw, a.raw, 0xb8)};
#else
  return hn::Or(hn::And(mask, a), hn::AndNot(mask, b));
#endif
}

#if HWY_TARGET <= HWY_AVX3
// A table of 64 words, by the 6 lowest bits of indices.
struct WordTable {
  V16 halves[2];
  HWY_INLINE explicit WordTable(const int16_t* words)
      : halves{hn::Load(I16(), words), hn::Load(I16(), words + 32)} {}
  HWY_INLINE V16 operator[](V16 index) const {
    return V16{_mm512_permutex2var_epi16(halves[0].raw, index.raw, halves[1].raw)};
  }
};

HWY_INLINE V16 plus_one_where(hn::MFromD<I16> mask, V16 x) {
  return V16{_mm512_mask_add_epi16(x.raw, mask.raw, x.raw, _mm512_set1_epi16(1))};
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#endif  // HADAL_KERNELS_SIMD_LANES_INL_H_
