// SIMD backend with Google Highway: this file is compiled once for every instruction set and the
// best one is chosen at run time.
//
// A run goes through in batches of tokens, stage by stage, so that the long latencies of one token
// (sums across lanes, square roots, divisions) hide behind the work on the others. Between the
// stages lie 16-bit integers (docs/codec.md, "Integers"), which stay in the first-level cache.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec_simd.cc"
#include <hwy/foreach_target.h>
// The order of these two includes matters to Highway.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/vector_codec.h"

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
// No vectors: the scalar reference is as good.
bool EncodeRunSimd(const EncodeRun& run) { return reference_vector_codec().encode(run); }
void DecodeRunSimd(const DecodeRun& run) { reference_vector_codec().decode(run); }
#else

constexpr int kBatch = 16;          // tokens that go through the stages together
constexpr int kPrefetchTokens = 8;  // a token's values are in a row of their own: fetched ahead
constexpr size_t kLineBytes = 64;

// Every head_dim is a multiple of 16 values.
using F = hn::CappedTag<float, kSumLanes>;
using VF = hn::VFromD<F>;
constexpr int kFloats = static_cast<int>(hn::MaxLanes(F()));

template <DType kType>
HWY_INLINE VF load_values(const std::byte* at) {
  const F d;
  if constexpr (kType == DType::f32) return hn::LoadU(d, reinterpret_cast<const float*>(at));
  if constexpr (kType == DType::f16) {
    const hn::Rebind<hwy::float16_t, F> d16;
    return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(at)));
  }
  const hn::Rebind<uint16_t, F> d16;
  const hn::Rebind<uint32_t, F> d32;
  const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(at)));
  return hn::BitCast(d, hn::ShiftLeft<16>(bits));
}

// Two registers of values, 2 * kFloats of them.
template <DType kType>
HWY_INLINE void store_values(VF low, VF high, std::byte* at) {
  const F d;
  if constexpr (kType == DType::f32) {
    hn::StoreU(low, d, reinterpret_cast<float*>(at));
    hn::StoreU(high, d, reinterpret_cast<float*>(at) + kFloats);
  } else if constexpr (kType == DType::f16) {
    const hn::Rebind<hwy::float16_t, F> d16;
    auto* out = reinterpret_cast<hwy::float16_t*>(at);
    const auto most = hn::Set(d, kHalfMax), least = hn::Set(d, -kHalfMax);
    hn::StoreU(hn::DemoteTo(d16, hn::Min(hn::Max(low, least), most)), d16, out);
    hn::StoreU(hn::DemoteTo(d16, hn::Min(hn::Max(high, least), most)), d16, out + kFloats);
  } else {
    // Round to nearest even by hand: Highway's own conversion truncates on some targets.
    const hn::Repartition<uint16_t, F> d16;
    const hn::RebindToUnsigned<F> d32;
    const auto half = hn::Set(d32, 0x7fffu), one = hn::Set(d32, 1u);
    const auto round = [&](VF values) HWY_ATTR {
      const auto bits = hn::BitCast(d32, values);
      const auto odd = hn::And(hn::ShiftRight<16>(bits), one);
      return hn::BitCast(d16, hn::Add(hn::Add(bits, half), odd));
    };
    hn::StoreU(hn::ConcatOdd(d16, round(high), round(low)), d16, reinterpret_cast<uint16_t*>(at));
  }
}

// As a tree, halves first: the order of sum_lanes().
template <class D>
HWY_INLINE float sum_of_lanes(D d, hn::VFromD<D> v) {
  if constexpr (hn::MaxLanes(D()) > 4) {
    const hn::Half<D> dh;
    return sum_of_lanes(dh, hn::Add(hn::LowerHalf(dh, v), hn::UpperHalf(dh, v)));
  } else {
    v = hn::Add(v, hn::Shuffle1032(v));
    return hn::GetLane(hn::Add(v, hn::Shuffle2301(v)));
  }
}

// kSumLanes lanes of sums in as many registers as that takes.
struct LaneSums {
  static constexpr int kRegisters = kSumLanes / kFloats;
  VF sums[kRegisters];
  HWY_INLINE LaneSums() {
    for (VF& sum : sums) sum = hn::Zero(F());
  }
  HWY_INLINE void add_square(int i, VF x) {
    sums[i % kRegisters] = hn::Add(sums[i % kRegisters], hn::Mul(x, x));
  }
  HWY_INLINE float total() {
    for (int step = kRegisters / 2; step >= 1; step /= 2) {
      for (int i = 0; i < step; ++i) sums[i] = hn::Add(sums[i], sums[i + step]);
    }
    return sum_of_lanes(F(), sums[0]);
  }
};

