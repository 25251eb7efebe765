// FP8 with Google Highway: compiled once for every instruction set; the best one is chosen at run
// time.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/fp8_simd.cc"
#include <hwy/foreach_target.h>
// The order of these two includes matters to Highway.
#include <hwy/highway.h>

#include "kernels/fp8.h"
#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
#include "kernels/simd_blocks-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
// No vectors: the scalar reference is as good.
bool EncodeE4M3(const EncodeRun& run) { return reference_e4m3_codec().encode(run); }
bool EncodeE5M2(const EncodeRun& run) { return reference_e5m2_codec().encode(run); }
void DecodeE4M3(const DecodeRun& run) { reference_e4m3_codec().decode(run); }
void DecodeE5M2(const DecodeRun& run) { reference_e5m2_codec().decode(run); }
#else

using D8 = hn::Rebind<uint8_t, F32>;
using V32U = hn::VFromD<U32>;

template <DType kType>
HWY_INLINE void store_lanes(VF x, std::byte* at) {
  if constexpr (kType == DType::f32) {
    hn::StoreU(x, F32(), reinterpret_cast<float*>(at));
  } else {
    // bf16 as bf16_rounded_away().
    const auto rounded = [&] {
      if constexpr (kType == DType::f16) return half_bits(x);
      return hn::ShiftRight<16>(hn::Add(hn::BitCast(U32(), x), hn::Set(U32(), 0x8000u)));
    }();
    hn::StoreU(hn::TruncateTo(D16(), rounded), D16(), reinterpret_cast<uint16_t*>(at));
  }
}

HWY_INLINE V32U magnitude_bits(VF x) { return hn::BitCast(U32(), hn::Abs(x)); }

// Added to a magnitude, 2^(exponent + 23 - fraction_bits) makes the last bit of the sum what the
// spacing of codes is, and so rounds to it.
template <Fp8Format kFormat>
HWY_INLINE hn::VFromD<D8> codes_of(VF x) {
  constexpr int kShift = 23 - kFormat.fraction_bits;
  constexpr uint32_t kExponentMin = static_cast<uint32_t>(127 + kFormat.exponent_min) << 23;
  const U32 d;
  const V32U magnitude = magnitude_bits(x);
  const auto exponent =
      hn::Max(hn::And(magnitude, hn::Set(d, 0x7f800000u)), hn::Set(d, kExponentMin));
  const auto shift = hn::Add(exponent, hn::Set(d, static_cast<uint32_t>(kShift) << 23));
  const VF sum = hn::Add(hn::Abs(x), hn::BitCast(F32(), shift));
  const auto spacings = hn::Sub(hn::BitCast(d, sum), shift);
  const auto before = hn::ShiftRight<kShift>(hn::Sub(exponent, hn::Set(d, kExponentMin)));
  const auto sign = hn::And(hn::ShiftRight<24>(hn::BitCast(d, x)), hn::Set(d, 0x80u));
  return hn::TruncateTo(D8(), hn::Or(hn::Add(spacings, before), sign));
}

// By way of f16, whose exponent is the longer one; e5m2 is its upper half.
template <Fp8Format kFormat>
HWY_INLINE VF values_of(const std::byte* codes) {
  const D16 d16;
  const hn::Rebind<hwy::float16_t, F32> half;
  constexpr int kShift = 10 - kFormat.fraction_bits;
  constexpr int kBiasBelow = -14 - kFormat.exponent_min;  // the exponent's, below that of f16
  const auto code = hn::LoadU(D8(), reinterpret_cast<const uint8_t*>(codes));
  const auto finite = hn::Min(hn::And(code, hn::Set(D8(), 0x7f)), hn::Set(D8(), kFormat.code_max));
  const auto sign = hn::And(hn::PromoteTo(d16, code), hn::Set(d16, 0x80));
  const auto bits =
      hn::Or(hn::ShiftLeft<kShift>(hn::PromoteTo(d16, finite)), hn::ShiftLeft<8>(sign));
  const VF value = hn::PromoteTo(F32(), hn::BitCast(half, bits));
  constexpr float kScale = static_cast<float>(1 << -kBiasBelow);
  return kBiasBelow == 0 ? value : hn::Mul(value, hn::Set(F32(), kScale));
}

