// A get: receive blocks into staging slots, and decode each into the caller's pages as it arrives,
// while the others are still on their way.

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/get_window.h"
#include "common/encoded_block.h"

namespace hadal {
namespace {

// The blocks of one batch and node that got staging slots together: one message. Touched by the
// transport's I/O thread only, once it is sent.
struct GetWindow {
  GetRequestPtr get;
  size_t node = 0;
  std::vector<size_t> indices;
  std::vector<StagingSlot> slots;
  std::vector<bool> seen;
};

// Verifies, then writes the caller's memory. Nothing is written on an error. The header is believed
// once its checksum is right: a damaged one is damage, not a block that does not fit.
absl::Status decode_values(const GetRequest& get, const Arrived& block,
                           absl::Span<const std::byte> encoded, KeyResult& result) {
  const RegisteredLayout& layout = *get.start.layout;
  const BlockGet& target = get.start.blocks[block.index];
  const BlockKey& key = get.request->keys()[block.index].key;
  const absl::StatusOr<EncodedBlock> parsed =
      EncodedBlock::parse(encoded, block.answer.dropped_planes);
  absl::Status status = parsed.status();
  if (status.ok()) status = parsed->expect(key, layout.layout_hash);
  if (!status.ok()) return status;
  const uint32_t tokens = parsed->header().token_count;
  result.precision = parsed->precision();
  status = check_fits(get, block.index, tokens, result.precision);
  if (!status.ok()) return status;
  result.raw_bytes = layout.config.layout.raw_bytes(tokens);
  return layout.codec->decode(encoded, block.answer.dropped_planes, key, target.pages);
}

absl::Status decode_bytes(const GetRequest& get, const Arrived& block,
                          absl::Span<const std::byte> encoded, KeyResult& result) {
  const BlockKey& key = get.request->keys()[block.index].key;
  absl::StatusOr<absl::Span<const std::byte>> payload = decode_opaque(encoded, key);
  if (!payload.ok()) return payload.status();
  const absl::Span<std::byte> target = get.start.blocks[block.index].opaque;
  if (payload->size() > target.size()) {
    return absl::InvalidArgumentError(absl::StrCat("the stored payload has ", payload->size(),
                                                   " bytes; the buffer has ", target.size()));
  }
  std::memcpy(target.data(), payload->data(), payload->size());
  result.raw_bytes = payload->size();
  return absl::OkStatus();
}

KeyResult decode_block(const GetRequest& get, const Arrived& block) {
  KeyResult result;
  result.tier = block.answer.tier;
  result.encoded_bytes = block.answer.bytes;
  result.wire_bytes = block.answer.bytes;
  result.precision = block.answer.precision;
  const absl::Span<const std::byte> encoded = block.slot.bytes.first(block.answer.bytes);
  if (get.start.layout->opaque()) {
    result.status = decode_bytes(get, block, encoded, result);
  } else {
    result.status = decode_values(get, block, encoded, result);
  }
  return result;
}

// On a codec thread.
void decode_task(const GetRequest& get, const Arrived& block) {
  if (!get.request->claim(block.index)) return;  // too late: the pages are the caller's again
  finish_got(get, block, decode_block(get, block));
}

absl::Status check_answer(const GetRequest& get, const StagingSlot& slot, const GetAnswer& answer) {
  if (answer.bytes > slot.bytes.size()) {
    return absl::DataLossError(
        absl::StrCat("answer of ", answer.bytes, " bytes for a buffer of ", slot.bytes.size()));
  }
  if (!answer.precision.satisfies(get.start.least)) {
    return absl::NotFoundError("the stored block is less precise than asked");
  }
  return absl::OkStatus();
}

// On the I/O thread: one block is here, or never will be.
void on_block(GetWindow& window, size_t position, const absl::StatusOr<GetAnswer>& answer) {
  const GetRequestPtr& get = window.get;
  if (position >= window.indices.size() || window.seen[position]) return;
  window.seen[position] = true;
  StagingSlot slot = std::move(window.slots[position]);
  const size_t index = window.indices[position];
  absl::Status status = answer.status();
  if (status.ok()) status = check_answer(*get, slot, *answer);
  if (!status.ok()) {
    get->request->finish(index, at_node(*get->core, window.node, status));
    return;
  }
  if (get->start.layout->gpu != nullptr) {
    return decode_on_gpu(get, {window.node, index, std::move(slot), *answer});
  }
  auto arrived = std::make_shared<Arrived>(Arrived{window.node, index, std::move(slot), *answer});
  get->core->workers->decode([get, arrived] { decode_task(*get, *arrived); },
                             get->request->priority());
}

void on_done(GetWindow& window, const absl::Status& status) {
  const absl::Status reason =
      at_node(*window.get->core, window.node,
              status.ok() ? absl::DeadlineExceededError("the block did not arrive") : status);
  for (size_t i = 0; i < window.indices.size(); ++i) {
    if (!window.seen[i]) window.get->request->finish(window.indices[i], reason);
  }
  window.slots.clear();
}

void send_window(const std::shared_ptr<GetWindow>& window) {
  const GetRequestPtr get = window->get;
  std::vector<PeerGet> gets;
  gets.reserve(window->indices.size());
  for (size_t i = 0; i < window->indices.size(); ++i) {
    PeerGet one;
    one.request.key = get->request->keys()[window->indices[i]].key;
    one.request.least = get->start.least;
    one.request.token_digest = get->start.blocks[window->indices[i]].token_digest;
    one.request.max_bytes = static_cast<uint32_t>(window->slots[i].bytes.size());
    one.bytes = window->slots[i].bytes;
    one.hold = window->slots[i].hold;
    gets.push_back(std::move(one));
  }
  BlockPeer* const peer = get->core->peers[window->node].get();
  const BlockPeer::OperationId operation = peer->get(
      std::move(gets), get->request->operation_options(),
      [window](size_t position, const absl::StatusOr<GetAnswer>& answer) {
        on_block(*window, position, answer);
      },
      [window](const absl::Status& status) { on_done(*window, status); });
  get->request->add_operation(peer, operation);
}

class GetBatch final : public StagedWork {
 public:
  GetBatch(GetRequestPtr get, size_t node, std::vector<size_t> indices)
      : get_(std::move(get)), node_(node), indices_(std::move(indices)) {}

