#include "storage/tiered_store.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/encoded_block.h"
#include "common/limits.h"
#include "storage/block_index.h"
#include "storage/eviction_policy.h"
#include "storage/lease_table.h"
#include "storage/nvme_tier.h"
#include "storage/slot_tier.h"

namespace hadal {
namespace {

constexpr uint32_t kLeaseMaxMs = 10 * 60 * 1000;
constexpr size_t kWaitersMax = 1024;       // reads of one block that share a transfer
constexpr double kQueueMaxFraction = 0.5;  // of the slab that queued writes may keep from eviction

struct Counters {
  std::atomic<uint64_t> lookups{0}, lookup_keys{0}, lookup_hits{0};
  std::atomic<uint64_t> puts_stored{0}, puts_duplicate{0}, puts_refused{0};
  std::atomic<uint64_t> reads{0}, read_misses{0}, dram_hits{0}, nvme_hits{0};
  std::atomic<uint64_t> bad_blocks{0}, non_finite{0}, raw_bytes{0}, encoded_bytes{0};
  std::atomic<uint64_t> dram_evicted{0}, nvme_evicted{0}, nvme_lost{0}, token_collisions{0};
};

// One put between reserve and commit.
struct PendingPut {
  PutOffer offer;
  std::shared_ptr<SlotBlock> block;
  absl::Time since;
};

// A put that took longer has its checksums looked at. Its writer may have given up and used its
// memory for something else while the payload was copied out of it (docs/wire_protocol.md): that
// takes a client at least the 2 s after which a connection counts as dead.
constexpr absl::Duration kSlowPut = absl::Milliseconds(500);

BlockListing listing_of(const BlockIndex::View& view) {
  return {view.key, view.answer, view.origin, view.persisted, view.pins};
}

// Puts in flight. Shared with the holds of their slots, which may outlive the store.
class PendingPuts {
 public:
  explicit PendingPuts(std::shared_ptr<BlockIndex> index) : index_(std::move(index)) {}

  uint64_t add(PendingPut put) {
    const std::lock_guard lock(mutex_);
    puts_.emplace(next_, std::move(put));
    return next_++;
  }

  // Whoever takes it decides how it ends. A null block: unknown, or taken.
  PendingPut take(uint64_t ticket) {
    const std::lock_guard lock(mutex_);
    const auto found = puts_.find(ticket);
    if (found == puts_.end()) return {};
    PendingPut put = std::move(found->second);
    puts_.erase(found);
    return put;
  }

  void abort(uint64_t ticket) {
    const PendingPut put = take(ticket);
    if (put.block != nullptr) index_->end_put({put.offer.key});
  }

 private:
  const std::shared_ptr<BlockIndex> index_;
  std::mutex mutex_;
  uint64_t next_ = 1;
  absl::flat_hash_map<uint64_t, PendingPut> puts_;
};

// Lives as long as a slot: its end aborts the put, unless that was committed. The block goes last,
// so that its bytes are nobody else's while a transfer into them may still run.
struct SlotHold {
  std::shared_ptr<PendingPuts> puts;
  std::shared_ptr<SlotBlock> block;
  uint64_t ticket = 0;

  ~SlotHold() { puts->abort(ticket); }
};

absl::Status check_fractions(const TieredStoreConfig& config) {
  const auto is_fraction = [](double value) { return value > 0.0 && value <= 1.0; };
  if (!is_fraction(config.high_watermark) || !is_fraction(config.low_watermark) ||
      config.low_watermark > config.high_watermark) {
    return absl::InvalidArgumentError(
        absl::StrCat("watermarks are low ", config.low_watermark, " and high ",
                     config.high_watermark, "; both are above 0 and at most 1, low at most high"));
  }
  if (config.pinned_max_fraction < 0.0 || config.pinned_max_fraction > 1.0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "pinned_max_fraction is ", config.pinned_max_fraction, "; allowed are 0 to 1"));
  }
  return absl::OkStatus();
}

