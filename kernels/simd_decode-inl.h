// From norms, offsets and plane words to values.
//
// Compiled once for every instruction set, by codec_simd.cc alone.

#if defined(HADAL_KERNELS_SIMD_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HADAL_KERNELS_SIMD_DECODE_INL_H_
#undef HADAL_KERNELS_SIMD_DECODE_INL_H_
#else
#define HADAL_KERNELS_SIMD_DECODE_INL_H_
#endif

#include "kernels/simd_rotation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

// Decodes one run. kInner is the rotation's.
template <int kHeadDim, int kInner>
class Decoder {
 public:
  explicit Decoder(const DecodeRun& run) : run_(run) {
    const Rotation& rotation = *run.rotation;
    for (int i = 0; i < rotation.core * rotation.core && rotation.core > 1; ++i) {
      transposed_[i % rotation.core * rotation.core + i / rotation.core] = rotation.core_matrix[i];
    }
    if (run.offsets == nullptr) return;
    for (int i = 0; i < kHeadDim; ++i) {
      const uint32_t bits = uint32_t{run.offsets[i]} << 16;
      std::memcpy(&offsets_[even_odd(i)], &bits, sizeof(bits));
    }
  }

  template <DType kType>
  void decode() {
    switch (run_.plane_count) {
      case 1:
        return decode_narrow<1, kType>();
      case 2:
        return decode_narrow<2, kType>();
      case 3:
        return decode_narrow<3, kType>();
      case 4:
        return decode_narrow<4, kType>();
      case 5:
        return decode_narrow<5, kType>();
      default:
        return decode_wide<kType>();
    }
  }

 private:
  static constexpr int kCount = kHeadDim / 8;
  static constexpr size_t kPlaneBytes = kHeadDim / 8;

  // Where value i goes when of 8 the even ones come first.
  static constexpr int even_odd(int i) { return i / 8 * 8 + i % 2 * 4 + i % 8 / 2; }

  // Looks 2 to 32 small integers up, for bytes of indices: low and high bytes apart.
  template <int kPlanes>
  struct Centroids {
    using V8 = hn::VFromD<U8>;
    static constexpr int kTables = kPlanes == 5 ? 2 : 1;
    V8 low[kTables], high[kTables];

    HWY_INLINE explicit Centroids(const int16_t* centroids) {
      for (int table = 0; table < kTables; ++table) {
        alignas(16) uint8_t bytes[2][16] = {};
        for (int i = 0; i < std::min(16, 1 << kPlanes); ++i) {
          const auto word = static_cast<uint16_t>(centroids[16 * table + i]);
          bytes[0][i] = static_cast<uint8_t>(word);
          bytes[1][i] = static_cast<uint8_t>(word >> 8);
        }
        low[table] = hn::LoadDup128(U8(), bytes[0]);
        high[table] = hn::LoadDup128(U8(), bytes[1]);
      }
    }

    HWY_INLINE void lookup(V8 index, V8& low_bytes, V8& high_bytes) const {
      if constexpr (kTables == 1) {
        low_bytes = hn::TableLookupBytes(low[0], index);
        high_bytes = hn::TableLookupBytes(high[0], index);
      } else {
        const V8 within = hn::And(index, hn::Set(U8(), 15));
        const auto lower = hn::Eq(within, index);
        low_bytes = hn::IfThenElse(lower, hn::TableLookupBytes(low[0], within),
                                   hn::TableLookupBytes(low[1], within));
        high_bytes = hn::IfThenElse(lower, hn::TableLookupBytes(high[0], within),
                                    hn::TableLookupBytes(high[1], within));
      }
    }
  };