HWY_INLINE float bf16_value(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

HWY_INLINE uint16_t bf16_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bf16_from_bits(bits);
}

HWY_INLINE void prefetch(const std::byte* at, size_t bytes) {
  for (size_t i = 0; i < bytes; i += kLineBytes) hwy::Prefetch(at + i);
}

// ---- Rotation. Every step works on registers of 16-bit integers or of floats; what it computes is
// the same, because the values are whole numbers that both hold exactly.

// Butterflies between registers, for strides of kStride registers and more.
template <int kStride, int kRun, int kCount, class V>
HWY_INLINE void butterflies_across(V* HWY_RESTRICT x) {
  if constexpr (kStride < kRun) {
    for (int base = 0; base < kCount; base += 2 * kStride) {
      for (int i = base; i < base + kStride; ++i) {
        const V a = x[i], b = x[i + kStride];
        x[i] = hn::Add(a, b);
        x[i + kStride] = hn::Sub(a, b);
      }
    }
    butterflies_across<2 * kStride, kRun, kCount>(x);
  }
}

// Butterflies of one pair of registers within their 128-bit blocks. An interleave brings the halves
// of both blocks side by side and moves every index bit up by one; after one more than there are
// bits, all are where they were.
template <int kLanesOfBlock, class D, class V>
HWY_INLINE void butterflies_in_blocks(D d, V& a, V& b) {
  for (int stride = kLanesOfBlock / 2; stride >= 1; stride /= 2) {
    const V low = hn::InterleaveLower(d, a, b), high = hn::InterleaveUpper(d, a, b);
    a = hn::Add(low, high);
    b = hn::Sub(low, high);
  }
  const V low = hn::InterleaveLower(d, a, b), high = hn::InterleaveUpper(d, a, b);
  a = low;
  b = high;
}

// Butterflies between the blocks of registers with 2 or 4 of them.
template <int kBlocks, class D, class V>
HWY_INLINE void butterflies_of_blocks(D d, V& a, V& b) {
  if constexpr (kBlocks >= 2) {
    const V low = hn::ConcatLowerLower(d, b, a), high = hn::ConcatUpperUpper(d, b, a);
    const V sum = hn::Add(low, high), difference = hn::Sub(low, high);
    a = hn::ConcatLowerLower(d, difference, sum);
    b = hn::ConcatUpperUpper(d, difference, sum);
  }
  if constexpr (kBlocks >= 4) {
    for (V* x : {&a, &b}) {
      const V swapped = hn::SwapAdjacentBlocks(*x);
      *x = hn::OddEvenBlocks(hn::Sub(swapped, *x), hn::Add(swapped, *x));
    }
  }
}

// Sylvester's matrix on runs of kInner values; kCount registers hold all.
template <int kInner, int kCount, class D, class V>
HWY_INLINE void sylvester(D d, V* HWY_RESTRICT x) {
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
  constexpr int kLanesOfBlock = std::min<int>(kLanes, 16 / sizeof(hn::TFromD<D>));
  static_assert(kCount % 2 == 0, "registers go in pairs");
  butterflies_across<1, kInner / kLanes, kCount>(x);
  for (int i = 0; i < kCount; i += 2) {
    butterflies_in_blocks<kLanesOfBlock>(d, x[i], x[i + 1]);
    butterflies_of_blocks<kLanes / kLanesOfBlock>(d, x[i], x[i + 1]);
  }
}

// The core matrix across rows of kInner values.
template <int kHeadDim, int kInner, class D, class V>
HWY_INLINE void core_product(D d, const Rotation& rotation, bool transposed, V* HWY_RESTRICT x) {
  constexpr int kCore = kHeadDim / kInner;
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
  constexpr int kRow = kInner / kLanes;
  if constexpr (kCore > 1) {
    V rows[kHeadDim / kLanes];
    for (int i = 0; i < kHeadDim / kLanes; ++i) rows[i] = x[i];
    for (int i = 0; i < kCore; ++i) {
      for (int k = 0; k < kRow; ++k) {
        V sum = hn::Zero(d);
        for (int j = 0; j < kCore; ++j) {
          const int8_t sign = rotation.core_matrix[transposed ? j * kCore + i : i * kCore + j];
          const V value = rows[j * kRow + k];
          sum = sign > 0 ? hn::Add(sum, value) : hn::Sub(sum, value);
        }
        x[i * kRow + k] = sum;
      }
    }
  }
}

