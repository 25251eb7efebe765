// From values to norms, offsets and plane words.
//
// Compiled once for every instruction set, by codec_simd.cc alone.

#if defined(HADAL_KERNELS_SIMD_ENCODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HADAL_KERNELS_SIMD_ENCODE_INL_H_
#undef HADAL_KERNELS_SIMD_ENCODE_INL_H_
#else
#define HADAL_KERNELS_SIMD_ENCODE_INL_H_
#endif

#include "kernels/simd_planes-inl.h"
#include "kernels/simd_rotation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

// Encodes one run. kInner is the rotation's.
template <int kHeadDim, int kInner>
class Encoder {
 public:
  explicit Encoder(const EncodeRun& run) : run_(run), first_(const_cast<std::byte*>(run.values)) {
    // Of the positive half, those of plane p from 2^(p - 1) on. Less one, since integers have > but
    // no >=.
    for (int i = 1; i < 1 << (run.tables->bits - 1); ++i) {
      const int plane_start = 1 << hwy::FloorLog2(static_cast<uint32_t>(i));
      const auto threshold = static_cast<int16_t>(run.tables->thresholds[2 * plane_start + i] - 1);
      if (i < kThresholdsInRegisters) {
        thresholds_[i] = hn::Set(I16(), threshold);
      } else {
        threshold_bytes_[0][i / 16][i % 16] = static_cast<uint8_t>(threshold);
        threshold_bytes_[1][i / 16][i % 16] = static_cast<uint8_t>(threshold >> 8);
      }
    }
  }

  template <DType kType>
  bool encode() {
    if (run_.offsets != nullptr) write_mean_key<kType, kHeadDim>(run_, kHeadDim, offsets_);
    exact_tokens<kType>();
    // Two passes over each batch, so that no group waits for its own square roots and divisions.
    for (uint32_t begin = run_.exact_token_count; begin < run_.token_count; begin += kBatch) {
      const uint32_t left = (run_.token_count - begin + kGroupTokens - 1) / kGroupTokens;
      const int groups = static_cast<int>(std::min<uint32_t>(kGroups, left));
      for (int group = 0; group < groups; ++group) {
        const uint32_t token = begin + group * kGroupTokens;
        run_.offsets != nullptr ? measure_group<kType, true>(token, group)
                                : measure_group<kType, false>(token, group);
      }
      for (int group = 0; group < groups; ++group) {
        const uint32_t token = begin + group * kGroupTokens;
        if (run_.tables->bits > kNarrowBitsMax) {
          constexpr bool kWide = is_ever_wide(kHeadDim);
          run_.offsets != nullptr ? encode_group<kType, true, kWide>(token, group)
                                  : encode_group<kType, false, kWide>(token, group);
        } else {
          run_.offsets != nullptr ? encode_group<kType, true, false>(token, group)
                                  : encode_group<kType, false, false>(token, group);
        }
      }
    }
    const auto exponent = hn::Set(U32(), 0x7f800000u);
    return hn::AllFalse(U32(), hn::Eq(hn::And(worst_, exponent), exponent));
  }

 private:
  static constexpr int kCount = kHeadDim / 8;  // registers of a vector

  using Shape = GroupShape<kHeadDim>;
  static constexpr int kSets = Shape::kSets;
  static constexpr int kGroupTokens = Shape::kGroupTokens;
  static constexpr int kGroups = Shape::kGroups;
  static constexpr size_t kPlaneBytes = Shape::kPlaneBytes;
  static constexpr int kNarrowBitsMax = narrow_bits_max(kHeadDim);
  using VectorRotation = GroupRotation<kHeadDim, kInner, kSets>;

  template <DType kType>
  static constexpr int kBlocks = kCount* static_cast<int>(dtype_bytes(kType)) / 2;

  Rows rows(uint32_t token, int set) const { return Shape::rows(run_, first_, token, set); }

  static HWY_INLINE VF squares_of_run(const VF* x) {
    const auto square = [](VF v) HWY_ATTR { return hn::Mul(v, v); };
    return hn::Add(hn::Add(square(x[0]), square(x[2])), hn::Add(square(x[1]), square(x[3])));
  }

