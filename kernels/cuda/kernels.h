#pragma once

// The kernels, as host code starts them. Private to kernels/cuda.

#include <cuda_runtime_api.h>

#include "kernels/cuda/launch.h"

namespace hadal::cuda {

struct KernelStart {
  Launch launch;
  int head_dim = 0;  // of the sides of this launch; 0 for families whose kernels take any
  uint32_t cta_limit = 0;
  cudaStream_t stream = nullptr;
};

using StartKernel = cudaError_t (*)(const KernelStart&);

// Of a family: cudaErrorInvalidValue for a head_dim that it has no kernels for.
struct FamilyKernels {
  StartKernel encode = nullptr;
  StartKernel decode = nullptr;
};

// Before any family decodes.
cudaError_t start_verify(const KernelStart& start);

FamilyKernels raw_kernels();
FamilyKernels mse_kernels();
FamilyKernels prod_kernels();  // of TurboQuant-prod and QJL
FamilyKernels prod_gaussian_kernels();
FamilyKernels e4m3_kernels();
FamilyKernels e5m2_kernels();
FamilyKernels polar_kernels();
FamilyKernels tqe_kernels();

}  // namespace hadal::cuda