// kInner is the rotation's.
template <int kHeadDim, int kInner>
struct VectorOf {
  static constexpr size_t kPlaneBytes = kHeadDim / 8;  // of one vector
  static constexpr int kFloatCount = kHeadDim / kFloats;

  // Integers of a rotation; a register never spans two of its runs.
  using D16 = hn::CappedTag<int16_t, kInner>;
  using V16 = hn::VFromD<D16>;
  static constexpr int kLanes16 = static_cast<int>(hn::MaxLanes(D16()));
  // And where registers may be as wide as they come.
  using P16 = hn::CappedTag<int16_t, kHeadDim % 32 == 0 ? 32 : 16>;
  static constexpr int kPackLanes = static_cast<int>(hn::MaxLanes(P16()));

  struct Batch {
    alignas(64) int16_t integers[kBatch][kHeadDim];
    alignas(64) float scales[kBatch];
    alignas(64) float offsets[kHeadDim];
  };

  // ---- Encode

  template <DType kType>
  static void mean_key(const EncodeRun& run, float* HWY_RESTRICT offsets) {
    const F d;
    VF sum[kFloatCount];
    for (VF& lane : sum) lane = hn::Zero(d);
    for (uint32_t token = run.exact_token_count; token < run.token_count; ++token) {
      const std::byte* at = run.values + token * run.token_stride_bytes;
      prefetch(at + kPrefetchTokens * run.token_stride_bytes, kHeadDim * dtype_size(kType));
      for (int i = 0; i < kFloatCount; ++i)
        sum[i] = hn::Add(sum[i], load_values<kType>(at + i * kFloats * dtype_size(kType)));
    }
    const uint32_t count = run.token_count - run.exact_token_count;
    const float scale = count == 0 ? 0.0f : 1.0f / static_cast<float>(count);
    for (int i = 0; i < kFloatCount; ++i)
      hn::Store(hn::Mul(sum[i], hn::Set(d, scale)), d, offsets + i * kFloats);
    for (int i = 0; i < kHeadDim; ++i) {
      run.offsets[i] = bf16_of(offsets[i]);
      offsets[i] = bf16_value(run.offsets[i]);
    }
  }

  static constexpr size_t dtype_size(DType type) { return type == DType::f32 ? 4 : 2; }

  // Squared length of a token's vector, and of what is left of it without the offsets.
  template <DType kType, bool kOffsets>
  static HWY_INLINE void measure(const std::byte* at, const float* offsets, float* squared,
                                 float* residual) {
    LaneSums sums, residual_sums;
    for (int i = 0; i < kFloatCount; ++i) {
      const VF x = load_values<kType>(at + i * kFloats * dtype_size(kType));
      sums.add_square(i, x);
      if constexpr (kOffsets) {
        residual_sums.add_square(i, hn::Sub(x, hn::Load(F(), offsets + i * kFloats)));
      }
    }
    *squared = sums.total();
    if constexpr (kOffsets) *residual = residual_sums.total();
  }

  // A token's vector as integers of the length that the tables want.
  template <DType kType, bool kOffsets>
  static HWY_INLINE void scale_to_integers(const std::byte* at, const float* offsets, float scale,
                                           int16_t* HWY_RESTRICT out) {
    const F d;
    const hn::Rebind<int16_t, F> d16;
    for (int i = 0; i < kFloatCount; ++i) {
      VF x = load_values<kType>(at + i * kFloats * dtype_size(kType));
      if constexpr (kOffsets) x = hn::Sub(x, hn::Load(d, offsets + i * kFloats));
      const auto integers = hn::NearestInt(hn::Mul(x, hn::Set(d, scale)));
      hn::Store(hn::DemoteTo(d16, integers), d16, out + i * kFloats);
    }
  }

