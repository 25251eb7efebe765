#pragma once

// A get on its way: what the flows of pages in host memory and on a GPU share.

#include <memory>
#include <mutex>
#include <vector>

#include "client/client_core.h"

namespace hadal {

// A block that came from a node into its staging slot.
struct Arrived {
  size_t node;
  size_t index;
  StagingSlot slot;
  GetAnswer answer;
};

struct GetRequest {
  CorePtr core;
  RequestPtr request;
  GetStart start;
  uint64_t hbm_began = 0;  // HbmTier::now() when it started

  // Of pages on a GPU: what waits for the next job.
  mutable std::mutex mutex;
  mutable std::vector<Arrived> arrived;
};
using GetRequestPtr = std::shared_ptr<const GetRequest>;

// Ends a key whose bytes were read: what was found wrong with them is DataLoss, said of `node`,
// which is told to look at the block.
void finish_got(const GetRequest& get, const Arrived& block, KeyResult result);

// Whether pages have room for such a block, and it is as precise as asked.
absl::Status check_fits(const GetRequest& get, size_t index, uint32_t token_count,
                        const Precision& precision);

// Decodes a block once the GPU has time for it.
void decode_on_gpu(const GetRequestPtr& get, Arrived block);

// Decodes what the tier in HBM has; answers the indices of the keys that it lacks.
std::vector<size_t> get_from_hbm(const GetRequestPtr& get);

}  // namespace hadal
