// From values to norms, offsets and plane words.
//
// Compiled once for every instruction set, by codec_simd.cc alone.

#if defined(HADAL_KERNELS_SIMD_ENCODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HADAL_KERNELS_SIMD_ENCODE_INL_H_
#undef HADAL_KERNELS_SIMD_ENCODE_INL_H_
#else
#define HADAL_KERNELS_SIMD_ENCODE_INL_H_
#endif

#include "kernels/simd_rotation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

// Encodes one run. kInner is the rotation's.
template <int kHeadDim, int kInner>
class Encoder {
 public:
  explicit Encoder(const EncodeRun& run) : run_(run), first_(const_cast<std::byte*>(run.values)) {
    core_matrix_ = run.rotation->core_matrix.data();
  }

  template <DType kType>
  bool encode() {
    if (run_.offsets != nullptr) mean_key<kType>();
    exact_tokens<kType>();
    for (uint32_t begin = run_.exact_token_count; begin < run_.token_count; begin += kBatch) {
      for (int group = 0; group < kGroups; ++group) {
        const uint32_t token = begin + group * kTokens;
        if (token >= run_.token_count) break;
        run_.offsets != nullptr ? encode_group<kType, true>(token, group)
                                : encode_group<kType, false>(token, group);
      }
      write_planes(begin);
    }
    const auto exponent = hn::Set(U32(), 0x7f800000u);
    return hn::AllFalse(U32(), hn::Eq(hn::And(worst_, exponent), exponent));
  }

 private:
  static constexpr int kCount = kHeadDim / 8;          // registers of a group
  static constexpr size_t kPlaneBytes = kHeadDim / 8;  // of a plane of one token

  Rows rows(uint32_t token) const {
    return rows_of(first_, run_.token_stride_bytes, token, run_.token_count);
  }

  // The tokens' own order, so that the sums are the reference's.
  template <DType kType>
  void mean_key() {
    const F32 d;
    constexpr int kFloats = static_cast<int>(hn::MaxLanes(F32()));
    VF sum[kHeadDim / kFloats];
    for (VF& lanes : sum) lanes = hn::Zero(d);
    for (uint32_t token = run_.exact_token_count; token < run_.token_count; ++token) {
      const std::byte* at = first_ + token * run_.token_stride_bytes;
      for (int i = 0; i < kHeadDim / kFloats; ++i)
        sum[i] = hn::Add(sum[i], load_row<kType>(at + i * kFloats * bytes_of(kType)));
    }
    const uint32_t count = run_.token_count - run_.exact_token_count;
    const float scale = count == 0 ? 0.0f : 1.0f / static_cast<float>(count);
    for (int i = 0; i < kHeadDim / kFloats; ++i)
      hn::Store(hn::Mul(sum[i], hn::Set(d, scale)), d, offsets_ + i * kFloats);
    for (int i = 0; i < kHeadDim; ++i) {
      uint32_t bits;
      std::memcpy(&bits, &offsets_[i], sizeof(bits));
      run_.offsets[i] = bf16_from_bits(bits);
      bits = uint32_t{run_.offsets[i]} << 16;
      std::memcpy(&offsets_[i], &bits, sizeof(bits));
    }
  }

