// What codecs that work on columns share beside the columns themselves: vectors without their
// offsets, their lengths, and offsets added back.
//
// Compiled once for every instruction set, by polar_simd.cc and prod_simd.cc.

#if defined(HADAL_KERNELS_SIMD_COLUMN_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HADAL_KERNELS_SIMD_COLUMN_VECTORS_INL_H_
#undef HADAL_KERNELS_SIMD_COLUMN_VECTORS_INL_H_
#else
#define HADAL_KERNELS_SIMD_COLUMN_VECTORS_INL_H_
#endif

#include "kernels/simd_columns-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

// The vectors of a run that is encoded, kLanes tokens at a time.
class ColumnSource {
 public:
  explicit ColumnSource(const EncodeRun& run)
      : run_(run), first_(const_cast<std::byte*>(run.values)) {}

  // Where the run has offsets.
  template <DType kType>
  void find_offsets() {
    if (run_.offsets == nullptr) return;
    write_mean_key<kType, kColumnsMax>(run_, run_.head_dim, offsets_);
  }

  // Those from `token` on, less the mean key where that makes them shorter.
  template <DType kType>
  void load(uint32_t token) {
    load_columns<kType>(ColumnRows(first_, run_.token_stride_bytes, token, run_.token_count),
                        run_.head_dim, values_);
    measure();
  }

  // Of those loaded. Norms before they are rounded, 0 below kNormMin.
  HWY_INLINE VF norms() const { return hn::Load(F32(), norms_); }
  float norm(uint32_t lane) const { return norms_[lane]; }
  uint16_t offset_flag(uint32_t lane) const { return flags_[lane] != 0 ? kNormOffsetFlag : 0; }
  bool is_finite(uint32_t lane) const {
    return std::isfinite(squares_[lane]) && (reference::bf16_of(norms_[lane]) & 0x7f80u) != 0x7f80u;
  }

  // Scaled to `length`, rounded and rotated.
  void rotate(float length, V32* HWY_RESTRICT integers) const {
    const F32 d;
    const VF norm = norms();
    const VF scale =
        hn::IfThenElseZero(hn::Gt(norm, hn::Zero(d)), hn::Div(hn::Set(d, length), norm));
    for (int i = 0; i < run_.head_dim; ++i) {
      integers[i] = hn::NearestInt(hn::Mul(values_[i], scale));
    }
    rotate_columns(integers, *run_.rotation);
  }

 private:
  void measure() {
    const F32 d;
    const auto plain = [&](int i) HWY_ATTR { return values_[i]; };
    const auto shorter = [&](int i)
                             HWY_ATTR { return hn::Sub(values_[i], hn::Set(d, offsets_[i])); };
    const VF whole = squared_columns(run_.head_dim, plain);
    VF squared = whole;
    auto shifted = hn::Lt(squared, squared);  // nowhere
    if (run_.offsets != nullptr) {
      const VF residual = squared_columns(run_.head_dim, shorter);
      shifted = hn::Lt(residual, whole);
      squared = hn::IfThenElse(shifted, residual, whole);
      for (int i = 0; i < run_.head_dim; ++i) {
        const VF offset = hn::IfThenElseZero(shifted, hn::Set(d, offsets_[i]));
        values_[i] = hn::Sub(values_[i], offset);
      }
    }
    const VF norm = hn::Sqrt(squared);
    hn::Store(hn::IfThenElseZero(hn::Ge(norm, hn::Set(d, kNormMin)), norm), d, norms_);
    hn::Store(whole, d, squares_);
    hn::Store(hn::IfThenElseZero(shifted, hn::Set(d, 1.0f)), d, flags_);
  }

  const EncodeRun& run_;
  std::byte* first_;
  VF values_[kColumnsMax];
  alignas(64) float norms_[kLanes];
  alignas(64) float squares_[kLanes];  // of whole vectors
  alignas(64) float flags_[kLanes];
  alignas(64) float offsets_[kColumnsMax] = {};
};

// To what is decoded of tokens from `token` on, where the run has offsets.
HWY_INLINE void add_offsets(const DecodeRun& run, uint32_t token, int scalar_count,
                            VF* HWY_RESTRICT values) {
  if (run.offsets == nullptr) return;
  const F32 d;
  alignas(64) float flags[kLanes];
  for (uint32_t t = 0; t < kLanes; ++t) {
    const size_t from = std::min(token + t, run.token_count - 1);
    flags[t] = (run.norms[from * scalar_count] & kNormOffsetFlag) != 0 ? 1.0f : 0.0f;
  }
  const auto flagged = hn::Ne(hn::Load(d, flags), hn::Zero(d));
  for (int i = 0; i < run.head_dim; ++i) {
    const VF offset = hn::Set(d, reference::bf16_value(run.offsets[i]));
    values[i] = hn::Add(values[i], hn::IfThenElseZero(flagged, offset));
  }
}

// encode() and decode() of a codec for the run's dtype.
template <class Encoder>
bool encode_columns(const EncodeRun& run) {
  Encoder encoder(run);
  if (run.dtype == DType::f32) return encoder.template encode<DType::f32>();
  if (run.dtype == DType::f16) return encoder.template encode<DType::f16>();
  return encoder.template encode<DType::bf16>();
}
template <class Decoder>
void decode_columns(const DecodeRun& run) {
  Decoder decoder(run);
  if (run.dtype == DType::f32) return decoder.template decode<DType::f32>();
  if (run.dtype == DType::f16) return decoder.template decode<DType::f16>();
  decoder.template decode<DType::bf16>();
}

}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#endif  // HADAL_KERNELS_SIMD_COLUMN_VECTORS_INL_H_
