#include "kernels/cuda/decode_body.h"
#include "kernels/cuda/device_executor.h"
#include "kernels/cuda/head_dims.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/raw_body.h"

namespace hadal::cuda {
namespace {

__global__ void __launch_bounds__(kCtaThreads)
    verify_kernel(const __grid_constant__ Launch launch) {
  __shared__ ChecksumShared shared;
  DeviceExecutor executor;
  verify_body(executor, shared, launch);
}

template <int kHeadDim>
__global__ void __launch_bounds__(kCtaThreads, 5)
    decode_kernel(const __grid_constant__ Launch launch) {
  __shared__ DecodeShared<kHeadDim> shared;
  DeviceExecutor executor;
  decode_body<kHeadDim>(executor, shared, launch);
}

__global__ void __launch_bounds__(kCtaThreads)
    decode_raw_kernel(const __grid_constant__ Launch launch) {
  DeviceExecutor executor;
  decode_raw_body(executor, launch);
}

}  // namespace

cudaError_t start_verify(const KernelStart& start) {
  return start_kernel(verify_kernel, start,
                      uint64_t{start.launch.block_count} * (limits::kCellsMax + 1));
}

cudaError_t start_decode(const KernelStart& start) {
  const uint64_t runs = start.launch.run_count();
  if (start.head_dim == 0) return start_kernel(decode_raw_kernel, start, runs);
  cudaError_t error = cudaErrorInvalidValue;
  with_head_dim(start.head_dim, [&](auto head_dim) {
    error = start_kernel(decode_kernel<head_dim.value>, start, runs);
  });
  return error;
}

}  // namespace hadal::cuda