absl::Status check_config(const TieredStoreConfig& config, absl::Span<std::byte> slab) {
  if (slab.size() < SlabAllocator::kGranuleBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the DRAM slab has ", slab.size(),
                                                   " bytes; at least ",
                                                   SlabAllocator::kGranuleBytes, " are needed"));
  }
  if (config.index_max_blocks == 0 || config.index_max_blocks >= UINT32_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("index_max_blocks is ", config.index_max_blocks,
                                                   "; allowed are 1 to ", UINT32_MAX - 1));
  }
  return check_fractions(config);
}

EvictionLimits limits_of(const TieredStoreConfig& config, uint64_t capacity_bytes) {
  return {config.high_watermark, config.low_watermark, config.pinned_max_fraction, capacity_bytes,
          !config.nvme.path.empty()};
}

class TieredStoreImpl final : public TieredStore, private NvmeListener {
 public:
  TieredStoreImpl(const TieredStoreConfig& config, absl::Span<std::byte> slab, const Clock& clock)
      : clock_(clock),
        dram_(std::make_shared<SlotTier>(slab)),
        index_(std::make_shared<BlockIndex>(config.index_max_blocks)),
        puts_(std::make_shared<PendingPuts>(index_)),
        policy_(limits_of(config, dram_->capacity_bytes())) {
    // Above what any earlier life of this store gave out, whether or not it was persisted.
    next_generation_ = static_cast<uint64_t>(std::max<int64_t>(1, absl::ToUnixMicros(absl::Now())));
  }

  // The NVMe threads call this object: they end first.
  ~TieredStoreImpl() override {
    if (nvme_ != nullptr) nvme_->stop();
  }

  absl::Status open_nvme(NvmeConfig config);

  LookupAnswer lookup(absl::Span<const BlockKey> keys, const LookupOptions& options) override;
  void release(uint64_t lease) override { unpin(leases_.take(lease)); }
  absl::StatusOr<PutSlot> reserve(const PutOffer& offer) override;
  absl::Status commit(uint64_t ticket) override;
  void read(const ReadRequest& request,
            std::function<void(absl::StatusOr<StoredBlock>)> reply) override;
  bool report_bad(const BlockKey& key, uint64_t generation) override;
  uint64_t evict(absl::Span<const BlockKey> keys) override;
  absl::Status drop_planes(const BlockKey& key, const Precision& least) override;
  std::vector<BlockListing> list(size_t at_most) const override;
  std::vector<BlockListing> describe(absl::Span<const BlockKey> keys) const override;
  absl::StatusOr<uint64_t> flush(absl::Duration at_most) override;
  UnpersistedBlocks unpersisted() const override;
  StoreStats stats() const override;

 private:
  using Reply = std::function<void(absl::StatusOr<StoredBlock>)>;
  struct Waiter {
    ReadRequest request;
    Reply reply;
  };

  void unpin(const std::vector<PinRef>& pins) {
    for (const PinRef& pin : pins) index_->unpin(pin);
  }
  void expire_leases() { unpin(leases_.take_expired(clock_.now())); }

  std::shared_ptr<SlotBlock> make_room(uint32_t bytes);
  bool offer_to_nvme(IndexDemotion demotion);
  bool demote(const BlockKey& key, uint64_t generation);
  absl::StatusOr<EncodedBlock> check_put(const PendingPut& put) const;
  uint64_t remove(const BlockKey& key, uint64_t generation, bool unless_pinned);
  void answer(StoredBlock stored, const Waiter& waiter);
  void miss(const Waiter& waiter, absl::Status status);
  void load_from_nvme(const NvmeRecord& record, Waiter waiter);
  void loaded(const NvmeRecord& record, absl::StatusOr<absl::Span<const std::byte>> bytes);
  absl::StatusOr<std::shared_ptr<SlotBlock>> promote(const NvmeRecord& record,
                                                     absl::Span<const std::byte> bytes);
  void forget_copy(const NvmeRecord& record, bool bad);
  void verify_nvme_copy(const NvmeRecord& record);

