// A put: ask each node which blocks it has, encode the others into staging slots, send them.
//
// The question costs one round trip a batch and saves the encoding of every duplicate; it also
// keeps a node that is away from costing any encoding. The offer of the put itself still decides:
// a block that appeared in between is refused there and is a duplicate as well.

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/put_window.h"

namespace hadal {
namespace {

struct SentItem {
  size_t index;
  uint32_t encoded_bytes;
  Precision precision;
  bool non_finite;
};

void end_sent(const PutRequest& put, size_t node, const SentItem& item,
              const absl::Status& status) {
  KeyResult result;
  result.non_finite = item.non_finite;
  if (status.ok() || absl::IsAlreadyExists(status)) {
    result.duplicate = !status.ok();
    result.tier = Tier::dram;  // puts land there
    result.encoded_bytes = item.encoded_bytes;
    result.raw_bytes = put.raw_bytes(item.index);
    result.wire_bytes = result.duplicate ? 0 : item.encoded_bytes;
    result.precision = item.precision;
  } else {
    result.status = at_node(*put.core, node, status);
  }
  put.request->finish(item.index, std::move(result));
}

PutOffer make_offer(const PutRequest& put, const PutItem& item) {
  PutOffer offer;
  const RoutedKey& routed = put.request->keys()[item.index];
  offer.key = routed.key;
  offer.bytes = item.encoded_bytes;
  offer.precision = item.precision;
  offer.layout_hash = put.layout().layout_hash;
  const BlockPut& block = put.start.blocks[item.index];
  offer.first_token_index = block.first_token_index;
  offer.token_digest = block.token_digest;
  if (block.parent.has_value()) offer.parent = put.layout().binder->bind(*block.parent);
  if (routed.route != routed.key) offer.route = routed.route;
  return offer;
}

// By the thread that encoded the last block of the window.
void send_window(const PutWindowPtr& window) {
  const PutRequestPtr put = window->put;
  std::vector<PeerPut> puts;
  std::vector<SentItem> sent;
  for (PutItem& item : window->items) {
    if (!item.ready) continue;
    puts.push_back(
        {make_offer(*put, item), item.slot.bytes.first(item.encoded_bytes), item.slot.hold});
    sent.push_back({item.index, item.encoded_bytes, item.precision, item.non_finite});
  }
  const size_t node = window->node;
  window->items.clear();  // the message's holds are the last ones
  if (puts.empty()) return;
  BlockPeer* const peer = put->core->peers[node].get();
  const BlockPeer::OperationId operation = peer->put(
      std::move(puts), put->request->operation_options(),
      [put, node, sent = std::move(sent)](const std::vector<absl::Status>& statuses) {
        for (size_t i = 0; i < sent.size(); ++i) {
          end_sent(*put, node, sent[i],
                   i < statuses.size() ? statuses[i] : absl::UnavailableError("no answer"));
        }
      });
  put->request->add_operation(peer, operation);
}

absl::Status encode_values(const PutRequest& put, PutItem& item) {
  const BlockPut& block = put.start.blocks[item.index];
  EncodeRequest request;
  request.pages = block.pages;
  request.identity = {put.request->keys()[item.index].key, block.first_token_index};
  request.token_count = block.token_count;
  absl::StatusOr<EncodeResult> result = put.layout().codec->encode(request, item.slot.bytes);
  if (!result.ok()) return result.status();
  item.precision = put.precision();
  if (result->non_finite) {
    item.non_finite = true;
    item.precision = {Precision::kAllPlanes, Precision::kAllPlanes};
    result = put.layout().codec->encode_raw(request, kBlockNonFinite, item.slot.bytes);
    if (!result.ok()) return result.status();
  }
  item.encoded_bytes = static_cast<uint32_t>(result->bytes);
  return absl::OkStatus();
}

absl::Status encode_item(const PutRequest& put, PutItem& item) {
  if (!put.layout().opaque()) return encode_values(put, item);
  const BlockPut& block = put.start.blocks[item.index];
  item.encoded_bytes = static_cast<uint32_t>(item.slot.bytes.size());
  item.precision = put.precision();
  return encode_opaque(block.opaque, {put.request->keys()[item.index].key, block.first_token_index},
                       item.slot.bytes);
}

void encode_task(const PutWindowPtr& window, size_t position) {
  PutItem& item = window->items[position];
  const PutRequest& put = *window->put;
  if (put.request->claim(item.index)) {
    const absl::Status status = encode_item(put, item);
    if (!status.ok()) {
      put.request->finish(item.index, status);
    } else {
      item.ready = put.request->unclaim(item.index);
    }
  }
  if (!item.ready) item.slot = {};
  end_encoding(window);
}

class PutBatch final : public StagedWork {
 public:
  PutBatch(PutRequestPtr put, size_t node, std::vector<size_t> indices)
      : put_(std::move(put)), node_(node), indices_(std::move(indices)) {}

