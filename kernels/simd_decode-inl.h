// From norms, offsets and plane words to values.
//
// Compiled once for every instruction set, by codec_simd.cc alone.

#if defined(HADAL_KERNELS_SIMD_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HADAL_KERNELS_SIMD_DECODE_INL_H_
#undef HADAL_KERNELS_SIMD_DECODE_INL_H_
#else
#define HADAL_KERNELS_SIMD_DECODE_INL_H_
#endif

#include "kernels/simd_planes-inl.h"
#include "kernels/simd_rotation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

// Decodes one run. kInner is the rotation's.
template <int kHeadDim, int kInner>
class Decoder {
 public:
  explicit Decoder(const DecodeRun& run)
      : run_(run), stream_(may_stream(run.values, run.token_stride_bytes)) {
    // Of more than 5 planes' centroids, which are symmetric, the upper half.
    const auto& centroids = run.tables->centroids[run.plane_count - 1];
    const int first = kNarrowPlanesMax < run.plane_count ? 1 << (run.plane_count - 1) : 0;
    for (int i = first; i < 1 << run.plane_count; ++i) {
      const auto word = static_cast<uint16_t>(centroids[i]);
      centroids_[0][(i - first) / 16][i % 16] = static_cast<uint8_t>(word);
      centroids_[1][(i - first) / 16][i % 16] = static_cast<uint8_t>(word >> 8);
    }
    const int16_t* const weights = run.rotation->last_weights.data();
    for (int n = 0; n < 2 * kCount; ++n) weights_[n] = hn::LoadDup128(I16(), weights + 8 * n);
    // Of the next run; planes are fetched as they are read.
    prefetch(reinterpret_cast<const std::byte*>(run.norms + run.token_count), 2 * run.token_count);
    if (run.offsets == nullptr) return;
    prefetch(reinterpret_cast<const std::byte*>(run.offsets + kHeadDim), 2 * kHeadDim);
    for (int i = 0; i < kHeadDim; ++i) {
      const uint32_t bits = uint32_t{run.offsets[i]} << 16;
      std::memcpy(&offsets_[even_odd(i)], &bits, sizeof(bits));
    }
  }

  // Of two groups in turn one is rotated and the other, which was rotated before, is stored: so no
  // group waits for its own square roots and divisions, and rows reach memory at an even pace. What
  // they call is compiled once for a precision, and once for a type.
  void decode() {
    const uint32_t begin = run_.exact_token_count;
    if (begin >= run_.token_count) return;
    const uint32_t groups = (run_.token_count - begin + kGroupTokens - 1) / kGroupTokens;
    prepare(begin, 0);
    for (uint32_t group = 0; group <= groups; ++group) {
      const uint32_t token = begin + group * kGroupTokens;
      if (group + 1 < groups) prepare(token + kGroupTokens, (group + 1) % kGroups);
      if (group < groups) rotate(token, group % kGroups);
      if (group > 0) store_values(token - kGroupTokens, (group - 1) % kGroups);
    }
  }

 private:
  static constexpr int kCount = kHeadDim / 8;
  using Shape = GroupShape<kHeadDim>;
  static constexpr int kSets = Shape::kSets;
  static constexpr int kGroupTokens = Shape::kGroupTokens;
  static constexpr int kGroups = 2;  // at work
  static constexpr size_t kPlaneBytes = Shape::kPlaneBytes;
  static constexpr int kRegisters = kCount * kSets;
  static constexpr int kNarrowPlanesMax = narrow_planes_max(kHeadDim);
  using VectorRotation = GroupRotation<kHeadDim, kInner, kSets>;

  // Where value i goes when of 8 the even ones come first.
  static constexpr int even_odd(int i) { return i / 8 * 8 + i % 2 * 4 + i % 8 / 2; }

  template <int kPlanes>
  static constexpr bool kIsWide = (kPlanes > kNarrowPlanesMax);

