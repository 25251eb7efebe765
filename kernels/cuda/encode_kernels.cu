#include "kernels/cuda/device_executor.h"
#include "kernels/cuda/encode_body.h"
#include "kernels/cuda/head_dims.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/raw_body.h"

namespace hadal::cuda {
namespace {

template <int kHeadDim>
__global__ void __launch_bounds__(kCtaThreads, 3)
    encode_kernel(const __grid_constant__ Launch launch) {
  __shared__ EncodeShared<kHeadDim> shared;
  DeviceExecutor executor;
  encode_body<kHeadDim>(executor, shared, launch);
}

__global__ void __launch_bounds__(kCtaThreads)
    encode_raw_kernel(const __grid_constant__ Launch launch) {
  __shared__ FinishShared shared;
  DeviceExecutor executor;
  encode_raw_body(executor, shared, launch);
}

}  // namespace

cudaError_t start_encode(const KernelStart& start) {
  const uint64_t runs = start.launch.run_count();
  if (start.head_dim == 0) return start_kernel(encode_raw_kernel, start, runs);
  cudaError_t error = cudaErrorInvalidValue;
  with_head_dim(start.head_dim, [&](auto head_dim) {
    error = start_kernel(encode_kernel<head_dim.value>, start, runs);
  });
  return error;
}

}  // namespace hadal::cuda