  // A group's words of one plane, 16 values of every token together: the masks of its registers.
  void gather_words(int plane, uint32_t token, uint16_t* HWY_RESTRICT words) const {
    const Rows from =
        rows_of(const_cast<std::byte*>(run_.planes[plane]), kPlaneBytes, token, run_.token_count);
    constexpr int kWords = kHeadDim / 16;
    prefetch(from.at[0] + run_.token_count * kPlaneBytes, kTokens * kPlaneBytes);  // the next run's
    if constexpr (kTokens == 4 && kWords % 8 == 0) {
      const hn::CappedTag<uint16_t, 8> d;
      for (int i = 0; i < kWords; i += 8) {
        const auto load = [&](int t) HWY_ATTR {
          return hn::LoadU(d, reinterpret_cast<const uint16_t*>(from.at[t]) + i);
        };
        const auto a = load(0), b = load(1), c = load(2), e = load(3);
        const auto ac0 = hn::InterleaveLower(d, a, c), ac1 = hn::InterleaveUpper(d, a, c);
        const auto be0 = hn::InterleaveLower(d, b, e), be1 = hn::InterleaveUpper(d, b, e);
        hn::Store(hn::InterleaveLower(d, ac0, be0), d, words + 4 * i);
        hn::Store(hn::InterleaveUpper(d, ac0, be0), d, words + 4 * i + 8);
        hn::Store(hn::InterleaveLower(d, ac1, be1), d, words + 4 * i + 16);
        hn::Store(hn::InterleaveUpper(d, ac1, be1), d, words + 4 * i + 24);
      }
    } else {
      for (int i = 0; i < kWords; ++i) {
        for (int t = 0; t < kTokens; ++t) {
          std::memcpy(words + i * kTokens + t, from.at[t] + 2 * i, 2);
        }
      }
    }
  }

  // The centroids of a group, and |z|^2 in all lanes of a token's block.
  template <int kPlanes>
  HWY_INLINE V32 unpack(int group, const Centroids<kPlanes>& centroids, V16* HWY_RESTRICT x) const {
    const U8 d8;
    V32 sum0 = hn::Zero(I32()), sum1 = hn::Zero(I32());
    for (int i = 0; i < kHeadDim / 16; ++i) {
      auto index = hn::Zero(d8);
      for (int plane = 0; plane < kPlanes; ++plane) {
        const auto* bits = reinterpret_cast<const uint8_t*>(words_[plane][group] + i * kTokens);
        const auto bit = hn::Set(d8, static_cast<uint8_t>(1 << (kPlanes - 1 - plane)));
        index = hn::Or(index, hn::IfThenElseZero(hn::LoadMaskBits(d8, bits), bit));
      }
      hn::VFromD<U8> low, high;
      centroids.lookup(index, low, high);
      x[2 * i] = hn::BitCast(I16(), hn::InterleaveLower(d8, low, high));
      x[2 * i + 1] = hn::BitCast(I16(), hn::InterleaveUpper(d8, low, high));
      sum0 = hn::ReorderWidenMulAccumulate(I32(), x[2 * i], x[2 * i], sum0, sum1);
      sum0 = hn::ReorderWidenMulAccumulate(I32(), x[2 * i + 1], x[2 * i + 1], sum0, sum1);
    }
    return sum_of_block(I32(), hn::Add(sum0, sum1));
  }

  // What the groups of a batch read: words of planes, and norms. A stage of its own, since what was
  // just stored in pieces cannot be loaded whole at once.
  void prepare(uint32_t begin) {
    for (int group = 0; group < kGroups; ++group) {
      const uint32_t token = begin + group * kTokens;
      if (token >= run_.token_count) return;
      for (int plane = 0; plane < run_.plane_count; ++plane) {
        gather_words(plane, token, words_[plane][group]);
      }
      for (uint32_t t = 0; t < kTokens; ++t) {
        const uint32_t last = run_.token_count - 1;
        const uint32_t norm = uint32_t{run_.norms[token + t < last ? token + t : last]} << 16;
        norms_[group][t] = norm;
      }
    }
  }

  // Matched norm: x' = |x| R^T z / |z|.
  static HWY_INLINE VF matched_scale(VF norm, V32 squared) {
    const F32 d;
    const VF length = hn::Sqrt(hn::Mul(hn::ConvertTo(d, squared), hn::Set(d, float{kHeadDim})));
    return hn::Div(norm, length);
  }