  // NvmeListener, on NVMe threads.
  bool on_wanted(const NvmeRecord& record) override;
  bool on_written(const NvmeRecord& record) override { return index_->attach_nvme(record); }
  void on_persisted(const BlockKey& key, uint64_t ordinal) override {
    index_->mark_persisted(key, ordinal);
  }
  bool on_dropped(const BlockKey& key, uint64_t ordinal) override {
    if (!index_->detach_nvme(key, ordinal)) return false;
    ++counters_.nvme_evicted;
    return true;
  }
  void on_lost(const BlockKey& key, uint64_t ordinal) override {
    if (index_->detach_nvme(key, ordinal)) ++counters_.nvme_lost;
  }

  const Clock& clock_;
  const std::shared_ptr<SlotTier> dram_;
  const std::shared_ptr<BlockIndex> index_;
  const std::shared_ptr<PendingPuts> puts_;
  const EvictionPolicy policy_;
  LeaseTable leases_;
  Counters counters_;
  std::atomic<uint64_t> next_generation_{1};
  std::atomic<bool> evicting_{false};
  std::atomic<uint64_t> recovered_blocks_{0};
  NvmeDamage recovery_damage_;  // set before anyone else sees the store

  std::mutex loads_mutex_;
  // Reads that wait for one transfer from NVMe, by ordinal. Guarded by loads_mutex_.
  absl::flat_hash_map<uint64_t, std::vector<Waiter>> loads_;

  std::unique_ptr<NvmeTier> nvme_;  // null: no NVMe tier
};

absl::Status TieredStoreImpl::open_nvme(NvmeConfig config) {
  const auto queue_bytes =
      static_cast<uint64_t>(static_cast<double>(dram_->capacity_bytes()) * kQueueMaxFraction);
  config.queue_max_bytes = std::min(config.queue_max_bytes, queue_bytes);
  NvmeTier::Recovery recovery;
  absl::StatusOr<std::unique_ptr<NvmeTier>> nvme = NvmeTier::open(config, clock_, recovery);
  if (!nvme.ok()) return nvme.status();
  uint64_t generation = next_generation_;
  for (const NvmeRecord& record : recovery.records) {
    index_->recover(record);
    generation = std::max(generation, record.generation + 1);
  }
  next_generation_ = generation;
  recovered_blocks_ = index_->counts().nvme_blocks;
  recovery_damage_ = recovery.damage;
  nvme_ = *std::move(nvme);
  nvme_->start(*this);
  return absl::OkStatus();
}

LookupAnswer TieredStoreImpl::lookup(absl::Span<const BlockKey> keys,
                                     const LookupOptions& options) {
  expire_leases();
  LookupAnswer answer;
  answer.keys.resize(keys.size());
  std::vector<PinRef> pins;
  const uint64_t pinned_before = options.lease_ms > 0 ? index_->counts().pinned_bytes : 0;
  uint64_t pinned_bytes = 0;
  uint64_t hits = 0;
  uint64_t duplicates = 0;
  bool may_pin = options.lease_ms > 0;
  for (size_t i = 0; i < keys.size(); ++i) {
    const size_t at = EvictionPolicy::touch_order(i, keys.size());
    PinRef pin;
    KeyAnswer& found = answer.keys[at];
    found = index_->lookup(keys[at], may_pin ? &pin : nullptr);
    if (found.state != BlockState::present) continue;
    ++hits;
    duplicates += makes_duplicate(found.dropped_planes, found.precision, options.precision);
    if (!may_pin) continue;
    pins.push_back(pin);
    pinned_bytes += pin.pinned_bytes;
    may_pin = policy_.may_pin(pinned_before, pinned_bytes);
  }
  if (options.for_put) {
    counters_.puts_duplicate += duplicates;
  } else {
    ++counters_.lookups;
    counters_.lookup_keys += keys.size();
    counters_.lookup_hits += hits;
  }
  if (may_pin && !pins.empty()) {
    const uint32_t lease_ms = std::min(options.lease_ms, kLeaseMaxMs);
    answer.lease = leases_.add(pins, clock_.now() + absl::Milliseconds(lease_ms));
  }
  if (answer.lease == 0) unpin(pins);
  return answer;
}

