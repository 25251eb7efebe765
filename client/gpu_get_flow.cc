// A get into pages on a GPU: blocks are decoded from the tier in HBM, where those that come from
// nodes are copied first; where it has no room, from their staging slots (docs/hbm.md).

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/get_window.h"
#include "common/encoded_block.h"

namespace hadal {
namespace {

// One block on its way into pages.
struct Decoding {
  size_t index = 0;
  GpuJobCodec* codec = nullptr;
  HbmBlock stored;                 // its slot is null where the tier has no room
  std::optional<Arrived> arrived;  // nothing: the tier had it
};
using Decodings = std::vector<Decoding>;

// The header is believed once its checksum is right, as on the host; the GPU checks all of it, and
// the bytes. Where there is no room in HBM the staging slot serves.
absl::StatusOr<Decoding> prepare(const GetRequest& get, Arrived arrived) {
  const RegisteredLayout& layout = *get.start.layout;
  const absl::StatusOr<EncodedBlock> parsed = EncodedBlock::parse(
      arrived.slot.bytes.first(arrived.answer.bytes), arrived.answer.dropped_planes);
  absl::Status status = parsed.status();
  if (status.ok()) {
    status = parsed->expect(get.request->keys()[arrived.index].key, layout.layout_hash);
  }
  if (!status.ok()) return status;
  Decoding decoding;
  decoding.index = arrived.index;
  decoding.stored.codec = layout.gpu->spec_of(*parsed);
  decoding.stored.dropped_planes = arrived.answer.dropped_planes;
  decoding.stored.precision = parsed->precision();
  decoding.stored.token_count = parsed->header().token_count;
  decoding.stored.first_token_index = parsed->header().first_token_index;
  decoding.stored.token_digest = get.start.blocks[arrived.index].token_digest;
  status = check_fits(get, arrived.index, decoding.stored.token_count, decoding.stored.precision);
  if (!status.ok()) return status;
  absl::StatusOr<GpuJobCodec*> codec = layout.gpu->codec_of(decoding.stored.codec);
  if (!codec.ok()) return codec.status();
  decoding.codec = *codec;
  if (decoding.stored.codec.family != CodecFamily::raw) {
    decoding.stored.slot = get.core->reserve_in_hbm(arrived.answer.bytes, get.hbm_began);
  }
  decoding.arrived = std::move(arrived);
  return decoding;
}

GpuJobBlock job_block(const GetRequest& get, const Decoding& decoding) {
  const HbmBlock& stored = decoding.stored;
  GpuJobBlock one;
  one.pages = get.start.blocks[decoding.index].pages;
  one.block.identity = {get.request->keys()[decoding.index].key, stored.first_token_index};
  one.block.token_count = stored.token_count;
  one.block.dropped_planes = stored.dropped_planes;
  if (stored.slot) {
    one.block.encoded = stored.slot->bytes().data();
    one.block.encoded_bytes = stored.slot->size_bytes();
    if (decoding.arrived.has_value()) one.staged = decoding.arrived->slot.bytes.data();
  } else {
    one.block.encoded = decoding.arrived->slot.bytes.data();
    one.block.encoded_bytes = decoding.arrived->answer.bytes;
  }
  return one;
}

void finish(const GetRequest& get, const Decoding& decoding, const absl::Status& status) {
  const BlockKey& key = get.request->keys()[decoding.index].key;
  const HbmBlock& stored = decoding.stored;
  KeyResult result;
  result.status = status;
  result.precision = stored.precision;
  result.raw_bytes = get.start.layout->config.layout.raw_bytes(stored.token_count);
  if (decoding.arrived.has_value()) {
    result.tier = decoding.arrived->answer.tier;
    result.encoded_bytes = result.wire_bytes = decoding.arrived->answer.bytes;
    if (status.ok() && stored.slot) get.core->hbm->commit(key, stored);
    return finish_got(get, *decoding.arrived, std::move(result));
  }
  result.tier = Tier::hbm;
  result.encoded_bytes = stored.slot->size_bytes();
  if (!status.ok()) {
    result.raw_bytes = 0;
    if (absl::IsDataLoss(status)) get.core->hbm->remove(key, stored.slot);
  }
  get.request->finish(decoding.index, std::move(result));
}

// Blocks of one codec, pending until their turn has come.
void submit(const GetRequestPtr& get, Decodings decodings, cudaEvent_t ready);

// The same of blocks that were claimed: their keys end by the deadline meanwhile.
void submit_again(const GetRequestPtr& get, Decodings decodings) {
  const auto was_closed = [&get](const Decoding& decoding) {
    return !get->request->unclaim(decoding.index);
  };
  decodings.erase(std::remove_if(decodings.begin(), decodings.end(), was_closed), decodings.end());
  if (!decodings.empty()) submit(get, std::move(decodings), nullptr);
}

// A block that the device's checks of arguments refuse keeps no other from being decoded.
void end_job(const GetRequestPtr& get, const std::shared_ptr<Decodings>& decodings,
             const absl::Status& status, absl::Span<const uint32_t> outcomes) {
  if (absl::IsInvalidArgument(status) && decodings->size() > 1) {
    for (Decoding& decoding : *decodings) submit_again(get, {std::move(decoding)});
    return;
  }
  // The last block first, so that the first one is the most recently used.
  for (size_t i = decodings->size(); i-- > 0;) {
    finish(*get, (*decodings)[i], status.ok() ? outcome_status(outcomes[i]) : status);
  }
}

// Of claimed blocks of one codec.
GpuJob job_of(const GetRequestPtr& get, std::shared_ptr<Decodings> decodings) {
  GpuJob job;
  job.codec = (*decodings)[0].codec;
  for (const Decoding& decoding : *decodings) job.blocks.push_back(job_block(*get, decoding));
  job.done = [get, decodings](const absl::Status& status, absl::Span<const uint32_t> outcomes) {
    end_job(get, decodings, status, outcomes);
  };
  return job;
}

// What has arrived since the last job, as one job a codec: the first one now.
GpuJob next_job(const GetRequestPtr& get) {
  std::vector<Arrived> arrived;
  {
    const std::lock_guard lock(get->mutex);
    const size_t count = std::min(get->arrived.size(), kGpuJobBlocksMax);
    const auto end = get->arrived.begin() + static_cast<std::ptrdiff_t>(count);
    arrived.assign(std::make_move_iterator(get->arrived.begin()), std::make_move_iterator(end));
    get->arrived.erase(get->arrived.begin(), end);
  }
  std::map<GpuJobCodec*, std::shared_ptr<Decodings>> by_codec;
  for (Arrived& block : arrived) {
    if (!get->request->claim(block.index)) continue;
    const Arrived said = {block.node, block.index, {}, block.answer};
    absl::StatusOr<Decoding> decoding = prepare(*get, std::move(block));
    if (!decoding.ok()) {
      KeyResult result;
      result.status = decoding.status();
      result.tier = said.answer.tier;
      result.encoded_bytes = result.wire_bytes = said.answer.bytes;
      result.precision = said.answer.precision;
      finish_got(*get, said, std::move(result));
      continue;
    }
    std::shared_ptr<Decodings>& of = by_codec[decoding->codec];
    if (!of) of = std::make_shared<Decodings>();
    of->push_back(*std::move(decoding));
  }
  GpuJob first;
  for (const auto& [codec, decodings] : by_codec) {
    if (first.blocks.empty()) {
      first = job_of(get, decodings);
    } else {
      submit_again(get, std::move(*decodings));
    }
  }
  return first;
}

void submit(const GetRequestPtr& get, Decodings decodings, cudaEvent_t ready) {
  const auto build = [get, decodings = std::move(decodings)] {
    auto claimed = std::make_shared<Decodings>();
    for (const Decoding& decoding : decodings) {
      if (get->request->claim(decoding.index)) claimed->push_back(decoding);
    }
    return claimed->empty() ? GpuJob() : job_of(get, std::move(claimed));
  };
  get->core->gpu->decode({build, get->request->priority(), ready, get->request->steady_deadline()});
}

}  // namespace

void decode_on_gpu(const GetRequestPtr& get, Arrived block) {
  {
    const std::lock_guard lock(get->mutex);
    get->arrived.push_back(std::move(block));
  }
  // One that finds nothing left to do makes no job.
  get->core->gpu->decode({[get] { return next_job(get); }, get->request->priority(),
                          get->start.ready, get->request->steady_deadline()});
}

std::vector<size_t> get_from_hbm(const GetRequestPtr& get) {
  const std::vector<RoutedKey>& keys = get->request->keys();
  std::vector<size_t> missing;
  std::map<GpuJobCodec*, Decodings> by_codec;
  const auto decode = [&get](Decodings& hits) {
    submit(get, std::exchange(hits, {}), get->start.ready);
  };
  // From the last key to the first, so that a prefix loses its end before its beginning.
  for (size_t i = keys.size(); i-- > 0;) {
    const BlockGet& wanted = get->start.blocks[i];
    std::optional<HbmBlock> found =
        get->core->find_in_hbm(keys[i], get->start.least, wanted.token_digest);
    const absl::StatusOr<GpuJobCodec*> codec = found.has_value()
                                                   ? get->start.layout->gpu->codec_of(found->codec)
                                                   : absl::NotFoundError("not in HBM");
    if (!codec.ok()) {
      missing.push_back(i);
      continue;
    }
    if (absl::Status status = check_fits(*get, i, found->token_count, found->precision);
        !status.ok()) {
      get->request->finish(i, status);
      continue;
    }
    Decodings& hits = by_codec[*codec];
    hits.push_back({i, *codec, *std::move(found), std::nullopt});
    if (hits.size() == kGpuJobBlocksMax) decode(hits);
  }
  for (auto& [codec, hits] : by_codec) {
    if (!hits.empty()) decode(hits);
  }
  std::reverse(missing.begin(), missing.end());
  return missing;
}

}  // namespace hadal