  bool admit(StagingPool& pool) override {
    if (put_->request->closed()) return true;
    auto window = std::make_shared<PutWindow>();
    for (; next_ < indices_.size(); ++next_) {
      const size_t index = indices_[next_];
      std::optional<StagingSlot> slot = pool.acquire(
          put_staging_bytes(put_->layout(), put_->start.blocks[index]), StagingUse::put);
      if (!slot) break;
      PutItem item;
      item.index = index;
      item.slot = *std::move(slot);
      window->items.push_back(std::move(item));
    }
    const size_t count = window->items.size();
    window->put = put_;
    window->node = node_;
    window->to_encode = count;
    if (put_->layout().gpu != nullptr) {
      encode_on_gpu(window);
      return next_ == indices_.size();
    }
    for (size_t i = 0; i < count; ++i) {
      put_->core->workers->encode([window, i] { encode_task(window, i); },
                                  put_->request->priority());
    }
    return next_ == indices_.size();
  }

 private:
  const PutRequestPtr put_;
  const size_t node_;
  const std::vector<size_t> indices_;
  size_t next_ = 0;
};

void end_duplicate(const PutRequest& put, size_t index, const KeyAnswer& answer) {
  KeyResult result;
  result.duplicate = true;
  result.tier = answer.tier;
  result.encoded_bytes = answer.bytes;
  result.raw_bytes = put.raw_bytes(index);
  result.precision = answer.precision;
  put.request->finish(index, std::move(result));
}

// As the node decides of an offer: a block that lacks planes is replaced by a whole one, and one of
// other tokens is refused.
bool is_duplicate(const PutRequest& put, size_t index, const KeyAnswer& stored) {
  return stored.state == BlockState::present &&
         makes_duplicate(stored.dropped_planes, stored.precision, put.precision()) &&
         !are_other_tokens(stored.token_digest, put.start.blocks[index].token_digest);
}

// The node's answer to which blocks it has.
void after_lookup(const PutRequestPtr& put, size_t node, const std::vector<size_t>& indices,
                  const absl::StatusOr<LookupAnswer>& answer) {
  if (!answer.ok()) {
    const absl::Status status = at_node(*put->core, node, answer.status());
    for (const size_t index : indices) put->request->finish(index, status);
    return;
  }
  std::vector<size_t> missing;
  for (size_t i = 0; i < indices.size(); ++i) {
    if (i < answer->keys.size() && is_duplicate(*put, indices[i], answer->keys[i])) {
      end_duplicate(*put, indices[i], answer->keys[i]);
    } else {
      missing.push_back(indices[i]);
    }
  }
  if (missing.empty()) return;
  put->core->scheduler->submit(std::make_shared<PutBatch>(put, node, std::move(missing)),
                               StagingUse::put, put->request->priority());
}

}  // namespace

void end_encoding(const PutWindowPtr& window) {
  if (window->to_encode.fetch_sub(1) == 1) send_window(window);
}

void start_put(const CorePtr& core, const RequestPtr& request, PutStart start) {
  auto put = std::make_shared<PutRequest>();
  put->core = core;
  put->request = request;
  put->start = std::move(start);
  if (core->hbm) put->hbm_began = core->hbm->now();
  std::vector<std::vector<size_t>> groups = core->by_node(request->keys(), all_indices(*request));
  for (size_t node = 0; node < groups.size(); ++node) {
    if (groups[node].empty()) continue;
    std::vector<BlockKey> keys;
    keys.reserve(groups[node].size());
    for (const size_t index : groups[node]) keys.push_back(request->keys()[index].key);
    LookupOptions asked;
    asked.for_put = true;
    asked.precision = put->precision();
    BlockPeer* const peer = core->peers[node].get();
    const BlockPeer::OperationId operation = peer->lookup(
        std::move(keys), asked, request->operation_options(),
        [put, node, indices = std::move(groups[node])](const absl::StatusOr<LookupAnswer>& answer) {
          after_lookup(put, node, indices, answer);
        });
    request->add_operation(peer, operation);
  }
}

}  // namespace hadal