// Evicts as the policy says, a bounded number of blocks, and then reserves. Null: no room.
std::shared_ptr<SlotBlock> TieredStoreImpl::make_room(uint32_t bytes) {
  const auto demote = [this](IndexDemotion demotion) { return offer_to_nvme(std::move(demotion)); };
  uint64_t to_free = policy_.bytes_to_free(dram_->used_bytes(), bytes, evicting_);
  evicting_ = to_free > 0;
  std::shared_ptr<SlotBlock> block;
  for (int i = 0; i < EvictionPolicy::kVictimsPerReserveMax; ++i) {
    if (to_free == 0 && (block != nullptr || (block = dram_->reserve(bytes)) != nullptr)) break;
    const BlockIndex::Evicted evicted = index_->evict_next(policy_, demote);
    if (evicted.any) ++counters_.dram_evicted;
    to_free -= std::min(to_free, evicted.bytes);
  }
  if (to_free == 0) evicting_ = false;
  return block != nullptr ? block : dram_->reserve(bytes);
}

absl::StatusOr<PutSlot> TieredStoreImpl::reserve(const PutOffer& offer) {
  if (offer.bytes < sizeof(BlockHeader) || offer.bytes > limits::kBlockMaxBytes) {
    ++counters_.puts_refused;
    return absl::InvalidArgumentError(absl::StrCat("the offered block has ", offer.bytes,
                                                   " bytes; allowed are ", sizeof(BlockHeader),
                                                   " to ", limits::kBlockMaxBytes));
  }
  expire_leases();
  absl::Status status = index_->begin_put(offer);
  if (!status.ok()) {
    ++(absl::IsAlreadyExists(status) ? counters_.puts_duplicate : counters_.puts_refused);
    if (absl::IsFailedPrecondition(status)) ++counters_.token_collisions;
    return status;
  }
  std::shared_ptr<SlotBlock> block = make_room(offer.bytes);
  if (block == nullptr) {
    index_->end_put({offer.key});
    ++counters_.puts_refused;
    return absl::ResourceExhaustedError(
        absl::StrCat("no room for a block of ", offer.bytes, " bytes: ", dram_->used_bytes(),
                     " of ", dram_->capacity_bytes(), " are pinned, in use or just written"));
  }
  PutSlot slot;
  slot.bytes = block->bytes();
  slot.ticket = puts_->add({offer, block, clock_.now()});
  auto hold = std::make_shared<SlotHold>();
  hold->puts = puts_;
  hold->block = std::move(block);
  hold->ticket = slot.ticket;
  slot.hold = std::move(hold);
  return slot;
}

absl::StatusOr<EncodedBlock> TieredStoreImpl::check_put(const PendingPut& put) const {
  absl::StatusOr<EncodedBlock> block =
      EncodedBlock::parse(put.block->bytes(), put.offer.dropped_planes);
  if (!block.ok()) return block;
  absl::Status status = block->expect(put.offer.key, put.offer.layout_hash);
  if (!status.ok()) return status;
  if (block->precision() != put.offer.precision) {
    return absl::FailedPreconditionError("the block's precision is not the offered one");
  }
  if (clock_.now() - put.since > kSlowPut) {
    status = block->verify_cells();
    if (!status.ok()) return status;
  }
  return block;
}

absl::Status TieredStoreImpl::commit(uint64_t ticket) {
  PendingPut put = puts_->take(ticket);
  if (put.block == nullptr) {
    return absl::NotFoundError(absl::StrCat("no put has ticket ", ticket, "; it was aborted"));
  }
  const absl::StatusOr<EncodedBlock> block = check_put(put);
  if (!block.ok()) {
    index_->end_put({put.offer.key});
    ++counters_.bad_blocks;
    ++counters_.puts_refused;
    return block.status();
  }
  const BlockHeader& header = block->header();
  put.block->dropped_planes = put.offer.dropped_planes;
  put.block->precision = block->precision();
  ++counters_.puts_stored;
  counters_.raw_bytes += header.raw_bytes;
  counters_.encoded_bytes += put.offer.bytes;
  if ((header.flags & kBlockNonFinite) != 0) ++counters_.non_finite;

  const uint64_t generation = next_generation_.fetch_add(1, std::memory_order_relaxed);
  IndexPublish publish = {put.offer.key, generation, header.layout_hash, header.raw_bytes,
                          header.flags};
  publish.origin = {put.offer.parent, put.offer.route, put.offer.first_token_index,
                    put.offer.token_digest};
  publish.block = std::move(put.block);
  const uint64_t replaced = index_->end_put(std::move(publish));
  if (nvme_ != nullptr) {
    if (replaced != 0) nvme_->erase(put.offer.key, replaced);
    demote(put.offer.key, generation);
  }
  return absl::OkStatus();
}