  // Norms and integers of `count` tokens from `begin`. False where one is not finite.
  template <DType kType, bool kOffsets>
  static bool load_batch(const EncodeRun& run, uint32_t begin, int count, Batch& batch) {
    float squared[kBatch] = {}, residual[kBatch];
    bool shifted[kBatch] = {};
    const std::byte* first = run.values + begin * run.token_stride_bytes;
    for (int t = 0; t < count; ++t) {
      const std::byte* at = first + t * run.token_stride_bytes;
      prefetch(at + kPrefetchTokens * run.token_stride_bytes, kHeadDim * dtype_size(kType));
      measure<kType, kOffsets>(at, batch.offsets, &squared[t], &residual[t]);
    }
    bool finite = true;
    for (int t = 0; t < count; ++t) {
      finite = finite && squared[t] <= std::numeric_limits<float>::max();
      shifted[t] = kOffsets && residual[t] < squared[t];
      float norm = std::sqrt(shifted[t] ? residual[t] : squared[t]);
      if (norm < kNormMin) norm = 0;
      const uint16_t bits = bf16_of(norm);
      run.norms[begin + t] = static_cast<uint16_t>(bits | (shifted[t] ? kNormOffsetFlag : 0));
      finite = finite && (bits & 0x7f80u) != 0x7f80u;
      batch.scales[t] = norm > 0 ? static_cast<float>(run.tables->input_scale) / norm : 0.0f;
    }
    if (!finite) return false;
    for (int t = 0; t < count; ++t) {
      const std::byte* at = first + t * run.token_stride_bytes;
      if (kOffsets && shifted[t]) {
        scale_to_integers<kType, true>(at, batch.offsets, batch.scales[t], batch.integers[t]);
      } else {
        scale_to_integers<kType, false>(at, nullptr, batch.scales[t], batch.integers[t]);
      }
    }
    return true;
  }

  static HWY_INLINE void rotate(const Rotation& rotation, int16_t* HWY_RESTRICT integers) {
    const D16 d;
    constexpr int kCount = kHeadDim / kLanes16;
    V16 x[kCount];
    for (int i = 0; i < kCount; ++i) {
      x[i] = hn::Mul(hn::Load(d, integers + i * kLanes16),
                     hn::Load(d, rotation.signs.data() + i * kLanes16));
    }
    sylvester<kInner, kCount>(d, x);
    core_product<kHeadDim, kInner>(d, rotation, false, x);
    for (int i = 0; i < kCount; ++i) hn::Store(x[i], d, integers + i * kLanes16);
  }

  // One less than the threshold of a plane (there is no >= for integers) for every lane, picked
  // from its 2^plane by the planes above. The thresholds are symmetric, so this works on
  // magnitudes: -y - 1 for a negative y, whose bits are then the opposite ones.
  template <int kDepth>
  static HWY_INLINE hn::VFromD<P16> pick(const int16_t* thresholds, int index,
                                         const hn::MFromD<P16>* above) {
    const P16 d;
    if constexpr (kDepth == 0) {
      return hn::Set(d, static_cast<int16_t>(thresholds[index] - 1));
    } else {
      const auto if_below = pick<kDepth - 1>(thresholds, 2 * index, above + 1);
      const auto if_above = pick<kDepth - 1>(thresholds, 2 * index + 1, above + 1);
      return hn::IfThenElse(above[0], if_above, if_below);
    }
  }

  template <int kBits>
  static HWY_INLINE void pack_narrow(const EncodeRun& run, uint32_t token,
                                     const int16_t* HWY_RESTRICT integers) {
    const P16 d;
    const int16_t* thresholds = run.tables->thresholds.data();
    for (int i = 0; i < kHeadDim; i += kPackLanes) {
      const auto y = hn::Load(d, integers + i);
      const auto sign = hn::ShiftRight<15>(y);
      const auto magnitude = hn::Xor(y, sign);
      const auto negative = hn::MaskFromVec(sign);
      const size_t at = token * kPlaneBytes + i / 8;
      store_bits(hn::Not(negative), run.planes[0] + at);
      hn::MFromD<P16> above[kBits] = {};
      pack_planes<1, kBits>(thresholds, magnitude, above, [&](int plane, auto mask) HWY_ATTR {
        store_bits(hn::Xor(mask, negative), run.planes[plane] + at);
      });
    }
  }

  template <int kPlane, int kBits, class Store>
  static HWY_INLINE void pack_planes(const int16_t* thresholds, hn::VFromD<P16> magnitude,
                                     hn::MFromD<P16>* above, Store store) {
    if constexpr (kPlane < kBits) {
      // Index 1: the positive half.
      const auto threshold = pick<kPlane - 1>(thresholds + (1 << kPlane), 1, above);
      above[kPlane - 1] = hn::Gt(magnitude, threshold);
      store(kPlane, above[kPlane - 1]);
      pack_planes<kPlane + 1, kBits>(thresholds, magnitude, above, store);
    }
  }

  static HWY_INLINE void store_bits(hn::MFromD<P16> mask, std::byte* at) {
    hn::StoreMaskBits(P16(), mask, reinterpret_cast<uint8_t*>(at));
  }

