// SIMD backend with Google Highway: compiled once for every instruction set; the best one is chosen
// at run time.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec_simd.cc"
#include <hwy/foreach_target.h>
// The order of these two includes matters to Highway.
#include <hwy/highway.h>

#include "kernels/vector_codec.h"
#if HWY_TARGET != HWY_SCALAR
#include "kernels/simd_decode-inl.h"
#include "kernels/simd_encode-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR
// No vectors: the scalar reference is as good.
bool EncodeRunSimd(const EncodeRun& run) { return reference_vector_codec().encode(run); }
void DecodeRunSimd(const DecodeRun& run) { reference_vector_codec().decode(run); }
#else

template <int kHeadDim, int kInner>
bool encode_run(const EncodeRun& run) {
  Encoder<kHeadDim, kInner> encoder(run);
  if (run.dtype == DType::f32) return encoder.template encode<DType::f32>();
  if (run.dtype == DType::f16) return encoder.template encode<DType::f16>();
  return encoder.template encode<DType::bf16>();
}

template <int kHeadDim, int kInner>
void decode_run(const DecodeRun& run) {
  Decoder<kHeadDim, kInner> decoder(run);
  if (run.dtype == DType::f32) return decoder.template decode<DType::f32>();
  if (run.dtype == DType::f16) return decoder.template decode<DType::f16>();
  return decoder.template decode<DType::bf16>();
}

bool EncodeRunSimd(const EncodeRun& run) {
  switch (run.rotation->head_dim) {
    case 64:
      return encode_run<64, 64>(run);
    case 80:
      return encode_run<80, 4>(run);
    case 96:
      return encode_run<96, 8>(run);
    case 112:
      return encode_run<112, 4>(run);
    case 128:
      return encode_run<128, 128>(run);
    case 192:
      return encode_run<192, 16>(run);
    default:
      return encode_run<256, 256>(run);
  }
}

void DecodeRunSimd(const DecodeRun& run) {
  switch (run.rotation->head_dim) {
    case 64:
      return decode_run<64, 64>(run);
    case 80:
      return decode_run<80, 4>(run);
    case 96:
      return decode_run<96, 8>(run);
    case 112:
      return decode_run<112, 4>(run);
    case 128:
      return decode_run<128, 128>(run);
    case 192:
      return decode_run<192, 16>(run);
    default:
      return decode_run<256, 256>(run);
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