bool TieredStoreImpl::offer_to_nvme(IndexDemotion demotion) {
  return nvme_ != nullptr &&
         nvme_->offer({demotion.record, demotion.bytes, std::move(demotion.hold), clock_.now()});
}

bool TieredStoreImpl::demote(const BlockKey& key, uint64_t generation) {
  IndexDemotion demotion = index_->demotion(key, generation);
  return demotion.hold != nullptr && offer_to_nvme(std::move(demotion));
}

void TieredStoreImpl::miss(const Waiter& waiter, absl::Status status) {
  ++counters_.read_misses;
  waiter.reply(std::move(status));
}

// Leaves out planes that the reader's buffer has no room for. max_bytes of 0 is no bound.
void TieredStoreImpl::answer(StoredBlock stored, const Waiter& waiter) {
  const ReadRequest& request = waiter.request;
  if (request.max_bytes != 0 && stored.bytes.size() > request.max_bytes) {
    const absl::StatusOr<EncodedBlock> block =
        EncodedBlock::parse(stored.bytes, stored.dropped_planes);
    if (!block.ok()) {
      remove(request.key, stored.generation, false);
      ++counters_.bad_blocks;
      return miss(waiter, absl::NotFoundError("the stored block was damaged"));
    }
    const BlockExtents extents = block_extents(*block);
    int drops = 0;
    while (drops < extents.floor_drops && extents.prefix_bytes[drops] > request.max_bytes) ++drops;
    if (extents.prefix_bytes[drops] > request.max_bytes ||
        !extents.precision[drops].satisfies(request.least)) {
      return miss(waiter, absl::NotFoundError(
                              absl::StrCat("the block does not fit in ", request.max_bytes,
                                           " bytes at the precision that the reader accepts")));
    }
    stored.bytes = stored.bytes.first(extents.prefix_bytes[drops]);
    stored.dropped_planes = static_cast<uint8_t>(stored.dropped_planes + drops);
    stored.precision = extents.precision[drops];
  }
  ++(stored.tier == Tier::dram ? counters_.dram_hits : counters_.nvme_hits);
  waiter.reply(std::move(stored));
}

void TieredStoreImpl::read(const ReadRequest& request, Reply reply) {
  ++counters_.reads;
  Waiter waiter = {request, std::move(reply)};
  IndexRead found = index_->read(request);
  if (found.other_digest != 0) {
    ++counters_.token_collisions;
    return miss(waiter, absl::NotFoundError(absl::StrCat(
                            "the key holds other tokens (digest stored ",
                            absl::Hex(found.other_digest, absl::kZeroPad16), ", asked ",
                            absl::Hex(request.token_digest, absl::kZeroPad16), ")")));
  }
  if (found.block != nullptr) return answer(std::move(found.answer), waiter);
  if (found.record.ordinal == 0 || nvme_ == nullptr) {
    return miss(waiter, absl::NotFoundError("not stored"));
  }
  load_from_nvme(found.record, std::move(waiter));
}

void TieredStoreImpl::load_from_nvme(const NvmeRecord& record, Waiter waiter) {
  bool refused = false;
  {
    const std::lock_guard lock(loads_mutex_);
    std::vector<Waiter>& waiters = loads_[record.ordinal];
    refused = waiters.size() >= kWaitersMax;
    if (!refused) waiters.push_back(std::move(waiter));
    if (!refused && waiters.size() > 1) return;
  }
  if (refused) {
    return miss(waiter, absl::ResourceExhaustedError("too many reads wait for this block"));
  }
  const bool queued =
      nvme_->load(record, [this, record](absl::StatusOr<absl::Span<const std::byte>> bytes) {
        loaded(record, std::move(bytes));
      });
  if (!queued) loaded(record, absl::ResourceExhaustedError("too many reads wait for NVMe"));
}

