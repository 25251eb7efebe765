// The tiered store over real RocksDB directories: write-behind, promotion, restart, bounds. Damage
// is in nvme_damage_test.cc.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <functional>
#include <thread>

#include "tests/storage/nvme_fixture.h"

// RocksDB is not built with the sanitizer, which so sees its memory but not its locks.
extern "C" const char* __tsan_default_suppressions();
extern "C" const char* __tsan_default_suppressions() { return "race:librocksdb.so\n"; }

namespace hadal::test {
namespace {

using ::testing::HasSubstr;

TEST_F(NvmeStoreTest, ServesAfterARestart) {
  {
    const std::unique_ptr<TieredStore> store = open();
    for (uint64_t i = 0; i < 50; ++i) ASSERT_TRUE(put(*store, make_block(i)).ok());
    const absl::StatusOr<uint64_t> persisted = store->flush(absl::Seconds(20));
    ASSERT_TRUE(persisted.ok()) << persisted.status();
    EXPECT_EQ(*persisted, 50);
    EXPECT_EQ(store->stats().oldest_unpersisted_age, absl::ZeroDuration());
  }
  const std::unique_ptr<TieredStore> store = open();
  EXPECT_EQ(store->stats().recovered_blocks, 50);
  EXPECT_EQ(store->stats().persisted_blocks, 50);
  const uint64_t raw_bytes = 50 * test_layout().raw_bytes(16);
  EXPECT_EQ(store->stats().tiers[0].raw_bytes, 0);
  EXPECT_EQ(store->stats().tiers[1].raw_bytes, raw_bytes);
  for (uint64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(look(*store, i).tier, Tier::nvme);
    expect_whole(*store, i);
    EXPECT_EQ(look(*store, i).tier, Tier::dram);
  }
  EXPECT_EQ(store->stats().tiers[0].raw_bytes, raw_bytes);
  EXPECT_EQ(store->stats().tiers[1].raw_bytes, raw_bytes);
}

TEST_F(NvmeStoreTest, TheAgeOfTheOldestUnpersistedBlockGrowsUntilAFlush) {
  config_.nvme.flush_interval = absl::Hours(1);
  ManualClock clock;
  const auto store = TieredStore::open(config_, slab_.span(), clock).value();
  const auto age = [&] { return store->stats().oldest_unpersisted_age; };
  clock.advance(absl::Seconds(100));
  EXPECT_EQ(age(), absl::ZeroDuration());
  ASSERT_TRUE(put(*store, make_block(1)).ok());
  clock.advance(absl::Seconds(7));
  EXPECT_EQ(age(), absl::Seconds(7));
  ASSERT_TRUE(put(*store, make_block(2)).ok());  // the oldest counts
  clock.advance(absl::Seconds(3));
  EXPECT_EQ(age(), absl::Seconds(10));
  ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  EXPECT_EQ(age(), absl::ZeroDuration());
  clock.advance(absl::Seconds(5));
  EXPECT_EQ(age(), absl::ZeroDuration());
}

TEST_F(NvmeStoreTest, TokensOfARestartedStoreAreCompared) {
  {
    const std::unique_ptr<TieredStore> store = open();
    ASSERT_TRUE(put(*store, make_block(1)).ok());
    ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  }
  const std::unique_ptr<TieredStore> store = open();
  TestBlock other = make_block(1);
  ReadRequest request = {other.offer.key};
  request.token_digest = ++other.offer.token_digest;
  EXPECT_TRUE(absl::IsNotFound(read(*store, request).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(put(*store, other)));
  EXPECT_EQ(store->stats().token_collisions, 2);
  EXPECT_EQ(store->stats().nvme_db_reads, 0);
  expect_whole(*store, 1);
}

TEST_F(NvmeStoreTest, AMissNeverTouchesRocksDb) {
  const std::unique_ptr<TieredStore> store = open();
  for (uint64_t i = 0; i < 10; ++i) ASSERT_TRUE(put(*store, make_block(i)).ok());
  ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  for (uint64_t i = 100; i < 300; ++i) {
    EXPECT_EQ(look(*store, i).state, BlockState::absent);
    EXPECT_TRUE(absl::IsNotFound(read(*store, i).status()));
  }
  for (uint64_t i = 0; i < 10; ++i) expect_whole(*store, i);
  EXPECT_EQ(store->stats().nvme_db_reads, 0);
  EXPECT_EQ(store->stats().read_misses, 200);
}

TEST_F(NvmeStoreTest, HoldsMoreThanDram) {
  const std::unique_ptr<TieredStore> store = open();
  const uint64_t blocks = 4 * slab_.span().size() / make_block(0).bytes.size();
  for (uint64_t i = 0; i < blocks; ++i) {
    // Slow enough for the writer: a put is refused while all of DRAM waits for NVMe.
    ASSERT_TRUE(put(*store, make_block(i)).ok()) << i;
    while (store->stats().nvme_queue_bytes > 4 * kMiB) std::this_thread::yield();
  }
  ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  EXPECT_EQ(store->stats().nvme_dropped_blocks, 0);
  for (uint64_t i = 0; i < blocks; ++i) expect_whole(*store, i);
  EXPECT_GT(store->stats().tiers[0].evicted_blocks, 0);
  EXPECT_GT(store->stats().tiers[1].hits, 0);
}

TEST_F(NvmeStoreTest, PutsNeverWaitForNvme) {
  const std::unique_ptr<TieredStore> store = open();
  std::vector<TestBlock> blocks;
  for (uint64_t i = 0; i < 1500; ++i) blocks.push_back(make_block(i));
  absl::Duration longest;
  for (const TestBlock& block : blocks) {
    const absl::Time start = absl::Now();
    ASSERT_TRUE(put(*store, block).ok());
    longest = std::max(longest, absl::Now() - start);
  }
  // Generous, for a busy machine: a put that waits for a flush takes as long on a slow disk.
  EXPECT_LT(longest, absl::Milliseconds(500));
  for (uint64_t i = 1490; i < 1500; ++i) expect_whole(*store, i);
}

TEST_F(NvmeStoreTest, ReadsOfOneBlockShareATransfer) {
  {
    const std::unique_ptr<TieredStore> store = open();
    ASSERT_TRUE(put(*store, make_block(1)).ok());
    ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  }
  const std::unique_ptr<TieredStore> store = open();
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back([&] { expect_whole(*store, 1); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_LT(store->stats().nvme_db_reads, 8);
  EXPECT_EQ(store->stats().tiers[0].blocks, 1);
}

TEST_F(NvmeStoreTest, FlushWritesWhatTheQueueHadNoRoomFor) {
  config_.nvme.queue_max_bytes = 1;
  {
    const std::unique_ptr<TieredStore> store = open();
    for (uint64_t i = 0; i < 60; ++i) ASSERT_TRUE(put(*store, make_block(i)).ok());
    const absl::StatusOr<uint64_t> persisted = store->flush(absl::Seconds(20));
    ASSERT_TRUE(persisted.ok());
    EXPECT_EQ(*persisted, 60);
  }
  EXPECT_EQ(open()->stats().recovered_blocks, 60);
}

// More than the least memtable holds.
TestBlock make_large_block(uint64_t number) {
  KvLayout layout = test_layout();
  layout.layer_count = 256;
  const BlockPlan plan = *BlockPlan::make(layout, *parse_codec("k5v4"), {16, 0, 0});
  TestBlock block;
  block.bytes.resize(plan.total_bytes());
  plan.write_header({test_key(number), UINT64_MAX}, 0, absl::MakeSpan(block.bytes));
  seal_block(absl::MakeSpan(block.bytes));
  const EncodedBlock whole = *EncodedBlock::parse(block.bytes, 0);
  block.offer.key = test_key(number);
  block.offer.bytes = static_cast<uint32_t>(block.bytes.size());
  block.offer.precision = whole.precision();
  block.offer.layout_hash = whole.header().layout_hash;
  return block;
}

TEST_F(NvmeStoreTest, ABlockLargerThanAMemtableKeepsNoOtherFromBeingFlushed) {
  config_.nvme.memtable_bytes = kMiB / 2;
  config_.nvme.queue_max_bytes = 1;  // so that most blocks are left to the flush
  const TestBlock large = make_large_block(1000);
  ASSERT_GT(large.bytes.size(), config_.nvme.memtable_bytes);
  {
    const std::unique_ptr<TieredStore> store = open();
    ASSERT_TRUE(put(*store, large).ok());
    for (uint64_t i = 0; i < 60; ++i) ASSERT_TRUE(put(*store, make_block(i)).ok());
    EXPECT_EQ(store->unpersisted().too_large, 1);
    const absl::StatusOr<uint64_t> persisted = store->flush(absl::Seconds(20));
    ASSERT_TRUE(persisted.ok()) << persisted.status();
    EXPECT_EQ(*persisted, 60);
    EXPECT_EQ(store->unpersisted().too_large, 1);
    EXPECT_EQ(store->unpersisted().all(), 1);
  }
  const std::unique_ptr<TieredStore> store = open();
  EXPECT_EQ(store->stats().recovered_blocks, 60);
  for (uint64_t i = 0; i < 60; ++i) expect_whole(*store, i);
  EXPECT_EQ(store->unpersisted().all(), 0);
}

TEST_F(NvmeStoreTest, ReplacedAndEvictedBlocksStayGoneAfterARestart) {
  {
    const std::unique_ptr<TieredStore> store = open();
    ASSERT_TRUE(put(*store, make_block(1)).ok());
    ASSERT_TRUE(put(*store, make_block(2)).ok());
    ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
    ASSERT_TRUE(put(*store, make_block(1, "k8v8")).ok());
    const BlockKey second = test_key(2);
    EXPECT_EQ(store->evict({&second, 1}), 1);
    ASSERT_TRUE(put(*store, make_block(3)).ok());
    ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  }
  const std::unique_ptr<TieredStore> store = open();
  EXPECT_EQ(store->stats().recovered_blocks, 2);
  const absl::StatusOr<StoredBlock> block = read(*store, 1);
  ASSERT_TRUE(block.ok());
  EXPECT_EQ(block->tier, Tier::nvme);
  EXPECT_TRUE(same_bytes(block->bytes, make_block(1, "k8v8").bytes));
  EXPECT_EQ(look(*store, 2).state, BlockState::absent);
  // A restart does not give out a generation twice.
  const uint64_t generation = look(*store, 1).generation;
  ASSERT_TRUE(put(*store, make_block(9)).ok());
  EXPECT_GT(look(*store, 9).generation, generation);
}

TEST_F(NvmeStoreTest, PlanesDroppedInDramAreStillOnNvme) {
  const std::unique_ptr<TieredStore> store = open();
  ASSERT_TRUE(put(*store, make_block(1)).ok());
  ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  ASSERT_TRUE(store->drop_planes(test_key(1), {4, 3}).ok());
  EXPECT_EQ(read(*store, 1)->dropped_planes, 2);
  const absl::StatusOr<StoredBlock> whole = read(*store, {test_key(1), {5, 4}, 0});
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->tier, Tier::nvme);
  EXPECT_TRUE(same_bytes(whole->bytes, make_block(1).bytes));
}

TEST_F(NvmeStoreTest, ReportBadChecksACopyOnNvme) {
  TestBlock damaged = make_block(2);
  damaged.bytes[damaged.bytes.size() - 100] ^= std::byte{4};
  {
    const std::unique_ptr<TieredStore> store = open();
    ASSERT_TRUE(put(*store, make_block(1)).ok());
    ASSERT_TRUE(put(*store, damaged).ok());
    ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  }
  const std::unique_ptr<TieredStore> store = open();
  store->report_bad(test_key(1), look(*store, 1).generation);
  store->report_bad(test_key(2), look(*store, 2).generation);
  for (int i = 0; i < 1000 && look(*store, 2).state != BlockState::absent; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(look(*store, 2).state, BlockState::absent);
  EXPECT_EQ(look(*store, 1).state, BlockState::present);
  EXPECT_EQ(store->stats().bad_blocks, 1);
}

uint64_t directory_bytes(const std::string& path) {
  uint64_t sum = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(path, ignored)) {
    const uint64_t bytes = entry.file_size(ignored);
    if (!ignored) sum += bytes;
  }
  return sum;
}

TEST_F(NvmeStoreTest, NeverGrowsBeyondItsCapacity) {
  config_.nvme.capacity_bytes = 32 * kMiB;
  const TestBlock sample = make_block(0);
  const uint64_t blocks = 5 * config_.nvme.capacity_bytes / sample.bytes.size();
  uint64_t largest = 0;
  {
    const std::unique_ptr<TieredStore> store = open();
    for (uint64_t i = 0; i < blocks; ++i) {
      ASSERT_TRUE(put(*store, make_block(i)).ok()) << i;
      while (store->stats().nvme_queue_bytes > 2 * kMiB) std::this_thread::yield();
      if (i % 8 == 0) largest = std::max(largest, directory_bytes(config_.nvme.path));
    }
    ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
    const StoreStats stats = store->stats();
    EXPECT_GT(stats.tiers[1].evicted_blocks, blocks / 2);
    EXPECT_GT(stats.tiers[1].encoded_bytes, config_.nvme.capacity_bytes / 3);
    EXPECT_LE(stats.nvme_dropped_blocks, blocks / 10);
    // The oldest is forgotten, the newest is there.
    EXPECT_EQ(look(*store, 0).state, BlockState::absent);
    expect_whole(*store, blocks - 1);
    largest = std::max(largest, directory_bytes(config_.nvme.path));
  }
  EXPECT_LE(largest, config_.nvme.capacity_bytes);
  const std::unique_ptr<TieredStore> store = open();
  EXPECT_GT(store->stats().recovered_blocks, 0);
  uint64_t served = 0;
  for (const BlockListing& listing : store->list(SIZE_MAX)) {
    served += read(*store, {listing.key, {}, 0}).ok();
  }
  EXPECT_EQ(served, store->stats().recovered_blocks);
}

// Eviction may offer a block that replaced another before whoever put it has erased the other.
TEST_F(NvmeStoreTest, ALateEraseLeavesTheNewerCopy) {
  const TestBlock block = make_block(1);
  NvmeRecord record = record_of(block);
  {
    NvmeTier::Recovery recovery;
    const auto tier = NvmeTier::open(config_.nvme, clock_, recovery).value();
    QuietListener listener;
    tier->start(listener);
    for (record.generation = 1; record.generation <= 2; ++record.generation) {
      ASSERT_TRUE(tier->offer({record, block.bytes, nullptr, clock_.now()}));
    }
    tier->erase(record.key, 1);
    ASSERT_TRUE(tier->flush(absl::Seconds(20)).ok());
    tier->stop();
  }
  NvmeTier::Recovery recovery;
  const auto tier = NvmeTier::open(config_.nvme, clock_, recovery).value();
  ASSERT_EQ(recovery.records.size(), 1u);
  EXPECT_EQ(recovery.records[0].generation, 2);
}

TEST_F(NvmeStoreTest, PinsOfBlocksOnNvmeAreCappedToo) {
  constexpr uint64_t kBlocks = 200;
  {
    const std::unique_ptr<TieredStore> store = open();
    for (uint64_t i = 0; i < kBlocks; ++i) ASSERT_TRUE(put(*store, make_block(i)).ok());
    ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  }
  Slab slab(40 * make_block(0).bytes.size() / 4096 * 4096);
  const auto store = TieredStore::open(config_, slab.span(), clock_).value();
  std::vector<BlockKey> keys;
  for (uint64_t i = 0; i < kBlocks; ++i) keys.push_back(test_key(i));
  EXPECT_EQ(store->lookup(keys, {.lease_ms = 60000}).lease, 0);
  EXPECT_EQ(store->stats().pinned_bytes, 0);
  keys.resize(15);
  const uint64_t lease = store->lookup(keys, {.lease_ms = 60000}).lease;
  EXPECT_NE(lease, 0);
  const uint64_t pinned = store->stats().pinned_bytes;
  EXPECT_GT(pinned, 15 * make_block(0).bytes.size() - 1);
  for (uint64_t i = 0; i < 15; ++i) expect_whole(*store, i);
  EXPECT_EQ(store->stats().pinned_bytes, pinned);
  store->release(lease);
  EXPECT_EQ(store->stats().pinned_bytes, 0);
  EXPECT_EQ(store->evict(keys), 15);
}

class NvmeOpenTest : public NvmeStoreTest {
 protected:
  absl::Status open_error() { return TieredStore::open(config_, slab_.span(), clock_).status(); }
};

TEST_F(NvmeOpenTest, RefusesAnotherFormatUntouched) {
  {
    const std::unique_ptr<TieredStore> store = open();
    ASSERT_TRUE(put(*store, make_block(1)).ok());
    ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  }
  const auto say = [&](const std::string& format) {
    std::ofstream(config_.nvme.path + "/HADAL_NVME_FORMAT") << format << "\n";
  };
  for (const std::string format : {"hadal nvme format 1", "hadal nvme format 7"}) {
    say(format);
    const absl::Status status = open_error();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("'" + format + "'"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("'hadal nvme format 2'"));
  }
  say("hadal nvme format 2");
  const std::unique_ptr<TieredStore> store = open();
  expect_whole(*store, 1);
}

TEST_F(NvmeOpenTest, RefusesAForeignDirectoryUntouched) {
  open().reset();
  std::filesystem::remove(config_.nvme.path + "/HADAL_NVME_FORMAT");
  const absl::Status status = open_error();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(std::filesystem::exists(config_.nvme.path + "/CURRENT"));
}

TEST_F(NvmeOpenTest, RefusesADirectoryInUse) {
  const std::unique_ptr<TieredStore> store = open();
  const absl::Status status = open_error();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("in use"));
}

TEST_F(NvmeOpenTest, NamesADirectoryThatCannotBe) {
  config_.nvme.path = dir_.path() + "/missing/nvme";
  EXPECT_TRUE(absl::IsNotFound(open_error())) << open_error();
  const std::string file_path = dir_.path() + "/file";
  std::ofstream(file_path) << "text";
  config_.nvme.path = file_path;
  EXPECT_TRUE(absl::IsInvalidArgument(open_error())) << open_error();
  config_.nvme.path = file_path + "/nvme";
  EXPECT_TRUE(absl::IsNotFound(open_error())) << open_error();
  EXPECT_THAT(std::string(open_error().message()), HasSubstr(config_.nvme.path));
  config_.nvme.path = dir_.path() + "/nvme";
  config_.nvme.capacity_bytes = 1000;
  EXPECT_TRUE(absl::IsInvalidArgument(open_error())) << open_error();
}

// A tmpfs of its own; not mounted where the test may not mount.
class Tmpfs {
 public:
  Tmpfs(std::string path, const std::string& options) : path_(std::move(path)) {
    std::filesystem::create_directory(path_);
    mounted_ = ::mount("tmpfs", path_.c_str(), "tmpfs", 0, options.c_str()) == 0;
  }
  ~Tmpfs() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  Tmpfs(const Tmpfs&) = delete;
  Tmpfs& operator=(const Tmpfs&) = delete;

  bool mounted() const { return mounted_; }
  bool make_read_only() {
    return ::mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, nullptr) == 0;
  }

 private:
  const std::string path_;
  bool mounted_ = false;
};

TEST_F(NvmeOpenTest, NamesADirectoryThatIsReadOnly) {
  Tmpfs disk(dir_.path() + "/disk", "size=1m");
  if (!disk.mounted() || !disk.make_read_only()) GTEST_SKIP() << "may not mount a tmpfs";
  for (const char* path : {"/disk", "/disk/nvme"}) {
    config_.nvme.path = dir_.path() + path;
    const absl::Status status = open_error();
    EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(config_.nvme.path));
  }
}

TEST_F(NvmeStoreTest, AFullDiskStopsOffloadingAndSpaceResumesIt) {
  Tmpfs disk(dir_.path() + "/disk", "size=24m");
  if (!disk.mounted()) GTEST_SKIP() << "may not mount a tmpfs";
  config_.nvme.path = dir_.path() + "/disk/nvme";
  config_.nvme.memtable_bytes = 2 * kMiB;
  const std::string ballast = dir_.path() + "/disk/ballast";
  const std::unique_ptr<TieredStore> store = open();
  ASSERT_NE(store, nullptr);
  std::ofstream(ballast) << std::string(16 * kMiB, 'x');
  for (uint64_t i = 0; i < 600; ++i) {
    ASSERT_TRUE(put(*store, make_block(i)).ok()) << i;
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  const StoreStats full = store->stats();
  EXPECT_GT(full.nvme_dropped_blocks, 0);
  EXPECT_GT(full.nvme_write_errors, 0);
  ASSERT_TRUE(read(*store, 599).ok());
  std::filesystem::remove(ballast);
  uint64_t number = 1000;
  const auto persisted = [&] {
    for (const BlockListing& listing : store->list(SIZE_MAX)) {
      if (listing.key == test_key(number)) return listing.persisted;
    }
    return false;
  };
  for (int i = 0; i < 200 && !persisted(); ++i) {
    ASSERT_TRUE(put(*store, make_block(++number)).ok());
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    store->flush(absl::Seconds(1)).IgnoreError();
  }
  EXPECT_TRUE(persisted());
  expect_whole(*store, number);
}

// Opening RocksDB on a full disk would end the process. The merge that ends writing is that of
// AMergeOfADamagedFileStopsOffloadingForAMomentOnly.
TEST_F(NvmeStoreTest, AFailedDirectoryIsNotOpenedAgainOnAFullDisk) {
  Tmpfs disk(dir_.path() + "/disk", "size=64m");
  if (!disk.mounted()) GTEST_SKIP() << "may not mount a tmpfs";
  config_.nvme.path = dir_.path() + "/disk/nvme";
  config_.nvme.memtable_bytes = kMiB;
  config_.nvme.flush_interval = absl::Hours(1);
  const std::unique_ptr<TieredStore> store = open();
  ASSERT_NE(store, nullptr);
  const auto put_file = [&](uint64_t number) {
    EXPECT_TRUE(put(*store, make_block(number)).ok());
    EXPECT_TRUE(put(*store, make_block(number + 1)).ok());
    return store->flush(absl::Seconds(20)).ok();
  };
  for (uint64_t i = 0; i < 14; i += 2) ASSERT_TRUE(put_file(i));
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(config_.nvme.path)) {
    if (entry.path().extension() == ".sst" && entry.file_size() > (64u << 10)) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  ASSERT_EQ(files.size(), 7u);
  std::fstream damaged(files[5], std::ios::in | std::ios::out | std::ios::binary);
  for (uint64_t at = 100; at < std::filesystem::file_size(files[5]); at += 8192) {
    damaged.seekp(static_cast<std::streamoff>(at));
    damaged.write("\x5a\x5b\x5c\x5d", 4);
  }
  damaged.close();
  // The writer cannot open it again before the disk is full.
  const std::string format = config_.nvme.path + "/HADAL_NVME_FORMAT";
  std::filesystem::rename(format, format + "_away");
  put_file(14);
  for (int i = 0; i < 10'000 && store->stats().nvme_write_errors == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_GT(store->stats().nvme_write_errors, 0u);
  const std::string ballast = dir_.path() + "/disk/ballast";
  std::ofstream(ballast) << std::string(64 * kMiB, 'x');  // as much as fits
  std::filesystem::rename(format + "_away", format);
  // Several times as long as the writer waits between its attempts.
  std::this_thread::sleep_for(std::chrono::seconds(1));
  EXPECT_TRUE(absl::IsUnavailable(store->flush(absl::Seconds(1)).status()));
  std::filesystem::remove(ballast);
  bool persisted = false;
  for (uint64_t i = 0; i < 1000 && !persisted; ++i) {
    const BlockKey key = test_key(1000 + i);
    ASSERT_TRUE(put(*store, make_block(1000 + i)).ok());
    store->flush(absl::Seconds(1)).IgnoreError();
    persisted = store->describe({&key, 1})[0].persisted;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_TRUE(persisted);
}

TEST_F(NvmeStoreTest, LittleFreeSpaceStopsOffloading) {
  config_.nvme.free_space_min_fraction = 1.0;
  const std::unique_ptr<TieredStore> store = open();
  for (uint64_t i = 0; i < 10; ++i) ASSERT_TRUE(put(*store, make_block(i)).ok());
  for (int i = 0; i < 400 && store->stats().nvme_dropped_blocks == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_GT(store->stats().nvme_dropped_blocks, 0);
  EXPECT_TRUE(absl::IsUnavailable(store->flush(absl::Seconds(1)).status()));
  EXPECT_EQ(store->stats().persisted_blocks, 0);
  for (uint64_t i = 0; i < 10; ++i) expect_whole(*store, i);
}

// Starts the helper, waits until it says that blocks are persisted, and kills it.
TEST_F(NvmeStoreTest, PersistedBlocksSurviveKill9) {
  for (int round = 0; round < 3; ++round) {
    TempDir dir;
    config_.nvme.path = dir.path() + "/nvme";
    int out[2];
    ASSERT_EQ(::pipe(out), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      ::dup2(out[1], 1);
      ::execl(HADAL_NVME_WRITER, HADAL_NVME_WRITER, config_.nvme.path.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(out[1]);
    uint64_t persisted = 0;
    FILE* lines = ::fdopen(out[0], "r");
    while (persisted < 100 + 150u * static_cast<unsigned>(round) &&
           std::fscanf(lines, "%lu", &persisted) == 1) {
    }
    ::kill(child, SIGKILL);
    // What it said between our last look and its end counts as promised, too.
    uint64_t later = 0;
    while (std::fscanf(lines, "%lu", &later) == 1) persisted = later;
    std::fclose(lines);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "it ended by itself with " << WEXITSTATUS(status);
    ASSERT_GE(persisted, 100);

    const std::unique_ptr<TieredStore> store = open();
    EXPECT_GE(store->stats().recovered_blocks, persisted);
    // The helper puts blocks in order of their numbers and drops none.
    for (uint64_t i = 0; i < persisted; ++i) {
      EXPECT_TRUE(keeps_origin(*store, make_block(i))) << i;
      expect_whole(*store, i);
      EXPECT_TRUE(keeps_origin(*store, make_block(i))) << i;
    }
    EXPECT_EQ(store->stats().recovery_lost, 0);
  }
}

TEST_F(NvmeStoreTest, ManyThreadsSeeOnlyTrueBytes) {
  config_.nvme.capacity_bytes = 32 * kMiB;
  config_.high_watermark = 0.7;
  config_.low_watermark = 0.5;
  Slab slab(4 * kMiB);
  absl::StatusOr<std::unique_ptr<TieredStore>> opened =
      TieredStore::open(config_, slab.span(), clock_);
  ASSERT_TRUE(opened.ok()) << opened.status();
  TieredStore& store = **opened;
  constexpr uint64_t kKeys = 200;
  std::vector<TestBlock> blocks;
  for (uint64_t i = 0; i < kKeys; ++i) blocks.push_back(make_block(i));
  std::atomic<uint64_t> wrong{0}, good{0};
  const auto check = [&](uint64_t number, const absl::StatusOr<StoredBlock>& block) {
    if (!block.ok()) return;
    ++good;
    const absl::Span<const std::byte> whole = blocks[number].bytes;
    if (!same_bytes(block->bytes, whole.first(block->bytes.size()))) ++wrong;
  };
  const auto work = [&](uint64_t seed) {
    std::mt19937_64 random(seed);
    for (int i = 0; i < 1500; ++i) {
      const uint64_t number = random() % kKeys;
      const BlockKey& key = blocks[number].offer.key;
      switch (random() % 10) {
        case 0:
        case 1:
        case 2:
          put(store, blocks[number]).IgnoreError();
          break;
        case 3:
          store.release(store.lookup({&key, 1}, {.lease_ms = 5}).lease);
          break;
        case 4:
          store.lookup({&key, 1}, {.lease_ms = 1});
          break;
        case 5:
          store.drop_planes(key, {4, 3}).IgnoreError();
          break;
        case 6:
          if (random() % 8 == 0) store.evict({&key, 1});
          if (random() % 64 == 0) store.stats();
          break;
        default:
          check(number, read(store, number));
      }
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t seed = 0; seed < 6; ++seed) threads.emplace_back(work, seed);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(good, 100);
  EXPECT_EQ(store.stats().bad_blocks, 0);
  // Nothing leaks: with all leases over, everything can go.
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  store.flush(absl::Seconds(10)).IgnoreError();
  store.evict({});
  EXPECT_EQ(store.stats().pinned_bytes, 0);
  EXPECT_EQ(store.stats().tiers[0].used_bytes, 0);
  for (const TierStats& tier : store.stats().tiers) {
    EXPECT_EQ(tier.encoded_bytes, 0) << tier_name(tier.tier);
    EXPECT_EQ(tier.raw_bytes, 0) << tier_name(tier.tier);
  }
  EXPECT_EQ(store.stats().persisted_blocks, 0);
}

}  // namespace
}  // namespace hadal::test