  // Any number of bits, in floats, which have a gather.
  static void pack_wide(const EncodeRun& run, uint32_t token, const int16_t* integers,
                        const float* thresholds) {
    const F d;
    const hn::RebindToSigned<F> di;
    const hn::Rebind<int16_t, F> d16;
    uint8_t words[limits::kBitsMax][kPlaneBytes + 8] = {};
    const int bits = std::min(run.tables->bits, limits::kBitsMax);
    for (int i = 0; i < kHeadDim; i += kFloats) {
      const VF value = hn::ConvertTo(d, hn::PromoteTo(di, hn::Load(d16, integers + i)));
      auto index = hn::Zero(di);
      for (int plane = 0; plane < bits; ++plane) {
        const auto entry = hn::Add(index, hn::Set(di, 1 << plane));
        const auto above = hn::Ge(value, hn::GatherIndex(d, thresholds, entry));
        uint8_t packed[8] = {};
        hn::StoreMaskBits(d, above, packed);
        words[plane][i / 8] |= static_cast<uint8_t>(packed[0] << (i % 8));
        if constexpr (kFloats == 16) words[plane][i / 8 + 1] = packed[1];
        const auto bit = hn::IfThenElseZero(hn::RebindMask(di, above), hn::Set(di, 1));
        index = hn::Add(hn::Add(index, index), bit);
      }
    }
    for (int plane = 0; plane < bits; ++plane) {
      std::memcpy(run.planes[plane] + token * kPlaneBytes, words[plane], kPlaneBytes);
    }
  }

  template <int kBits>
  static void pack_batch(const EncodeRun& run, uint32_t begin, int count, Batch& batch) {
    for (int t = 0; t < count; ++t) {
      rotate(*run.rotation, batch.integers[t]);
      pack_narrow<kBits>(run, begin + t, batch.integers[t]);
    }
  }

  static void pack_batch_wide(const EncodeRun& run, uint32_t begin, int count, Batch& batch) {
    alignas(64) float thresholds[kCodebookMaxSize];
    std::copy(run.tables->thresholds.begin(), run.tables->thresholds.end(), thresholds);
    for (int t = 0; t < count; ++t) {
      rotate(*run.rotation, batch.integers[t]);
      pack_wide(run, begin + t, batch.integers[t], thresholds);
    }
  }

  template <DType kType>
  static bool exact_tokens(const EncodeRun& run) {
    bool finite = true;
    for (uint32_t token = 0; token < run.exact_token_count; ++token) {
      float squared;
      measure<kType, false>(run.values + token * run.token_stride_bytes, nullptr, &squared,
                            nullptr);
      finite = std::isfinite(squared) && finite;
      run.norms[token] = 0;
      for (int plane = 0; plane < run.tables->bits; ++plane) {
        std::memset(run.planes[plane] + token * kPlaneBytes, 0, kPlaneBytes);
      }
    }
    return finite;
  }

  template <DType kType>
  static bool encode_as(const EncodeRun& run) {
    using Pack = void (*)(const EncodeRun&, uint32_t, int, Batch&);
    static constexpr Pack kPacks[] = {pack_batch<1>, pack_batch<2>, pack_batch<3>, pack_batch<4>,
                                      pack_batch<5>};
    const Pack pack =
        run.tables->bits <= kNarrowPlanesMax ? kPacks[run.tables->bits - 1] : pack_batch_wide;
    Batch batch;
    const bool has_offsets = run.offsets != nullptr;
    if (has_offsets) mean_key<kType>(run, batch.offsets);
    bool finite = exact_tokens<kType>(run);
    for (uint32_t begin = run.exact_token_count; begin < run.token_count; begin += kBatch) {
      const int count = static_cast<int>(std::min<uint32_t>(kBatch, run.token_count - begin));
      const bool batch_finite = has_offsets ? load_batch<kType, true>(run, begin, count, batch)
                                            : load_batch<kType, false>(run, begin, count, batch);
      finite = batch_finite && finite;
      if (batch_finite) pack(run, begin, count, batch);
    }
    return finite;
  }

  // ---- Decode

  // Looks 2 to 32 small integers up, for bytes of indices: low and high bytes apart.
  template <int kPlanes>
  struct Centroids {
    using D8 = hn::Repartition<uint8_t, P16>;
    using V8 = hn::VFromD<D8>;
    static constexpr int kTables = kPlanes == 5 ? 2 : 1;
    V8 low[kTables], high[kTables];

