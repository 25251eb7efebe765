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

template <int kHeadDimOf, int kInnerOf>
struct Dims {
  static constexpr int kHeadDim = kHeadDimOf;
  static constexpr int kInner = kInnerOf;  // as Rotation's
};

template <class Work>
auto for_head_dim(int head_dim, Work work) {
  switch (head_dim) {
    case 64:
      return work(Dims<64, 64>());
    case 80:
      return work(Dims<80, 4>());
    case 96:
      return work(Dims<96, 8>());
    case 112:
      return work(Dims<112, 4>());
    case 128:
      return work(Dims<128, 128>());
    case 192:
      return work(Dims<192, 16>());
    default:
      return work(Dims<256, 256>());
  }
}

bool EncodeRunSimd(const EncodeRun& run) {
  return for_head_dim(run.rotation->head_dim, [&](auto dims) HWY_ATTR {
    return encode_run<dims.kHeadDim, dims.kInner>(run);
  });
}

void DecodeRunSimd(const DecodeRun& run) {
  for_head_dim(run.rotation->head_dim,
               [&](auto dims) HWY_ATTR { decode_run<dims.kHeadDim, dims.kInner>(run); });
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
