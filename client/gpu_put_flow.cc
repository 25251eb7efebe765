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

cuda::Block block_of(const PutRequest& put, size_t index, uint32_t flags) {
  const BlockPut& from = put.start.blocks[index];
  cuda::Block block;
  block.identity = {put.request->keys()[index].key, from.first_token_index};
  block.token_count = from.token_count;
  block.flags = flags;
  return block;
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

// Room for one claimed item in the job.
absl::Status add_block(const PutRequest& put, PutItem& item, Encoding& encoding, GpuJob& job) {
  GpuJobBlock one;
  one.block = block_of(put, item.index, 0);
  one.pages = put.start.blocks[item.index].pages;
  const absl::StatusOr<uint64_t> bytes = job.codec->planner().block_bytes(one.block);
  if (!bytes.ok()) return bytes.status();
  encoding.bytes = static_cast<uint32_t>(*bytes);
  one.hold = item.slot.hold;
  if (put.core->hbm && !put.core->gpu->is_broken())
    encoding.hbm = put.core->hbm->reserve(encoding.bytes, put.hbm_began);
  one.block.encoded = encoding.hbm ? encoding.hbm->bytes().data() : item.slot.bytes.data();
  one.block.encoded_bytes = *bytes;
  if (encoding.hbm && !put.core->sends_from_hbm) one.staged = item.slot.bytes.data();
  job.blocks.push_back(std::move(one));
  return absl::OkStatus();
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

absl::Status status_of(uint32_t outcome) {
  if (outcome == cuda::code(cuda::Outcome::ok)) return absl::OkStatus();
  if (outcome == cuda::code(cuda::Outcome::bad_page)) {
    return absl::InvalidArgumentError(
        "a page is null or lies at no multiple of its dtype, as the GPU sees it");
  }
  return absl::InternalError(absl::StrCat("the GPU answered outcome ", outcome));
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
    Encoding& encoding = encodings->emplace_back(Encoding{position, 0, nullptr});
    GpuJobBlock one;
    one.block = block_of(put, item.index, kBlockNonFinite);
    one.hold = item.slot.hold;
    one.pages = put.start.blocks[item.index].pages;
    one.block.encoded = item.slot.bytes.data();
    one.block.encoded_bytes = item.slot.bytes.size();
    encoding.bytes = static_cast<uint32_t>(job.codec->planner().block_bytes(one.block).value_or(0));
    job.blocks.push_back(std::move(one));
  }
  job.done = [window, encodings](const absl::Status& status, absl::Span<const uint32_t> outcomes) {
    for (size_t i = 0; i < encodings->size(); ++i) {
      PutItem& item = window->items[(*encodings)[i].position];
      item.non_finite = true;
      item.precision = {Precision::kAllPlanes, Precision::kAllPlanes};
      item.encoded_bytes = (*encodings)[i].bytes;
      end_item(window, item, status.ok() ? status_of(outcomes[i]) : status);
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
    const absl::Status own = status.ok() ? status_of(outcomes[i]) : status;
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
    if (absl::Status status = add_block(put, item, encoding, job); !status.ok()) {
      end_item(window, item, status);
      continue;
    }
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
