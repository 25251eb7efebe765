// Kernels that take any head_dim: those that rotate nothing, and the one that verifies.

#include "kernels/cuda/fp8_body.h"
#include "kernels/cuda/raw_body.h"
#include "kernels/cuda/start_kernel.h"

namespace hadal::cuda {
namespace {

__global__ void __launch_bounds__(kCtaThreads)
    verify_kernel(const __grid_constant__ Launch launch) {
  __shared__ ChecksumShared shared;
  DeviceExecutor executor;
  verify_body(executor, shared, launch);
}

__global__ void __launch_bounds__(kCtaThreads)
    encode_raw_kernel(const __grid_constant__ Launch launch) {
  __shared__ FinishShared shared;
  DeviceExecutor executor;
  encode_raw_body(executor, shared, launch);
}

__global__ void __launch_bounds__(kCtaThreads)
    decode_raw_kernel(const __grid_constant__ Launch launch) {
  DeviceExecutor executor;
  decode_raw_body(executor, launch);
}

template <CodecFamily kFamily>
__global__ void __launch_bounds__(kCtaThreads)
    encode_fp8_kernel(const __grid_constant__ Launch launch) {
  __shared__ Fp8Shared shared;
  DeviceExecutor executor;
  encode_fp8_body<kFamily>(executor, shared, launch);
}

template <CodecFamily kFamily>
__global__ void __launch_bounds__(kCtaThreads)
    decode_fp8_kernel(const __grid_constant__ Launch launch) {
  DeviceExecutor executor;
  decode_fp8_body<kFamily>(executor, launch);
}

template <auto kKernel>
cudaError_t start_of_runs(const KernelStart& start) {
  return start_kernel(kKernel, start, start.launch.run_count());
}

}  // namespace

cudaError_t start_verify(const KernelStart& start) {
  return start_kernel(verify_kernel, start,
                      uint64_t{start.launch.block_count} * (limits::kCellsMax + 1));
}

FamilyKernels raw_kernels() {
  return {start_of_runs<encode_raw_kernel>, start_of_runs<decode_raw_kernel>};
}
FamilyKernels e4m3_kernels() {
  return {start_of_runs<encode_fp8_kernel<CodecFamily::fp8_e4m3>>,
          start_of_runs<decode_fp8_kernel<CodecFamily::fp8_e4m3>>};
}
FamilyKernels e5m2_kernels() {
  return {start_of_runs<encode_fp8_kernel<CodecFamily::fp8_e5m2>>,
          start_of_runs<decode_fp8_kernel<CodecFamily::fp8_e5m2>>};
}

}  // namespace hadal::cuda