  template <int kPlanes, DType kType>
  void decode_narrow() {
    const Centroids<kPlanes> centroids(run_.tables->centroids[kPlanes - 1].data());
    for (uint32_t begin = run_.exact_token_count; begin < run_.token_count; begin += kBatch) {
      prepare(begin);
      for (int group = 0; group < kGroups; ++group) {
        const uint32_t token = begin + group * kTokens;
        if (token >= run_.token_count) break;
        decode_group<kPlanes, kType>(token, group, centroids);
      }
    }
  }

  template <int kPlanes, DType kType>
  HWY_INLINE void decode_group(uint32_t token, int group, const Centroids<kPlanes>& centroids) {
    prefetch_ahead(run_, token);
    V16 x[kCount];
    const V32 squared = unpack<kPlanes>(group, centroids, x);
    rotate<kHeadDim, kInner>(I16(), transposed_, x);
    // Four copies of a token's norm, in its block.
    alignas(64) static constexpr int32_t kOwnToken[16] = {0, 0, 0, 0, 1, 1, 1, 1,
                                                          2, 2, 2, 2, 3, 3, 3, 3};
    const auto bits = hn::TableLookupLanes(hn::LoadDup128(U32(), norms_[group]),
                                           hn::SetTableIndices(U32(), kOwnToken));
    const auto flag = hn::Set(U32(), uint32_t{kNormOffsetFlag} << 16);
    const auto shifted = hn::RebindMask(F32(), hn::TestBit(bits, flag));
    const VF scale = matched_scale(hn::BitCast(F32(), hn::AndNot(flag, bits)), squared);
    const Rows to = rows_of(run_.values, run_.token_stride_bytes, token, run_.token_count);
    run_.offsets != nullptr ? store_group<kType, true>(x, scale, shifted, to)
                            : store_group<kType, false>(x, scale, shifted, to);
  }

  // A few registers at a time, so that stores come between arithmetic.
  template <DType kType, bool kOffsets>
  HWY_INLINE void store_group(const V16* HWY_RESTRICT x, VF scale, hn::MFromD<F32> shifted,
                              const Rows& to) const {
    // Integers are widened in the upper half of 32 bits, which multiplies them by 2^16.
    const VF factor = hn::Mul(scale, hn::Set(F32(), 0x1.0p-16f));
    constexpr int kBlocksEach = kType == DType::f32 ? 2 : 1;
    constexpr int kRest = kCount % kTokens;
    V16 blocks[kTokens * kBlocksEach];
    for (int i = 0; i + kTokens <= kCount; i += kTokens) {
      for (int n = 0; n < kTokens; ++n) {
        values_of<kType, kOffsets>(x[i + n], i + n, factor, shifted, blocks + kBlocksEach * n);
      }
      store_blocks<kTokens * kBlocksEach>(blocks, to, 16 * kBlocksEach * i);
    }
    if constexpr (kRest != 0) {
      for (int n = 0; n < kRest; ++n) {
        const int i = kCount - kRest + n;
        values_of<kType, kOffsets>(x[i], i, factor, shifted, blocks + kBlocksEach * n);
      }
      store_blocks<kRest * kBlocksEach>(blocks, to, 16 * kBlocksEach * (kCount - kRest));
    }
  }

