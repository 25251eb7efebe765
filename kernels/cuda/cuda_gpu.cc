#include "kernels/cuda/cuda_gpu.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_codec.h"

namespace hadal::cuda {
namespace {

// The runtime remembers a thread's last error: taken back, since it is handled here and the thread
// may be an engine's.
void forget_error() { (void)cudaGetLastError(); }

absl::Status status_of(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  forget_error();
  return absl::InternalError(absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

// The runtime's calls are about the device that a thread has chosen. To choose one makes a context
// on it, so nothing is chosen, nor chosen back, where it is this one already.
class OnDevice {
 public:
  explicit OnDevice(int device) : device_(device) {
    if (cudaGetDevice(&before_) != cudaSuccess) before_ = device;
    if (before_ != device_) cudaSetDevice(device_);
  }
  ~OnDevice() {
    if (before_ != device_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  const int device_;
  int before_ = 0;
};

class Event {
 public:
  explicit Event(int device) : device_(device) {
    const OnDevice on(device_);
    created_ = cudaEventCreateWithFlags(&event_, cudaEventDisableTiming);
  }
  ~Event() {
    if (created_ == cudaSuccess) cudaEventDestroy(event_);
  }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  absl::Status record(cudaStream_t stream) {
    const OnDevice on(device_);
    absl::Status status = status_of(created_, "creating an event");
    if (status.ok()) status = status_of(cudaEventRecord(event_, stream), "recording an event");
    return status;
  }
  cudaEvent_t get() const { return event_; }

 private:
  const int device_;
  cudaEvent_t event_ = nullptr;
  cudaError_t created_ = cudaSuccess;
};

class CudaMark final : public GpuMark {
 public:
  explicit CudaMark(std::unique_ptr<Event> event) : event_(std::move(event)) {}
  absl::StatusOr<bool> reached() const override {
    const cudaError_t error = cudaEventQuery(event_->get());
    if (error == cudaErrorNotReady) {
      forget_error();
      return false;
    }
    if (absl::Status status = status_of(error, "work on the device"); !status.ok()) return status;
    return true;
  }

 private:
  const std::unique_ptr<Event> event_;
};

class CudaStream final : public GpuStream {
 public:
  CudaStream(int device, cudaStream_t stream) : device_(device), stream_(stream) {}
  ~CudaStream() override {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }

  absl::Status follow(GpuStream& other) override {
    Event event(device_);
    absl::Status status = event.record(static_cast<CudaStream&>(other).stream_);
    if (!status.ok()) return status;
    const OnDevice on(device_);
    // The device keeps what it needs of an event that is destroyed.
    return status_of(cudaStreamWaitEvent(stream_, event.get(), 0), "waiting for an event");
  }
  absl::Status copy(std::byte* to, const std::byte* from, uint64_t bytes) override {
    const OnDevice on(device_);
    return status_of(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "copying");
  }
  absl::StatusOr<std::unique_ptr<GpuMark>> mark() override {
    auto event = std::make_unique<Event>(device_);
    if (absl::Status status = event->record(stream_); !status.ok()) return status;
    return std::make_unique<CudaMark>(std::move(event));
  }
  cudaStream_t get() const { return stream_; }

 private:
  const int device_;
  const cudaStream_t stream_;
};

class CudaGpuCodec final : public GpuCodec {
 public:
  CudaGpuCodec(const GpuOptions& options, CudaCodec codec)
      : options_(options), codec_(std::move(codec)) {}
  const Planner& planner() const override { return codec_.planner(); }
  absl::Status encode(const Batch& batch, const Workspace& workspace,
                      GpuStream& stream) const override {
    const OnDevice on(options_.device);
    return codec_.encode(batch, work_on(workspace, stream));
  }
  absl::Status decode(const Batch& batch, const Workspace& workspace,
                      GpuStream& stream) const override {
    const OnDevice on(options_.device);
    return codec_.decode(batch, work_on(workspace, stream), {});
  }

 private:
  StreamWork work_on(const Workspace& workspace, GpuStream& stream) const {
    return {static_cast<CudaStream&>(stream).get(), workspace, options_.cta_limit};
  }
  const GpuOptions options_;
  const CudaCodec codec_;
};

class CudaGpu final : public Gpu {
 public:
  CudaGpu(const GpuOptions& options, std::string name)
      : options_(options), name_(std::move(name)) {}

  absl::Status adopt_thread() override {
    absl::Status status = status_of(cudaSetDevice(options_.device), "choosing the device");
    // Queries of this thread must not end, nor be refused by, what another thread captures.
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    if (status.ok()) status = status_of(cudaThreadExchangeStreamCaptureMode(&mode), "capture mode");
    return status;
  }
  absl::StatusOr<bool> happened(cudaEvent_t event) override {
    const OnDevice on(options_.device);
    const cudaError_t error = cudaEventQuery(event);
    if (error == cudaSuccess) return true;
    forget_error();
    if (error == cudaErrorNotReady) return false;
    return absl::InvalidArgumentError(
        absl::StrCat("ready is no event of this device: ", cudaGetErrorString(error)));
  }

  absl::StatusOr<GpuMemory> allocate_device(uint64_t bytes) override {
    const OnDevice on(options_.device);
    void* memory = nullptr;
    if (const cudaError_t error = cudaMalloc(&memory, bytes); error != cudaSuccess) {
      forget_error();
      size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      return absl::ResourceExhaustedError(absl::StrCat(name_, " gives no ", bytes, " bytes, ", free,
                                                       " are free: ", cudaGetErrorString(error)));
    }
    return GpuMemory(static_cast<std::byte*>(memory), [device = options_.device](std::byte* at) {
      const OnDevice on(device);
      cudaFree(at);
    });
  }
  absl::StatusOr<GpuMemory> allocate_pinned(uint64_t bytes) override {
    const OnDevice on(options_.device);
    void* memory = nullptr;
    if (const cudaError_t error = cudaHostAlloc(&memory, bytes, cudaHostAllocPortable);
        error != cudaSuccess) {
      forget_error();
      return absl::ResourceExhaustedError(
          absl::StrCat("no ", bytes, " bytes to be had pinned: ", cudaGetErrorString(error)));
    }
    return GpuMemory(static_cast<std::byte*>(memory), [device = options_.device](std::byte* at) {
      const OnDevice on(device);
      cudaFreeHost(at);
    });
  }
  absl::Status pin(absl::Span<std::byte> memory) override {
    const OnDevice on(options_.device);
    return status_of(cudaHostRegister(memory.data(), memory.size(), cudaHostRegisterPortable),
                     absl::StrCat("pinning ", memory.size(), " bytes"));
  }
  void unpin(absl::Span<std::byte> memory) override {
    const OnDevice on(options_.device);
    cudaHostUnregister(memory.data());
  }

  absl::StatusOr<std::unique_ptr<GpuStream>> make_stream() override {
    const OnDevice on(options_.device);
    cudaStream_t stream = nullptr;
    const absl::Status status =
        status_of(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
    if (!status.ok()) return status;
    return std::make_unique<CudaStream>(options_.device, stream);
  }
  absl::StatusOr<std::unique_ptr<GpuCodec>> make_codec(const KvLayout& layout,
                                                       const CodecSpec& spec) override {
    absl::StatusOr<CudaCodec> codec = CudaCodec::create(layout, spec);
    if (!codec.ok()) return codec.status();
    return std::make_unique<CudaGpuCodec>(options_, *std::move(codec));
  }
  MemoryKind memory_kind() const override { return MemoryKind::cuda; }

 private:
  const GpuOptions options_;
  const std::string name_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<Gpu>> make_gpu(const GpuOptions& options) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, options.device);
  if (error != cudaSuccess) {
    forget_error();
    return absl::NotFoundError(
        absl::StrCat("there is no CUDA device ", options.device, ": ", cudaGetErrorString(error)));
  }
  return std::make_shared<CudaGpu>(options, properties.name);
}

}  // namespace hadal::cuda
