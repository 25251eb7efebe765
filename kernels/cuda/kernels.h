#pragma once

// The kernels, as host code starts them. Private to kernels/cuda.

#include <cuda_runtime_api.h>

#include "kernels/cuda/launch.h"

namespace hadal::cuda {

struct KernelStart {
  Launch launch;
  int head_dim = 0;  // of the sides of this launch; 0 for a raw codec
  uint32_t cta_limit = 0;
  cudaStream_t stream = nullptr;
};

// CTAs of a device: as many as it holds at once, at most one a task and `limit` where that is not
// 0. They stay until the work is done.
template <typename Kernel>
cudaError_t start_kernel(Kernel kernel, const KernelStart& start, uint64_t task_count) {
  int device = 0, multiprocessors = 0, ctas_each = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  const auto* function = reinterpret_cast<const void*>(kernel);
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&ctas_each, function, kCtaThreads, 0);
  }
  if (error != cudaSuccess) return error;
  uint64_t ctas = uint64_t(multiprocessors) * static_cast<uint64_t>(ctas_each);
  if (start.cta_limit != 0 && ctas > start.cta_limit) ctas = start.cta_limit;
  if (ctas > task_count) ctas = task_count;
  Launch launch = start.launch;
  void* arguments[] = {&launch};
  return cudaLaunchKernel(function, dim3(static_cast<unsigned>(ctas)), dim3(kCtaThreads), arguments,
                          0, start.stream);
}

cudaError_t start_encode(const KernelStart& start);
cudaError_t start_verify(const KernelStart& start);
cudaError_t start_decode(const KernelStart& start);

}  // namespace hadal::cuda
