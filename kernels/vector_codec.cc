#include "kernels/vector_codec.h"

namespace hadal {

VectorCodec vector_codec(CodecFamily family, CodecBackend backend) {
  const bool is_reference = backend == CodecBackend::reference;
  switch (family) {
    case CodecFamily::turboquant_mse:
      return is_reference ? reference_vector_codec() : simd_vector_codec();
    case CodecFamily::turboquant_prod:
      return is_reference ? reference_prod_codec() : simd_prod_codec();
    case CodecFamily::qjl:
      return is_reference ? reference_qjl_codec() : simd_qjl_codec();
    case CodecFamily::polar:
      return is_reference ? reference_polar_codec() : simd_polar_codec();
    case CodecFamily::fp8_e4m3:
      return is_reference ? reference_e4m3_codec() : simd_e4m3_codec();
    case CodecFamily::fp8_e5m2:
      return is_reference ? reference_e5m2_codec() : simd_e5m2_codec();
    case CodecFamily::tqe:
      return is_reference ? reference_tqe_codec() : simd_tqe_codec();
    default:
      return {};
  }
}

}  // namespace hadal
