#pragma once

// A GPU made of host threads: streams are queues with a thread each, kernels are the very bodies
// that CUDA runs, over grids on the host, and memory is the host's. Work is late, as a device's is.

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "kernels/gpu.h"

namespace hadal {

// Something that happens once, and that streams and hosts wait for.
class HostEvent {
 public:
  void happen();
  bool happened() const;
  void wait() const;
  // As engines name it.
  cudaEvent_t handle() { return reinterpret_cast<cudaEvent_t>(this); }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable wake_;
  bool happened_ = false;
};

class HostGpu final : public Gpu {
 public:
  absl::Status adopt_thread() override { return absl::OkStatus(); }
  absl::StatusOr<bool> happened(cudaEvent_t event) override;
  absl::StatusOr<GpuMemory> allocate_device(uint64_t bytes) override;
  absl::StatusOr<GpuMemory> allocate_pinned(uint64_t bytes) override;
  absl::Status pin(absl::Span<std::byte> memory) override;
  void unpin(absl::Span<std::byte> memory) override;
  absl::StatusOr<std::unique_ptr<GpuStream>> make_stream() override;
  absl::StatusOr<std::unique_ptr<GpuCodec>> make_codec(const KvLayout& layout,
                                                       const CodecSpec& spec) override;
  MemoryKind memory_kind() const override { return kind; }

  // Of all kernels' work so far.
  std::atomic<int> encodes{0}, decodes{0}, copies{0};
  std::atomic<int> allocations{0};
  std::atomic<uint64_t> device_bytes_max{UINT64_MAX};  // beyond it nothing is to be had
  std::atomic<bool> pinned{false};
  // The last device memory of this size; empty where there was none.
  absl::Span<std::byte> memory_of(uint64_t bytes) const;

  MemoryKind kind = MemoryKind::cuda;  // as which the memory passes
  // While set, streams stand still.
  std::atomic<bool> frozen{false};

 private:
  std::atomic<uint64_t> device_bytes_{0};
  mutable std::mutex mutex_;
  std::vector<absl::Span<std::byte>> memories_;
};

}  // namespace hadal