template <DType kType>
HWY_INLINE uint32_t largest_magnitude(const std::byte* at, int head_dim) {
  V32U largest = hn::Zero(U32());
  for (int i = 0; i < head_dim; i += kLanes) {
    largest = hn::Max(largest, magnitude_bits(load_lanes<kType>(at + i * dtype_bytes(kType))));
  }
  return hn::GetLane(hn::MaxOfLanes(U32(), largest));
}

template <Fp8Format kFormat, DType kType>
bool encode_typed(const EncodeRun& run) {
  uint32_t largest_of_all = 0;
  for (uint32_t token = 0; token < run.token_count; ++token) {
    const std::byte* at = run.values + token * run.token_stride_bytes;
    std::byte* codes = run.planes[0] + size_t{token} * run.head_dim;
    const size_t row_bytes = run.head_dim * dtype_bytes(kType);
    if (run.ahead != nullptr) prefetch(run.ahead + token * row_bytes, row_bytes);
    const uint32_t largest = largest_magnitude<kType>(at, run.head_dim);
    largest_of_all = std::max(largest_of_all, largest);
    if (token < run.exact_token_count) {
      run.norms[token] = 0;
      std::memset(codes, 0, run.head_dim);
      continue;
    }
    run.norms[token] = fp8_scale(kFormat, std::bit_cast<float>(largest));
    const float scale = std::bit_cast<float>(uint32_t{run.norms[token]} << 16);
    const VF inverse = hn::Set(F32(), scale > 0 ? 1.0f / scale : 0.0f);
    for (int i = 0; i < run.head_dim; i += kLanes) {
      const VF value = load_lanes<kType>(at + i * dtype_bytes(kType));
      hn::StoreU(codes_of<kFormat>(hn::Mul(value, inverse)), D8(),
                 reinterpret_cast<uint8_t*>(codes + i));
    }
  }
  return largest_of_all < fp8_refused_bits(kType);
}

template <Fp8Format kFormat, DType kType>
void decode_typed(const DecodeRun& run) {
  for (uint32_t token = run.exact_token_count; token < run.token_count; ++token) {
    const std::byte* codes = run.planes[0] + size_t{token} * run.head_dim;
    std::byte* at = run.values + token * run.token_stride_bytes;
    const VF scale = hn::Set(F32(), fp8_read_scale(kFormat, run.norms[token]));
    for (int i = 0; i < run.head_dim; i += kLanes) {
      store_lanes<kType>(hn::Mul(values_of<kFormat>(codes + i), scale),
                         at + i * dtype_bytes(kType));
    }
  }
}

template <Fp8Format kFormat>
bool encode_run(const EncodeRun& run) {
  if (run.dtype == DType::f32) return encode_typed<kFormat, DType::f32>(run);
  if (run.dtype == DType::f16) return encode_typed<kFormat, DType::f16>(run);
  return encode_typed<kFormat, DType::bf16>(run);
}

template <Fp8Format kFormat>
void decode_run(const DecodeRun& run) {
  if (run.dtype == DType::f32) return decode_typed<kFormat, DType::f32>(run);
  if (run.dtype == DType::f16) return decode_typed<kFormat, DType::f16>(run);
  decode_typed<kFormat, DType::bf16>(run);
}

bool EncodeE4M3(const EncodeRun& run) { return encode_run<kE4M3>(run); }
bool EncodeE5M2(const EncodeRun& run) { return encode_run<kE5M2>(run); }
void DecodeE4M3(const DecodeRun& run) { decode_run<kE4M3>(run); }
void DecodeE5M2(const DecodeRun& run) { decode_run<kE5M2>(run); }

#endif  // HWY_TARGET
}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hadal {

HWY_EXPORT(EncodeE4M3);
HWY_EXPORT(EncodeE5M2);
HWY_EXPORT(DecodeE4M3);
HWY_EXPORT(DecodeE5M2);

VectorCodec simd_e4m3_codec() {
  return {[](const EncodeRun& run) { return HWY_DYNAMIC_DISPATCH(EncodeE4M3)(run); },
          [](const DecodeRun& run) { for_each_head(run, HWY_DYNAMIC_DISPATCH(DecodeE4M3)); }};
}
VectorCodec simd_e5m2_codec() {
  return {[](const EncodeRun& run) { return HWY_DYNAMIC_DISPATCH(EncodeE5M2)(run); },
          [](const DecodeRun& run) { for_each_head(run, HWY_DYNAMIC_DISPATCH(DecodeE5M2)); }};
}

}  // namespace hadal
#endif  // HWY_ONCE
