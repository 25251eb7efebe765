#include "storage/block_index.h"

#include <algorithm>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"

namespace hadal {
namespace {

constexpr uint32_t kNone = UINT32_MAX;
constexpr uint64_t kShardsMax = 32;
constexpr uint64_t kBlocksPerShardMin = 1024;

enum ListId : uint8_t { kDramList = 0, kNvmeList = 1, kNoList = 2 };

// What is NVMe's alone of a block's NvmeRecord.
struct NvmeCopy {
  uint64_t ordinal = 0;  // 0: none
  uint32_t bytes = 0;
  uint8_t dropped_planes = 0;
  Precision precision;
};

}  // namespace

struct BlockIndex::Entry {
  BlockKey key;
  uint64_t birth = 0;
  uint64_t tick = 0;        // of the last touch
  uint64_t generation = 0;  // 0: nothing published yet
  uint64_t layout_hash = 0;
  uint64_t raw_bytes = 0;
  BlockOrigin origin;
  uint32_t flags = 0;
  uint32_t pins = 0;
  std::shared_ptr<SlotBlock> dram;
  NvmeCopy nvme;
  bool persisted = false;
  bool writing = false;
  bool offered = false;  // a second time, when its turn to be evicted came
  ListId list = kNoList;
  uint32_t chain = kNone;
  uint32_t newer = kNone;
  uint32_t older = kNone;

  bool present() const { return generation != 0; }

  NvmeRecord record(const NvmeCopy& copy) const {
    NvmeRecord record;
    record.key = key;
    record.ordinal = copy.ordinal;
    record.generation = generation;
    record.layout_hash = layout_hash;
    record.raw_bytes = raw_bytes;
    record.bytes = copy.bytes;
    record.flags = flags;
    record.dropped_planes = copy.dropped_planes;
    record.precision = copy.precision;
    record.origin = origin;
    return record;
  }

  // Of the DRAM copy, for a write to NVMe.
  IndexDemotion demotion() const {
    const NvmeCopy copy = {0, dram->size_bytes(), dram->dropped_planes, dram->precision};
    return {record(copy), dram->bytes(), SlotBlock::hold(dram)};
  }

  KeyAnswer answer() const {
    KeyAnswer answer;
    if (!present()) {
      answer.state = BlockState::being_written;
      return answer;
    }
    answer.state = BlockState::present;
    answer.generation = generation;
    answer.token_digest = origin.token_digest;
    if (dram != nullptr) {
      answer.tier = Tier::dram;
      answer.bytes = dram->size_bytes();
      answer.dropped_planes = dram->dropped_planes;
      answer.precision = dram->precision;
    } else {
      answer.tier = Tier::nvme;
      answer.bytes = nvme.bytes;
      answer.dropped_planes = nvme.dropped_planes;
      answer.precision = nvme.precision;
    }
    return answer;
  }
};

struct BlockIndex::Shard {
  struct List {
    uint32_t newest = kNone;
    uint32_t oldest = kNone;
  };

  mutable std::mutex mutex;
  uint64_t capacity = 0;
  std::vector<Entry> entries;  // reserved to capacity: never moves
  std::vector<uint32_t> free;
  std::vector<uint32_t> buckets;
  std::array<List, 2> lists;
  IndexCounts counts;
  std::atomic<uint64_t> oldest_tick{UINT64_MAX};  // of the DRAM list

  uint32_t& bucket(const BlockKey& key) {
    return buckets[(absl::Hash<BlockKey>{}(key) >> 8) & (buckets.size() - 1)];
  }

  Entry* find(const BlockKey& key) {
    for (uint32_t at = bucket(key); at != kNone; at = entries[at].chain) {
      if (entries[at].key == key) return &entries[at];
    }
    return nullptr;
  }

  uint32_t number(const Entry& entry) const {
    return static_cast<uint32_t>(&entry - entries.data());
  }

  void note_oldest() {
    const uint32_t oldest = lists[kDramList].oldest;
    oldest_tick.store(oldest == kNone ? UINT64_MAX : entries[oldest].tick,
                      std::memory_order_relaxed);
  }

  void unlink(Entry& entry) {
    if (entry.list == kNoList) return;
    List& list = lists[entry.list];
    (entry.newer == kNone ? list.newest : entries[entry.newer].older) = entry.older;
    (entry.older == kNone ? list.oldest : entries[entry.older].newer) = entry.newer;
    entry.newer = entry.older = kNone;
    entry.list = kNoList;
    note_oldest();
  }

