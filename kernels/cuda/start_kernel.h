#pragma once

// How kernels start. Only nvcc compiles this. Private to kernels/cuda.

#include "kernels/cuda/decode_body.h"
#include "kernels/cuda/device_executor.h"
#include "kernels/cuda/encode_body.h"
#include "kernels/cuda/head_dims.h"
#include "kernels/cuda/kernels.h"

namespace hadal::cuda {

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

template <typename Family>
__global__ void __launch_bounds__(kCtaThreads, Family::kEncodeCtas)
    encode_kernel(const __grid_constant__ Launch launch) {
  __shared__ EncodeShared<Family> shared;
  DeviceExecutor executor;
  encode_body(executor, shared, launch);
}

template <typename Family>
__global__ void __launch_bounds__(kCtaThreads, Family::kDecodeCtas)
    decode_kernel(const __grid_constant__ Launch launch) {
  __shared__ DecodeShared<Family> shared;
  DeviceExecutor executor;
  decode_body(executor, shared, launch);
}

// `kernel_of` answers the kernel of a head_dim.
template <typename KernelOf>
cudaError_t start_by_head_dim(const KernelStart& start, KernelOf kernel_of) {
  cudaError_t error = cudaErrorInvalidValue;
  with_head_dim(start.head_dim, [&](auto head_dim) {
    error = start_kernel(kernel_of(head_dim), start, start.launch.run_count());
  });
  return error;
}

// Of a family that has kernels by head_dim.
template <template <int> typename Family>
FamilyKernels kernels_of() {
  return {[](const KernelStart& start) {
            return start_by_head_dim(
                start, [](auto head_dim) { return encode_kernel<Family<head_dim.value>>; });
          },
          [](const KernelStart& start) {
            return start_by_head_dim(
                start, [](auto head_dim) { return decode_kernel<Family<head_dim.value>>; });
          }};
}

}  // namespace hadal::cuda