  // Looks 2 to 32 integers up, for planes of a section, least significant first.
  template <int kPlanes>
  struct NarrowCentroids {
    static constexpr int kTables = kPlanes == 5 ? 2 : 1;
    V8 low[kTables], high[kTables], nibbles[8], top;

    HWY_INLINE NarrowCentroids(const uint8_t (*bytes)[8][16], const V8* planes) : top(planes[4]) {
      for (int table = 0; table < kTables; ++table) {
        low[table] = hn::LoadDup128(U8(), bytes[0][table]);
        high[table] = hn::LoadDup128(U8(), bytes[1][table]);
      }
      nibbles_of(planes, nibbles);
    }

    HWY_INLINE void lookup(int k, V16& first, V16& second) const {
      V8 low_bytes = hn::TableLookupBytes(low[0], nibbles[k]);
      V8 high_bytes = hn::TableLookupBytes(high[0], nibbles[k]);
      if constexpr (kTables == 2) {
        const auto upper = hn::TestBit(top, hn::Set(U8(), static_cast<uint8_t>(1 << k)));
        low_bytes = hn::IfThenElse(upper, hn::TableLookupBytes(low[1], nibbles[k]), low_bytes);
        high_bytes = hn::IfThenElse(upper, hn::TableLookupBytes(high[1], nibbles[k]), high_bytes);
      }
      first = hn::BitCast(I16(), hn::InterleaveLower(U8(), low_bytes, high_bytes));
      second = hn::BitCast(I16(), hn::InterleaveUpper(U8(), low_bytes, high_bytes));
    }
  };

  // Looks 32 to 256 integers up that are symmetric, in the upper half of them.
  template <int kPlanes>
  struct WideCentroids {
    static constexpr int kTables = 1 << (kPlanes - 5);
    const uint8_t (*bytes)[8][16];
    V8 low[8], high[8];

    HWY_INLINE WideCentroids(const uint8_t (*of)[8][16], const V8* planes) : bytes(of) {
      nibbles_of(planes, low);
      nibbles_of(planes + 4, high);
    }

    HWY_INLINE void lookup(int k, V16& first, V16& second) const {
      const U8 d8;
      const V8 index = hn::Or(low[k], shifted_left<4>(high[k]));
      const auto positive = hn::TestBit(index, hn::Set(d8, 16 * kTables));
      const V8 negative = hn::AndNot(hn::VecFromMask(d8, positive), hn::Set(d8, 0xff));
      const V8 entry = hn::Xor(index, negative);
      const V8 within = hn::And(entry, hn::Set(d8, 0x0f));
      const V8 low_bytes = lookup_bytes<kTables>(bytes[0], within, entry);
      const V8 high_bytes = lookup_bytes<kTables>(bytes[1], within, entry);
      const auto join = [&](V8 a, V8 b, bool upper) HWY_ATTR {
        return hn::BitCast(I16(),
                           upper ? hn::InterleaveUpper(d8, a, b) : hn::InterleaveLower(d8, a, b));
      };
      const auto with_sign = [&](bool upper) HWY_ATTR {
        const V16 sign = join(negative, negative, upper);
        return hn::Sub(hn::Xor(join(low_bytes, high_bytes, upper), sign), sign);
      };
      first = with_sign(false);
      second = with_sign(true);
    }
  };

  // |z|^2 of every token of a group, in all lanes of its block.
  struct Squares {
    V32 sums[Shape::kChunks];

    // A lane has a pair of octets; a chunk may have the last ones of a set and the first of
    // another.
    HWY_INLINE V32 total(int set) const {
      alignas(16) static constexpr int32_t kInside[12] = {0, 0, 0, 0, -1, -1, -1, -1, 0, 0, 0, 0};
      constexpr int kPairs = kCount / 2;
      V32 sum = hn::Zero(I32());
      for (int chunk = 0; chunk < Shape::kChunks; ++chunk) {
        const int begin = std::max(0, kPairs * set - 4 * chunk);
        const int end = std::min(4, kPairs * (set + 1) - 4 * chunk);
        if (begin >= end) continue;
        const V32 inside = hn::LoadDup128(I32(), kInside + (begin > 0 ? 4 - begin : 8 - end));
        sum = hn::Add(sum, hn::And(sums[chunk], inside));
      }
      return sum_of_block(I32(), sum);
    }
  };