  // To the newest end of the list of the tier it is in.
  void touch(Entry& entry, uint64_t tick) {
    unlink(entry);
    entry.tick = tick;
    if (!entry.present()) return;
    entry.list = entry.dram != nullptr ? kDramList : kNvmeList;
    List& list = lists[entry.list];
    entry.older = list.newest;
    if (list.newest != kNone) entries[list.newest].newer = number(entry);
    list.newest = number(entry);
    if (list.oldest == kNone) list.oldest = number(entry);
    note_oldest();
  }

  // What the entry's pins keep of the slab: where DRAM lacks the block, what it takes once it is
  // read, or pins of blocks that only NVMe holds would have no cap.
  static uint64_t pinned_bytes(const Entry& entry) {
    if (entry.pins == 0) return 0;
    if (entry.dram != nullptr) return entry.dram->slab_bytes();
    constexpr uint64_t kGranule = SlabAllocator::kGranuleBytes;
    return (entry.nvme.bytes + kGranule - 1) / kGranule * kGranule;
  }

  void set_dram(Entry& entry, std::shared_ptr<SlotBlock> block) {
    counts.pinned_bytes -= pinned_bytes(entry);
    if (entry.dram != nullptr) {
      --counts.dram_blocks;
      counts.dram_bytes -= entry.dram->size_bytes();
      counts.dram_raw_bytes -= entry.raw_bytes;
    }
    entry.dram = std::move(block);
    if (entry.dram != nullptr) {
      ++counts.dram_blocks;
      counts.dram_bytes += entry.dram->size_bytes();
      counts.dram_raw_bytes += entry.raw_bytes;
    }
    counts.pinned_bytes += pinned_bytes(entry);
  }

  void set_nvme(Entry& entry, const NvmeCopy& copy) {
    counts.pinned_bytes -= pinned_bytes(entry);
    if (entry.nvme.ordinal != 0) {
      --counts.nvme_blocks;
      counts.nvme_bytes -= entry.nvme.bytes;
      counts.nvme_raw_bytes -= entry.raw_bytes;
      if (entry.persisted) --counts.persisted_blocks;
    }
    entry.nvme = copy;
    entry.persisted = false;
    if (copy.ordinal != 0) {
      ++counts.nvme_blocks;
      counts.nvme_bytes += copy.bytes;
      counts.nvme_raw_bytes += entry.raw_bytes;
      entry.offered = false;
    }
    counts.pinned_bytes += pinned_bytes(entry);
  }

  void erase(Entry& entry) {
    set_dram(entry, nullptr);
    set_nvme(entry, {});
    unlink(entry);
    uint32_t* at = &bucket(entry.key);
    while (*at != number(entry)) at = &entries[*at].chain;
    *at = entry.chain;
    free.push_back(number(entry));
    entry = Entry();
  }

  // Leaves the entry of a key that a put is writing, without what it had.
  void clear(Entry& entry) {
    if (!entry.writing) return erase(entry);
    set_dram(entry, nullptr);
    set_nvme(entry, {});
    entry.generation = 0;
    unlink(entry);
  }

  // Room for one more entry: the oldest unpinned block of NVMe alone is forgotten, else of DRAM.
  // Its NVMe copy is found again only by a restart, and replaced by the next put of its key.
  void make_room() {
    for (ListId id : {kNvmeList, kDramList}) {
      uint32_t at = lists[id].oldest;
      for (int i = 0; i < 8 && at != kNone; ++i, at = entries[at].newer) {
        Entry& entry = entries[at];
        if (entry.pins > 0 || entry.writing) continue;
        if (entry.dram != nullptr && entry.dram->in_use()) continue;
        return erase(entry);
      }
    }
  }

  Entry* add(const BlockKey& key, uint64_t birth) {
    uint32_t at = kNone;
    if (free.empty() && entries.size() < capacity) {
      at = static_cast<uint32_t>(entries.size());
      entries.emplace_back();
    } else {
      if (free.empty()) make_room();
      if (free.empty()) return nullptr;
      at = free.back();
      free.pop_back();
    }
    Entry& entry = entries[at];
    entry.key = key;
    entry.birth = birth;
    uint32_t& head = bucket(key);
    entry.chain = head;
    head = at;
    return &entry;
  }