  template <DType kType>
  static HWY_INLINE VF load_row(const std::byte* at) {
    const F32 d;
    if constexpr (kType == DType::f32) return hn::LoadU(d, reinterpret_cast<const float*>(at));
    if constexpr (kType == DType::f16) {
      const hn::Rebind<hwy::float16_t, F32> d16;
      return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(at)));
    }
    const hn::Rebind<uint16_t, F32> d16;
    const auto bits = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(at));
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(U32(), bits)));
  }

  // Squared lengths of a group's vectors, in all lanes of their blocks. Value i adds to lane i % 16
  // of four registers, in the order of sum_lanes().
  struct LaneSums {
    VF lanes[4];
    HWY_INLINE LaneSums() {
      for (VF& sum : lanes) sum = hn::Zero(F32());
    }
    // Of an even register (kOdd 0) or an odd one.
    template <int kOdd>
    HWY_INLINE void add(VF low, VF high) {
      lanes[2 * kOdd] = hn::Add(lanes[2 * kOdd], hn::Mul(low, low));
      lanes[2 * kOdd + 1] = hn::Add(lanes[2 * kOdd + 1], hn::Mul(high, high));
    }
    HWY_INLINE VF total() const {
      return sum_of_block(F32(), hn::Add(hn::Add(lanes[0], lanes[2]), hn::Add(lanes[1], lanes[3])));
    }
  };

  template <DType kType, bool kOffsets, int kOdd>
  HWY_INLINE void measure(const Rows& from, int i, LaneSums& sums, LaneSums& residuals) const {
    const F32 d;
    VF low, high;
    load_values<kType>(from.at, 8 * i, low, high);
    sums.template add<kOdd>(low, high);
    if constexpr (kOffsets) {
      residuals.template add<kOdd>(hn::Sub(low, hn::LoadDup128(d, offsets_ + 8 * i)),
                                   hn::Sub(high, hn::LoadDup128(d, offsets_ + 8 * i + 4)));
    }
  }

  // Nearest integer, ties to even, of less than 2^22: its bits are the last of the sum's.
  static HWY_INLINE V32 nearest(VF x) {
    const VF shift = hn::Set(F32(), 0x1.8p23f);
    return hn::Sub(hn::BitCast(I32(), hn::Add(x, shift)), hn::BitCast(I32(), shift));
  }

  template <DType kType>
  void exact_tokens() {
    for (uint32_t token = 0; token < run_.exact_token_count; token += kTokens) {
      const Rows from = rows_of(first_, run_.token_stride_bytes, token, run_.exact_token_count);
      LaneSums sums, unused;
      for (int i = 0; i < kCount; i += 2) {
        measure<kType, false, 0>(from, i, sums, unused);
        measure<kType, false, 1>(from, i + 1, sums, unused);
      }
      remember_worst(sums.total());
    }
    std::memset(run_.norms, 0, run_.exact_token_count * sizeof(uint16_t));
    for (int plane = 0; plane < run_.tables->bits; ++plane) {
      std::memset(run_.planes[plane], 0, run_.exact_token_count * kPlaneBytes);
    }
  }

  // The largest exponent so far: all ones for NaN and infinity.
  HWY_INLINE void remember_worst(VF x) {
    const auto exponent = hn::And(hn::BitCast(U32(), x), hn::Set(U32(), 0x7f800000u));
    worst_ = hn::Max(worst_, exponent);
  }

  // Writes the norms of a group. Answers what to scale its vectors with, and which of them go
  // without their offset.
  template <bool kOffsets>
  HWY_INLINE VF norms(uint32_t token, VF squared, VF residual, hn::MFromD<F32>& shifted) {
    const F32 d;
    const U32 d32;
    remember_worst(squared);
    if constexpr (kOffsets) {
      shifted = hn::Lt(residual, squared);
      squared = hn::IfThenElse(shifted, residual, squared);
    }
    VF norm = hn::Sqrt(squared);
    norm = hn::IfThenElseZero(hn::Ge(norm, hn::Set(d, kNormMin)), norm);
    const auto bits = hn::BitCast(d32, norm);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1u));
    auto rounded = hn::Add(hn::Add(bits, hn::Set(d32, 0x7fffu)), odd);
    remember_worst(hn::BitCast(d, rounded));
    if constexpr (kOffsets) {
      const auto flag = hn::Set(d32, uint32_t{kNormOffsetFlag} << 16);
      rounded = hn::Or(rounded, hn::IfThenElseZero(hn::RebindMask(d32, shifted), flag));
    }
    alignas(64) uint32_t words[4 * kTokens];
    hn::Store(rounded, d32, words);
    for (uint32_t t = 0; t < kTokens && token + t < run_.token_count; ++t) {
      run_.norms[token + t] = static_cast<uint16_t>(words[4 * t] >> 16);
    }
    const VF scale = hn::Div(hn::Set(d, static_cast<float>(run_.tables->input_scale)), norm);
    return hn::IfThenElseZero(hn::Gt(norm, hn::Zero(d)), scale);
  }

  template <DType kType, bool kOffsets>
  void encode_group(uint32_t token, int group) {
    const F32 d;
    const Rows from = rows(token);
    prefetch_ahead(run_, token, kTokens);
    LaneSums sums, residual_sums;
    for (int i = 0; i < kCount; i += 2) {
      measure<kType, kOffsets, 0>(from, i, sums, residual_sums);
      measure<kType, kOffsets, 1>(from, i + 1, sums, residual_sums);
    }
    hn::MFromD<F32> shifted = {};
    const VF residual = kOffsets ? residual_sums.total() : hn::Zero(d);
    const VF scale = norms<kOffsets>(token, sums.total(), residual, shifted);
    V16 x[kCount];
    for (int i = 0; i < kCount; ++i) {
      VF low, high;
      load_values<kType>(from.at, 8 * i, low, high);
      if constexpr (kOffsets) {
        const VF low_offset = hn::LoadDup128(d, offsets_ + 8 * i);
        const VF high_offset = hn::LoadDup128(d, offsets_ + 8 * i + 4);
        low = hn::Sub(low, hn::IfThenElseZero(shifted, low_offset));
        high = hn::Sub(high, hn::IfThenElseZero(shifted, high_offset));
      }
      const V16 whole =
          hn::ReorderDemote2To(I16(), nearest(hn::Mul(low, scale)), nearest(hn::Mul(high, scale)));
      x[i] = hn::Mul(whole, hn::LoadDup128(I16(), run_.rotation->signs.data() + 8 * i));
    }
    rotate<kHeadDim, kInner>(I16(), core_matrix_, x);
    pack(x, group);
  }

  void pack(const V16* x, int group) {
    switch (run_.tables->bits) {
      case 1:
        return pack_narrow<1>(x, group);
      case 2:
        return pack_narrow<2>(x, group);
      case 3:
        return pack_narrow<3>(x, group);
      case 4:
        return pack_narrow<4>(x, group);
      case 5:
        return pack_narrow<5>(x, group);
      default:
        return pack_wide(x, group);
    }
  }

  // The threshold of a plane for every lane, picked from its 2^plane by the planes above. The
  // thresholds are symmetric, so this works on magnitudes: -y - 1 for a negative y, whose bits are
  // then the opposite ones.
  template <int kDepth>
  static HWY_INLINE V16 pick(const V16* thresholds, int index, const hn::MFromD<I16>* above) {
    if constexpr (kDepth == 0) {
      return thresholds[index];
    } else {
      const V16 if_below = pick<kDepth - 1>(thresholds, 2 * index, above + 1);
      const V16 if_above = pick<kDepth - 1>(thresholds, 2 * index + 1, above + 1);
      return hn::IfThenElse(above[0], if_above, if_below);
    }
  }

  template <int kBits>
  struct Lanes {
    V16 magnitude;
    hn::MFromD<I16> negative;
    hn::MFromD<I16> above[kBits];  // by plane, less one
  };

  // `thresholds`: of the positive half, those of plane p from 2^(p - 1) on.
  template <int kPlane, int kBits>
  static HWY_INLINE void pack_planes(Lanes<kBits>& lanes, const V16* thresholds, uint8_t* at) {
    if constexpr (kPlane < kBits) {
      auto& above = lanes.above[kPlane - 1];
      above = hn::Gt(lanes.magnitude, pick<kPlane - 1>(thresholds, 1, lanes.above));
      hn::StoreMaskBits(I16(), hn::Xor(above, lanes.negative), at + kPlane * sizeof(bits_[0]));
      pack_planes<kPlane + 1>(lanes, thresholds, at);
    }
  }

  template <int kBits>
  HWY_INLINE void pack_narrow(const V16* HWY_RESTRICT x, int group) {
    const I16 d;
    // Less one, since integers have > but no >=.
    V16 thresholds[1 << (kBits - 1)];
    for (int i = 1; i < (1 << (kBits - 1)); ++i) {
      const int plane_start = 1 << hwy::FloorLog2(static_cast<uint32_t>(i));
      const int16_t threshold = run_.tables->thresholds[2 * plane_start + i];
      thresholds[i] = hn::Set(d, static_cast<int16_t>(threshold - 1));
    }
    for (int i = 0; i < kCount; ++i) {
      uint8_t* at = bits_[0][group] + i * kTokens;
      const V16 sign = hn::ShiftRight<15>(x[i]);
      Lanes<kBits> lanes = {hn::Xor(x[i], sign), hn::MaskFromVec(sign), {}};
      hn::StoreMaskBits(d, hn::Not(lanes.negative), at);
      pack_planes<1>(lanes, thresholds, at);
    }
  }

  // Any number of bits, with a gather, which there is for 32 bits only.
  void pack_wide(const V16* HWY_RESTRICT x, int group) {
    alignas(64) int32_t thresholds[kCodebookMaxSize];
    std::copy(run_.tables->thresholds.begin(), run_.tables->thresholds.end(), thresholds);
    const I32 d;
    for (int i = 0; i < kCount; ++i) {
      const V32 low =
          hn::ShiftRight<16>(hn::BitCast(d, hn::InterleaveLower(I16(), hn::Zero(I16()), x[i])));
      const V32 high =
          hn::ShiftRight<16>(hn::BitCast(d, hn::InterleaveUpper(I16(), hn::Zero(I16()), x[i])));
      V32 low_index = hn::Zero(d), high_index = hn::Zero(d);
      for (int plane = 0; plane < run_.tables->bits; ++plane) {
        const V32 low_bit = next_bit(thresholds, plane, low, low_index);
        const V32 high_bit = next_bit(thresholds, plane, high, high_index);
        const V16 bit = hn::ReorderDemote2To(I16(), low_bit, high_bit);
        hn::StoreMaskBits(I16(), hn::Gt(bit, hn::Zero(I16())), bits_[plane][group] + i * kTokens);
      }
    }
  }

  static HWY_INLINE V32 next_bit(const int32_t* thresholds, int plane, V32 value, V32& index) {
    const I32 d;
    const V32 threshold = hn::GatherIndex(d, thresholds, hn::Add(index, hn::Set(d, 1 << plane)));
    const V32 bit = hn::IfThenElseZero(hn::Not(hn::Gt(threshold, value)), hn::Set(d, 1));
    index = hn::Add(hn::Add(index, index), bit);
    return bit;
  }

  // The masks of a register hold a byte of every token; planes have a token's bytes together.
  void write_planes(uint32_t begin) {
    const uint32_t count = std::min<uint32_t>(kBatch, run_.token_count - begin);
    for (int plane = 0; plane < run_.tables->bits; ++plane) {
      for (uint32_t t = 0; t < count; t += kTokens) {
        auto* out = reinterpret_cast<uint8_t*>(run_.planes[plane]) + (begin + t) * kPlaneBytes;
        const uint8_t* bits = bits_[plane][t / kTokens];
        if (kTokens == 4 && kCount % 8 == 0 && t + kTokens <= count) {
          write_four_tokens(bits, out);
        } else {
          for (uint32_t n = 0; n < kTokens && t + n < count; ++n) {
            for (int i = 0; i < kCount; ++i) out[n * kPlaneBytes + i] = bits[i * kTokens + n];
          }
        }
      }
    }
  }

  // 8 bytes of each of 4 tokens at a time: first within 16 bytes, then 4-byte pieces of two.
  static HWY_INLINE void write_four_tokens(const uint8_t* bits, uint8_t* out) {
    const hn::CappedTag<uint8_t, 16> d;
    const hn::Repartition<uint32_t, decltype(d)> d32;
    alignas(16) static constexpr uint8_t kByToken[16] = {0, 4, 8,  12, 1, 5, 9,  13,
                                                         2, 6, 10, 14, 3, 7, 11, 15};
    const auto by_token = hn::Load(d, kByToken);
    for (int i = 0; i < kCount; i += 8) {
      const auto a = hn::BitCast(d32, hn::TableLookupBytes(hn::Load(d, bits + 4 * i), by_token));
      const auto b =
          hn::BitCast(d32, hn::TableLookupBytes(hn::Load(d, bits + 4 * i + 16), by_token));
      uint64_t tokens[4];
      hn::StoreU(hn::InterleaveLower(d32, a, b), d32, reinterpret_cast<uint32_t*>(tokens));
      hn::StoreU(hn::InterleaveUpper(d32, a, b), d32, reinterpret_cast<uint32_t*>(tokens + 2));
      for (int n = 0; n < 4; ++n) std::memcpy(out + n * kPlaneBytes + i, tokens + n, 8);
    }
  }

  const EncodeRun& run_;
  std::byte* const first_;
  const int8_t* core_matrix_;
  hn::VFromD<U32> worst_ = hn::Zero(U32());
  alignas(64) float offsets_[kHeadDim];
  alignas(64) uint8_t bits_[limits::kBitsMax][kGroups][(kCount * kTokens + 63) / 64 * 64];
};

}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#endif  // HADAL_KERNELS_SIMD_ENCODE_INL_H_