// A record that NVMe could not give back, or gave back damaged.
void TieredStoreImpl::forget_copy(const NvmeRecord& record, bool bad) {
  if (bad) ++counters_.bad_blocks;
  if (index_->detach_nvme(record.key, record.ordinal)) nvme_->erase(record.key, record.ordinal);
}

absl::StatusOr<std::shared_ptr<SlotBlock>> TieredStoreImpl::promote(
    const NvmeRecord& record, absl::Span<const std::byte> bytes) {
  absl::StatusOr<EncodedBlock> parsed = EncodedBlock::parse(bytes, record.dropped_planes);
  absl::Status status = parsed.status();
  if (status.ok()) status = parsed->expect(record.key, record.layout_hash);
  if (!status.ok()) {
    forget_copy(record, true);
    return absl::NotFoundError("the block on NVMe was damaged");
  }
  std::shared_ptr<SlotBlock> block = make_room(static_cast<uint32_t>(bytes.size()));
  if (block == nullptr) {
    return absl::ResourceExhaustedError("no room in DRAM to promote the block from NVMe");
  }
  std::memcpy(block->bytes().data(), bytes.data(), bytes.size());
  block->dropped_planes = record.dropped_planes;
  block->precision = parsed->precision();
  return block;
}

void TieredStoreImpl::loaded(const NvmeRecord& record,
                             absl::StatusOr<absl::Span<const std::byte>> bytes) {
  absl::Status status = bytes.status();
  std::shared_ptr<SlotBlock> block;
  StoredBlock stored;
  if (status.ok()) {
    absl::StatusOr<std::shared_ptr<SlotBlock>> promoted = promote(record, *bytes);
    status = promoted.status();
    if (status.ok()) {
      block = *std::move(promoted);
      stored = {block->bytes(), block->dropped_planes, block->precision,
                Tier::nvme,     record.generation,     SlotBlock::hold(block)};
      if (!index_->attach_dram(record.key, record.generation, block)) {
        status = absl::NotFoundError("the block was replaced or evicted while it was read");
      }
    }
  } else if (absl::IsNotFound(status) || absl::IsDataLoss(status)) {
    forget_copy(record, absl::IsDataLoss(status));
    status = absl::NotFoundError("the block is gone from NVMe");
  }
  std::vector<Waiter> waiters;
  {
    const std::lock_guard lock(loads_mutex_);
    const auto found = loads_.find(record.ordinal);
    if (found == loads_.end()) return;
    waiters = std::move(found->second);
    loads_.erase(found);
  }
  for (const Waiter& waiter : waiters) {
    if (!status.ok()) {
      miss(waiter, status);
    } else {
      answer(stored, waiter);
    }
  }
}

uint64_t TieredStoreImpl::remove(const BlockKey& key, uint64_t generation, bool unless_pinned) {
  const IndexRemoved removed = index_->remove(key, generation, unless_pinned);
  if (removed.nvme_ordinal != 0 && nvme_ != nullptr) nvme_->erase(key, removed.nvme_ordinal);
  return removed.removed ? 1 : 0;
}

void TieredStoreImpl::verify_nvme_copy(const NvmeRecord& record) {
  nvme_->load(record, [this, record](absl::StatusOr<absl::Span<const std::byte>> bytes) {
    absl::Status status = bytes.status();
    if (status.ok()) {
      const absl::StatusOr<EncodedBlock> block = EncodedBlock::parse(*bytes, record.dropped_planes);
      status = block.status();
      if (status.ok()) status = block->expect(record.key, record.layout_hash);
      if (status.ok()) status = block->verify_cells();
    }
    if (absl::IsDataLoss(status) || absl::IsFailedPrecondition(status)) forget_copy(record, true);
  });
}