  template <DType kType, bool kOffsets>
  HWY_INLINE void values_of(V16 x, int i, VF factor, hn::MFromD<F32> shifted, V16* blocks) const {
    const F32 d;
    const I16 d16;
    const V16 whole = hn::Mul(x, hn::LoadDup128(d16, run_.rotation->signs.data() + 8 * i));
    const auto words = hn::BitCast(I32(), whole);
    const auto odd32 = hn::And(words, hn::Set(I32(), static_cast<int32_t>(0xffff0000u)));
    VF even = hn::Mul(hn::ConvertTo(d, hn::ShiftLeft<16>(words)), factor);
    VF odd = hn::Mul(hn::ConvertTo(d, odd32), factor);
    if constexpr (kOffsets) {
      const VF even_offset = hn::LoadDup128(d, offsets_ + 8 * i);
      const VF odd_offset = hn::LoadDup128(d, offsets_ + 8 * i + 4);
      even = hn::Add(even, hn::IfThenElseZero(shifted, even_offset));
      odd = hn::Add(odd, hn::IfThenElseZero(shifted, odd_offset));
    }
    to_blocks<kType>(even, odd, blocks);
  }

  // 6 to 8 planes: what 16 bits cannot hold. One token at a time, in 32.
  template <DType kType>
  void decode_wide() {
    const hn::CappedTag<int32_t, 4> d;
    alignas(64) int32_t values[kHeadDim];
    const auto& centroids = run_.tables->centroids[run_.plane_count - 1];
    for (uint32_t token = run_.exact_token_count; token < run_.token_count; ++token) {
      int64_t squared = 0;
      for (int i = 0; i < kHeadDim; ++i) {
        uint32_t index = 0;
        for (int plane = 0; plane < run_.plane_count; ++plane) {
          const auto word = static_cast<uint32_t>(run_.planes[plane][token * kPlaneBytes + i / 8]);
          index = index * 2 + ((word >> (i % 8)) & 1u);
        }
        values[i] = centroids[index];
        squared += int64_t{values[i]} * values[i];
      }
      hn::VFromD<decltype(d)> x[kHeadDim / 4];
      for (int i = 0; i < kHeadDim / 4; ++i) x[i] = hn::Load(d, values + 4 * i);
      rotate<kHeadDim, kInner>(d, transposed_, x);
      for (int i = 0; i < kHeadDim / 4; ++i) hn::Store(x[i], d, values + 4 * i);
      store_wide<kType>(token, squared, values);
    }
  }

  template <DType kType>
  void store_wide(uint32_t token, int64_t squared, const int32_t* values) const {
    const uint16_t norm_bits = run_.norms[token];
    const uint32_t bits = (norm_bits & 0x7fffu) << 16;
    float norm;
    std::memcpy(&norm, &bits, sizeof(norm));
    const float scale = norm / std::sqrt(static_cast<float>(squared) * float{kHeadDim});
    const bool shifted = run_.offsets != nullptr && (norm_bits & kNormOffsetFlag) != 0;
    alignas(64) float floats[kHeadDim];
    for (int i = 0; i < kHeadDim; ++i) {
      const int at = even_odd(i);
      floats[at] = static_cast<float>(values[i] * run_.rotation->signs[i]) * scale;
      if (run_.offsets != nullptr) floats[at] += shifted ? offsets_[at] : 0.0f;
    }
    // Every block is of this token, written as often as there are.
    Rows from, to;
    std::fill(from.at, from.at + kTokens, reinterpret_cast<std::byte*>(floats));
    std::fill(to.at, to.at + kTokens, run_.values + token * run_.token_stride_bytes);
    constexpr int kBlocksEach = kType == DType::f32 ? 2 : 1;
    V16 blocks[kCount * kBlocksEach];
    for (int i = 0; i < kCount; ++i) {
      VF even, odd;
      load_values<DType::f32>(from.at, 8 * i, even, odd);
      to_blocks<kType>(even, odd, blocks + kBlocksEach * i);
    }
    store_blocks<kCount * kBlocksEach>(blocks, to, 0);
  }

  const DecodeRun& run_;
  alignas(64) uint16_t words_[kNarrowPlanesMax][kGroups][kHeadDim / 16 * kTokens];
  alignas(16) uint32_t norms_[kGroups][4] = {};
  int8_t transposed_[kHeadDim / kInner * (kHeadDim / kInner)];
  alignas(64) float offsets_[kHeadDim];
};

}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#endif  // HADAL_KERNELS_SIMD_DECODE_INL_H_