  // Squares of kRuns runs of 16 values from `first` on, by their residue modulo 4 and added up as
  // squared_length() says; kMinus: of what is left without the offsets.
  template <DType kType, bool kMinus, int kRuns>
  HWY_INLINE VF sum_runs(const V16* from, int first) const {
    if constexpr (kRuns == 1) {
      VF x[4];
      load_values<kType>(from, 2 * first, x[0], x[1]);
      load_values<kType>(from, 2 * first + 1, x[2], x[3]);
      for (int k = 0; k < 4 && kMinus; ++k) {
        x[k] = hn::Sub(x[k], hn::LoadDup128(F32(), offsets_ + 16 * first + 4 * k));
      }
      return squares_of_run(x);
    } else {
      constexpr int kLeft = largest_power_below(kRuns);
      const VF left = sum_part<kType, kMinus, kLeft>(from, first);
      return hn::Add(left, sum_part<kType, kMinus, kRuns - kLeft>(from, first + kLeft));
    }
  }

  template <DType kType, bool kMinus, int kRuns>
  HWY_INLINE VF sum_part(const V16* from, int first) const {
    if constexpr (kRuns == 8) return sum_eight_runs<kType, kMinus>(from, first);
    return sum_runs<kType, kMinus, kRuns>(from, first);
  }

  // Of long vectors: once in the code.
  template <DType kType, bool kMinus>
  HWY_NOINLINE VF sum_eight_runs(const V16* from, int first) const {
    return sum_runs<kType, kMinus, 8>(from, first);
  }

  // Squared lengths, in all lanes of their vectors' blocks.
  template <DType kType, bool kMinus>
  HWY_INLINE VF squared_lengths(const V16* from) const {
    return sum_of_block(F32(), sum_runs<kType, kMinus, kHeadDim / 16>(from, 0));
  }

  // Nearest integer, ties to even, of less than 2^22: its bits are the last of the sum's.
  static constexpr float kRoundingShift = 0x1.8p23f;
  static HWY_INLINE V32 nearest(VF x) {
    const VF shift = hn::Set(F32(), kRoundingShift);
    return hn::Sub(hn::BitCast(I32(), hn::Add(x, shift)), hn::BitCast(I32(), shift));
  }

