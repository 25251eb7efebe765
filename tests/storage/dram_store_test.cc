// The tiered store without an NVMe tier: puts, precision, leases, eviction, planes, limits.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "storage/slab_allocator.h"
#include "tests/storage/test_blocks.h"

namespace hadal::test {
namespace {

using ::testing::HasSubstr;

uint64_t slab_bytes_of(const TestBlock& block) {
  constexpr uint64_t kGranule = SlabAllocator::kGranuleBytes;
  return (block.bytes.size() + kGranule - 1) / kGranule * kGranule;
}

class DramStoreTest : public ::testing::Test {
 protected:
  // A slab of exactly `blocks` k5v4 blocks.
  void open(uint64_t blocks) {
    slab_ = std::make_unique<Slab>(blocks * slab_bytes_of(make_block(0)));
    absl::StatusOr<std::unique_ptr<TieredStore>> store =
        TieredStore::open(config_, slab_->span(), clock_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  bool present(uint64_t number) {
    for (const BlockListing& listing : store_->list(SIZE_MAX)) {
      if (listing.key == test_key(number)) return true;
    }
    return false;
  }

  TieredStoreConfig config_;
  ManualClock clock_;
  std::unique_ptr<Slab> slab_;
  std::unique_ptr<TieredStore> store_;
};

TEST_F(DramStoreTest, GivesBackWhatWasPut) {
  open(8);
  const TestBlock block = make_block(1);
  EXPECT_EQ(look(*store_, 1).state, BlockState::absent);
  EXPECT_TRUE(absl::IsNotFound(read(*store_, 1).status()));
  ASSERT_TRUE(put(*store_, block).ok());
  const KeyAnswer answer = look(*store_, 1);
  EXPECT_EQ(answer.state, BlockState::present);
  EXPECT_EQ(answer.tier, Tier::dram);
  EXPECT_EQ(answer.bytes, block.bytes.size());
  EXPECT_EQ(answer.precision, (Precision{5, 4}));
  EXPECT_NE(answer.generation, 0);
  const absl::StatusOr<StoredBlock> stored = read(*store_, 1);
  ASSERT_TRUE(stored.ok());
  EXPECT_TRUE(same_bytes(stored->bytes, block.bytes));
  EXPECT_EQ(stored->generation, answer.generation);
  const StoreStats stats = store_->stats();
  EXPECT_EQ(stats.puts_stored, 1);
  EXPECT_EQ(stats.read_misses, 1);
  EXPECT_EQ(stats.encoded_bytes, block.bytes.size());
  EXPECT_GT(stats.raw_bytes, stats.encoded_bytes);
}

// While its writer may have given up, and used the memory again that the rest came from.
TEST_F(DramStoreTest, APutThatTookLongIsCheckedWhole) {
  open(8);
  for (const bool slow : {false, true}) {
    for (const bool torn : {false, true}) {
      const TestBlock block = make_block(slow * 2 + torn);
      absl::StatusOr<PutSlot> slot = store_->reserve(block.offer);
      ASSERT_TRUE(slot.ok());
      std::memcpy(slot->bytes.data(), block.bytes.data(), block.bytes.size());
      if (torn) slot->bytes[block.bytes.size() - 100] ^= std::byte{1};
      if (slow) clock_.advance(absl::Seconds(1));
      const absl::Status status = store_->commit(slot->ticket);
      // A quick one is its reader's to check.
      EXPECT_EQ(absl::IsDataLoss(status), slow && torn) << status;
      const bool present = look(*store_, slow * 2 + torn).state == BlockState::present;
      EXPECT_EQ(present, status.ok());
    }
  }
  EXPECT_EQ(store_->stats().bad_blocks, 1);
}

TEST_F(DramStoreTest, OneWriterAKey) {
  open(8);
  const TestBlock block = make_block(1);
  absl::StatusOr<PutSlot> first = store_->reserve(block.offer);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(look(*store_, 1).state, BlockState::being_written);
  EXPECT_TRUE(absl::IsAborted(store_->reserve(block.offer).status()));
  EXPECT_TRUE(absl::IsNotFound(read(*store_, 1).status()));
  std::memcpy(first->bytes.data(), block.bytes.data(), block.bytes.size());
  EXPECT_TRUE(store_->commit(first->ticket).ok());
  EXPECT_TRUE(absl::IsNotFound(store_->commit(first->ticket)));
  EXPECT_TRUE(absl::IsAlreadyExists(store_->reserve(block.offer).status()));
  EXPECT_EQ(store_->stats().puts_duplicate, 1);
}

TEST_F(DramStoreTest, KeepsWhatThePutSaidUntilAnotherReplacesIt) {
  open(16);
  const TestBlock cut = make_block(1, "k5v4", 1);
  ASSERT_TRUE(put(*store_, cut).ok());
  EXPECT_TRUE(keeps_origin(*store_, cut));
  TestBlock whole = make_block(1);
  whole.offer.route = BlockKey{};
  ASSERT_TRUE(put(*store_, whole).ok());
  EXPECT_TRUE(keeps_origin(*store_, whole));
  whole.offer.route = test_key(8);
  EXPECT_TRUE(absl::IsAlreadyExists(put(*store_, whole)));
  EXPECT_FALSE(keeps_origin(*store_, whole));
  ASSERT_TRUE(put(*store_, make_block(2)).ok());
  const std::vector<BlockKey> keys = {test_key(9), test_key(2)};
  const std::vector<BlockListing> listings = store_->describe(keys);
  ASSERT_EQ(listings.size(), 2);
  EXPECT_EQ(listings[0].key, keys[0]);
  EXPECT_EQ(listings[0].answer.state, BlockState::absent);
  EXPECT_EQ(listings[1].answer.state, BlockState::present);
  EXPECT_EQ(store_->stats().lookups, 0);
}

TEST_F(DramStoreTest, OtherTokensUnderAKeyAreRefusedAndMissed) {
  open(8);
  TestBlock block = make_block(1);
  block.offer.token_digest = 0x12ab;
  ASSERT_TRUE(put(*store_, block).ok());
  TestBlock other = make_block(1, "k8v8");  // more precise: would replace
  other.offer.token_digest = 0xfff;
  const absl::Status refused = put(*store_, other);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("key " + block.offer.key.hex() +
                        " holds other tokens (digest stored 00000000000012ab, offered "
                        "0000000000000fff)"));
  ReadRequest request = {block.offer.key};
  request.token_digest = 0xfff;
  const absl::Status missed = read(*store_, request).status();
  EXPECT_TRUE(absl::IsNotFound(missed)) << missed;
  EXPECT_THAT(std::string(missed.message()), HasSubstr("digest stored 00000000000012ab, asked"));
  StoreStats stats = store_->stats();
  EXPECT_EQ(stats.token_collisions, 2);
  EXPECT_EQ(stats.puts_refused, 1);
  EXPECT_EQ(stats.read_misses, 1);

  // What says nothing, or the same, is not in the way.
  request.token_digest = 0x12ab;
  EXPECT_TRUE(read(*store_, request).ok());
  EXPECT_TRUE(read(*store_, 1).ok());
  other.offer.token_digest = 0;
  EXPECT_TRUE(put(*store_, other).ok());
  request.token_digest = 0xfff;
  EXPECT_TRUE(read(*store_, request).ok());
  other.offer.token_digest = 0xfff;
  EXPECT_TRUE(absl::IsAlreadyExists(put(*store_, other)));
  EXPECT_EQ(store_->stats().token_collisions, 2);

  // An evicted key is free for either.
  ASSERT_TRUE(put(*store_, make_block(2)).ok());
  EXPECT_EQ(store_->evict({}), 2);
  EXPECT_TRUE(put(*store_, other).ok());
}

// docs/configuration.md and docs/storage.md say so.
TEST_F(DramStoreTest, AnIndexEntryTakesWhatTheDocumentsSay) {
  config_.index_max_blocks = 1 << 20;
  const uint64_t bytes = TieredStore::memory_of(config_).index_bytes >> 20;
  EXPECT_GE(bytes, 208 + 4);
  EXPECT_LE(bytes, 208 + 8);
}

TEST_F(DramStoreTest, DroppedSlotAbortsThePut) {
  open(8);
  const TestBlock block = make_block(1);
  {
    const absl::StatusOr<PutSlot> slot = store_->reserve(block.offer);
    ASSERT_TRUE(slot.ok());
  }
  EXPECT_EQ(look(*store_, 1).state, BlockState::absent);
  EXPECT_EQ(store_->stats().tiers[0].used_bytes, 0);
  EXPECT_TRUE(put(*store_, block).ok());
}

TEST_F(DramStoreTest, HoldsOutliveTheStore) {
  open(8);
  ASSERT_TRUE(put(*store_, make_block(1)).ok());
  const absl::StatusOr<StoredBlock> stored = read(*store_, 1);
  const absl::StatusOr<PutSlot> slot = store_->reserve(make_block(2).offer);
  store_.reset();
  EXPECT_TRUE(same_bytes(stored->bytes, make_block(1).bytes));
}

TEST_F(DramStoreTest, RefusesWhatIsNoBlockOfTheKey) {
  open(8);
  TestBlock wrong_key = make_block(1);
  wrong_key.offer.key = test_key(2);
  EXPECT_TRUE(absl::IsFailedPrecondition(put(*store_, wrong_key)));
  TestBlock wrong_layout = make_block(1);
  ++wrong_layout.offer.layout_hash;
  EXPECT_TRUE(absl::IsFailedPrecondition(put(*store_, wrong_layout)));
  TestBlock flipped = make_block(1);
  flipped.bytes[40] ^= std::byte{1};
  EXPECT_TRUE(absl::IsDataLoss(put(*store_, flipped)));
  TestBlock overstated = make_block(1);
  overstated.offer.precision = {8, 8};
  EXPECT_TRUE(absl::IsFailedPrecondition(put(*store_, overstated)));
  EXPECT_EQ(store_->stats().bad_blocks, 4);
  EXPECT_EQ(store_->stats().tiers[0].used_bytes, 0);
  EXPECT_TRUE(store_->list(10).empty());
  PutOffer tiny;
  tiny.bytes = 10;
  EXPECT_TRUE(absl::IsInvalidArgument(store_->reserve(tiny).status()));
}

TEST_F(DramStoreTest, MorePreciseReplacesAndOldReadersKeepTheirBytes) {
  open(16);
  ASSERT_TRUE(put(*store_, make_block(1, "k5v4", 1)).ok());
  const absl::StatusOr<StoredBlock> old = read(*store_, 1);
  ASSERT_TRUE(old.ok());
  EXPECT_EQ(old->precision, (Precision{4, 4}));
  // A bad replacement leaves the old block.
  TestBlock bad = make_block(1, "k8v8");
  bad.bytes[40] ^= std::byte{1};
  EXPECT_FALSE(put(*store_, bad).ok());
  EXPECT_EQ(look(*store_, 1).generation, old->generation);

  ASSERT_TRUE(put(*store_, make_block(1, "k8v8")).ok());
  const absl::StatusOr<StoredBlock> fresh = read(*store_, 1);
  ASSERT_TRUE(fresh.ok());
  EXPECT_NE(fresh->generation, old->generation);
  EXPECT_TRUE(same_bytes(fresh->bytes, make_block(1, "k8v8").bytes));
  EXPECT_TRUE(same_bytes(old->bytes, make_block(1, "k5v4", 1).bytes));
  EXPECT_TRUE(absl::IsAlreadyExists(put(*store_, make_block(1, "k5v4"))));
}

TEST_F(DramStoreTest, EvictsTheOldestAboveTheWatermark) {
  config_.high_watermark = 0.8;
  config_.low_watermark = 0.5;
  open(10);
  for (uint64_t i = 0; i < 8; ++i) ASSERT_TRUE(put(*store_, make_block(i)).ok());
  EXPECT_EQ(store_->stats().tiers[0].evicted_blocks, 0);
  look(*store_, 0);
  ASSERT_TRUE(put(*store_, make_block(8)).ok());
  EXPECT_EQ(store_->stats().tiers[0].blocks, 5);
  EXPECT_EQ(store_->stats().tiers[0].evicted_blocks, 4);
  EXPECT_TRUE(present(0));
  for (const uint64_t gone : {1, 2, 3, 4}) EXPECT_FALSE(present(gone)) << gone;
}

TEST_F(DramStoreTest, EvictsLeavesBeforeRoots) {
  config_.high_watermark = 1.0;
  config_.low_watermark = 1.0;
  open(4);
  for (uint64_t i = 0; i < 4; ++i) ASSERT_TRUE(put(*store_, make_block(i)).ok());
  const std::vector<BlockKey> prefix = {test_key(0), test_key(1), test_key(2), test_key(3)};
  store_->lookup(prefix, {});
  ASSERT_TRUE(put(*store_, make_block(10)).ok());
  EXPECT_FALSE(present(3));
  ASSERT_TRUE(put(*store_, make_block(11)).ok());
  EXPECT_FALSE(present(2));
  EXPECT_TRUE(present(0));
}

TEST_F(DramStoreTest, NeverEvictsWhatIsPinnedOrRead) {
  config_.high_watermark = 1.0;
  config_.low_watermark = 1.0;
  open(4);
  for (uint64_t i = 0; i < 4; ++i) ASSERT_TRUE(put(*store_, make_block(i)).ok());
  const std::vector<BlockKey> keys = {test_key(0), test_key(1)};
  const LookupAnswer answer = store_->lookup(keys, {.lease_ms = 1000});
  EXPECT_NE(answer.lease, 0);
  EXPECT_EQ(store_->stats().pinned_bytes, 2 * slab_bytes_of(make_block(0)));
  absl::StatusOr<StoredBlock> second = read(*store_, 2);
  absl::StatusOr<StoredBlock> third = read(*store_, 3);
  EXPECT_TRUE(absl::IsResourceExhausted(put(*store_, make_block(9))));
  EXPECT_EQ(look(*store_, 9).state, BlockState::absent);
  EXPECT_TRUE(same_bytes(second->bytes, make_block(2).bytes));
  third = absl::UnknownError("released");
  EXPECT_TRUE(put(*store_, make_block(9)).ok());
  EXPECT_FALSE(present(3));
  store_->release(answer.lease);
  store_->release(answer.lease);
  EXPECT_EQ(store_->stats().pinned_bytes, 0);
  EXPECT_TRUE(put(*store_, make_block(10)).ok());
}

TEST_F(DramStoreTest, LeasesExpire) {
  config_.high_watermark = 1.0;
  config_.low_watermark = 1.0;
  config_.pinned_max_fraction = 1.0;
  open(2);
  for (uint64_t i = 0; i < 2; ++i) ASSERT_TRUE(put(*store_, make_block(i)).ok());
  const std::vector<BlockKey> keys = {test_key(0), test_key(1)};
  ASSERT_NE(store_->lookup(keys, {.lease_ms = 100}).lease, 0);
  ASSERT_NE(store_->lookup(keys, {.lease_ms = 200}).lease, 0);
  EXPECT_EQ(store_->evict({}), 0);
  clock_.advance(absl::Milliseconds(150));
  EXPECT_TRUE(absl::IsResourceExhausted(put(*store_, make_block(5))));
  clock_.advance(absl::Milliseconds(50));
  EXPECT_TRUE(put(*store_, make_block(5)).ok());
  EXPECT_EQ(store_->stats().pinned_bytes, 0);
}

TEST_F(DramStoreTest, PinsAreCapped) {
  config_.pinned_max_fraction = 0.5;
  open(8);
  for (uint64_t i = 0; i < 5; ++i) ASSERT_TRUE(put(*store_, make_block(i)).ok());
  std::vector<BlockKey> keys;
  for (uint64_t i = 0; i < 5; ++i) keys.push_back(test_key(i));
  const LookupAnswer all = store_->lookup(keys, {.lease_ms = 1000});
  EXPECT_EQ(all.lease, 0);
  EXPECT_EQ(all.keys[4].state, BlockState::present);
  EXPECT_EQ(store_->stats().pinned_bytes, 0);
  keys.pop_back();
  EXPECT_NE(store_->lookup(keys, {.lease_ms = 1000}).lease, 0);
}

TEST_F(DramStoreTest, DroppingPlanesFreesMemoryInPlace) {
  open(8);
  const TestBlock block = make_block(1);
  ASSERT_TRUE(put(*store_, block).ok());
  const uint64_t before = store_->stats().tiers[0].used_bytes;
  EXPECT_TRUE(absl::IsFailedPrecondition(store_->drop_planes(test_key(1), {3, 3})));
  {
    const absl::StatusOr<StoredBlock> reading = read(*store_, 1);
    EXPECT_TRUE(absl::IsFailedPrecondition(store_->drop_planes(test_key(1), {4, 3})));
  }
  ASSERT_TRUE(store_->drop_planes(test_key(1), {4, 3}).ok());
  EXPECT_TRUE(absl::IsNotFound(store_->drop_planes(test_key(2), {4, 3})));
  const TestBlock floor = make_block(1, "k5v4", 2);
  const StoreStats stats = store_->stats();
  EXPECT_EQ(before - stats.tiers[0].used_bytes, slab_bytes_of(block) - slab_bytes_of(floor));
  EXPECT_LT(stats.tiers[0].used_bytes, before);
  EXPECT_EQ(stats.tiers[0].encoded_bytes, floor.bytes.size());
  const absl::StatusOr<StoredBlock> stored = read(*store_, 1);
  ASSERT_TRUE(stored.ok());
  EXPECT_EQ(stored->dropped_planes, 2);
  EXPECT_EQ(stored->precision, (Precision{4, 3}));
  EXPECT_TRUE(same_bytes(stored->bytes, floor.bytes));
  ReadRequest precise = {test_key(1), {5, 4}, 0};
  EXPECT_TRUE(absl::IsNotFound(read(*store_, precise).status()));
  // It is not whole any more: a put brings the planes back.
  EXPECT_TRUE(put(*store_, block).ok());
}

TEST_F(DramStoreTest, LeavesPlanesOutToFitTheReader) {
  open(8);
  ASSERT_TRUE(put(*store_, make_block(1)).ok());
  const TestBlock floor = make_block(1, "k5v4", 2);
  ReadRequest request = {test_key(1), {4, 3}, static_cast<uint32_t>(floor.bytes.size())};
  const absl::StatusOr<StoredBlock> stored = read(*store_, request);
  ASSERT_TRUE(stored.ok());
  EXPECT_EQ(stored->dropped_planes, 2);
  EXPECT_TRUE(same_bytes(stored->bytes, floor.bytes));
  request.least = {5, 4};
  EXPECT_TRUE(absl::IsNotFound(read(*store_, request).status()));
  request = {test_key(1), {4, 3}, static_cast<uint32_t>(floor.bytes.size()) - 1};
  EXPECT_TRUE(absl::IsNotFound(read(*store_, request).status()));
}

TEST_F(DramStoreTest, ReportBadDropsOnlyBadBlocks) {
  open(8);
  ASSERT_TRUE(put(*store_, make_block(1)).ok());
  TestBlock damaged = make_block(2);
  damaged.bytes[damaged.bytes.size() - 100] ^= std::byte{4};
  ASSERT_TRUE(put(*store_, damaged).ok());  // the header is whole, the cells are not checked
  EXPECT_FALSE(store_->report_bad(test_key(1), look(*store_, 1).generation));
  EXPECT_FALSE(store_->report_bad(test_key(2), look(*store_, 2).generation + 1));
  EXPECT_TRUE(store_->report_bad(test_key(2), look(*store_, 2).generation));
  EXPECT_FALSE(store_->report_bad(test_key(2), 1));
  EXPECT_TRUE(present(1));
  EXPECT_FALSE(present(2));
  EXPECT_EQ(store_->stats().bad_blocks, 1);
  EXPECT_TRUE(put(*store_, make_block(2)).ok());
}

// Memory that now holds a whole block, only not this one: it would be a miss for ever.
TEST_F(DramStoreTest, ReportBadDropsABlockOfAnotherKey) {
  open(8);
  ASSERT_TRUE(put(*store_, make_block(1)).ok());
  ASSERT_TRUE(put(*store_, make_block(2)).ok());
  std::byte* first = nullptr;
  {
    const absl::StatusOr<StoredBlock> stored = read(*store_, 1);
    first = slab_->span().data() + (stored->bytes.data() - slab_->span().data());
  }
  const TestBlock other = make_block(2);
  std::memcpy(first, other.bytes.data(), other.bytes.size());
  EXPECT_FALSE(store_->report_bad(test_key(2), look(*store_, 2).generation));
  EXPECT_TRUE(store_->report_bad(test_key(1), look(*store_, 1).generation));
  EXPECT_FALSE(present(1));
  EXPECT_TRUE(present(2));
}

TEST_F(DramStoreTest, IndexAtCapacity) {
  config_.index_max_blocks = 4;
  open(16);
  for (uint64_t i = 0; i < 4; ++i) ASSERT_TRUE(put(*store_, make_block(i)).ok());
  // The oldest makes room.
  ASSERT_TRUE(put(*store_, make_block(4)).ok());
  EXPECT_FALSE(present(0));
  EXPECT_EQ(store_->list(SIZE_MAX).size(), 4);
  std::vector<BlockKey> keys;
  for (uint64_t i = 1; i < 5; ++i) keys.push_back(test_key(i));
  ASSERT_NE(store_->lookup(keys, {.lease_ms = 1000}).lease, 0);
  const absl::Status full = put(*store_, make_block(9));
  EXPECT_TRUE(absl::IsResourceExhausted(full));
  EXPECT_THAT(std::string(full.message()), HasSubstr("index_max_blocks"));
}

TEST_F(DramStoreTest, CountsBlocksThatWereNotFinite) {
  open(8);
  ASSERT_TRUE(put(*store_, make_block(1, "raw", 0, kBlockNonFinite)).ok());
  EXPECT_EQ(store_->stats().stored_raw_blocks_non_finite, 1);
}

TEST_F(DramStoreTest, EvictsOnRequest) {
  open(8);
  for (uint64_t i = 0; i < 4; ++i) ASSERT_TRUE(put(*store_, make_block(i)).ok());
  const std::vector<BlockKey> keys = {test_key(1), test_key(77)};
  EXPECT_EQ(store_->evict(keys), 1);
  EXPECT_EQ(store_->evict({}), 3);
  EXPECT_EQ(store_->stats().tiers[0].used_bytes, 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(store_->flush(absl::Seconds(1)).status()));
}

TEST_F(DramStoreTest, RefusesImpossibleConfigs) {
  Slab slab(1 << 20);
  TieredStoreConfig config;
  config.low_watermark = 0.99;
  EXPECT_TRUE(absl::IsInvalidArgument(TieredStore::open(config, slab.span(), clock_).status()));
  config = {};
  config.index_max_blocks = 0;
  EXPECT_TRUE(absl::IsInvalidArgument(TieredStore::open(config, slab.span(), clock_).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(TieredStore::open({}, {}, clock_).status()));
}

}  // namespace
}  // namespace hadal::test
