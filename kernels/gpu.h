#pragma once

// A GPU as the client uses it: memory, streams and codecs. kernels/cuda/cuda_gpu.h makes the real
// one; tests run the same kernels on the host behind this.
//
// Threads: a Gpu from any, a stream and a codec from one at a time. Nothing waits for the device
// but destructors. Errors: ResourceExhausted where memory cannot be had; Internal is the device's.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/memory_kind.h"
#include "kernels/cuda/batch.h"
#include "kernels/cuda/planner.h"

namespace hadal {

// Memory that goes with the last copy of its pointer.
using GpuMemory = std::shared_ptr<std::byte>;

// A point in a stream's work.
class GpuMark {
 public:
  virtual ~GpuMark() = default;
  // Whether all before it is done.
  virtual absl::StatusOr<bool> reached() const = 0;
};

// Work that the device does in order. Calls add to it and return.
class GpuStream {
 public:
  virtual ~GpuStream() = default;  // waits for its work

  // What comes after this begins after all that `other` has got so far.
  virtual absl::Status follow(GpuStream& other) = 0;

  // Between memory of the device and pinned memory, either way.
  virtual absl::Status copy(std::byte* to, const std::byte* from, uint64_t bytes) = 0;

  virtual absl::StatusOr<std::unique_ptr<GpuMark>> mark() = 0;
};

// The codec of one layout, as kernels/cuda/cuda_codec.h describes it.
class GpuCodec {
 public:
  virtual ~GpuCodec() = default;
  virtual const cuda::Planner& planner() const = 0;
  virtual absl::Status encode(const cuda::Batch& batch, const cuda::Workspace& workspace,
                              GpuStream& stream) const = 0;
  virtual absl::Status decode(const cuda::Batch& batch, const cuda::Workspace& workspace,
                              GpuStream& stream) const = 0;
};

class Gpu {
 public:
  virtual ~Gpu() = default;

  // Once, by a thread that will work with this GPU and nothing else of the kind. A thread of an
  // engine need not, if its device is this one.
  virtual absl::Status adopt_thread() = 0;

  // Whether all work before an engine's event is done. InvalidArgument where it is no event.
  virtual absl::StatusOr<bool> happened(cudaEvent_t event) = 0;

  // Both at a multiple of 256.
  virtual absl::StatusOr<GpuMemory> allocate_device(uint64_t bytes) = 0;
  virtual absl::StatusOr<GpuMemory> allocate_pinned(uint64_t bytes) = 0;
  // Lets the device read and write host memory, until unpin.
  virtual absl::Status pin(absl::Span<std::byte> memory) = 0;
  virtual void unpin(absl::Span<std::byte> memory) = 0;

  virtual absl::StatusOr<std::unique_ptr<GpuStream>> make_stream() = 0;
  // Errors as cuda::Planner::create.
  virtual absl::StatusOr<std::unique_ptr<GpuCodec>> make_codec(const KvLayout& layout,
                                                               const CodecSpec& spec) = 0;

  // What device memory is to a network.
  virtual MemoryKind memory_kind() const = 0;
};

}  // namespace hadal
