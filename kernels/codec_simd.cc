// SIMD backend with Google Highway: this file is compiled once for every instruction set and the
// best one is chosen at run time. One vector at a time stays in registers through the butterfly; a
// comparison mask of consecutive values already is a run of a plane's bits, so packing costs
// nothing.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec_simd.cc"
#include <hwy/foreach_target.h>
// The order of these two includes matters to Highway.
#include <hwy/highway.h>

#include <cmath>
#include <cstring>

#include "kernels/vector_codec.h"

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes: the order of sums (kSumLanes) and planes rely on it. kInner bounds them to the
// contiguous runs of the rotation.
template <int kLanes>
using Floats = hn::CappedTag<float, kLanes>;

template <class D>
HWY_INLINE hn::VFromD<D> load_values(D d, const std::byte* at, DType dtype) {
  if (dtype == DType::f32) return hn::LoadU(d, reinterpret_cast<const float*>(at));
  if (dtype == DType::f16) {
    const hn::Rebind<hwy::float16_t, D> d16;
    return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(at)));
  }
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> d32;
  const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(at)));
  return hn::BitCast(d, hn::ShiftLeft<16>(bits));
}

template <class D>
HWY_INLINE void store_values(D d, hn::VFromD<D> values, std::byte* at, DType dtype) {
  if (dtype == DType::f32) return hn::StoreU(values, d, reinterpret_cast<float*>(at));
  if (dtype == DType::f16) {
    const hn::Rebind<hwy::float16_t, D> d16;
    const auto bounded = hn::Min(hn::Max(values, hn::Set(d, -kHalfMax)), hn::Set(d, kHalfMax));
    return hn::StoreU(hn::DemoteTo(d16, bounded), d16, reinterpret_cast<hwy::float16_t*>(at));
  }
  // Round to nearest even by hand: Highway's own conversion truncates on some targets.
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> d32;
  const hn::Rebind<int32_t, D> di32;
  const auto bits = hn::BitCast(d32, values);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(d32, 0x7fffu)), odd));
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di32, rounded)), d16, reinterpret_cast<uint16_t*>(at));
}

// Butterfly of one stride inside a register: lane i gets x[i ^ stride] + x[i] or x[i ^ stride] -
// x[i].
template <int kStride, class D, class V>
HWY_INLINE V butterfly_in_register(D d, V x) {
  const hn::RebindToSigned<D> di;
  const auto lane = hn::Iota(di, 0);
  const auto swapped =
      hn::TableLookupLanes(x, hn::IndicesFromVec(d, hn::Xor(lane, hn::Set(di, kStride))));
  const auto upper = hn::Ne(hn::And(lane, hn::Set(di, kStride)), hn::Zero(di));
  const auto sign = hn::IfThenElse(hn::RebindMask(d, upper), hn::Set(d, -1.0f), hn::Set(d, 1.0f));
  return hn::MulAdd(sign, x, swapped);
}

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

// Sylvester's matrix on runs of kInner values; kCount registers hold kCount * Lanes(d) of them.
template <int kInner, int kCount, class D, class V>
HWY_INLINE void sylvester(D d, V* HWY_RESTRICT x) {
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
  for (int i = 0; i < kCount; ++i) {
    if constexpr (kInner > 1 && kLanes > 1) x[i] = butterfly_in_register<1>(d, x[i]);
    if constexpr (kInner > 2 && kLanes > 2) x[i] = butterfly_in_register<2>(d, x[i]);
    if constexpr (kInner > 4 && kLanes > 4) x[i] = butterfly_in_register<4>(d, x[i]);
    if constexpr (kInner > 8 && kLanes > 8) x[i] = butterfly_in_register<8>(d, x[i]);
  }
  butterflies_across<1, kInner / kLanes, kCount>(x);
}

// The core matrix across rows of kInner values. Sums run in the order of the rows, as in the
// reference.
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

// Entry `index` of a table of `size` floats; the table has room for whole registers.
template <class D>
HWY_INLINE hn::VFromD<D> table_lookup(D d, const float* table, int size,
                                      hn::VFromD<hn::RebindToSigned<D>> index) {
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
  if (size <= kLanes) return hn::TableLookupLanes(hn::Load(d, table), hn::IndicesFromVec(d, index));
  if (size <= 2 * kLanes) {
    const hn::RebindToSigned<D> di;
    const auto within = hn::IndicesFromVec(d, hn::And(index, hn::Set(di, kLanes - 1)));
    const auto low = hn::TableLookupLanes(hn::Load(d, table), within);
    const auto high = hn::TableLookupLanes(hn::Load(d, table + kLanes), within);
    return hn::IfThenElse(hn::RebindMask(d, hn::Gt(index, hn::Set(di, kLanes - 1))), high, low);
  }
  return hn::GatherIndex(d, table, index);
}