  // Where the bytes of every plane of a group are, the least significant one first. Of a group that
  // has fewer tokens they are copied, and the last token stands again.
  template <int kPlanes>
  struct PlaneBytes {
    const std::byte* at[kPlanes];
    alignas(64) std::byte copies[kPlanes][Shape::kGroupBytes];
  };
  template <int kPlanes>
  HWY_INLINE void find_planes(uint32_t token, PlaneBytes<kPlanes>& bytes) const {
    const size_t before = token * kPlaneBytes, next_run = run_.token_count * kPlaneBytes;
    for (int p = 0; p < kPlanes; ++p) {
      bytes.at[p] = run_.planes[kPlanes - 1 - p] + before;
      prefetch(bytes.at[p] + next_run, Shape::kGroupBytes);
    }
    if (HWY_LIKELY(token + kGroupTokens <= run_.token_count)) return;
    for (int p = 0; p < kPlanes; ++p) {
      for (uint32_t t = 0; t < kGroupTokens; ++t) {
        const uint32_t from = std::min(t, run_.token_count - 1 - token);
        std::memcpy(bytes.copies[p] + t * kPlaneBytes, bytes.at[p] + from * kPlaneBytes,
                    kPlaneBytes);
      }
      bytes.at[p] = bytes.copies[p];
    }
  }

  static HWY_INLINE V32 plus_squares(V32 sum, V16 x) {
    V32 unused = hn::Zero(I32());
    return hn::ReorderWidenMulAccumulate(I32(), x, x, sum, unused);
  }

  // Calls work(register, centroids) for the registers of a group as from_octets() wants them.
  template <int kPlanes, class Work>
  HWY_INLINE void for_each_octet(uint32_t token, Squares& squares, const Work& work) const {
    using Centroids =
        std::conditional_t<kIsWide<kPlanes>, WideCentroids<kPlanes>, NarrowCentroids<kPlanes>>;
    PlaneBytes<kPlanes> bytes;
    find_planes(token, bytes);
    for (int section = 0; section < Shape::kSections; ++section) {
      V8 planes[8];
      for (int p = 0; p < 8; ++p) {
        planes[p] = p < kPlanes ? Shape::load_section(bytes.at[p], section) : hn::Zero(U8());
      }
      const Centroids centroids(centroids_, planes);
      V32 sums[2] = {hn::Zero(I32()), hn::Zero(I32())};
      for (int k = 0; k < 8; ++k) {
        V16 first, second;
        centroids.lookup(k, first, second);
        sums[0] = plus_squares(sums[0], first);
        sums[1] = plus_squares(sums[1], second);
        const int at = 16 * section + VectorRotation::wanted_register(k);
        work(at, first);
        if (Shape::has_two_chunks(section)) work(at + 8, second);
      }
      squares.sums[2 * section] = sums[0];
      if (Shape::has_two_chunks(section)) squares.sums[2 * section + 1] = sums[1];
    }
  }

  // The norms that a group reads. Long before, since what was just stored in pieces cannot be
  // loaded whole at once.
  HWY_INLINE void prepare(uint32_t token, int group) {
    for (uint32_t t = 0; t < kGroupTokens; ++t) {
      const uint32_t norm = run_.norms[std::min(token + t, run_.token_count - 1)];
      norms_[group][t % kSets][t / kSets] = norm << 16;
    }
  }

  // Matched norm: x' = |x| R^T z / |z|.
  static HWY_INLINE VF matched_scale(VF norm, V32 squared) {
    const F32 d;
    const VF length = hn::Sqrt(hn::Mul(hn::ConvertTo(d, squared), hn::Set(d, float{kHeadDim})));
    return hn::Div(norm, length);
  }

