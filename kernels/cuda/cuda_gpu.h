#pragma once

// A CUDA device as the client uses it (kernels/gpu.h). Built where nvcc is there (CMake target
// cuda_codec).

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/gpu.h"

namespace hadal::cuda {

struct GpuOptions {
  int device = 0;  // CUDA's number
  // CTAs that a kernel has at most (StreamWork); 0: as many as the device holds.
  uint32_t cta_limit = 0;
};

// NotFound where there is no such device, with CUDA's reason.
absl::StatusOr<std::shared_ptr<Gpu>> make_gpu(const GpuOptions& options);

}  // namespace hadal::cuda
