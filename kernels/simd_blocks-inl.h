// Registers whose 128-bit blocks belong to a token each: 1, 2 or 4 tokens go side by side, with 8
// values of 16 bits each. Then nothing but loads and stores crosses blocks: a rotation is plain
// additions between registers and three steps within blocks, a token's sum is a step within its
// block, and the same code serves every width.
//
// Compiled once for every instruction set, by codec_simd.cc alone.

#if defined(HADAL_KERNELS_SIMD_BLOCKS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HADAL_KERNELS_SIMD_BLOCKS_INL_H_
#undef HADAL_KERNELS_SIMD_BLOCKS_INL_H_
#else
#define HADAL_KERNELS_SIMD_BLOCKS_INL_H_
#endif

#include <hwy/cache_control.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/simd_lanes-inl.h"
#include "kernels/vector_codec.h"

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

constexpr size_t kLineBytes = 64;

constexpr int kBatch = 16;  // tokens between two passes over what is encoded

// Where the tokens of a group lie. Past the last one it stands again, and is worked on again.
struct Rows {
  std::byte* at[kTokens];
};

HWY_INLINE Rows rows_of(std::byte* first, size_t stride_bytes, uint32_t token, uint32_t end) {
  Rows rows;
  for (uint32_t t = 0; t < kTokens; ++t) {
    rows.at[t] = first + (token + t < end ? token + t : end - 1) * stride_bytes;
  }
  return rows;
}

// Blocks of kBlock values, one from each row.
template <int kBlock, class D>
HWY_INLINE hn::VFromD<D> gather(D d, std::byte* const* rows, size_t offset_bytes) {
  using T = hn::TFromD<D>;
  if constexpr (hn::MaxLanes(D()) == kBlock) {
    return hn::LoadU(d, reinterpret_cast<const T*>(rows[0] + offset_bytes));
  } else {
    const hn::Half<D> half;
    const auto low = gather<kBlock>(half, rows, offset_bytes);
    constexpr size_t kRowsOfHalf = hn::MaxLanes(D()) / 2 / kBlock;
    return hn::Combine(d, gather<kBlock>(half, rows + kRowsOfHalf, offset_bytes), low);
  }
}

template <int kBlock, class D>
HWY_INLINE void scatter(D d, hn::VFromD<D> v, std::byte* const* rows, size_t offset_bytes) {
  using T = hn::TFromD<D>;
  if constexpr (hn::MaxLanes(D()) == kBlock) {
    hn::StoreU(v, d, reinterpret_cast<T*>(rows[0] + offset_bytes));
  } else {
    const hn::Half<D> half;
    scatter<kBlock>(half, hn::LowerHalf(half, v), rows, offset_bytes);
    constexpr size_t kRowsOfHalf = hn::MaxLanes(D()) / 2 / kBlock;
    scatter<kBlock>(half, hn::UpperHalf(half, v), rows + kRowsOfHalf, offset_bytes);
  }
}

constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));  // divides 16, and so any head_dim
using D16 = hn::Rebind<uint16_t, F32>;

// Of infinity and NaN too, as one of them.
template <class V>
HWY_INLINE VF from_half(V half) {
  const F32 d;
  const VF x = hn::PromoteTo(d, half);
#if HWY_TARGET == HWY_SSSE3 || HWY_TARGET == HWY_SSE4
  // Without an instruction for it Highway reads them as 2^16 and more.
  const auto beyond = hn::Ge(hn::Abs(x), hn::Set(d, 0x1.0p16f));
  return hn::IfThenElse(beyond, hn::Mul(x, hn::Set(d, 0x1.0p112f)), x);
#else
  return x;
#endif
}

// 8 values of every token as floats, the first four and the others: of block `octet` or, for f32,
// of two blocks.
template <DType kType>
HWY_INLINE void load_values(const V16* blocks, int octet, VF& low, VF& high) {
  const F32 d;
  if constexpr (kType == DType::f32) {
    low = hn::BitCast(d, blocks[2 * octet]);
    high = hn::BitCast(d, blocks[2 * octet + 1]);
  } else if constexpr (kType == DType::f16) {
    const hn::Rebind<hwy::float16_t, F32> d16;
    const hn::Repartition<uint64_t, I16> d64;
    const auto halves = hn::BitCast(d64, blocks[octet]);
    const auto lower = hn::LowerHalf(hn::ConcatEven(d64, halves, halves));
    const auto upper = hn::LowerHalf(hn::ConcatOdd(d64, halves, halves));
    low = from_half(hn::BitCast(d16, lower));
    high = from_half(hn::BitCast(d16, upper));
  } else {
    const U16 d16;
    const auto bits = hn::BitCast(d16, blocks[octet]);
    low = hn::BitCast(d, hn::InterleaveLower(d16, hn::Zero(d16), bits));
    high = hn::BitCast(d, hn::InterleaveUpper(d16, hn::Zero(d16), bits));
  }
}