  template <DType kType>
  void exact_tokens() {
    for (uint32_t token = 0; token < run_.exact_token_count; token += kTokens) {
      load_blocks<kBlocks<kType>>(
          rows_of(first_, run_.token_stride_bytes, token, run_.exact_token_count), blocks_[0][0]);
      remember_worst(squared_lengths<kType, false>(blocks_[0][0]));
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

  // Writes the norms of a set of tokens. Answers what to scale its vectors with, and which of them
  // go without their offset.
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
    auto rounded = rounded_to_bf16(norm);
    remember_worst(hn::BitCast(d, rounded));
    if constexpr (kOffsets) {
      const auto flag = hn::Set(d32, uint32_t{kNormOffsetFlag} << 16);
      rounded = hn::Or(rounded, hn::IfThenElseZero(hn::RebindMask(d32, shifted), flag));
    }
    alignas(64) uint32_t words[4 * kTokens];
    hn::Store(rounded, d32, words);
    for (uint32_t t = 0; t < kTokens && token + t * kSets < run_.token_count; ++t) {
      run_.norms[token + t * kSets] = static_cast<uint16_t>(words[4 * t] >> 16);
    }
    const int length = run_.tables->input_scale << run_.tables->input_shift;
    const VF scale = hn::Div(hn::Set(d, static_cast<float>(length)), norm);
    return hn::IfThenElseZero(hn::Gt(norm, hn::Zero(d)), scale);
  }

  template <DType kType, bool kOffsets>
  void measure_group(uint32_t token, int group) {
    for (int set = 0; set < kSets; ++set) {
      load_blocks<kBlocks<kType>>(rows(token, set), blocks_[group][set]);
      // One after the other, or what is left would not fit in registers.
      const VF whole = squared_lengths<kType, false>(blocks_[group][set]);
      VF residual = whole;
      if (kOffsets) residual = squared_lengths<kType, true>(blocks_[group][set]);
      hn::MFromD<F32> shifted = {};
      scales_[group][set] = norms<kOffsets>(token + set, whole, residual, shifted);
      if (kOffsets) shifted_[group][set] = hn::VecFromMask(F32(), shifted);
    }
  }

  // A set of tokens, and what to do with their values.
  struct Source {
    const V16* blocks;
    VF scale;
    hn::MFromD<F32> shifted;
  };

  // 8 values of every token, scaled, as floats: the first four, and the others.
  template <DType kType, bool kOffsets>
  HWY_INLINE void load_scaled(const Source& from, int i, VF& low, VF& high) const {
    const F32 d;
    load_values<kType>(from.blocks, i, low, high);
    if constexpr (kOffsets) {
      const VF low_offset = hn::LoadDup128(d, offsets_ + 8 * i);
      const VF high_offset = hn::LoadDup128(d, offsets_ + 8 * i + 4);
      low = hn::Sub(low, hn::IfThenElseZero(from.shifted, low_offset));
      high = hn::Sub(high, hn::IfThenElseZero(from.shifted, high_offset));
    }
    low = hn::Mul(low, from.scale);
    high = hn::Mul(high, from.scale);
  }

  template <DType kType, bool kOffsets, bool kWide>
  void encode_group(uint32_t token, int group) {
    Source from[kSets];
    for (int set = 0; set < kSets; ++set) {
      from[set].blocks = blocks_[group][set];
      from[set].scale = scales_[group][set];
      if (kOffsets) from[set].shifted = hn::MaskFromVec(shifted_[group][set]);
    }
    // A line or two at a time, so that reading ahead never waits for its turn.
    constexpr size_t kAheadBytes = 8 * dtype_bytes(kType) * kTokens;
    const std::byte* ahead = run_.ahead + token * kHeadDim * dtype_bytes(kType);
    const auto load = [&](int set, int i, VF& low, VF& high) HWY_ATTR {
      if (run_.ahead != nullptr) prefetch(ahead, kAheadBytes);
      ahead += kAheadBytes;
      load_scaled<kType, kOffsets>(from[set], i, low, high);
    };
    V16 x[kCount * kSets];
    VF low, high;
    if constexpr (kWide) {
      V32 wide[2][kCount * kSets];
      for (int n = 0; n < kCount * kSets; ++n) {
        load(n / kCount, n % kCount, low, high);
        in_order(low, high, n % kCount, &wide[n % 2][n / 2 * 2]);
      }
      VectorRotation::to_octets_wide(wide, x);
    } else if constexpr (kInner == 4) {
      for (int set = 0; set < kSets; set += 2) {
        V16* const to = x + kCount * set;
        for (int i = 0; i < kCount; ++i) {
          VF next_low, next_high;
          load(set, i, low, high);
          load(set + 1, i, next_low, next_high);
          V16* const rows = to + row_register<4>(2 * i, kCount);
          rows[0] = interleaved(low, next_low, 2 * i);
          rows[1] = interleaved(high, next_high, 2 * i + 1);
        }
      }
    } else {
      for (int n = 0; n < kCount * kSets; ++n) {
        load(n / kCount, n % kCount, low, high);
        x[n] = interleaved(low, high, n % kCount);
      }
    }
    write_group(x, token);
  }

  // Rounded, and times the signs of the diagonal. A sum's last bits are the integer.
  HWY_INLINE V16 interleaved(VF even, VF odd, int i) const {
    const VF shift = hn::Set(F32(), kRoundingShift);
    const auto even_bits = hn::BitCast(I32(), hn::Add(even, shift));
    const auto odd_bits = hn::ShiftLeft<16>(hn::BitCast(I32(), hn::Add(odd, shift)));
    const V16 whole = hn::OddEven(hn::BitCast(I16(), odd_bits), hn::BitCast(I16(), even_bits));
    return hn::Mul(whole, hn::LoadDup128(I16(), run_.rotation->interleaved_signs.data() + 8 * i));
  }
  HWY_INLINE void in_order(VF low, VF high, int i, V32* to) const {
    const V16 signs = hn::LoadDup128(I16(), run_.rotation->signs.data() + 8 * i);
    const auto with_sign = [](VF x, V16 sign) HWY_ATTR {
      const V32 negative = hn::ShiftRight<31>(hn::BitCast(I32(), sign));
      return hn::Sub(hn::Xor(nearest(x), negative), negative);
    };
    to[0] = with_sign(low, hn::InterleaveLower(I16(), signs, signs));
    to[1] = with_sign(high, hn::InterleaveUpper(I16(), signs, signs));
  }

  void write_group(V16* HWY_RESTRICT x, uint32_t token) const {
    switch (run_.tables->bits) {
      case 1:
        return write_octets<1>(x, token);
      case 2:
        return write_octets<2>(x, token);
      case 3:
        return write_octets<3>(x, token);
      case 4:
        return write_octets<4>(x, token);
      case 5:
        return write_octets<5>(x, token);
      case 6:
        return write_octets<6>(x, token);
      case 7:
        return write_octets<7>(x, token);
      default:
        return write_octets<8>(x, token);
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

  // The bits of the planes after the first, which is the sign, plane by plane. `above`: those of
  // the planes before.
  template <int kPlane, int kBits>
  static HWY_INLINE V16 search(V16 magnitude, const V16* thresholds, hn::MFromD<I16>* above) {
    if constexpr (kPlane == kBits) {
      return hn::Zero(I16());
    } else {
      auto& bit = above[kPlane - 1];
      bit = hn::Gt(magnitude, pick<kPlane - 1>(thresholds, 1, above));
      const V16 value = hn::IfThenElseZero(bit, hn::Set(I16(), 1 << (kBits - 1 - kPlane)));
      return hn::Or(value, search<kPlane + 1, kBits>(magnitude, thresholds, above));
    }
  }

  // The whole index: the first plane's bit is set for a positive y, and the others are the opposite
  // ones for a negative one.
  template <int kBits>
  static HWY_INLINE V16 with_sign(V16 found, V16 sign) {
    const V16 positive = hn::Or(found, hn::Set(I16(), 1 << (kBits - 1)));
    return hn::Xor(positive, hn::And(sign, hn::Set(I16(), (1 << kBits) - 1)));
  }

  // In place.
  template <int kBits>
  HWY_INLINE void to_indices(V16* HWY_RESTRICT x) const {
    if constexpr (kBits > kBitsInRegisters) return to_indices_by_tables<kBits>(x);
#if HWY_TARGET <= HWY_AVX3
    if constexpr (kBits > 2) return to_indices_by_bins(x);  // fewer planes are fewer steps
#endif
    V16 thresholds[1 << (kBits - 1)];
    for (int i = 1; i < 1 << (kBits - 1); ++i) thresholds[i] = thresholds_[i];
    for (int i = 0; i < kCount * kSets; ++i) {
      const V16 sign = hn::ShiftRight<15>(x[i]);
      hn::MFromD<I16> above[kBits];
      const V16 found = search<1, kBits>(hn::Xor(x[i], sign), thresholds, above);
      x[i] = with_sign<kBits>(found, sign);
    }
  }

#if HWY_TARGET <= HWY_AVX3
  // Without magnitudes and planes, where a table of all bins is one instruction.
  HWY_INLINE void to_indices_by_bins(V16* HWY_RESTRICT x) const {
    const I16 d;
    const WordTable thresholds(run_.tables->bin_thresholds.data());
    const WordTable ranks(run_.tables->bin_ranks.data());
    const V16 factor = hn::Set(d, run_.tables->bin_factor);
    const V16 first = hn::Set(d, -kBinCount / 2), last = hn::Set(d, kBinCount / 2 - 1);
    for (int i = 0; i < kCount * kSets; ++i) {
      const V16 bin = hn::Min(hn::Max(hn::MulHigh(x[i], factor), first), last);
      x[i] = plus_one_where(hn::Gt(x[i], thresholds[bin]), ranks[bin]);
    }
  }
#endif

  // The first planes as above, then thresholds from tables, of two registers' bytes at a time.
  template <int kBits>
  HWY_INLINE void to_indices_by_tables(V16* HWY_RESTRICT x) const {
    const I16 d;
    V16 thresholds[kThresholdsInRegisters];
    for (int i = 1; i < kThresholdsInRegisters; ++i) thresholds[i] = thresholds_[i];
    for (int i = 0; i < kCount * kSets; i += 2) {
      V16 sign[2], magnitude[2], index[2];
      for (int n = 0; n < 2; ++n) {
        sign[n] = hn::ShiftRight<15>(x[i + n]);
        magnitude[n] = hn::Xor(x[i + n], sign[n]);
        hn::MFromD<I16> above[kBitsInRegisters];
        index[n] = search<1, kBitsInRegisters>(magnitude[n], thresholds, above);
      }
      next_bits<kBitsInRegisters, kBits>(magnitude, index);
      for (int n = 0; n < 2; ++n) x[i + n] = with_sign<kBits>(index[n], sign[n]);
    }
  }

  // Planes from kPlane on.
  template <int kPlane, int kBits>
  HWY_INLINE void next_bits(const V16* HWY_RESTRICT magnitude, V16* HWY_RESTRICT index) const {
    if constexpr (kPlane < kBits) {
      const I16 d;
      constexpr int kTables = 1 << (kPlane - kBitsInRegisters);  // from that many on
      const V8 both = hn::BitCast(U8(), hn::Or(index[0], hn::ShiftLeft<8>(index[1])));
      const V8 within = hn::And(both, hn::Set(U8(), 0x0f));
      const auto bytes = [&](int half) HWY_ATTR {
        return hn::BitCast(d,
                           lookup_bytes<kTables>(threshold_bytes_[half] + kTables, within, both));
      };
      const V16 low = bytes(0), high = bytes(1), low_byte = hn::Set(d, 0x00ff);
      const V16 thresholds[2] = {
          hn::Or(hn::And(low, low_byte), hn::ShiftLeft<8>(high)),
          hn::Or(hn::And(hn::ShiftRight<8>(low), low_byte), hn::AndNot(low_byte, high))};
      for (int n = 0; n < 2; ++n) {
        const auto bit = hn::Gt(magnitude[n], thresholds[n]);
        index[n] = hn::Add(hn::Add(index[n], index[n]), hn::IfThenElseZero(bit, hn::Set(d, 1)));
      }
      next_bits<kPlane + 1, kBits>(magnitude, index);
    }
  }

  // Values whose rotation is in 16 bits are rotated here. Compiled once for a number of bits, not
  // once more for every type.
  template <int kBits>
  HWY_NOINLINE void write_octets(V16* HWY_RESTRICT x, uint32_t token) const {
    const U8 d8;
    constexpr bool kWide = kBits > kNarrowBitsMax;
    if constexpr (!kWide) VectorRotation::to_octets(x);
    to_indices<kBits>(x);
    // Past the last token there is no room.
    const bool whole = token + kGroupTokens <= run_.token_count;
    std::byte tail[kBits][Shape::kGroupBytes];
    // Bytes of two chunks are joined in turn, and parted at the end.
    alignas(16) static constexpr uint8_t kPart[16] = {0, 2, 4, 6, 8, 10, 12, 14,
                                                      1, 3, 5, 7, 9, 11, 13, 15};
    const V8 part = hn::LoadDup128(d8, kPart);
    for (int section = 0; section < Shape::kSections; ++section) {
      V8 low[8], high[8], planes[8];
      for (int k = 0; k < 8; ++k) {
        const V16* first = x + 16 * section + VectorRotation::made_register(k, kWide);
        V16 joined = first[0];
        if (Shape::has_two_chunks(section)) joined = hn::Or(joined, hn::ShiftLeft<8>(first[8]));
        const V8 index = hn::BitCast(d8, joined);
        low[k] = hn::And(index, hn::Set(d8, 0x0f));
        high[k] = hn::And(shifted_right<4>(index), hn::Set(d8, 0x0f));
      }
      planes_of(low, planes);
      if (kBits > 4) planes_of(high, planes + 4);
      for (int p = 0; p < kBits; ++p) {
        const int plane = kBits - 1 - p;
        std::byte* const to = whole ? run_.planes[plane] + token * kPlaneBytes : tail[plane];
        Shape::store_section(hn::TableLookupBytes(planes[p], part), to, section);
      }
    }
    for (int plane = 0; plane < kBits && !whole; ++plane) {
      std::memcpy(run_.planes[plane] + token * kPlaneBytes, tail[plane],
                  (run_.token_count - token) * kPlaneBytes);
    }
  }

  const EncodeRun& run_;
  std::byte* const first_;
  hn::VFromD<U32> worst_ = hn::Zero(U32());
  static constexpr int kBitsInRegisters = 5;
  static constexpr int kThresholdsInRegisters = 1 << (kBitsInRegisters - 1);
  V16 thresholds_[kThresholdsInRegisters];
  alignas(16) uint8_t threshold_bytes_[2][kCodebookMaxSize / 32][16];  // of the others, from 16 on
  // By measure_group() for encode_group(): values as load_blocks() has them, room for those of f32.
  V16 blocks_[kGroups][kSets][2 * kCount];
  VF scales_[kGroups][kSets];
  VF shifted_[kGroups][kSets];  // all bits where the offset is removed
  alignas(64) float offsets_[kHeadDim];
};

}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#endif  // HADAL_KERNELS_SIMD_ENCODE_INL_H_
