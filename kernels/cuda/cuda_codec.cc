#include "kernels/cuda/cuda_codec.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/kernels.h"

namespace hadal::cuda {
namespace {

absl::Status status_of(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

absl::Status copy_workspace(const PlannedWork& planned, const StreamWork& work) {
  if (work.workspace.device == work.workspace.host) return absl::OkStatus();
  return status_of(cudaMemcpyAsync(work.workspace.device, work.workspace.host, planned.copy_bytes,
                                   cudaMemcpyDefault, work.stream),
                   "copying the workspace to the device");
}

absl::Status copy_outcomes(const PlannedWork& planned, const Batch& batch, cudaStream_t stream) {
  return status_of(
      cudaMemcpyAsync(batch.outcomes, planned.launch.outcomes,
                      batch.blocks.size() * sizeof(uint32_t), cudaMemcpyDefault, stream),
      "copying the outcomes");
}

KernelStart start_of(const PlannedWork& planned, const StreamWork& work, const SideRange& range) {
  KernelStart start = {planned.launch, range.head_dim, work.cta_limit, work.stream};
  start.launch.first_side = range.first;
  start.launch.end_side = range.end;
  return start;
}

FamilyKernels kernels_of(const CodecSpec& spec) {
  switch (spec.family) {
    case CodecFamily::raw:
      return raw_kernels();
    case CodecFamily::turboquant_mse:
      return mse_kernels();
    case CodecFamily::turboquant_prod:
    case CodecFamily::qjl:
      return spec.gaussian_projection ? prod_gaussian_kernels() : prod_kernels();
    case CodecFamily::fp8_e4m3:
      return e4m3_kernels();
    case CodecFamily::fp8_e5m2:
      return e5m2_kernels();
    case CodecFamily::polar:
      return polar_kernels();
    case CodecFamily::tqe:
      return tqe_kernels();
  }
  return {};
}

}  // namespace

absl::StatusOr<CudaCodec> CudaCodec::create(const KvLayout& layout, const CodecSpec& spec) {
  absl::StatusOr<Planner> planner = Planner::create(layout, spec);
  if (!planner.ok()) return planner.status();
  return CudaCodec(*std::move(planner));
}

absl::Status CudaCodec::encode(const Batch& batch, const StreamWork& work) const {
  absl::StatusOr<PlannedWork> planned = planner_.plan(batch, work.workspace);
  if (!planned.ok()) return planned.status();
  absl::Status status = copy_workspace(*planned, work);
  for (const SideRange& range : planner_.side_ranges()) {
    if (!status.ok()) return status;
    status = status_of(kernels_of(planner_.spec()).encode(start_of(*planned, work, range)),
                       "starting to encode");
  }
  if (!status.ok()) return status;
  return copy_outcomes(*planned, batch, work.stream);
}

absl::Status CudaCodec::decode(const Batch& batch, const StreamWork& work,
                               absl::Span<const LayerMark> marks) const {
  absl::Status status = planner_.check_marks(marks);
  if (!status.ok()) return status;
  absl::StatusOr<PlannedWork> planned = planner_.plan(batch, work.workspace);
  if (!planned.ok()) return planned.status();
  status = copy_workspace(*planned, work);
  if (status.ok()) {
    status = status_of(start_verify(start_of(*planned, work, SideRange())), "starting to verify");
  }
  if (status.ok()) status = copy_outcomes(*planned, batch, work.stream);
  const LayerMark all = {planner_.layout().layer_count, nullptr};
  uint16_t first_layer = 0;
  for (const LayerMark& mark : marks.empty() ? absl::MakeConstSpan(&all, 1) : marks) {
    for (const SideRange& range : planner_.side_ranges()) {
      if (!status.ok()) return status;
      KernelStart start = start_of(*planned, work, range);
      start.launch.first_layer = first_layer;
      start.launch.end_layer = mark.end_layer;
      status = status_of(kernels_of(planner_.spec()).decode(start), "starting to decode");
    }
    if (status.ok() && mark.event != nullptr) {
      status = status_of(cudaEventRecord(mark.event, work.stream), "recording an event");
    }
    first_layer = mark.end_layer;
  }
  return status;
}

}  // namespace hadal::cuda