  void rotate(uint32_t token, int group) {
    switch (run_.plane_count) {
      case 1:
        return rotate_group<1>(token, group);
      case 2:
        return rotate_group<2>(token, group);
      case 3:
        return rotate_group<3>(token, group);
      case 4:
        return rotate_group<4>(token, group);
      case 5:
        return rotate_group<5>(token, group);
      case 6:
        return rotate_group<6>(token, group);
      case 7:
        return rotate_group<7>(token, group);
      default:
        return rotate_group<8>(token, group);
    }
  }

  template <int kPlanes>
  HWY_NOINLINE void rotate_group(uint32_t token, int group) {
    Squares squares;
    if constexpr (kIsWide<kPlanes>) {
      auto* const halves = wide_[group];
      for_each_octet<kPlanes>(token, squares, [&](int at, V16 x) HWY_ATTR {
        widen_pairs<(kInner > 8)>(x, halves[0][at], halves[1][at]);
      });
      remember_scales(group, squares);
      VectorRotation::from_octets_wide(halves);
    } else {
      V16* const x = rotated_[group];
      for_each_octet<kPlanes>(token, squares, [&](int at, V16 values) HWY_ATTR { x[at] = values; });
      remember_scales(group, squares);
      VectorRotation::from_octets(x);
    }
  }

  HWY_INLINE void remember_scales(int group, const Squares& squares) {
    // Four copies of a token's norm, in its block.
    alignas(64) static constexpr int32_t kOwnToken[16] = {0, 0, 0, 0, 1, 1, 1, 1,
                                                          2, 2, 2, 2, 3, 3, 3, 3};
    for (int set = 0; set < kSets; ++set) {
      const auto bits = hn::TableLookupLanes(hn::LoadDup128(U32(), norms_[group][set]),
                                             hn::SetTableIndices(U32(), kOwnToken));
      const auto flag = hn::Set(U32(), uint32_t{kNormOffsetFlag} << 16);
      const VF norm = hn::BitCast(F32(), hn::AndNot(flag, bits));
      scales_[group][set] = matched_scale(norm, squares.total(set));
      flagged_[group][set] = hn::And(flag, bits);
    }
  }

  void store_values(uint32_t token, int group) const {
    if (run_.dtype == DType::f32) {
      store<DType::f32>(token, group);
    } else if (run_.dtype == DType::f16) {
      store<DType::f16>(token, group);
    } else {
      store<DType::bf16>(token, group);
    }
  }

  template <DType kType>
  void store(uint32_t token, int group) const {
    const bool offsets = run_.offsets != nullptr;
    if (run_.plane_count > kNarrowPlanesMax) {
      offsets ? store_group<kType, true, true>(token, group)
              : store_group<kType, false, true>(token, group);
    } else {
      offsets ? store_group<kType, true, false>(token, group)
              : store_group<kType, false, false>(token, group);
    }
  }

  template <DType kType, bool kOffsets, bool kWide>
  HWY_NOINLINE void store_group(uint32_t token, int group) const {
    if (run_.ahead != nullptr) {
      constexpr size_t kTokenBytes = kHeadDim * bytes_of(kType);
      const std::byte* const ahead = run_.ahead + token * kTokenBytes;
      stream_ ? prefetch_pages(ahead, kGroupTokens * kTokenBytes)
              : prefetch(ahead, kGroupTokens * kTokenBytes);
    }
    const U32 d32;
    for (int set = 0; set < kSets; ++set) {
      const Rows to = Shape::rows(run_, run_.values, token, set);
      const auto flagged = hn::Ne(flagged_[group][set], hn::Zero(d32));
      const auto rotated = [&] {
        if constexpr (kWide) {
          return Wide{{wide_[group][0] + kCount * set, wide_[group][1] + kCount * set}, weights_};
        } else {
          return Narrow{rotated_[group] + kCount * set, weights_};
        }
      }();
      store_set<kType, kOffsets>(rotated, scales_[group][set], hn::RebindMask(F32(), flagged), to);
    }
  }

