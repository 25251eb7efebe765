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

// Decodes the runs of a layer's heads. kInner is the rotation's.
template <int kHeadDim, int kInner>
class Decoder {
 public:
  explicit Decoder(const DecodeRun& run) : run_(run), stream_(may_stream(run)) {
    split_centroids();
  }

  // Of two groups in turn one is rotated and the other, which was rotated before, is stored: so no
  // group waits for its own square roots and divisions, and rows reach memory at an even pace, from
  // the first head's first to the last one's last. What they call is compiled once for a precision,
  // and once for a type.
  void decode() {
    const uint32_t begin = run_.exact_token_count, end = run_.token_count;
    if (begin >= end || run_.head_count == 0) return;
    prepare(run_.norms, begin, 0);
    Group before;
    for (uint32_t head = 0; head < run_.head_count; ++head) {
      if (head != 0) to_next_head(run_);
      enter_head(heads_[head % 2]);
      for (uint32_t token = begin; token < end; token += kGroupTokens) {
        const Group group = {&heads_[head % 2], token, 1 - before.slot};
        if (token + kGroupTokens < end) {
          prepare(run_.norms, token + kGroupTokens, before.slot);
        } else if (head + 1 < run_.head_count) {
          prepare(run_.norms + end, begin, before.slot);
        }
        rotate(token, group.slot);
        if (before.head != nullptr) store_values(before);
        before = group;
      }
    }
    store_values(before);
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

  // What a group of a head still needs when the next head has begun.
  struct Head {
    std::byte* values;
    const std::byte* ahead;
    alignas(64) uint32_t offsets[2][kHeadDim / 2];  // bits of floats, even and odd ones
  };
  struct Group {
    const Head* head = nullptr;
    uint32_t token = 0;
    int slot = 1;  // of what is kept of it
  };

  // Low and high bytes apart. Of more planes than narrow ones can be, whose centroids are
  // symmetric, the upper half.
  HWY_INLINE void split_centroids() {
    const hn::FixedTag<uint8_t, 16> d;
    const int planes = run_.plane_count;
    const auto* const words =
        reinterpret_cast<const uint8_t*>(run_.tables->centroids[planes - 1].data());
    const int count = 1 << planes, first = kNarrowPlanesMax < planes ? count / 2 : 0;
    for (int i = first; i < count; i += 16) {
      const auto lower = hn::LoadU(d, words + 2 * i), upper = hn::LoadU(d, words + 2 * i + 16);
      hn::Store(hn::ConcatEven(d, upper, lower), d, centroids_[0][(i - first) / 16]);
      hn::Store(hn::ConcatOdd(d, upper, lower), d, centroids_[1][(i - first) / 16]);
    }
  }

  // Few stores, and wide ones: they wait behind the rows that are on their way to memory.
  HWY_INLINE void enter_head(Head& head) {
    head.values = run_.values;
    head.ahead = run_.ahead;
    // Of the next run; planes are fetched as they are read.
    prefetch(reinterpret_cast<const std::byte*>(run_.norms + run_.token_count),
             2 * run_.token_count);
    if (run_.offsets == nullptr) return;
    prefetch(reinterpret_cast<const std::byte*>(run_.offsets + kHeadDim), 2 * kHeadDim);
    const hn::CappedTag<uint32_t, kHeadDim % 32 == 0 ? 16 : 8> d32;
    const hn::Repartition<uint16_t, decltype(d32)> d16;
    for (int i = 0; i < kHeadDim / 2; i += static_cast<int>(hn::Lanes(d32))) {
      const auto pairs = hn::BitCast(d32, hn::LoadU(d16, run_.offsets + 2 * i));
      hn::Store(hn::ShiftLeft<16>(pairs), d32, head.offsets[0] + i);
      hn::Store(hn::And(pairs, hn::Set(d32, 0xffff0000u)), d32, head.offsets[1] + i);
    }
  }

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
  HWY_INLINE void find_planes(uint32_t token, const std::byte** at,
                              std::byte (*copies)[Shape::kGroupBytes]) const {
    const size_t before = token * kPlaneBytes, next_run = run_.token_count * kPlaneBytes;
    for (int p = 0; p < kPlanes; ++p) {
      at[p] = run_.planes[kPlanes - 1 - p] + before;
      prefetch(at[p] + next_run, Shape::kGroupBytes);
    }
    if (HWY_LIKELY(token + kGroupTokens <= run_.token_count)) return;
    for (int p = 0; p < kPlanes; ++p) {
      for (uint32_t t = 0; t < kGroupTokens; ++t) {
        const uint32_t from = std::min(t, run_.token_count - 1 - token);
        std::memcpy(copies[p] + t * kPlaneBytes, at[p] + from * kPlaneBytes, kPlaneBytes);
      }
      at[p] = copies[p];
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
    const std::byte* at[kPlanes];
    alignas(64) std::byte copies[kPlanes][Shape::kGroupBytes];
    find_planes<kPlanes>(token, at, copies);
    for (int section = 0; section < Shape::kSections; ++section) {
      V8 planes[8];
      for (int p = 0; p < 8; ++p) {
        planes[p] = p < kPlanes ? Shape::load_section(at[p], section) : hn::Zero(U8());
      }
      const Centroids centroids(centroids_, planes);
      V32 sums[2] = {hn::Zero(I32()), hn::Zero(I32())};
      for (int k = 0; k < 8; ++k) {
        V16 first, second;
        centroids.lookup(k, first, second);
        sums[0] = plus_squares(sums[0], first);
        sums[1] = plus_squares(sums[1], second);
        const int to = 16 * section + VectorRotation::wanted_register(k);
        work(to, first);
        if (Shape::has_two_chunks(section)) work(to + 8, second);
      }
      squares.sums[2 * section] = sums[0];
      if (Shape::has_two_chunks(section)) squares.sums[2 * section + 1] = sums[1];
    }
  }

  // The norms that a group reads. Long before, since what was just stored in pieces cannot be
  // loaded whole at once.
  HWY_INLINE void prepare(const uint16_t* norms, uint32_t token, int slot) {
    auto* const blocks = norms_[slot];
    if (HWY_LIKELY(token + kGroupTokens <= run_.token_count)) {
      for (int t = 0; t < kTokens; ++t) {
        std::memcpy(blocks[t], norms + token + t * kSets, kSets * sizeof(uint16_t));
      }
      return;
    }
    for (uint32_t t = 0; t < kGroupTokens; ++t) {
      blocks[t / kSets][t % kSets] = norms[std::min(token + t, run_.token_count - 1)];
    }
  }

  // Matched norm: x' = |x| R^T z / |z|.
  static HWY_INLINE VF matched_scale(VF norm, V32 squared) {
    const F32 d;
    const VF length = hn::Sqrt(hn::Mul(hn::ConvertTo(d, squared), hn::Set(d, float{kHeadDim})));
    return hn::Div(norm, length);
  }

  void rotate(uint32_t token, int slot) {
    switch (run_.plane_count) {
      case 1:
        return rotate_group<1>(token, slot);
      case 2:
        return rotate_group<2>(token, slot);
      case 3:
        return rotate_group<3>(token, slot);
      case 4:
        return rotate_group<4>(token, slot);
      case 5:
        return rotate_group<5>(token, slot);
      case 6:
        return rotate_group<6>(token, slot);
      case 7:
        return rotate_group<7>(token, slot);
      default:
        return rotate_group<8>(token, slot);
    }
  }

  template <int kPlanes>
  HWY_NOINLINE void rotate_group(uint32_t token, int slot) {
    Squares squares;
    if constexpr (kIsWide<kPlanes>) {
      auto* const halves = wide_[slot];
      for_each_octet<kPlanes>(token, squares, [&](int at, V16 x) HWY_ATTR {
        widen_pairs<(kInner > 8)>(x, halves[0][at], halves[1][at]);
      });
      remember_scales(slot, squares);
      VectorRotation::from_octets_wide(halves);
    } else {
      // What fits into registers stays there.
      constexpr bool kStays = kRegisters <= 16;
      V16 here[kStays ? kRegisters : 1];
      V16* const x = kStays ? here : rotated_[slot];
      for_each_octet<kPlanes>(token, squares, [&](int at, V16 values) HWY_ATTR { x[at] = values; });
      remember_scales(slot, squares);
      VectorRotation::from_octets(x);
      if constexpr (kStays) {
#pragma GCC unroll 16
        for (int i = 0; i < kRegisters; ++i) rotated_[slot][i] = x[i];
      }
    }
  }

  HWY_INLINE void remember_scales(int slot, const Squares& squares) {
    for (int set = 0; set < kSets; ++set) {
      // A token's norm in the upper half of every lane of its block.
      const auto upper_half = hn::Set(U32(), (0x0202u * set + 0x0100u) << 16 | 0x8080u);
      const auto norms = hn::Load(U16(), norms_[slot][0]);
      const auto bits = hn::BitCast(U32(), hn::TableLookupBytesOr0(norms, upper_half));
      const auto flag = hn::Set(U32(), uint32_t{kNormOffsetFlag} << 16);
      const VF norm = hn::BitCast(F32(), hn::AndNot(flag, bits));
      scales_[slot][set] = matched_scale(norm, squares.total(set));
      flagged_[slot][set] = hn::And(flag, bits);
    }
  }

  void store_values(const Group& group) const {
    if (run_.dtype == DType::f32) {
      store<DType::f32>(group);
    } else if (run_.dtype == DType::f16) {
      store<DType::f16>(group);
    } else {
      store<DType::bf16>(group);
    }
  }

  template <DType kType>
  void store(const Group& group) const {
    const bool offsets = run_.offsets != nullptr;
    if (run_.plane_count > kNarrowPlanesMax) {
      offsets ? store_group<kType, true, true>(group) : store_group<kType, false, true>(group);
    } else {
      offsets ? store_group<kType, true, false>(group) : store_group<kType, false, false>(group);
    }
  }

  template <DType kType, bool kOffsets, bool kWide>
  HWY_NOINLINE void store_group(const Group& group) const {
    const Head& head = *group.head;
    const int slot = group.slot;
    if (head.ahead != nullptr) {
      constexpr size_t kTokenBytes = kHeadDim * dtype_bytes(kType);
      const std::byte* const ahead = head.ahead + group.token * kTokenBytes;
      stream_ ? prefetch_pages(ahead, kGroupTokens * kTokenBytes)
              : prefetch(ahead, kGroupTokens * kTokenBytes);
    }
    const U32 d32;
    const int16_t* const weights = run_.rotation->last_weights.data();
    for (int set = 0; set < kSets; ++set) {
      const Rows to = Shape::rows(run_, head.values, group.token, set);
      const auto flagged = hn::Ne(flagged_[slot][set], hn::Zero(d32));
      const auto rotated = [&] {
        if constexpr (kWide) {
          return Wide{{wide_[slot][0] + kCount * set, wide_[slot][1] + kCount * set}, weights};
        } else {
          return Narrow{rotated_[slot] + kCount * set, weights};
        }
      }();
      const Affine affine = {scales_[slot][set], hn::RebindMask(F32(), flagged), head.offsets};
      store_set<kType, kOffsets>(rotated, affine, to);
    }
  }

  // Rotation::last_weights for four values of every token.
  static HWY_INLINE V16 last_weights(const int16_t* weights, int fours) {
    static_assert(kTokens <= Rotation::kWeightCopies, "a copy for every token");
    return hn::Load(I16(), weights + 8 * Rotation::kWeightCopies * fours);
  }

  // A rotated vector of every token. integers() are the values that are even or odd (k % 2) and in
  // the lower or upper half (k / 2) of 16 from 8i on.
  struct Narrow {
    const V16* x;  // as from_octets() leaves them
    const int16_t* weights;
    HWY_INLINE V32 integers(int i, int k) const {
      return multiply_pairs(x[i + k % 2], last_weights(weights, 2 * i + k));
    }
  };
  struct Wide {
    const V32* halves[2];  // as from_octets_wide() leaves them
    const int16_t* weights;
    HWY_INLINE V32 integers(int i, int k) const {
      // The sign is that of the first weight or, where there is but one, of that one.
      V32 pairs = hn::BitCast(I32(), last_weights(weights, 2 * i + k));
      if (kInner > 8 || k < 2) pairs = hn::ShiftLeft<16>(pairs);
      const V32 sign = hn::ShiftRight<31>(pairs);
      return hn::Sub(hn::Xor(halves[k / 2][i + k % 2], sign), sign);
    }
  };

  // From integers to values, for every token.
  struct Affine {
    VF scale;
    hn::MFromD<F32> shifted;                  // whose offset was removed
    const uint32_t (*offsets)[kHeadDim / 2];  // Head's
  };

  // A few registers at a time, so that stores come between arithmetic.
  template <DType kType, bool kOffsets, class Rotated>
  HWY_INLINE void store_set(const Rotated& x, const Affine& affine, const Rows& to) const {
    constexpr int kStep = std::max(2, kTokens);
    constexpr int kRest = kCount % kStep;
    constexpr int kBlocksEach = kType == DType::f32 ? 2 : 1;
    V16 blocks[kStep * kBlocksEach];
    for (int i = 0; i + kStep <= kCount; i += kStep) {
      for (int n = 0; n < kStep; n += 2) {
        values_of<kType, kOffsets>(x, i + n, affine, blocks + kBlocksEach * n);
      }
      store_blocks<kStep * kBlocksEach>(blocks, to, 16 * kBlocksEach * i, stream_);
    }
    if constexpr (kRest != 0) {
      const int i = kCount - kRest;
      values_of<kType, kOffsets>(x, i, affine, blocks);
      store_blocks<kRest * kBlocksEach>(blocks, to, 16 * kBlocksEach * i, stream_);
    }
  }

  // 16 of every token, from 8i on.
  template <DType kType, bool kOffsets, class Rotated>
  HWY_INLINE void values_of(const Rotated& x, int i, const Affine& affine,
                            V16* HWY_RESTRICT blocks) const {
    const F32 d;
    constexpr int kBlocksEach = kType == DType::f32 ? 2 : 1;
    VF values[4];
    for (int k = 0; k < 4; ++k) {
      values[k] = hn::Mul(hn::ConvertTo(d, x.integers(i, k)), affine.scale);
      if constexpr (kOffsets) {
        const uint32_t* const offsets = affine.offsets[k % 2] + 4 * (i + k / 2);
        const VF offset = hn::BitCast(d, hn::LoadDup128(U32(), offsets));
        values[k] = hn::Add(values[k], hn::IfThenElseZero(affine.shifted, offset));
      }
    }
    to_blocks<kType>(values[0], values[1], blocks);
    to_blocks<kType>(values[2], values[3], blocks + kBlocksEach);
  }

  DecodeRun run_;  // of the head whose groups are rotated
  const bool stream_;
  alignas(64) uint8_t centroids_[2][8][16];  // low and high bytes
  V16 rotated_[kGroups][kRegisters];         // by rotate_group() for store_group()
  V32 wide_[kGroups][2][kRegisters];         // the same where 16 bits are too few
  VF scales_[kGroups][kSets];
  hn::VFromD<U32> flagged_[kGroups][kSets];
  alignas(64) uint16_t norms_[kGroups][kTokens][8] = {};  // of a block's tokens, by set
  Head heads_[2];
};

}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#endif  // HADAL_KERNELS_SIMD_DECODE_INL_H_