template <int kCount, class D, class V>
HWY_INLINE float squared_length(D d, const V* HWY_RESTRICT x) {
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
  constexpr int kSums = kSumLanes / kLanes;
  V sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = hn::Zero(d);
  for (int i = 0; i < kCount; ++i) sums[i % kSums] = hn::Add(sums[i % kSums], hn::Mul(x[i], x[i]));
  alignas(64) float lanes[kSumLanes];
  for (int i = 0; i < kSums; ++i) hn::Store(sums[i], d, lanes + i * kLanes);
  return sum_lanes(lanes);
}

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

// kInner is the rotation's, kBits the codebook's (encode) or the planes present (decode).
template <int kHeadDim, int kInner>
struct VectorOf {
  using D = Floats < kInner<16 ? kInner : 16>;
  using V = hn::VFromD<D>;
  static constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
  static constexpr int kCount = kHeadDim / kLanes;
  static constexpr size_t kWordBytes = kHeadDim / 8;

  static HWY_INLINE void load(const EncodeRun& run, uint32_t token, V* HWY_RESTRICT x) {
    const D d;
    const std::byte* at = run.values + token * run.token_stride_bytes;
    for (int i = 0; i < kCount; ++i)
      x[i] = load_values(d, at + i * kLanes * dtype_bytes(run.dtype), run.dtype);
  }

  static void mean_key(const EncodeRun& run, float* HWY_RESTRICT offsets) {
    const D d;
    V sum[kCount], x[kCount];
    for (V& lane : sum) lane = hn::Zero(d);
    for (uint32_t token = run.exact_token_count; token < run.token_count; ++token) {
      load(run, token, x);
      for (int i = 0; i < kCount; ++i) sum[i] = hn::Add(sum[i], x[i]);
    }
    const uint32_t count = run.token_count - run.exact_token_count;
    const float scale = count == 0 ? 0.0f : 1.0f / static_cast<float>(count);
    for (int i = 0; i < kCount; ++i)
      hn::Store(hn::Mul(sum[i], hn::Set(d, scale)), d, offsets + i * kLanes);
    for (int i = 0; i < kHeadDim; ++i) {
      run.offsets[i] = bf16_of(offsets[i]);
      offsets[i] = bf16_value(run.offsets[i]);
    }
  }

  static HWY_INLINE void pack(const EncodeRun& run, uint32_t token, const V* HWY_RESTRICT x,
                              float scale) {
    const D d;
    const hn::RebindToSigned<D> di;
    uint8_t words[limits::kBitsMax][kWordBytes + 8] = {};
    const int bits = HWY_MIN(run.book->bits, limits::kBitsMax);
    for (int i = 0; i < kCount; ++i) {
      const V value = hn::Mul(x[i], hn::Set(d, scale));
      auto index = hn::Zero(di);
      for (int plane = 0; plane < bits; ++plane) {
        const V threshold = plane == 0 ? hn::Zero(d) : level_threshold(run, plane, index);
        const auto above = hn::Ge(value, threshold);
        uint8_t packed[8] = {};
        hn::StoreMaskBits(d, above, packed);
        if constexpr (kLanes >= 8) {
          std::memcpy(&words[plane][i * kLanes / 8], packed, kLanes / 8);
        } else {
          words[plane][i * kLanes / 8] |= static_cast<uint8_t>(packed[0] << (i * kLanes % 8));
        }
        const auto bit = hn::IfThenElseZero(hn::RebindMask(di, above), hn::Set(di, 1));
        index = hn::Add(hn::Add(index, index), bit);
      }
    }
    for (int plane = 0; plane < bits; ++plane) {
      std::memcpy(run.planes[plane] + token * kWordBytes, words[plane], kWordBytes);
    }
  }

  // Thresholds of a plane start at entry 2^plane, which is aligned only for wide planes.
  static HWY_INLINE V level_threshold(const EncodeRun& run, int plane,
                                      hn::VFromD<hn::RebindToSigned<D>> index) {
    const D d;
    const hn::RebindToSigned<D> di;
    const float* thresholds = run.book->thresholds.data();
    const int size = 1 << plane;
    if (size <= kLanes) {
      return hn::TableLookupLanes(hn::LoadU(d, thresholds + size), hn::IndicesFromVec(d, index));
    }
    return table_lookup(d, thresholds, 2 * size, hn::Add(index, hn::Set(di, size)));
  }

