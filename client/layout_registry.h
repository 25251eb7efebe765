#pragma once

// A registered layout: everything about one kind of block that is made once. Immutable.

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "client/client.h"
#include "client/gpu_worker.h"

namespace hadal {

// What the keys of a layout's blocks are bound to.
KeyNamespace key_namespace_of(const LayoutConfig& config);

struct RegisteredLayout {
  LayoutConfig config;
  std::unique_ptr<const KeyBinder> binder;
  std::unique_ptr<const Codec> codec;  // null for opaque bytes
  std::shared_ptr<GpuLayout> gpu;      // null for pages in host memory
  uint64_t layout_hash = 0;
  uint64_t max_block_bytes = 0;  // of a full block, however it was encoded; 0 for opaque bytes

  bool opaque() const { return codec == nullptr; }
};

// Threads: any. Layouts are never taken back, so that an id stays valid.
class LayoutRegistry {
 public:
  static constexpr size_t kMaxLayouts = 1024;

  // `gpu` may be null: then no layout lies there.
  explicit LayoutRegistry(std::shared_ptr<Gpu> gpu) : gpu_(std::move(gpu)) {}

  // InvalidArgument names the field; ResourceExhausted beyond kMaxLayouts.
  absl::StatusOr<LayoutId> add(const LayoutConfig& config);
  // InvalidArgument for an id that add never answered.
  absl::StatusOr<std::shared_ptr<const RegisteredLayout>> find(LayoutId id) const;

 private:
  const std::shared_ptr<Gpu> gpu_;
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<const RegisteredLayout>> layouts_;  // id - 1
};

}  // namespace hadal