// As many values of one row as there are floats in a register.
template <DType kType>
HWY_INLINE VF load_lanes(const std::byte* at) {
  const F32 d;
  if constexpr (kType == DType::f32) {
    return hn::LoadU(d, reinterpret_cast<const float*>(at));
  } else if constexpr (kType == DType::f16) {
    const hn::Rebind<hwy::float16_t, F32> d16;
    return from_half(hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(at)));
  } else {
    const auto bits = hn::LoadU(D16(), reinterpret_cast<const uint16_t*>(at));
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(U32(), bits)));
  }
}

// bf16 in the upper halves: nearest, ties to even.
HWY_INLINE hn::VFromD<U32> rounded_to_bf16(VF x) {
  const U32 d32;
  const auto bits = hn::BitCast(d32, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1u));
  return hn::Add(hn::Add(bits, hn::Set(d32, 0x7fffu)), odd);
}

// Into run.offsets, and as floats into `offsets`: reference::write_mean_key(). In the tokens' own
// order, so that the sums are the same. `head_dim` is run.head_dim, at most kMost.
template <DType kType, int kMost>
HWY_INLINE void write_mean_key(const EncodeRun& run, int head_dim, float* HWY_RESTRICT offsets) {
  const F32 d;
  VF sums[kMost / kLanes];
  for (int i = 0; i < head_dim / kLanes; ++i) sums[i] = hn::Zero(d);
  for (uint32_t token = run.exact_token_count; token < run.token_count; ++token) {
    const std::byte* const row = run.values + token * run.token_stride_bytes;
    for (int i = 0; i < head_dim / kLanes; ++i) {
      sums[i] = hn::Add(sums[i], load_lanes<kType>(row + i * kLanes * dtype_bytes(kType)));
    }
  }
  const uint32_t count = run.token_count - run.exact_token_count;
  const float scale = count == 0 ? 0.0f : 1.0f / static_cast<float>(count);
  for (int i = 0; i < head_dim / kLanes; ++i) {
    const auto rounded = rounded_to_bf16(hn::Mul(sums[i], hn::Set(d, scale)));
    hn::Store(hn::BitCast(d, hn::And(rounded, hn::Set(U32(), 0xffff0000u))), d,
              offsets + i * kLanes);
    hn::StoreU(hn::DemoteTo(D16(), hn::BitCast(I32(), hn::ShiftRight<16>(rounded))), D16(),
               run.offsets + i * kLanes);
  }
}

// Bits of f16 in the lower half of 32: nearest, ties to even, clamped.
HWY_INLINE hn::VFromD<U32> half_bits(VF x) {
  const F32 d;
  const U32 d32;
  x = hn::Min(hn::Max(x, hn::Set(d, -kHalfMax)), hn::Set(d, kHalfMax));
#if HWY_TARGET == HWY_SSSE3 || HWY_TARGET == HWY_SSE4
  // Without an instruction for it Highway cuts. As the reference's half_from_float().
  const auto bits = hn::BitCast(d32, hn::Abs(x));
  const auto sign = hn::ShiftRight<16>(hn::Xor(hn::BitCast(d32, x), bits));
  const auto odd = hn::And(hn::ShiftRight<13>(bits), hn::Set(d32, 1u));
  const auto rounded = hn::ShiftRight<13>(hn::Add(hn::Add(bits, hn::Set(d32, 0xfffu)), odd));
  const auto normal = hn::Sub(rounded, hn::Set(d32, 112u << 10));
  const auto subnormal = hn::NearestInt(hn::Mul(hn::Abs(x), hn::Set(d, 0x1.0p24f)));
  const auto is_subnormal = hn::RebindMask(d32, hn::Lt(hn::Abs(x), hn::Set(d, 0x1.0p-14f)));
  return hn::Or(sign, hn::IfThenElse(is_subnormal, hn::BitCast(d32, subnormal), normal));
#else
  const hn::Rebind<hwy::float16_t, F32> d16;
  const hn::Rebind<uint16_t, F32> du16;
  return hn::PromoteTo(d32, hn::BitCast(du16, hn::DemoteTo(d16, x)));
#endif
}