    HWY_INLINE explicit Centroids(const int16_t* centroids) {
      const D8 d8;
      for (int table = 0; table < kTables; ++table) {
        alignas(16) uint8_t bytes[2][16] = {};
        for (int i = 0; i < std::min(16, 1 << kPlanes); ++i) {
          const auto word = static_cast<uint16_t>(centroids[16 * table + i]);
          bytes[0][i] = static_cast<uint8_t>(word);
          bytes[1][i] = static_cast<uint8_t>(word >> 8);
        }
        low[table] = hn::LoadDup128(d8, bytes[0]);
        high[table] = hn::LoadDup128(d8, bytes[1]);
      }
    }

    HWY_INLINE void lookup(V8 index, V8& low_bytes, V8& high_bytes) const {
      if constexpr (kTables == 1) {
        low_bytes = hn::TableLookupBytes(low[0], index);
        high_bytes = hn::TableLookupBytes(high[0], index);
      } else {
        const D8 d8;
        const V8 within = hn::And(index, hn::Set(d8, 15));
        const auto upper = hn::Ne(within, index);
        low_bytes = hn::IfThenElse(upper, hn::TableLookupBytes(low[1], within),
                                   hn::TableLookupBytes(low[0], within));
        high_bytes = hn::IfThenElse(upper, hn::TableLookupBytes(high[1], within),
                                    hn::TableLookupBytes(high[0], within));
      }
    }
  };

  // Interleaving works within 128-bit blocks: 64-bit pieces that will come out in order.
  template <class D8, class V8>
  static HWY_INLINE V8 order_for_interleave(D8 d8, V8 index) {
    constexpr size_t kPieces = hn::MaxLanes(D8()) / 8;
    if constexpr (kPieces <= 2) {
      return index;
    } else {
      const hn::Repartition<uint64_t, D8> d64;
      alignas(64) static constexpr uint64_t kFour[] = {0, 2, 1, 3};
      alignas(64) static constexpr uint64_t kEight[] = {0, 4, 1, 5, 2, 6, 3, 7};
      const auto order = hn::SetTableIndices(d64, kPieces == 4 ? kFour : kEight);
      return hn::BitCast(d8, hn::TableLookupLanes(hn::BitCast(d64, index), order));
    }
  }

  // A token's centroids, and the sum of their squares.
  template <int kPlanes>
  static HWY_INLINE int32_t unpack(const DecodeRun& run, uint32_t token,
                                   const Centroids<kPlanes>& centroids,
                                   int16_t* HWY_RESTRICT integers) {
    const P16 d16;
    const hn::Repartition<uint8_t, P16> d8;
    const hn::RepartitionToWide<P16> d32;
    constexpr int kValues = 2 * kPackLanes;
    constexpr int kSteps = (kHeadDim + kValues - 1) / kValues;
    auto sum0 = hn::Zero(d32), sum1 = hn::Zero(d32);
    for (int step = 0; step < kSteps; ++step) {
      // The last step of an odd number of half steps goes over the one before again.
      const int first = std::min(step * kValues, kHeadDim - kValues);
      auto index = hn::Zero(d8);
      for (int plane = 0; plane < kPlanes; ++plane) {
        const auto* bits =
            reinterpret_cast<const uint8_t*>(run.planes[plane]) + token * kPlaneBytes + first / 8;
        const auto mask = hn::LoadMaskBits(d8, bits);
        const auto bit = hn::Set(d8, static_cast<uint8_t>(1 << (kPlanes - 1 - plane)));
        index = hn::Or(index, hn::IfThenElseZero(mask, bit));
      }
      index = order_for_interleave(d8, index);
      hn::VFromD<decltype(d8)> low, high;
      centroids.lookup(index, low, high);
      const auto x0 = hn::BitCast(d16, hn::InterleaveLower(d8, low, high));
      const auto x1 = hn::BitCast(d16, hn::InterleaveUpper(d8, low, high));
      hn::Store(x0, d16, integers + first);
      hn::Store(x1, d16, integers + first + kPackLanes);
      if (first == step * kValues) {
        sum0 = hn::ReorderWidenMulAccumulate(d32, x0, x0, sum0, sum1);
      }
      sum0 = hn::ReorderWidenMulAccumulate(d32, x1, x1, sum0, sum1);
    }
    return hn::GetLane(hn::SumOfLanes(d32, hn::Add(sum0, sum1)));
  }