  static bool encode_vector(const EncodeRun& run, uint32_t token,
                            const float* HWY_RESTRICT offsets) {
    const D d;
    V x[kCount];
    load(run, token, x);
    float squared = squared_length<kCount>(d, x);
    bool finite = std::isfinite(squared);
    uint16_t flag = 0;
    if (offsets != nullptr) {
      V residual[kCount];
      for (int i = 0; i < kCount; ++i)
        residual[i] = hn::Sub(x[i], hn::Load(d, offsets + i * kLanes));
      const float residual_squared = squared_length<kCount>(d, residual);
      if (residual_squared < squared) {
        for (int i = 0; i < kCount; ++i) x[i] = residual[i];
        squared = residual_squared;
        flag = kNormOffsetFlag;
      }
    }
    const float norm = std::sqrt(squared);
    run.norms[token] = static_cast<uint16_t>(bf16_of(norm) | flag);
    finite = finite && (run.norms[token] & 0x7f80u) != 0x7f80u;
    const float* signs = run.rotation->signs.data();
    for (int i = 0; i < kCount; ++i) x[i] = hn::Mul(x[i], hn::Load(d, signs + i * kLanes));
    sylvester<kInner, kCount>(d, x);
    core_product<kHeadDim, kInner>(d, *run.rotation, false, x);
    pack(run, token, x, norm > 0 ? 1.0f / norm : 0.0f);
    return finite;
  }

  static bool encode(const EncodeRun& run) {
    alignas(64) float offsets[kHeadDim];
    const bool has_offsets = run.offsets != nullptr;
    if (has_offsets) mean_key(run, offsets);
    bool finite = true;
    for (uint32_t token = 0; token < run.exact_token_count; ++token) {
      V x[kCount];
      load(run, token, x);
      finite = std::isfinite(squared_length<kCount>(D(), x)) && finite;
      run.norms[token] = 0;
      for (int plane = 0; plane < run.book->bits; ++plane) {
        std::memset(run.planes[plane] + token * kWordBytes, 0, kWordBytes);
      }
    }
    for (uint32_t token = run.exact_token_count; token < run.token_count; ++token) {
      finite = encode_vector(run, token, has_offsets ? offsets : nullptr) && finite;
    }
    return finite;
  }

  template <int kPlanes>
  static HWY_INLINE void unpack(const DecodeRun& run, uint32_t token, V* HWY_RESTRICT x) {
    const D d;
    const hn::RebindToSigned<D> di;
    const float* centroids = run.book->centroids[kPlanes - 1].data();
    for (int i = 0; i < kCount; ++i) {
      auto index = hn::Zero(di);
      for (int plane = 0; plane < kPlanes; ++plane) {
        const auto* word = reinterpret_cast<const uint8_t*>(run.planes[plane]) +
                           token * kWordBytes + i * kLanes / 8;
        uint8_t packed[8] = {};
        if constexpr (kLanes >= 8) {
          std::memcpy(packed, word, kLanes / 8);
        } else {
          packed[0] = static_cast<uint8_t>(*word >> (i * kLanes % 8) & ((1 << kLanes) - 1));
        }
        const auto bit = hn::LoadMaskBits(di, packed);
        index = hn::Or(index, hn::IfThenElseZero(bit, hn::Set(di, 1 << (kPlanes - 1 - plane))));
      }
      x[i] = table_lookup(d, centroids, 1 << kPlanes, index);
    }
  }

  template <int kPlanes>
  static HWY_INLINE void decode_vector(const DecodeRun& run, uint32_t token,
                                       const float* HWY_RESTRICT offsets) {
    const D d;
    V x[kCount];
    unpack<kPlanes>(run, token, x);
    const float norm = bf16_value(run.norms[token] & 0x7fffu);
    const float scale =
        norm / std::sqrt(squared_length<kCount>(d, x) * static_cast<float>(kHeadDim));
    sylvester<kInner, kCount>(d, x);
    core_product<kHeadDim, kInner>(d, *run.rotation, true, x);
    const bool has_offset = offsets != nullptr && (run.norms[token] & kNormOffsetFlag) != 0;
    std::byte* at = run.values + token * run.token_stride_bytes;
    const float* signs = run.rotation->signs.data();
    for (int i = 0; i < kCount; ++i) {
      V value = hn::Mul(x[i], hn::Mul(hn::Set(d, scale), hn::Load(d, signs + i * kLanes)));
      if (has_offset) value = hn::Add(value, hn::Load(d, offsets + i * kLanes));
      store_values(d, value, at + i * kLanes * dtype_bytes(run.dtype), run.dtype);
    }
  }

  template <int kPlanes>
  static void decode_planes(const DecodeRun& run) {
    alignas(64) float offsets[kHeadDim];
    if (run.offsets != nullptr) {
      for (int i = 0; i < kHeadDim; ++i) offsets[i] = bf16_value(run.offsets[i]);
    }
    for (uint32_t token = run.exact_token_count; token < run.token_count; ++token) {
      decode_vector<kPlanes>(run, token, run.offsets != nullptr ? offsets : nullptr);
    }
  }

  static void decode(const DecodeRun& run) {
    switch (run.plane_count) {
      case 1:
        return decode_planes<1>(run);
      case 2:
        return decode_planes<2>(run);
      case 3:
        return decode_planes<3>(run);
      case 4:
        return decode_planes<4>(run);
      case 5:
        return decode_planes<5>(run);
      case 6:
        return decode_planes<6>(run);
      case 7:
        return decode_planes<7>(run);
      default:
        return decode_planes<8>(run);
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