// A copy on NVMe alone is checked by a reader thread: false then says "not yet", and the block goes
// when the check has found it bad.
bool TieredStoreImpl::report_bad(const BlockKey& key, uint64_t generation) {
  const IndexRead found = index_->read({key});
  if (found.block == nullptr) {
    if (found.record.ordinal != 0 && found.record.generation == generation && nvme_ != nullptr) {
      verify_nvme_copy(found.record);
    }
    return false;
  }
  if (found.answer.generation != generation) return false;
  const absl::StatusOr<EncodedBlock> block =
      EncodedBlock::parse(found.answer.bytes, found.answer.dropped_planes);
  // A whole block of another key is as bad as a damaged one.
  if (block.ok() && block->expect(key, found.layout_hash).ok() && block->verify_cells().ok()) {
    return false;
  }
  // NVMe got its bytes from DRAM or gave them to it: neither copy is kept.
  if (remove(key, generation, false) == 0) return false;
  ++counters_.bad_blocks;
  return true;
}

uint64_t TieredStoreImpl::evict(absl::Span<const BlockKey> keys) {
  expire_leases();
  std::vector<BlockKey> all;
  if (keys.empty()) {
    index_->visit_all([&](const BlockIndex::View& view) {
      all.push_back(view.key);
      return true;
    });
    keys = all;
  }
  uint64_t count = 0;
  for (const BlockKey& key : keys) count += remove(key, 0, true);
  return count;
}

absl::Status TieredStoreImpl::drop_planes(const BlockKey& key, const Precision& least) {
  expire_leases();
  absl::Status status = absl::OkStatus();
  const bool present = index_->visit(key, [&](const BlockIndex::View& view) {
    if (view.dram == nullptr) {
      status = absl::NotFoundError("DRAM does not hold the block");
      return;
    }
    if (view.pinned || view.dram->in_use()) {
      status = absl::FailedPreconditionError("the block is pinned, read or being written to NVMe");
      return;
    }
    const absl::StatusOr<EncodedBlock> block =
        EncodedBlock::parse(view.dram->bytes(), view.dram->dropped_planes);
    if (!block.ok()) {
      status = block.status();
      return;
    }
    const BlockHeader& header = block->header();
    if (!least.satisfies({header.floor_key_planes, header.floor_value_planes})) {
      status = absl::FailedPreconditionError(absl::StrCat(
          "K", least.key_planes, "V", least.value_planes, " is below the block's floor, K",
          header.floor_key_planes, "V", header.floor_value_planes));
      return;
    }
    const BlockExtents extents = block_extents(*block);
    int drops = 0;
    while (drops < extents.floor_drops && extents.precision[drops + 1].satisfies(least)) ++drops;
    if (drops == 0) return;
    view.dram->dropped_planes = static_cast<uint8_t>(view.dram->dropped_planes + drops);
    view.dram->precision = extents.precision[drops];
    view.dram->shrink(extents.prefix_bytes[drops]);
  });
  return present ? status : absl::NotFoundError("not stored");
}

std::vector<BlockListing> TieredStoreImpl::list(size_t at_most) const {
  std::vector<BlockListing> listings;
  if (at_most == 0) return listings;
  index_->visit_all([&](const BlockIndex::View& view) {
    listings.push_back(listing_of(view));
    return listings.size() < at_most;
  });
  return listings;
}

std::vector<BlockListing> TieredStoreImpl::describe(absl::Span<const BlockKey> keys) const {
  std::vector<BlockListing> listings(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    listings[i].key = keys[i];
    index_->visit(keys[i], [&](const BlockIndex::View& view) { listings[i] = listing_of(view); });
  }
  return listings;
}

