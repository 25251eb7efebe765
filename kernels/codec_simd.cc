// SIMD backend with Google Highway: compiled once for every instruction set; the best one is chosen
// at run time.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec_simd.cc"
#include <hwy/foreach_target.h>
// The order of these two includes matters to Highway.
#include <hwy/highway.h>

#include "kernels/vector_codec.h"
#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
#include "kernels/simd_decode-inl.h"
#include "kernels/simd_encode-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
// No vectors: the scalar reference is as good.
bool EncodeRunSimd(const EncodeRun& run) { return reference_vector_codec().encode(run); }
void DecodeRunSimd(const DecodeRun& run) { reference_vector_codec().decode(run); }
#else

template <int kHeadDim>
bool encode_run(const EncodeRun& run) {
  Encoder<kHeadDim, kHeadDim / core_order(kHeadDim)> encoder(run);
  if (run.dtype == DType::f32) return encoder.template encode<DType::f32>();
  if (run.dtype == DType::f16) return encoder.template encode<DType::f16>();
  return encoder.template encode<DType::bf16>();
}

template <int kHeadDim>
void decode_run(const DecodeRun& run) {
  Decoder<kHeadDim, kHeadDim / core_order(kHeadDim)>(run).decode();
}

// Calls work(std::integral_constant of head_dim).
template <size_t kFirst, class Work>
auto for_head_dim(int head_dim, const Work& work) {
  using HeadDim = std::integral_constant<int, kHeadDims[kFirst]>;
  if constexpr (kFirst + 1 < kHeadDims.size()) {
    if (head_dim != HeadDim::value) return for_head_dim<kFirst + 1>(head_dim, work);
  }
  return work(HeadDim());
}

bool EncodeRunSimd(const EncodeRun& run) {
  return for_head_dim<0>(run.rotation->head_dim,
                         [&](auto head_dim) HWY_ATTR { return encode_run<head_dim()>(run); });
}

void DecodeRunSimd(const DecodeRun& run) {
  for_head_dim<0>(run.rotation->head_dim,
                  [&](auto head_dim) HWY_ATTR { decode_run<head_dim()>(run); });
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
          },
          simd_score_run};
}

}  // namespace hadal
#endif  // HWY_ONCE