  static HWY_INLINE void rotate_back(const Rotation& rotation, int16_t* HWY_RESTRICT integers) {
    const D16 d;
    constexpr int kCount = kHeadDim / kLanes16;
    V16 x[kCount];
    for (int i = 0; i < kCount; ++i) x[i] = hn::Load(d, integers + i * kLanes16);
    sylvester<kInner, kCount>(d, x);
    core_product<kHeadDim, kInner>(d, rotation, true, x);
    for (int i = 0; i < kCount; ++i) {
      const V16 signs = hn::Load(d, rotation.signs.data() + i * kLanes16);
      hn::Store(hn::Mul(x[i], signs), d, integers + i * kLanes16);
    }
  }

  // Matched norm: x' = |x| R^T z / |z|.
  static float matched_scale(uint16_t norm, int64_t squared) {
    return bf16_value(norm & 0x7fffu) /
           std::sqrt(static_cast<float>(squared) * static_cast<float>(kHeadDim));
  }

  template <int kPlanes>
  static void unpack_batch(const DecodeRun& run, uint32_t begin, int count, Batch& batch) {
    const Centroids<kPlanes> centroids(run.tables->centroids[kPlanes - 1].data());
    int32_t squared[kBatch] = {};
    for (int t = 0; t < count; ++t) {
      squared[t] = unpack<kPlanes>(run, begin + t, centroids, batch.integers[t]);
      rotate_back(*run.rotation, batch.integers[t]);
    }
    for (int t = 0; t < count; ++t) {
      batch.scales[t] = matched_scale(run.norms[begin + t], squared[t]);
    }
  }

  template <DType kType, bool kOffset>
  static HWY_INLINE void store_token(const int16_t* integers, const float* offsets, float scale,
                                     std::byte* at) {
    const F d;
    const hn::RebindToSigned<F> di;
    const hn::Rebind<int16_t, F> d16;
    const VF factor = hn::Set(d, scale);
    const auto value = [&](int i) HWY_ATTR {
      const VF whole = hn::ConvertTo(d, hn::PromoteTo(di, hn::Load(d16, integers + i)));
      const VF scaled = hn::Mul(whole, factor);
      return kOffset ? hn::Add(scaled, hn::Load(d, offsets + i)) : scaled;
    };
    if constexpr (kHeadDim % (2 * kFloats) == 0) {
      for (int i = 0; i < kHeadDim; i += 2 * kFloats) {
        store_values<kType>(value(i), value(i + kFloats), at + i * dtype_size(kType));
      }
    } else {  // an odd number of registers: the last two overlap the ones before
      for (int i = 0; i < kHeadDim; i += 2 * kFloats) {
        const int first = std::min(i, kHeadDim - 2 * kFloats);
        store_values<kType>(value(first), value(first + kFloats), at + first * dtype_size(kType));
      }
    }
  }

  template <DType kType>
  static void store_batch(const DecodeRun& run, uint32_t begin, int count, const Batch& batch) {
    for (int t = 0; t < count; ++t) {
      std::byte* at = run.values + (begin + t) * run.token_stride_bytes;
      const bool has_offset =
          run.offsets != nullptr && (run.norms[begin + t] & kNormOffsetFlag) != 0;
      if (has_offset) {
        store_token<kType, true>(batch.integers[t], batch.offsets, batch.scales[t], at);
      } else {
        store_token<kType, false>(batch.integers[t], nullptr, batch.scales[t], at);
      }
    }
  }

  // 6 to 8 planes: the sums do not fit in 16 bits, but in a float's 24.
  static void decode_wide(const DecodeRun& run, Batch& batch) {
    for (uint32_t token = run.exact_token_count; token < run.token_count; ++token) {
      decode_vector_wide(run, token, batch.offsets);
    }
  }

  static void decode_vector_wide(const DecodeRun& run, uint32_t token, const float* offsets) {
    using D = hn::CappedTag < float, kInner<kSumLanes ? kInner : kSumLanes>;
    const D d;
    constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
    constexpr int kCount = kHeadDim / kLanes;
    alignas(64) float values[kHeadDim];
    int64_t squared = 0;
    const auto& centroids = run.tables->centroids[run.plane_count - 1];
    for (int i = 0; i < kHeadDim; ++i) {
      uint32_t index = 0;
      for (int plane = 0; plane < run.plane_count; ++plane) {
        const auto word = static_cast<uint32_t>(run.planes[plane][token * kPlaneBytes + i / 8]);
        index = index * 2 + ((word >> (i % 8)) & 1u);
      }
      values[i] = centroids[index];
      squared += int64_t{centroids[index]} * centroids[index];
    }
    hn::VFromD<D> x[kCount];
    for (int i = 0; i < kCount; ++i) x[i] = hn::Load(d, values + i * kLanes);
    sylvester<kInner, kCount>(d, x);
    core_product<kHeadDim, kInner>(d, *run.rotation, true, x);
    for (int i = 0; i < kCount; ++i) hn::Store(x[i], d, values + i * kLanes);
    const float scale = matched_scale(run.norms[token], squared);
    const bool has_offset = run.offsets != nullptr && (run.norms[token] & kNormOffsetFlag) != 0;
    for (int i = 0; i < kHeadDim; ++i) {
      const int32_t whole = static_cast<int32_t>(values[i]) * run.rotation->signs[i];
      values[i] = static_cast<float>(whole) * scale;  // an integer has no negative zero
      if (has_offset) values[i] += offsets[i];
    }
    store_floats(values, run.dtype, run.values + token * run.token_stride_bytes);
  }