absl::StatusOr<uint64_t> TieredStoreImpl::flush(absl::Duration at_most) {
  if (nvme_ == nullptr) return absl::FailedPreconditionError("the store has no NVMe tier");
  // Time of the machine: a clock that is moved by hand must not make this wait for ever.
  const absl::Time deadline = absl::Now() + at_most;
  std::vector<std::pair<BlockKey, uint64_t>> missing;
  index_->visit_all([&](const BlockIndex::View& view) {
    if (view.dram != nullptr && !view.on_nvme && !view.dram->in_use() &&
        view.dram->size_bytes() <= nvme_->block_max_bytes()) {
      missing.emplace_back(view.key, view.generation);
    }
    return true;
  });
  for (const auto& [key, generation] : missing) {
    IndexDemotion demotion = index_->demotion(key, generation);
    if (demotion.hold == nullptr) continue;
    while (!nvme_->has_room(demotion.record.bytes) && absl::Now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (absl::Now() >= deadline) break;
    offer_to_nvme(std::move(demotion));  // a refused block says nothing about the next one
  }
  const absl::Status status = nvme_->flush(deadline - absl::Now());
  if (!status.ok() && !absl::IsDeadlineExceeded(status)) return status;
  return index_->counts().persisted_blocks;
}

UnpersistedBlocks TieredStoreImpl::unpersisted() const {
  UnpersistedBlocks blocks;
  index_->visit_all([&](const BlockIndex::View& view) {
    if (view.dram == nullptr || view.persisted) return true;
    if (nvme_ != nullptr && view.dram->size_bytes() > nvme_->block_max_bytes()) {
      ++blocks.too_large;
    } else if (!view.on_nvme && view.dram->in_use()) {
      ++blocks.in_use;
    } else {
      ++blocks.waiting;
    }
    return true;
  });
  return blocks;
}

bool TieredStoreImpl::on_wanted(const NvmeRecord& record) {
  bool wanted = false;
  index_->visit(record.key, [&](const BlockIndex::View& view) {
    wanted = view.generation == record.generation;
  });
  return wanted;
}

StoreStats TieredStoreImpl::stats() const {
  const IndexCounts counts = index_->counts();
  StoreStats stats;
  stats.tiers.push_back({Tier::dram, dram_->capacity_bytes(), dram_->used_bytes(),
                         counts.dram_bytes, counts.dram_raw_bytes, counts.dram_blocks,
                         counters_.dram_hits, counters_.dram_evicted});
  if (nvme_ != nullptr) {
    const NvmeStats nvme = nvme_->stats();
    stats.tiers.push_back({Tier::nvme, nvme.capacity_bytes, nvme.file_bytes, counts.nvme_bytes,
                           counts.nvme_raw_bytes, counts.nvme_blocks, counters_.nvme_hits,
                           counters_.nvme_evicted});
    stats.nvme_queue_bytes = nvme.queue_bytes;
    stats.nvme_dropped_blocks = nvme.dropped_blocks;
    stats.nvme_write_errors = nvme.write_errors;
    stats.nvme_lost_blocks = counters_.nvme_lost;
    stats.nvme_repairs = nvme.repairs;
    stats.nvme_db_reads = nvme.db_reads;
    stats.oldest_unpersisted_age = nvme.oldest_unpersisted_age;
  }
  stats.lookups = counters_.lookups;
  stats.lookup_keys = counters_.lookup_keys;
  stats.lookup_hits = counters_.lookup_hits;
  stats.puts_stored = counters_.puts_stored;
  stats.puts_duplicate = counters_.puts_duplicate;
  stats.puts_refused = counters_.puts_refused;
  stats.reads = counters_.reads;
  stats.read_misses = counters_.read_misses;
  stats.bad_blocks = counters_.bad_blocks;
  stats.token_collisions = counters_.token_collisions;
  stats.stored_raw_blocks_non_finite = counters_.non_finite;
  stats.raw_bytes = counters_.raw_bytes;
  stats.encoded_bytes = counters_.encoded_bytes;
  stats.pinned_bytes = counts.pinned_bytes;
  stats.persisted_blocks = counts.persisted_blocks;
  stats.recovered_blocks = recovered_blocks_;
  stats.recovery_repaired = recovery_damage_.repaired ? 1 : 0;
  stats.recovery_lost = recovery_damage_.lost ? 1 : 0;
  return stats;
}

}  // namespace

StoreMemory TieredStore::memory_of(const TieredStoreConfig& config) {
  return {BlockIndex::memory_bytes(config.index_max_blocks), NvmeTier::memtable_bytes(config.nvme)};
}

absl::StatusOr<std::unique_ptr<TieredStore>> TieredStore::open(const TieredStoreConfig& config,
                                                               absl::Span<std::byte> slab,
                                                               const Clock& clock) {
  absl::Status status = check_config(config, slab);
  if (!status.ok()) return status;
  auto store = std::make_unique<TieredStoreImpl>(config, slab, clock);
  if (!config.nvme.path.empty()) {
    status = store->open_nvme(config.nvme);
    if (!status.ok()) return status;
  }
  return store;
}

}  // namespace hadal