// The other way, from the values with even and with odd indices: registers of 16 bytes of every
// token, one or, for f32, two.
template <DType kType>
HWY_INLINE void to_blocks(VF even, VF odd, V16* blocks) {
  const F32 d;
  const U32 d32;
  if constexpr (kType == DType::f32) {
    blocks[0] = hn::BitCast(I16(), hn::InterleaveLower(d, even, odd));
    blocks[1] = hn::BitCast(I16(), hn::InterleaveUpper(d, even, odd));
  } else if constexpr (kType == DType::f16) {
    const auto odd_bits = hn::ShiftLeft<16>(half_bits(odd));
    blocks[0] = hn::BitCast(I16(), hn::Or(half_bits(even), odd_bits));
  } else {
    const auto round = [&](VF x) HWY_ATTR {  // as bf16_rounded_away()
      return hn::Add(hn::BitCast(d32, x), hn::Set(d32, 0x8000u));
    };
    const auto even_bits = hn::BitCast(I16(), hn::ShiftRight<16>(round(even)));
    blocks[0] = hn::OddEven(hn::BitCast(I16(), round(odd)), even_bits);
  }
}

// Whether rows can be written past the caches, which then need not read what they held before.
HWY_INLINE bool may_stream(const DecodeRun& run) {
  const size_t head_stride_bytes = run.head_count > 1 ? run.head_stride_bytes : 0;
  return (reinterpret_cast<uintptr_t>(run.values) | run.token_stride_bytes | head_stride_bytes) %
             sizeof(V16) ==
         0;
}

// `offset_bytes` of a row on. The rows' user must call hwy::FlushStream() where `stream`.
template <int kBlocks>
HWY_INLINE void store_blocks(V16* HWY_RESTRICT blocks, const Rows& to, size_t offset_bytes,
                             bool stream) {
  constexpr int kWhole = kBlocks / kTokens * kTokens;
  for (int i = 0; i < kWhole; i += kTokens) {
    transpose_blocks(blocks + i);
    const auto at = [&](int t) HWY_ATTR {
      return reinterpret_cast<int16_t*>(to.at[t] + offset_bytes + 16 * i);
    };
    if (HWY_LIKELY(stream)) {
      for (int t = 0; t < kTokens; ++t) hn::Stream(blocks[i + t], I16(), at(t));
    } else {
      for (int t = 0; t < kTokens; ++t) hn::StoreU(blocks[i + t], I16(), at(t));
    }
  }
  for (int i = kWhole; i < kBlocks; ++i) scatter<8>(I16(), blocks[i], to.at, offset_bytes + 16 * i);
}

// The first 16 * kBlocks bytes of every row, a block of each to a register.
template <int kBlocks>
HWY_INLINE void load_blocks(const Rows& from, V16* HWY_RESTRICT blocks) {
  constexpr int kWhole = kBlocks / kTokens * kTokens;
  for (int i = 0; i < kWhole; i += kTokens) {
    V16 of_tokens[kTokens];
    for (int t = 0; t < kTokens; ++t) {
      of_tokens[t] = hn::LoadU(I16(), reinterpret_cast<const int16_t*>(from.at[t] + 16 * i));
    }
    transpose_blocks(of_tokens);
    for (int t = 0; t < kTokens; ++t) blocks[i + t] = of_tokens[t];
  }
  for (int i = kWhole; i < kBlocks; ++i) blocks[i] = gather<8>(I16(), from.at, 16 * i);
}

HWY_INLINE void prefetch(const std::byte* at, size_t bytes) {
  for (size_t i = 0; i < bytes; i += kLineBytes) hwy::Prefetch(at + i);
}

// A line of every page that begins there: enough for its address to be known when it is written
// past the caches. Finding it takes longer than decoding what it holds, and nothing else hides
// that.
HWY_INLINE void prefetch_pages(const std::byte* at, size_t bytes) {
  constexpr uintptr_t kPageBytes = 4096;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(at), end = begin + bytes;
  for (uintptr_t page = (begin + kPageBytes - 1) & ~(kPageBytes - 1); page < end;
       page += kPageBytes) {
    hwy::Prefetch(reinterpret_cast<const std::byte*>(page));
  }
}

// Sum of the lanes of each block, in each of its lanes.
template <class D>
HWY_INLINE hn::VFromD<D> sum_of_block(D, hn::VFromD<D> v) {
  v = hn::Add(v, hn::Shuffle1032(v));
  return hn::Add(v, hn::Shuffle2301(v));
}

}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#endif  // HADAL_KERNELS_SIMD_BLOCKS_INL_H_
