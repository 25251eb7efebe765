#include "kernels/vector_codec.h"

namespace hadal {

VectorCodec vector_codec(CodecFamily family, CodecBackend backend) {
  const bool is_reference = backend == CodecBackend::reference;
  switch (family) {
    case CodecFamily::turboquant_mse:
      return is_reference ? reference_vector_codec() : simd_vector_codec();
    default:
      return {nullptr, nullptr};
  }
}

}  // namespace hadal