  View view(const Entry& entry) const {
    return {entry.key,
            entry.answer(),
            entry.generation,
            entry.dram.get(),
            entry.nvme.ordinal != 0,
            entry.persisted,
            entry.pins > 0,
            entry.pins,
            entry.origin};
  }
};

namespace {

NvmeCopy copy_of(const NvmeRecord& record) {
  return {record.ordinal, record.bytes, record.dropped_planes, record.precision};
}

absl::Status other_tokens(const PutOffer& offer, uint64_t stored_digest) {
  const std::string key = offer.key.hex();
  return absl::FailedPreconditionError(absl::StrCat(
      "key ", key, " holds other tokens (digest stored ",
      absl::Hex(stored_digest, absl::kZeroPad16), ", offered ",
      absl::Hex(offer.token_digest, absl::kZeroPad16),
      "): two token sequences have one engine hash; let the engine hash with SHA-256, give engines "
      "that hash in different ways different hash schemes, or evict the key to store the other"));
}

uint64_t shards_for(uint64_t max_blocks) {
  uint64_t count = 1;
  while (count < kShardsMax && max_blocks / (count * 2) >= kBlocksPerShardMin) count *= 2;
  return count;
}

size_t buckets_for(uint64_t shard_blocks) {
  size_t buckets = 16;
  while (buckets < shard_blocks) buckets *= 2;
  return buckets;
}

}  // namespace

uint64_t BlockIndex::memory_bytes(uint64_t max_blocks) {
  const uint64_t shards = shards_for(max_blocks);
  const uint64_t blocks = max_blocks / shards;
  return shards * (blocks * sizeof(Entry) + buckets_for(blocks) * sizeof(uint32_t));
}

BlockIndex::BlockIndex(uint64_t max_blocks) {
  max_blocks = std::clamp<uint64_t>(max_blocks, 1, uint64_t{kNone} - 1);
  shard_count_ = shards_for(max_blocks);
  shards_ = std::make_unique<Shard[]>(shard_count_);
  for (uint64_t i = 0; i < shard_count_; ++i) {
    Shard& shard = shards_[i];
    shard.capacity = max_blocks / shard_count_;
    shard.entries.reserve(shard.capacity);
    shard.buckets.assign(buckets_for(shard.capacity), kNone);
  }
}

BlockIndex::~BlockIndex() = default;

BlockIndex::Shard& BlockIndex::shard_of(const BlockKey& key) const {
  return shards_[absl::Hash<BlockKey>{}(key) & (shard_count_ - 1)];
}

KeyAnswer BlockIndex::lookup(const BlockKey& key, PinRef* pin) {
  Shard& shard = shard_of(key);
  const std::lock_guard lock(shard.mutex);
  Entry* entry = shard.find(key);
  if (entry == nullptr) return {};
  shard.touch(*entry, tick_.fetch_add(1, std::memory_order_relaxed));
  if (pin != nullptr && entry->present()) {
    *pin = {key, entry->birth, 0};
    if (entry->pins++ == 0) pin->pinned_bytes = Shard::pinned_bytes(*entry);
    shard.counts.pinned_bytes += pin->pinned_bytes;
  }
  return entry->answer();
}

void BlockIndex::unpin(const PinRef& pin) {
  Shard& shard = shard_of(pin.key);
  const std::lock_guard lock(shard.mutex);
  Entry* entry = shard.find(pin.key);
  if (entry == nullptr || entry->birth != pin.birth || entry->pins == 0) return;
  const uint64_t before = Shard::pinned_bytes(*entry);
  if (--entry->pins == 0) shard.counts.pinned_bytes -= before;
}

absl::Status BlockIndex::begin_put(const PutOffer& offer) {
  Shard& shard = shard_of(offer.key);
  const std::lock_guard lock(shard.mutex);
  Entry* entry = shard.find(offer.key);
  if (entry == nullptr) {
    entry = shard.add(offer.key, next_birth_.fetch_add(1, std::memory_order_relaxed));
    if (entry == nullptr) {
      return absl::ResourceExhaustedError(
          "the block index is full and every block is pinned or in "
          "use; raise index_max_blocks");
    }
  } else if (entry->present() && are_other_tokens(entry->origin.token_digest, offer.token_digest)) {
    return other_tokens(offer, entry->origin.token_digest);
  } else if (entry->writing) {
    return absl::AbortedError("another put of this key is in flight");
  } else {
    const auto suffices = [&](const auto& copy) {
      return makes_duplicate(copy.dropped_planes, copy.precision, offer.precision);
    };
    if ((entry->dram != nullptr && suffices(*entry->dram)) ||
        (entry->nvme.ordinal != 0 && suffices(entry->nvme))) {
      shard.touch(*entry, tick_.fetch_add(1, std::memory_order_relaxed));
      return absl::AlreadyExistsError("stored whole and at least as precise");
    }
  }
  entry->writing = true;
  return absl::OkStatus();
}

uint64_t BlockIndex::end_put(IndexPublish publish) {
  Shard& shard = shard_of(publish.key);
  const std::lock_guard lock(shard.mutex);
  Entry* entry = shard.find(publish.key);
  if (entry == nullptr || !entry->writing) return 0;
  entry->writing = false;
  if (publish.block == nullptr) {
    if (!entry->present()) shard.erase(*entry);
    return 0;
  }
  const uint64_t replaced = entry->nvme.ordinal;
  // What was there leaves the counts by its own raw size.
  shard.set_nvme(*entry, {});
  shard.set_dram(*entry, nullptr);
  entry->raw_bytes = publish.raw_bytes;
  shard.set_dram(*entry, std::move(publish.block));
  entry->generation = publish.generation;
  entry->layout_hash = publish.layout_hash;
  entry->origin = publish.origin;
  entry->flags = publish.flags;
  entry->offered = false;
  shard.touch(*entry, tick_.fetch_add(1, std::memory_order_relaxed));
  return replaced;
}

IndexRead BlockIndex::read(const ReadRequest& request) {
  const Precision& least = request.least;
  Shard& shard = shard_of(request.key);
  const std::lock_guard lock(shard.mutex);
  IndexRead found;
  Entry* entry = shard.find(request.key);
  if (entry == nullptr || !entry->present()) return found;
  if (are_other_tokens(entry->origin.token_digest, request.token_digest)) {
    found.other_digest = entry->origin.token_digest;
    return found;
  }
  found.layout_hash = entry->layout_hash;
  if (entry->dram != nullptr && entry->dram->precision.satisfies(least)) {
    found.block = entry->dram;
    found.answer.bytes = entry->dram->bytes();
    found.answer.dropped_planes = entry->dram->dropped_planes;
    found.answer.precision = entry->dram->precision;
    found.answer.tier = Tier::dram;
    found.answer.generation = entry->generation;
    found.answer.hold = SlotBlock::hold(entry->dram);
  } else if (entry->nvme.ordinal != 0 && entry->nvme.precision.satisfies(least)) {
    found.record = entry->record(entry->nvme);
  } else {
    return found;
  }
  shard.touch(*entry, tick_.fetch_add(1, std::memory_order_relaxed));
  return found;
}

bool BlockIndex::attach_dram(const BlockKey& key, uint64_t generation,
                             std::shared_ptr<SlotBlock> block) {
  Shard& shard = shard_of(key);
  const std::lock_guard lock(shard.mutex);
  Entry* entry = shard.find(key);
  if (entry == nullptr || entry->generation != generation) return false;
  shard.set_dram(*entry, std::move(block));
  shard.touch(*entry, tick_.fetch_add(1, std::memory_order_relaxed));
  return true;
}

bool BlockIndex::attach_nvme(const NvmeRecord& record) {
  Shard& shard = shard_of(record.key);
  const std::lock_guard lock(shard.mutex);
  Entry* entry = shard.find(record.key);
  if (entry == nullptr || entry->generation != record.generation) return false;
  shard.set_nvme(*entry, copy_of(record));
  return true;
}

bool BlockIndex::recover(const NvmeRecord& record) {
  Shard& shard = shard_of(record.key);
  const std::lock_guard lock(shard.mutex);
  Entry* entry = shard.find(record.key);
  if (entry == nullptr) {
    entry = shard.add(record.key, next_birth_.fetch_add(1, std::memory_order_relaxed));
    if (entry == nullptr) return false;
  }
  shard.set_nvme(*entry, {});
  entry->generation = record.generation;
  entry->layout_hash = record.layout_hash;
  entry->raw_bytes = record.raw_bytes;
  entry->origin = record.origin;
  entry->flags = record.flags;
  shard.set_nvme(*entry, copy_of(record));
  entry->persisted = true;
  ++shard.counts.persisted_blocks;
  shard.touch(*entry, tick_.fetch_add(1, std::memory_order_relaxed));
  return true;
}

bool BlockIndex::detach_nvme(const BlockKey& key, uint64_t ordinal) {
  Shard& shard = shard_of(key);
  const std::lock_guard lock(shard.mutex);
  Entry* entry = shard.find(key);
  if (entry == nullptr || entry->nvme.ordinal != ordinal || ordinal == 0) return false;
  shard.set_nvme(*entry, {});
  if (entry->dram == nullptr) shard.clear(*entry);
  return true;
}

void BlockIndex::mark_persisted(const BlockKey& key, uint64_t ordinal) {
  Shard& shard = shard_of(key);
  const std::lock_guard lock(shard.mutex);
  Entry* entry = shard.find(key);
  if (entry == nullptr || entry->nvme.ordinal != ordinal || entry->persisted) return;
  entry->persisted = true;
  ++shard.counts.persisted_blocks;
}

BlockIndex::Evicted BlockIndex::evict_next(const EvictionPolicy& policy, const Demote& demote) {
  Shard* shard = &shards_[0];
  for (uint64_t i = 1; i < shard_count_; ++i) {
    if (shards_[i].oldest_tick.load(std::memory_order_relaxed) <
        shard->oldest_tick.load(std::memory_order_relaxed)) {
      shard = &shards_[i];
    }
  }
  const std::lock_guard lock(shard->mutex);
  const uint32_t oldest = shard->lists[kDramList].oldest;
  if (oldest == kNone) return {};
  Entry& entry = shard->entries[oldest];
  EvictionFacts facts;
  facts.pinned = entry.pins > 0;
  facts.in_use = entry.dram->in_use();
  facts.replaced = entry.writing;
  facts.on_nvme = entry.nvme.ordinal != 0;
  facts.offered = entry.offered;
  EvictionVerdict verdict = policy.judge(facts);
  if (verdict == EvictionVerdict::demote) {
    entry.offered = true;
    verdict = demote(entry.demotion()) ? EvictionVerdict::keep : EvictionVerdict::evict;
  }
  if (verdict == EvictionVerdict::keep) {
    shard->touch(entry, tick_.fetch_add(1, std::memory_order_relaxed));
    return {};
  }
  const uint64_t bytes = entry.dram->slab_bytes();
  shard->set_dram(entry, nullptr);
  if (entry.nvme.ordinal != 0) {
    shard->touch(entry, entry.tick);
  } else {
    shard->clear(entry);
  }
  return {true, bytes};
}

bool BlockIndex::visit(const BlockKey& key, const std::function<void(const View&)>& visit) {
  Shard& shard = shard_of(key);
  const std::lock_guard lock(shard.mutex);
  Entry* entry = shard.find(key);
  if (entry == nullptr || !entry->present()) return false;
  const uint64_t before = entry->dram == nullptr ? 0 : entry->dram->size_bytes();
  visit(shard.view(*entry));
  if (entry->dram != nullptr) shard.counts.dram_bytes -= before - entry->dram->size_bytes();
  return true;
}

void BlockIndex::visit_all(const std::function<bool(const View&)>& visit) const {
  for (uint64_t i = 0; i < shard_count_; ++i) {
    const std::lock_guard lock(shards_[i].mutex);
    for (const Entry& entry : shards_[i].entries) {
      if (entry.present() && !visit(shards_[i].view(entry))) return;
    }
  }
}

IndexRemoved BlockIndex::remove(const BlockKey& key, uint64_t generation, bool unless_pinned) {
  Shard& shard = shard_of(key);
  const std::lock_guard lock(shard.mutex);
  Entry* entry = shard.find(key);
  if (entry == nullptr || !entry->present()) return {};
  if (generation != 0 && entry->generation != generation) return {};
  if (unless_pinned && entry->pins > 0) return {};
  const uint64_t ordinal = entry->nvme.ordinal;
  shard.clear(*entry);
  return {true, ordinal};
}

IndexDemotion BlockIndex::demotion(const BlockKey& key, uint64_t generation) {
  Shard& shard = shard_of(key);
  const std::lock_guard lock(shard.mutex);
  Entry* entry = shard.find(key);
  if (entry == nullptr || !entry->present() || entry->dram == nullptr ||
      entry->generation != generation || entry->nvme.ordinal != 0) {
    return {};
  }
  return entry->demotion();
}

IndexCounts BlockIndex::counts() const {
  IndexCounts sum;
  for (uint64_t i = 0; i < shard_count_; ++i) {
    const std::lock_guard lock(shards_[i].mutex);
    const IndexCounts& counts = shards_[i].counts;
    sum.dram_blocks += counts.dram_blocks;
    sum.dram_bytes += counts.dram_bytes;
    sum.dram_raw_bytes += counts.dram_raw_bytes;
    sum.nvme_blocks += counts.nvme_blocks;
    sum.nvme_bytes += counts.nvme_bytes;
    sum.nvme_raw_bytes += counts.nvme_raw_bytes;
    sum.persisted_blocks += counts.persisted_blocks;
    sum.pinned_bytes += counts.pinned_bytes;
  }
  return sum;
}

}  // namespace hadal