  static void store_floats(const float* values, DType dtype, std::byte* at) {
    const F d;
    for (int i = 0; i < kHeadDim; i += 2 * kFloats) {
      const int first = std::min(i, kHeadDim - 2 * kFloats);
      const VF low = hn::LoadU(d, values + first), high = hn::LoadU(d, values + first + kFloats);
      if (dtype == DType::f32) store_values<DType::f32>(low, high, at + first * 4);
      if (dtype == DType::f16) store_values<DType::f16>(low, high, at + first * 2);
      if (dtype == DType::bf16) store_values<DType::bf16>(low, high, at + first * 2);
    }
  }

  static bool encode(const EncodeRun& run) {
    if (run.dtype == DType::f32) return encode_as<DType::f32>(run);
    if (run.dtype == DType::f16) return encode_as<DType::f16>(run);
    return encode_as<DType::bf16>(run);
  }

  static void decode(const DecodeRun& run) {
    Batch batch;
    if (run.offsets != nullptr) {
      for (int i = 0; i < kHeadDim; ++i) batch.offsets[i] = bf16_value(run.offsets[i]);
    }
    if (run.plane_count > kNarrowPlanesMax) return decode_wide(run, batch);
    using Stage = void (*)(const DecodeRun&, uint32_t, int, Batch&);
    static constexpr Stage kUnpacks[] = {unpack_batch<1>, unpack_batch<2>, unpack_batch<3>,
                                         unpack_batch<4>, unpack_batch<5>};
    const Stage unpack = kUnpacks[run.plane_count - 1];
    for (uint32_t begin = run.exact_token_count; begin < run.token_count; begin += kBatch) {
      const int count = static_cast<int>(std::min<uint32_t>(kBatch, run.token_count - begin));
      unpack(run, begin, count, batch);
      if (run.dtype == DType::f32) store_batch<DType::f32>(run, begin, count, batch);
      if (run.dtype == DType::f16) store_batch<DType::f16>(run, begin, count, batch);
      if (run.dtype == DType::bf16) store_batch<DType::bf16>(run, begin, count, batch);
    }
  }
};

bool EncodeRunSimd(const EncodeRun& run) {
  switch (run.rotation->head_dim) {
    case 64:
      return VectorOf<64, 64>::encode(run);
    case 80:
      return VectorOf<80, 4>::encode(run);
    case 96:
      return VectorOf<96, 8>::encode(run);
    case 112:
      return VectorOf<112, 4>::encode(run);
    case 128:
      return VectorOf<128, 128>::encode(run);
    case 192:
      return VectorOf<192, 16>::encode(run);
    default:
      return VectorOf<256, 256>::encode(run);
  }
}

void DecodeRunSimd(const DecodeRun& run) {
  switch (run.rotation->head_dim) {
    case 64:
      return VectorOf<64, 64>::decode(run);
    case 80:
      return VectorOf<80, 4>::decode(run);
    case 96:
      return VectorOf<96, 8>::decode(run);
    case 112:
      return VectorOf<112, 4>::decode(run);
    case 128:
      return VectorOf<128, 128>::decode(run);
    case 192:
      return VectorOf<192, 16>::decode(run);
    default:
      return VectorOf<256, 256>::decode(run);
  }
}

#endif  // HWY_TARGET
}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hadal {

HWY_EXPORT(EncodeRunSimd);
HWY_EXPORT(DecodeRunSimd);

VectorCodec simd_vector_codec() {
  return {[](const EncodeRun& run) { return HWY_DYNAMIC_DISPATCH(EncodeRunSimd)(run); },
          [](const DecodeRun& run) {
            HWY_DYNAMIC_DISPATCH(DecodeRunSimd)
            (run);
          }};
}

}  // namespace hadal
#endif  // HWY_ONCE
