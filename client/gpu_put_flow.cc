// A put of pages on a GPU: blocks are encoded into the tier in HBM, and sent from there or copied
// to their staging slots; where the tier has no room, they are encoded into those (docs/hbm.md).

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/put_window.h"
#include "kernels/cuda/outcome.h"

namespace hadal {
namespace {

// An item of a job.
struct Encoding {
  size_t position;
  uint32_t bytes;                  // of the encoded block
  std::shared_ptr<SlotBlock> hbm;  // null: it is encoded into its staging slot
};
using Encodings = std::shared_ptr<std::vector<Encoding>>;

// A block that is encoded into its staging slot.
absl::StatusOr<GpuJobBlock> job_block(const PutRequest& put, const PutItem& item,
                                      const GpuJobCodec& codec, uint32_t flags) {
  const BlockPut& from = put.start.blocks[item.index];
  GpuJobBlock one;
  one.block.identity = {put.request->keys()[item.index].key, from.first_token_index};
  one.block.token_count = from.token_count;
  one.block.flags = flags;
  const absl::StatusOr<uint64_t> bytes = codec.planner().block_bytes(one.block);
  if (!bytes.ok()) return bytes.status();
  one.block.encoded = item.slot.bytes.data();
  one.block.encoded_bytes = *bytes;
  one.hold = item.slot.hold;
  one.pages = from.pages;
  return one;
}

HbmBlock hbm_block_of(const PutRequest& put, const PutItem& item, std::shared_ptr<SlotBlock> slot) {
  const BlockPut& from = put.start.blocks[item.index];
  HbmBlock block;
  block.slot = std::move(slot);
  block.codec = put.layout().config.codec;
  block.precision = item.precision;
  block.token_count = from.token_count;
  block.first_token_index = from.first_token_index;
  block.token_digest = from.token_digest;
  return block;
}

// The same, into the tier where that has room, and from there to the staging slot.
absl::StatusOr<GpuJobBlock> kept_block(const PutRequest& put, const PutItem& item,
                                       const GpuJobCodec& codec, Encoding& encoding) {
  absl::StatusOr<GpuJobBlock> one = job_block(put, item, codec, 0);
  if (!one.ok()) return one.status();
  encoding.bytes = static_cast<uint32_t>(one->block.encoded_bytes);
  encoding.hbm = put.core->reserve_in_hbm(encoding.bytes, put.hbm_began);
  if (!encoding.hbm) return one;
  if (!put.core->sends_from_hbm) one->staged = one->block.encoded;
  one->block.encoded = encoding.hbm->bytes().data();
  return one;
}

void end_item(const PutWindowPtr& window, PutItem& item, const absl::Status& status) {
  const PutRequest& put = *window->put;
  if (status.ok()) {
    item.ready = put.request->unclaim(item.index);
  } else {
    put.request->finish(item.index, status);
  }
  if (!item.ready) item.slot = {};
  end_encoding(window);
}

// False where the request was closed: the item has ended.
bool claim_item(const PutWindowPtr& window, PutItem& item) {
  if (window->put->request->claim(item.index)) return true;
  item.slot = {};
  end_encoding(window);
  return false;
}

// Blocks with NaN or infinity, as they are and straight into their staging slots.
GpuJob raw_job(const PutWindowPtr& window, const std::vector<size_t>& positions) {
  const PutRequest& put = *window->put;
  const auto encodings = std::make_shared<std::vector<Encoding>>();
  GpuJob job;
  job.codec = &put.layout().gpu->raw();
  for (const size_t position : positions) {
    PutItem& item = window->items[position];
    if (!claim_item(window, item)) continue;
    absl::StatusOr<GpuJobBlock> one = job_block(put, item, *job.codec, kBlockNonFinite);
    if (!one.ok()) {
      end_item(window, item, one.status());
      continue;
    }
    encodings->push_back({position, static_cast<uint32_t>(one->block.encoded_bytes), nullptr});
    job.blocks.push_back(*std::move(one));
  }
  job.done = [window, encodings](const absl::Status& status, absl::Span<const uint32_t> outcomes) {
    for (size_t i = 0; i < encodings->size(); ++i) {
      PutItem& item = window->items[(*encodings)[i].position];
      item.non_finite = true;
      item.precision = {Precision::kAllPlanes, Precision::kAllPlanes};
      item.encoded_bytes = (*encodings)[i].bytes;
      end_item(window, item, status.ok() ? outcome_status(outcomes[i]) : status);
    }
  };
  return job;
}

void end_job(const PutWindowPtr& window, const Encodings& encodings, const absl::Status& status,
             absl::Span<const uint32_t> outcomes) {
  const PutRequest& put = *window->put;
  std::vector<size_t> non_finite;
  // The last block first, so that the first one is the most recently used.
  for (size_t i = encodings->size(); i-- > 0;) {
    Encoding& encoding = (*encodings)[i];
    PutItem& item = window->items[encoding.position];
    if (status.ok() && outcomes[i] == cuda::code(cuda::Outcome::non_finite)) {
      // Pending again, since it waits for another turn.
      if (put.request->unclaim(item.index)) {
        non_finite.push_back(encoding.position);
      } else {
        item.slot = {};
        end_encoding(window);
      }
      continue;
    }
    const absl::Status own = status.ok() ? outcome_status(outcomes[i]) : status;
    item.precision = put.precision();
    item.encoded_bytes = encoding.bytes;
    if (own.ok() && encoding.hbm && put.core->sends_from_hbm) {
      // The slab too stays until the network has let go.
      using Hold = std::pair<std::shared_ptr<SlotBlock>, GpuMemory>;
      item.slot = {encoding.hbm->bytes(),
                   std::make_shared<Hold>(encoding.hbm, put.core->hbm_memory)};
    }
    if (own.ok() && encoding.hbm) {
      put.core->hbm->commit(put.request->keys()[item.index].key,
                            hbm_block_of(put, item, std::move(encoding.hbm)));
    }
    end_item(window, item, own);
  }
  if (non_finite.empty()) return;
  put.core->gpu->encode(
      {[window, non_finite] { return raw_job(window, non_finite); }, put.request->priority()});
}

GpuJob encode_job(const PutWindowPtr& window, size_t first, size_t end) {
  const PutRequest& put = *window->put;
  const auto encodings = std::make_shared<std::vector<Encoding>>();
  GpuJob job;
  job.codec = &put.layout().gpu->own();
  for (size_t position = first; position < end; ++position) {
    PutItem& item = window->items[position];
    if (!claim_item(window, item)) continue;
    Encoding encoding = {position, 0, nullptr};
    absl::StatusOr<GpuJobBlock> one = kept_block(put, item, *job.codec, encoding);
    if (!one.ok()) {
      end_item(window, item, one.status());
      continue;
    }
    job.blocks.push_back(*std::move(one));
    encodings->push_back(std::move(encoding));
  }
  job.done = [window, encodings](const absl::Status& status, absl::Span<const uint32_t> outcomes) {
    end_job(window, encodings, status, outcomes);
  };
  return job;
}

}  // namespace

void encode_on_gpu(const PutWindowPtr& window) {
  const PutRequest& put = *window->put;
  const size_t count = window->items.size();
  for (size_t first = 0; first < count; first += kGpuJobBlocksMax) {
    const size_t end = std::min(first + kGpuJobBlocksMax, count);
    put.core->gpu->encode({[window, first, end] { return encode_job(window, first, end); },
                           put.request->priority(), put.start.ready,
                           put.request->steady_deadline()});
  }
}

}  // namespace hadal
