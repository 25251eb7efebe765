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
    const Rotation& rotation = *run.rotation;
    for (int i = 0; i < rotation.core * rotation.core && rotation.core > 1; ++i) {
      transposed_[i % rotation.core * rotation.core + i / rotation.core] = rotation.core_matrix[i];
    }
    // Of the next run; planes are fetched as they are read.
    prefetch(reinterpret_cast<const std::byte*>(run.norms + run.token_count), 2 * run.token_count);
    if (run.offsets == nullptr) return;
    prefetch(reinterpret_cast<const std::byte*>(run.offsets + kHeadDim), 2 * kHeadDim);
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
      case 6:
        return decode_wide<6, kType>();
      case 7:
        return decode_wide<7, kType>();
      default:
        return decode_wide<8, kType>();
    }
  }

 private:
  static constexpr int kCount = kHeadDim / 8;
  static constexpr size_t kPlaneBytes = kHeadDim / 8;
  using Shape = GroupShape<kHeadDim, kInner>;
  static constexpr bool kOctets = Shape::kOctets;
  static constexpr int kSets = Shape::kSets;
  static constexpr int kGroupTokens = Shape::kGroupTokens;
  static constexpr int kGroups = Shape::kGroups;

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

    // `upper`: where the second table holds; not looked at where there is one table.
    HWY_INLINE void lookup(V8 index, hn::MFromD<U8> upper, V16& first, V16& second) const {
      V8 low_bytes = hn::TableLookupBytes(low[0], index);
      V8 high_bytes = hn::TableLookupBytes(high[0], index);
      if constexpr (kTables == 2) {
        low_bytes = hn::IfThenElse(upper, hn::TableLookupBytes(low[1], index), low_bytes);
        high_bytes = hn::IfThenElse(upper, hn::TableLookupBytes(high[1], index), high_bytes);
      }
      first = hn::BitCast(I16(), hn::InterleaveLower(U8(), low_bytes, high_bytes));
      second = hn::BitCast(I16(), hn::InterleaveUpper(U8(), low_bytes, high_bytes));
    }
  };

  // Looks 64 to 256 integers up that are symmetric: the upper half, in tables of 16.
  template <int kPlanes>
  struct WideCentroids {
    static constexpr int kTables = 1 << (kPlanes - 5);
    alignas(16) uint8_t bytes[2][kTables][16];  // low and high

    explicit WideCentroids(const int16_t* centroids) {
      for (int i = 0; i < 16 * kTables; ++i) {
        const auto word = static_cast<uint16_t>(centroids[16 * kTables + i]);
        bytes[0][i / 16][i % 16] = static_cast<uint8_t>(word);
        bytes[1][i / 16][i % 16] = static_cast<uint8_t>(word >> 8);
      }
    }

    HWY_INLINE void lookup(V8 index, V16& first, V16& second) const {
      const U8 d8;
      const auto positive = hn::TestBit(index, hn::Set(d8, 16 * kTables));
      const V8 negative = hn::AndNot(hn::VecFromMask(d8, positive), hn::Set(d8, 0xff));
      const V8 entry = hn::Xor(index, negative);
      const V8 within = hn::And(entry, hn::Set(d8, 0x0f));
      const V8 low = lookup_bytes<kTables>(bytes[0], within, entry);
      const V8 high = lookup_bytes<kTables>(bytes[1], within, entry);
      const auto join = [&](V8 a, V8 b, bool upper) HWY_ATTR {
        return hn::BitCast(I16(),
                           upper ? hn::InterleaveUpper(d8, a, b) : hn::InterleaveLower(d8, a, b));
      };
      const auto with_sign = [&](bool upper) HWY_ATTR {
        const V16 sign = join(negative, negative, upper);
        return hn::Sub(hn::Xor(join(low, high, upper), sign), sign);
      };
      first = with_sign(false);
      second = with_sign(true);
    }
  };

  // |z|^2 of every token of a group, in all lanes of its block.
  struct Squares {
    V32 sums[2];

    HWY_INLINE Squares() { sums[0] = sums[1] = hn::Zero(I32()); }
    HWY_INLINE void add(int set, V16 x) {
      V32 unused = hn::Zero(I32());
      sums[set] = hn::ReorderWidenMulAccumulate(I32(), x, x, sums[set], unused);
    }
    HWY_INLINE V32 total(int set) const {
      return sum_of_block(I32(), kSets == 2 ? sums[set] : hn::Add(sums[0], sums[1]));
    }
  };

  // A group's words of one plane, 16 values of every token together: the masks of its registers.
  void gather_words(int plane, uint32_t token, uint16_t* HWY_RESTRICT words) const {
    const Rows from =
        rows_of(const_cast<std::byte*>(run_.planes[plane]), kPlaneBytes, token, run_.token_count);
    for (int i = 0; i < kHeadDim / 16; ++i) {
      for (int t = 0; t < kTokens; ++t) std::memcpy(words + i * kTokens + t, from.at[t] + 2 * i, 2);
    }
  }

  // The centroids of a group, 8 values of a token to a block.
  template <int kPlanes>
  HWY_INLINE void unpack_words(int group, const Centroids<kPlanes>& centroids, V16* HWY_RESTRICT x,
                               Squares& squares) const {
    const U8 d8;
    for (int i = 0; i < kHeadDim / 16; ++i) {
      auto index = hn::Zero(d8);
      hn::MFromD<U8> upper = {};
      for (int plane = 0; plane < kPlanes; ++plane) {
        const auto* bits = reinterpret_cast<const uint8_t*>(words_[plane][group] + i * kTokens);
        const auto mask = hn::LoadMaskBits(d8, bits);
        if (kPlanes == 5 && plane == 0) {
          upper = mask;
        } else {
          const auto bit = hn::Set(d8, static_cast<uint8_t>(1 << (kPlanes - 1 - plane)));
          index = hn::Or(index, hn::IfThenElseZero(mask, bit));
        }
      }
      centroids.lookup(index, upper, x[2 * i], x[2 * i + 1]);
      squares.add(0, x[2 * i]);
      squares.add(1, x[2 * i + 1]);
    }
  }

  // 16 bytes of a plane in every block: of a token, or of two where they have 8 each.
  HWY_INLINE V8 load_plane(int plane, uint32_t token, int section) const {
    const U8 d8;
    std::byte* const first = const_cast<std::byte*>(run_.planes[plane]);
    prefetch(first + (run_.token_count + token) * kPlaneBytes, kGroupTokens * kPlaneBytes);
    if (kPlaneBytes <= 16 && token + kGroupTokens <= run_.token_count) {
      return hn::LoadU(d8, reinterpret_cast<const uint8_t*>(first) + token * kPlaneBytes);
    }
    if constexpr (kPlaneBytes >= 16) {
      const Rows rows = rows_of(first, kPlaneBytes, token, run_.token_count);
      return gather<16>(d8, rows.at, 16 * section);
    }
    alignas(64) uint8_t bytes[kGroupTokens * kPlaneBytes];
    for (uint32_t t = 0; t < kGroupTokens; ++t) {
      const uint32_t from = std::min(token + t, run_.token_count - 1);
      std::memcpy(bytes + t * kPlaneBytes, first + from * kPlaneBytes, kPlaneBytes);
    }
    return hn::Load(d8, bytes);
  }

  // The centroids of a group, as rotate_octets() wants them.
  template <int kPlanes>
  HWY_INLINE void unpack_octets(uint32_t token, const Centroids<kPlanes>& centroids,
                                V16* HWY_RESTRICT x, Squares& squares) const {
    constexpr int kNibblePlanes = std::min(kPlanes, 4);
    for (int section = 0; section < (kHeadDim + 127) / 128; ++section) {
      V8 planes[4], nibbles[8], top = hn::Zero(U8());
      for (int p = 0; p < 4; ++p) {
        planes[p] = p < kNibblePlanes ? load_plane(kPlanes - 1 - p, token, section) : top;
      }
      if constexpr (kPlanes == 5) top = load_plane(0, token, section);
      nibbles_of(planes, nibbles);
      for (int k = 0; k < 8; ++k) {
        hn::MFromD<U8> upper = {};
        if (kPlanes == 5) upper = hn::TestBit(top, hn::Set(U8(), static_cast<uint8_t>(1 << k)));
        V16* const first = x + 16 * section + k;
        centroids.lookup(nibbles[k], upper, first[0], first[8]);
        squares.add(0, first[0]);
        squares.add(1, first[8]);
      }
    }
  }

  // What the groups of a batch read: norms and, where there are no octets, words of planes. A stage
  // of its own, since what was just stored in pieces cannot be loaded whole at once.
  void prepare(uint32_t begin) {
    for (int group = 0; group < kGroups; ++group) {
      const uint32_t token = begin + group * kGroupTokens;
      if (token >= run_.token_count) return;
      if constexpr (!kOctets) {
        for (int plane = 0; plane < run_.plane_count; ++plane) {
          gather_words(plane, token, words_[plane][group]);
        }
      }
      for (uint32_t t = 0; t < kGroupTokens; ++t) {
        const uint32_t norm = run_.norms[std::min(token + t, run_.token_count - 1)];
        norms_[group][t % kSets][t / kSets] = norm << 16;
      }
    }
  }

  // Matched norm: x' = |x| R^T z / |z|.
  static HWY_INLINE VF matched_scale(VF norm, V32 squared) {
    const F32 d;
    const VF length = hn::Sqrt(hn::Mul(hn::ConvertTo(d, squared), hn::Set(d, float{kHeadDim})));
    return hn::Div(norm, length);
  }

  // Two passes over each batch, so that no group waits for its own square roots and divisions. What
  // they call is not inlined, or it would be compiled for every pair of a precision and a type.
  template <DType kType, bool kWide, class Rotate>
  HWY_INLINE void in_batches(const Rotate& rotate_one) {
    for (uint32_t begin = run_.exact_token_count; begin < run_.token_count; begin += kBatch) {
      prepare(begin);
      const uint32_t left = (run_.token_count - begin + kGroupTokens - 1) / kGroupTokens;
      const int groups = static_cast<int>(std::min<uint32_t>(kGroups, left));
      for (int group = 0; group < groups; ++group) {
        rotate_one(begin + group * kGroupTokens, group);
      }
      for (int group = 0; group < groups; ++group) {
        const uint32_t token = begin + group * kGroupTokens;
        run_.offsets != nullptr ? store_group<kType, true, kWide>(token, group)
                                : store_group<kType, false, kWide>(token, group);
      }
    }
  }

  template <int kPlanes, DType kType>
  void decode_narrow() {
    const Centroids<kPlanes> centroids(run_.tables->centroids[kPlanes - 1].data());
    in_batches<kType, false>([&](uint32_t token, int group)
                                 HWY_ATTR { rotate_group<kPlanes>(token, group, centroids); });
  }

  template <int kPlanes>
  HWY_NOINLINE void rotate_group(uint32_t token, int group, const Centroids<kPlanes>& centroids) {
    V16 x[kCount * kSets];
    Squares squares;
    if constexpr (kOctets) {
      unpack_octets<kPlanes>(token, centroids, x, squares);
      rotate_octets<kHeadDim, kSets>(x);
    } else {
      unpack_words<kPlanes>(group, centroids, x, squares);
      rotate_pairs<kHeadDim, kInner>(transposed_, x);
    }
    for (int i = 0; i < kCount * kSets; ++i) rotated_[group][i] = x[i];
    remember_scales(group, squares);
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

  template <DType kType, bool kOffsets, bool kWide>
  HWY_NOINLINE void store_group(uint32_t token, int group) const {
    if (!stream_ && run_.ahead != nullptr) {
      constexpr size_t kTokenBytes = kHeadDim * bytes_of(kType);
      prefetch(run_.ahead + token * kTokenBytes, kGroupTokens * kTokenBytes);
    }
    const U32 d32;
    for (int set = 0; set < kSets; ++set) {
      const Rows to = Shape::rows(run_, run_.values, token, set);
      const auto flagged = hn::Ne(flagged_[group][set], hn::Zero(d32));
      const auto rotated = [&] {
        if constexpr (kWide) {
          return Wide{{wide_[group][0] + kCount * set, wide_[group][1] + kCount * set}};
        } else {
          return Narrow{rotated_[group] + kCount * set};
        }
      }();
      store_set<kType, kOffsets>(rotated, scales_[group][set], hn::RebindMask(F32(), flagged), to);
    }
  }

  // A rotated vector of every token. integers() are the values that are even or odd (k % 2) and in
  // the lower or upper half (k / 2) of 16 from 8i on.
  struct Narrow {
    const V16* x;  // as rotate_pairs() leaves them
    HWY_INLINE V32 integers(const int16_t* weights, int i, int k) const {
      return multiply_pairs(x[i + k % 2], weights + 16 * i + 8 * k);
    }
  };
  struct Wide {
    const V32* halves[2];  // as rotate_octets() leaves them
    HWY_INLINE V32 integers(const int16_t* weights, int i, int k) const {
      // The sign is that of the first weight.
      const V32 pairs = hn::BitCast(I32(), hn::LoadDup128(I16(), weights + 16 * i + 8 * k));
      const V32 sign = hn::ShiftRight<31>(hn::ShiftLeft<16>(pairs));
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
      const V32 integers = x.integers(run_.rotation->last_weights.data(), i, k);
      values[k] = hn::Mul(hn::ConvertTo(d, integers), scale);
      if constexpr (kOffsets) {
        const VF offset = hn::LoadDup128(d, offsets_ + 8 * i + 4 * k);
        values[k] = hn::Add(values[k], hn::IfThenElseZero(shifted, offset));
      }
    }
    to_blocks<kType>(values[0], values[1], blocks);
    to_blocks<kType>(values[2], values[3], blocks + kBlocksEach);
  }

  // 6 to 8 planes: what 16 bits cannot hold.
  template <int kPlanes, DType kType>
  void decode_wide() {
    if constexpr (kOctets) {
      const WideCentroids<kPlanes> centroids(run_.tables->centroids[kPlanes - 1].data());
      in_batches<kType, true>([&](uint32_t token, int group) HWY_ATTR {
        rotate_wide_group<kPlanes>(token, group, centroids);
      });
    } else {
      decode_one_by_one<kType>();
    }
  }

  template <int kPlanes>
  HWY_NOINLINE void rotate_wide_group(uint32_t token, int group,
                                      const WideCentroids<kPlanes>& centroids) {
    Squares squares;
    for (int section = 0; section < (kHeadDim + 127) / 128; ++section) {
      V8 low_planes[4], high_planes[4], low[8], high[8];
      for (int p = 0; p < 4; ++p) {
        low_planes[p] = load_plane(kPlanes - 1 - p, token, section);
        high_planes[p] =
            p + 4 < kPlanes ? load_plane(kPlanes - 5 - p, token, section) : hn::Zero(U8());
      }
      nibbles_of(low_planes, low);
      nibbles_of(high_planes, high);
      for (int k = 0; k < 8; ++k) {
        V16 first, second;
        centroids.lookup(hn::Or(low[k], shifted_left<4>(high[k])), first, second);
        squares.add(0, first);
        squares.add(1, second);
        const int at = 16 * section + k;
        butterfly_of_pairs(first, wide_[group][0][at], wide_[group][1][at]);
        butterfly_of_pairs(second, wide_[group][0][at + 8], wide_[group][1][at + 8]);
      }
    }
    for (V32* half : {wide_[group][0], wide_[group][1]}) rotate_octets<kHeadDim, kSets>(half);
    remember_scales(group, squares);
  }

  // For other head_dims: one token at a time.
  template <DType kType>
  void decode_one_by_one() {
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
    Rows to;
    std::fill(to.at, to.at + kTokens, run_.values + token * run_.token_stride_bytes);
    constexpr int kBlocksEach = kType == DType::f32 ? 2 : 1;
    V16 blocks[kCount * kBlocksEach];
    for (int i = 0; i < kCount; ++i) {
      const VF even = hn::LoadDup128(F32(), floats + 8 * i);
      const VF odd = hn::LoadDup128(F32(), floats + 8 * i + 4);
      to_blocks<kType>(even, odd, blocks + kBlocksEach * i);
    }
    store_blocks<kCount * kBlocksEach>(blocks, to, 0, false);
  }

  const DecodeRun& run_;
  const bool stream_;
  alignas(64) uint16_t words_[kNarrowPlanesMax][kGroups][kOctets ? 1 : kHeadDim / 16 * kTokens];
  V16 rotated_[kGroups][kCount * kSets];                // by rotate_group() for store_group()
  V32 wide_[kOctets ? kGroups : 1][2][kCount * kSets];  // the same by rotate_wide_group()
  VF scales_[kGroups][kSets];
  hn::VFromD<U32> flagged_[kGroups][kSets];
  alignas(16) uint32_t norms_[kGroups][kSets][4] = {};
  int8_t transposed_[kHeadDim / kInner * (kHeadDim / kInner)];
  alignas(64) float offsets_[kHeadDim];
};

}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#endif  // HADAL_KERNELS_SIMD_DECODE_INL_H_