  // A rotated vector of every token. integers() are the values that are even or odd (k % 2) and in
  // the lower or upper half (k / 2) of 16 from 8i on.
  struct Narrow {
    const V16* x;        // as from_octets() leaves them
    const V16* weights;  // Decoder::weights_
    HWY_INLINE V32 integers(int i, int k) const {
      return multiply_pairs(x[i + k % 2], weights[2 * i + k]);
    }
  };
  struct Wide {
    const V32* halves[2];  // as from_octets_wide() leaves them
    const V16* weights;
    HWY_INLINE V32 integers(int i, int k) const {
      // The sign is that of the first weight or, where there is but one, of that one.
      V32 pairs = hn::BitCast(I32(), weights[2 * i + k]);
      if (kInner > 8 || k < 2) pairs = hn::ShiftLeft<16>(pairs);
      const V32 sign = hn::ShiftRight<31>(pairs);
      return hn::Sub(hn::Xor(halves[k / 2][i + k % 2], sign), sign);
    }
  };

  // A few registers at a time, so that stores come between arithmetic.
  template <DType kType, bool kOffsets, class Rotated>
  HWY_INLINE void store_set(const Rotated& x, VF scale, hn::MFromD<F32> shifted,
                            const Rows& to) const {
    constexpr int kStep = std::max(2, kTokens);
    constexpr int kRest = kCount % kStep;
    constexpr int kBlocksEach = kType == DType::f32 ? 2 : 1;
    V16 blocks[kStep * kBlocksEach];
    for (int i = 0; i + kStep <= kCount; i += kStep) {
      for (int n = 0; n < kStep; n += 2) {
        values_of<kType, kOffsets>(x, i + n, scale, shifted, blocks + kBlocksEach * n);
      }
      store_blocks<kStep * kBlocksEach>(blocks, to, 16 * kBlocksEach * i, stream_);
    }
    if constexpr (kRest != 0) {
      const int i = kCount - kRest;
      values_of<kType, kOffsets>(x, i, scale, shifted, blocks);
      store_blocks<kRest * kBlocksEach>(blocks, to, 16 * kBlocksEach * i, stream_);
    }
  }

  // 16 of every token, from 8i on.
  template <DType kType, bool kOffsets, class Rotated>
  HWY_INLINE void values_of(const Rotated& x, int i, VF scale, hn::MFromD<F32> shifted,
                            V16* HWY_RESTRICT blocks) const {
    const F32 d;
    constexpr int kBlocksEach = kType == DType::f32 ? 2 : 1;
    VF values[4];
    for (int k = 0; k < 4; ++k) {
      values[k] = hn::Mul(hn::ConvertTo(d, x.integers(i, k)), scale);
      if constexpr (kOffsets) {
        const VF offset = hn::LoadDup128(d, offsets_ + 8 * i + 4 * k);
        values[k] = hn::Add(values[k], hn::IfThenElseZero(shifted, offset));
      }
    }
    to_blocks<kType>(values[0], values[1], blocks);
    to_blocks<kType>(values[2], values[3], blocks + kBlocksEach);
  }

  const DecodeRun& run_;
  const bool stream_;
  alignas(64) uint8_t centroids_[2][8][16] = {};  // low and high bytes
  V16 rotated_[kGroups][kRegisters];              // by rotate_group() for store_group()
  V32 wide_[kGroups][2][kRegisters];              // the same where 16 bits are too few
  VF scales_[kGroups][kSets];
  hn::VFromD<U32> flagged_[kGroups][kSets];
  alignas(16) uint32_t norms_[kGroups][kSets][4] = {};
  V16 weights_[2 * kCount];  // Rotation::last_weights, for every token
  alignas(64) float offsets_[kHeadDim];
};

}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#endif  // HADAL_KERNELS_SIMD_DECODE_INL_H_
