#pragma once

// A put on its way: what the flows of pages in host memory and on a GPU share.

#include <atomic>
#include <memory>
#include <vector>

#include "client/client_core.h"

namespace hadal {

struct PutRequest {
  CorePtr core;
  RequestPtr request;
  PutStart start;
  uint64_t hbm_began = 0;  // HbmTier::now() when it started

  const RegisteredLayout& layout() const { return *start.layout; }
  uint64_t raw_bytes(size_t index) const {
    if (layout().opaque()) return start.blocks[index].opaque.size();
    return layout().config.layout.raw_bytes(start.blocks[index].token_count);
  }
  Precision precision() const {
    if (layout().opaque()) return {Precision::kAllPlanes, Precision::kAllPlanes};
    return layout().config.codec.precision();
  }
};
using PutRequestPtr = std::shared_ptr<const PutRequest>;

struct PutItem {
  size_t index = 0;
  StagingSlot slot;
  uint32_t encoded_bytes = 0;
  Precision precision;
  bool non_finite = false;
  bool ready = false;  // encoded, and the key goes on
};

// The blocks of one batch and node that got staging slots together: one message.
struct PutWindow {
  PutRequestPtr put;
  size_t node = 0;
  std::vector<PutItem> items;  // each written by the one thread that encodes it
  std::atomic<size_t> to_encode{0};
};
using PutWindowPtr = std::shared_ptr<PutWindow>;

// One item of the window is encoded, or has ended. With the last one the window is sent.
void end_encoding(const PutWindowPtr& window);

// Encodes all items of a window whose pages lie on the GPU.
void encode_on_gpu(const PutWindowPtr& window);

}  // namespace hadal