  bool admit(StagingPool& pool) override {
    if (get_->request->closed()) return true;
    auto window = std::make_shared<GetWindow>();
    window->get = get_;
    window->node = node_;
    for (; next_ < indices_.size(); ++next_) {
      const BlockGet& block = get_->start.blocks[indices_[next_]];
      std::optional<StagingSlot> slot =
          pool.acquire(get_staging_bytes(*get_->start.layout, block), StagingUse::get);
      if (!slot) break;
      window->indices.push_back(indices_[next_]);
      window->slots.push_back(*std::move(slot));
    }
    window->seen.resize(window->indices.size(), false);
    if (!window->indices.empty()) send_window(window);
    return next_ == indices_.size();
  }

 private:
  const GetRequestPtr get_;
  const size_t node_;
  const std::vector<size_t> indices_;
  size_t next_ = 0;
};

}  // namespace

void finish_got(const GetRequest& get, const Arrived& block, KeyResult result) {
  if (!result.status.ok()) result.raw_bytes = 0;
  if (absl::IsDataLoss(result.status) || absl::IsFailedPrecondition(result.status)) {
    result.status = at_node(*get.core, block.node, absl::DataLossError(result.status.message()));
    // Reported first: whoever sees the miss may count on the report being under way.
    send_report_bad(get.core, get.request->keys()[block.index], block.answer.generation);
  }
  get.request->finish(block.index, std::move(result));
}

absl::Status check_fits(const GetRequest& get, size_t index, uint32_t token_count,
                        const Precision& precision) {
  const uint32_t capacity = get.start.blocks[index].token_capacity;
  if (capacity != 0 && token_count > capacity) {
    return absl::InvalidArgumentError(absl::StrCat("the stored block has ", token_count,
                                                   " tokens; the pages have room for ", capacity));
  }
  if (!precision.satisfies(get.start.least)) {
    return absl::NotFoundError("the stored block is less precise than asked");
  }
  return absl::OkStatus();
}

void start_get(const CorePtr& core, const RequestPtr& request, GetStart start) {
  auto get = std::make_shared<GetRequest>();
  get->core = core;
  get->request = request;
  get->start = std::move(start);
  if (core->hbm) get->hbm_began = core->hbm->now();
  std::vector<std::vector<size_t>> groups = core->by_node(request->keys(), get_from_hbm(get));
  for (size_t node = 0; node < groups.size(); ++node) {
    if (groups[node].empty()) continue;
    core->scheduler->submit(std::make_shared<GetBatch>(get, node, std::move(groups[node])),
                            StagingUse::get, request->priority());
  }
}

}  // namespace hadal
