#include "client/layout_registry.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace hadal {
namespace {

absl::Status check_gpu(const LayoutConfig& config, const std::shared_ptr<Gpu>& gpu) {
  if (!config.on_gpu) return absl::OkStatus();
  if (gpu == nullptr) {
    return absl::InvalidArgumentError(
        "LayoutConfig.on_gpu is set; the client has no ClientConfig.gpu");
  }
  if (config.layout.dtype != DType::opaque) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "LayoutConfig.on_gpu is set for opaque bytes, which lie in host memory");
}

absl::StatusOr<std::shared_ptr<RegisteredLayout>> make_layout(const LayoutConfig& config,
                                                              const std::shared_ptr<Gpu>& gpu) {
  if (absl::Status status = check_gpu(config, gpu); !status.ok()) return status;
  if (absl::Status status = config.layout.validate(); !status.ok()) return status;
  if (config.shard.world == 0 || config.shard.rank >= config.shard.world) {
    return absl::InvalidArgumentError(absl::StrCat("LayoutConfig.shard has rank ",
                                                   config.shard.rank, " of world ",
                                                   config.shard.world, "; rank is below world"));
  }
  auto layout = std::make_shared<RegisteredLayout>();
  layout->config = config;
  layout->layout_hash = config.layout.hash();
  if (config.layout.dtype == DType::opaque) {
    layout->config.codec.family = CodecFamily::raw;  // opaque bytes are never quantised
  } else {
    absl::StatusOr<std::unique_ptr<const Codec>> codec = Codec::create(config.layout, config.codec);
    if (!codec.ok()) return codec.status();
    layout->codec = *std::move(codec);
    absl::StatusOr<uint64_t> most = layout->codec->max_encoded_bytes(config.layout.block_tokens);
    if (!most.ok()) return most.status();
    layout->max_block_bytes = *most;
    if (config.on_gpu) {
      absl::StatusOr<std::shared_ptr<GpuLayout>> on_gpu =
          GpuLayout::create(gpu, config.layout, config.codec);
      if (!on_gpu.ok()) return on_gpu.status();
      layout->gpu = *std::move(on_gpu);
    }
  }
  layout->binder =
      std::make_unique<const KeyBinder>(key_namespace_of(layout->config), config.shard);
  return layout;
}

}  // namespace

KeyNamespace key_namespace_of(const LayoutConfig& config) {
  KeyNamespace names;
  names.model = config.model;
  names.layout_hash = config.layout.hash();
  names.family = config.codec.family;
  names.rotation_seed = config.layout.dtype == DType::opaque ? 0 : config.codec.rotation_seed;
  names.gaussian_projection = config.codec.gaussian_projection;
  names.hash_scheme = config.hash_scheme;
  names.tenant = config.tenant;
  return names;
}

absl::StatusOr<LayoutId> LayoutRegistry::add(const LayoutConfig& config) {
  absl::StatusOr<std::shared_ptr<RegisteredLayout>> layout = make_layout(config, gpu_);
  if (!layout.ok()) return layout.status();
  std::lock_guard<std::mutex> lock(mutex_);
  if (layouts_.size() >= kMaxLayouts) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a client registers at most ", kMaxLayouts, " layouts; reuse their ids"));
  }
  layouts_.push_back(*std::move(layout));
  return static_cast<LayoutId>(layouts_.size());
}

absl::StatusOr<std::shared_ptr<const RegisteredLayout>> LayoutRegistry::find(LayoutId id) const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (id == 0 || id > layouts_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("layout ", id, " was never registered with this client"));
  }
  return layouts_[id - 1];
}

}  // namespace hadal
