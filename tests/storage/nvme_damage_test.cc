// Damaged, cut and lost files of the NVMe directory: misses that are counted, never wrong bytes.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <thread>

#include "tests/storage/nvme_fixture.h"

namespace hadal::test {
namespace {

// Flips one byte in every 8 KiB of the files with this extension.
void damage_files(const std::string& path, const std::string& name_part) {
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    if (entry.path().filename().string().find(name_part) == std::string::npos) continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    for (uint64_t at = 100; at < entry.file_size(); at += 8192) {
      file.seekg(static_cast<std::streamoff>(at));
      const char byte = static_cast<char>(file.get() ^ 0x10);
      file.seekp(static_cast<std::streamoff>(at));
      file.put(byte);
    }
  }
}

TEST_F(NvmeStoreTest, DamagedFilesAreMissesNeverWrongBytes) {
  {
    const std::unique_ptr<TieredStore> store = open();
    for (uint64_t i = 0; i < 100; ++i) ASSERT_TRUE(put(*store, make_block(i)).ok());
    ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  }
  // One byte of every second block, in the largest file: the data.
  std::filesystem::path data;
  for (const auto& entry : std::filesystem::directory_iterator(config_.nvme.path)) {
    if (entry.path().extension() != ".sst") continue;
    if (data.empty() || entry.file_size() > std::filesystem::file_size(data)) data = entry.path();
  }
  {
    std::fstream file(data, std::ios::in | std::ios::out | std::ios::binary);
    const uint64_t step = 2 * make_block(0).bytes.size();
    for (uint64_t at = 1000; at + step < std::filesystem::file_size(data); at += step) {
      file.seekp(static_cast<std::streamoff>(at));
      file.put('\x5a');
      file.put('\x5b');
    }
  }
  const std::unique_ptr<TieredStore> store = open();
  ASSERT_EQ(store->stats().recovered_blocks, 100);
  uint64_t served = 0;
  for (uint64_t i = 0; i < 100; ++i) {
    const absl::StatusOr<StoredBlock> block = read(*store, i);
    if (!block.ok()) {
      EXPECT_TRUE(absl::IsNotFound(block.status()));
      EXPECT_EQ(look(*store, i).state, BlockState::absent);
      continue;
    }
    ++served;
    EXPECT_TRUE(same_bytes(block->bytes, make_block(i).bytes));
  }
  EXPECT_GT(served, 10);
  EXPECT_LT(served, 90);
  EXPECT_EQ(store->stats().read_misses, 100 - served);
  EXPECT_EQ(store->stats().bad_blocks, 100 - served);
  EXPECT_TRUE(put(*store, make_block(3)).ok() || look(*store, 3).state == BlockState::present);
}

TEST_F(NvmeStoreTest, DamagedManifestStartsEmptyAndCounts) {
  {
    const std::unique_ptr<TieredStore> store = open();
    for (uint64_t i = 0; i < 20; ++i) ASSERT_TRUE(put(*store, make_block(i)).ok());
    ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  }
  damage_files(config_.nvme.path, "MANIFEST");
  damage_files(config_.nvme.path, ".sst");
  // Nothing can be read: the manifest is made from no files, or the directory is started empty.
  const std::unique_ptr<TieredStore> store = open();
  ASSERT_NE(store, nullptr);
  for (uint64_t i = 0; i < 20; ++i) {
    const absl::StatusOr<StoredBlock> block = read(*store, i);
    if (block.ok()) {
      EXPECT_TRUE(same_bytes(block->bytes, make_block(i).bytes));
    }
  }
  EXPECT_EQ(store->stats().recovery_lost, 1);
  ASSERT_TRUE(put(*store, make_block(50)).ok());
  EXPECT_TRUE(store->flush(absl::Seconds(20)).ok());
  EXPECT_EQ(store->stats().persisted_blocks, 1);
}

// Flips a byte of every file below this size, at `from` and then every `step` bytes.
void flip_bytes_of_small_tables(const std::string& path, uint64_t from, uint64_t step) {
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    if (entry.path().extension() != ".sst" || entry.file_size() > (64u << 10)) continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    for (uint64_t at = from; at < entry.file_size(); at += step) {
      file.seekg(static_cast<std::streamoff>(at));
      const char byte = static_cast<char>(file.get() ^ 0x10);
      file.seekp(static_cast<std::streamoff>(at));
      file.put(byte);
    }
  }
}

TEST_F(NvmeStoreTest, DamagedMetadataIsCountedNeverWrongBytes) {
  constexpr uint64_t kFar = uint64_t{1} << 30;
  const std::pair<uint64_t, uint64_t> damages[] = {{10, kFar}, {5000, kFar}, {9000, kFar},
                                                   {10, 64},   {300, 1024},  {1000, 4096}};
  for (const auto& [from, step] : damages) {
    SCOPED_TRACE(testing::Message() << "from " << from << " every " << step);
    TempDir dir;
    config_.nvme.path = dir.path() + "/nvme";
    {
      const std::unique_ptr<TieredStore> store = open();
      for (uint64_t i = 0; i < 100; ++i) ASSERT_TRUE(put(*store, make_block(i)).ok());
      ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
    }
    flip_bytes_of_small_tables(config_.nvme.path, from, step);
    uint64_t served = 0;
    {
      const std::unique_ptr<TieredStore> store = open();
      ASSERT_NE(store, nullptr);
      for (uint64_t i = 0; i < 100; ++i) {
        const absl::StatusOr<StoredBlock> block = read(*store, i);
        if (!block.ok()) continue;
        ++served;
        EXPECT_TRUE(same_bytes(block->bytes, make_block(i).bytes));
      }
      EXPECT_LT(served, 100u);
      EXPECT_EQ(store->stats().recovered_blocks, served);
      EXPECT_EQ(store->stats().recovery_repaired, 1);
      EXPECT_EQ(store->stats().recovery_lost, 1);
      ASSERT_TRUE(put(*store, make_block(200)).ok());
      EXPECT_TRUE(store->flush(absl::Seconds(20)).ok());
    }
    // What was damaged is not found again, and what was left is not lost by it.
    const std::unique_ptr<TieredStore> store = open();
    EXPECT_EQ(store->stats().recovered_blocks, served + 1);
    EXPECT_EQ(store->stats().recovery_repaired, 0);
    EXPECT_EQ(store->stats().recovery_lost, 0);
    expect_whole(*store, 200);
  }
}

// Blocks that RocksDB gives back whole, and that are not what the index says.
TEST_F(NvmeStoreTest, WholeFilesWithWrongBlocksAreMisses) {
  std::vector<TestBlock> blocks;
  for (uint64_t i = 0; i < 6; ++i) blocks.push_back(make_block(i));
  const auto edit = [](TestBlock& block, const std::function<void(BlockHeader&)>& change) {
    BlockHeader header;
    std::memcpy(&header, block.bytes.data(), sizeof(header));
    change(header);
    std::memcpy(block.bytes.data(), &header, sizeof(header));
    seal_block(absl::MakeSpan(block.bytes));
  };
  edit(blocks[0], [](BlockHeader& header) { header.version = 1; });
  blocks[1].bytes = make_block(99).bytes;  // of another key
  edit(blocks[2], [](BlockHeader& header) { header.layout_hash ^= 1; });
  ++blocks[3].offer.layout_hash;                       // of another layout
  blocks[4].bytes.resize(blocks[4].bytes.size() / 2);  // cut
  write_directory(blocks);
  const std::unique_ptr<TieredStore> store = open();
  ASSERT_EQ(store->stats().recovered_blocks, 6);
  for (uint64_t i = 0; i < 5; ++i) {
    EXPECT_TRUE(absl::IsNotFound(read(*store, i).status())) << i;
    EXPECT_EQ(look(*store, i).state, BlockState::absent) << i;
    EXPECT_EQ(store->stats().bad_blocks, i + 1);
    EXPECT_TRUE(put(*store, make_block(i)).ok()) << i;  // and can be put again
    expect_whole(*store, i);
  }
  expect_whole(*store, 5);
  EXPECT_EQ(store->stats().read_misses, 5);
}

// Of blocks, by age.
std::vector<std::filesystem::path> data_files(const std::string& path) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    if (entry.path().extension() != ".sst" || entry.file_size() < (64u << 10)) continue;
    files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// A file of each quarter of 100 blocks: one is cut or gone, the other three serve.
TEST_F(NvmeStoreTest, CutAndLostFilesAreMissesNeverWrongBytes) {
  for (int which = 0; which < 8; ++which) {
    TempDir dir;
    config_.nvme.path = dir.path() + "/nvme";
    {
      const std::unique_ptr<TieredStore> store = open();
      for (uint64_t i = 0; i < 100; ++i) {
        ASSERT_TRUE(put(*store, make_block(i)).ok());
        if (i % 25 == 24) {
          ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
        }
      }
    }
    const std::vector<std::filesystem::path> data = data_files(config_.nvme.path);
    ASSERT_GE(data.size(), 4u);
    const std::filesystem::path& victim = data[which % 4];
    if (which < 4) {
      std::filesystem::resize_file(victim, std::filesystem::file_size(victim) / 2);
    } else {
      std::filesystem::remove(victim);
    }
    for (const bool again : {false, true}) {
      const std::unique_ptr<TieredStore> store = open();
      ASSERT_NE(store, nullptr);
      uint64_t served = 0;
      for (uint64_t i = 0; i < 100; ++i) {
        const absl::StatusOr<StoredBlock> block = read(*store, i);
        if (!block.ok()) continue;
        ++served;
        EXPECT_TRUE(same_bytes(block->bytes, make_block(i).bytes));
      }
      EXPECT_GE(served, 50u) << which;
      EXPECT_LT(served, 100u) << which;
      EXPECT_EQ(store->stats().recovered_blocks, served + again) << which;
      EXPECT_EQ(store->stats().recovery_repaired, again ? 0 : 1) << which;
      EXPECT_EQ(store->stats().recovery_lost, again ? 0 : 1) << which;
      if (again) continue;
      ASSERT_TRUE(put(*store, make_block(200)).ok());
      EXPECT_TRUE(store->flush(absl::Seconds(20)).ok());
    }
    EXPECT_FALSE(std::filesystem::exists(config_.nvme.path + "/lost"));
  }
}

// Puts one block more at a time, and flushes, until one is persisted; false where none ever is.
bool persists_again(TieredStore& store, uint64_t first_number) {
  for (uint64_t i = 0; i < 200; ++i) {
    const TestBlock block = make_block(first_number + i);
    EXPECT_TRUE(put(store, block).ok());
    store.flush(absl::Seconds(1)).IgnoreError();
    if (store.describe({&block.offer.key, 1})[0].persisted) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return false;
}

bool fails_to_write(TieredStore& store) {
  for (int i = 0; i < 10'000 && store.stats().nvme_write_errors == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return store.stats().nvme_write_errors > 0;
}

// RocksDB merges the newest files where eight are small, and a merge that meets damage ends all
// writing of an open database.
TEST_F(NvmeStoreTest, AMergeOfADamagedFileStopsOffloadingForAMomentOnly) {
  config_.nvme.memtable_bytes = kMiB;
  config_.nvme.flush_interval = absl::Hours(1);  // the files are those that the test asks for
  for (const bool restarted : {false, true}) {
    SCOPED_TRACE(restarted);
    TempDir dir;
    config_.nvme.path = dir.path() + "/nvme";
    std::unique_ptr<TieredStore> store = open();
    const auto put_file = [&](uint64_t number) {
      EXPECT_TRUE(put(*store, make_block(number)).ok());
      EXPECT_TRUE(put(*store, make_block(number + 1)).ok());
      return store->flush(absl::Seconds(20)).ok();
    };
    for (uint64_t i = 0; i < 14; i += 2) ASSERT_TRUE(put_file(i));
    if (restarted) store.reset();
    const std::vector<std::filesystem::path> data = data_files(config_.nvme.path);
    ASSERT_EQ(data.size(), 7u);
    damage_files(config_.nvme.path, data[5].filename());
    if (restarted) store = open();
    put_file(14);
    ASSERT_TRUE(fails_to_write(*store));
    ASSERT_TRUE(persists_again(*store, 1000));
    const uint64_t write_errors = store->stats().nvme_write_errors;
    // Merges begin again, and do not meet the damaged file.
    for (uint64_t i = 2000; i < 2120; i += 2) ASSERT_TRUE(put_file(i));
    EXPECT_LT(data_files(config_.nvme.path).size(), 50u);
    EXPECT_EQ(store->stats().nvme_write_errors, write_errors);
    for (const bool again : {false, true}) {
      if (again) store = open_again(std::move(store));
      uint64_t served = 0;
      for (uint64_t i = 0; i < 14; ++i) {
        const absl::StatusOr<StoredBlock> block = read(*store, i);
        if (!block.ok()) continue;
        ++served;
        EXPECT_TRUE(same_bytes(block->bytes, make_block(i).bytes));
      }
      EXPECT_GE(served, 12u);
      for (uint64_t i = 2000; i < 2120; ++i) expect_whole(*store, i);
    }
  }
}

bool is_persisted(const TieredStore& store, uint64_t number) {
  const BlockKey key = test_key(number);
  return store.describe({&key, 1})[0].persisted;
}

// Of more blocks than a memtable of 1 MiB holds. The first memtable is flushed because it is full,
// the second is not: the files that the first adds make the writer look what is persisted.
void expect_last_waits_for_flush(TieredStore& store, uint64_t first_number) {
  const uint64_t last = first_number + 39;
  std::vector<TestBlock>
      blocks;  // made first: the puts must outrun the flush of the first memtable
  for (uint64_t i = first_number; i <= last; ++i) blocks.push_back(make_block(i));
  for (const TestBlock& block : blocks) ASSERT_TRUE(put(store, block).ok());
  for (int i = 0; i < 1000 && !is_persisted(store, first_number); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ASSERT_TRUE(is_persisted(store, first_number));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // it looks at one after the other
  EXPECT_FALSE(is_persisted(store, last));
  ASSERT_TRUE(store.flush(absl::Seconds(20)).ok());
  EXPECT_TRUE(is_persisted(store, last));
}

// A directory that lost its newest files counts its writes from lower than the closed one did.
TEST_F(NvmeStoreTest, AfterARepairOnlyAFlushMakesBlocksPersisted) {
  config_.nvme.memtable_bytes = kMiB;
  config_.nvme.flush_interval = absl::Hours(1);
  const std::unique_ptr<TieredStore> store = open();
  const auto put_file = [&](uint64_t number) {
    EXPECT_TRUE(put(*store, make_block(number)).ok());
    EXPECT_TRUE(put(*store, make_block(number + 1)).ok());
    return store->flush(absl::Seconds(20)).ok();
  };
  for (uint64_t i = 100; i < 200; ++i) {
    ASSERT_TRUE(put(*store, make_block(i)).ok());
    if (i % 100 != 99) continue;
    ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  }
  for (uint64_t i = 0; i < 14; i += 2) ASSERT_TRUE(put_file(i));
  const std::vector<std::filesystem::path> data = data_files(config_.nvme.path);
  damage_files(config_.nvme.path, data.at(data.size() - 2).filename());
  // The writer cannot open it again before this test has cut the files.
  const std::string format = config_.nvme.path + "/HADAL_NVME_FORMAT";
  std::filesystem::rename(format, format + "_away");
  put_file(14);
  ASSERT_TRUE(fails_to_write(*store));
  for (const auto& entry : std::filesystem::directory_iterator(config_.nvme.path)) {
    if (entry.path().extension() != ".sst") continue;
    std::error_code gone;  // what the failed merge had begun
    const uint64_t bytes = entry.file_size(gone);
    if (!gone) std::filesystem::resize_file(entry.path(), bytes / 2, gone);
  }
  std::filesystem::rename(format + "_away", format);
  // Blocks that meet the closed directory are dropped.
  bool reopened = false;
  for (uint64_t i = 0; i < 1500 && !reopened; ++i) {
    const uint64_t dropped = store->stats().nvme_dropped_blocks;
    ASSERT_TRUE(put(*store, make_block(1000 + i)).ok());
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    reopened = store->stats().nvme_dropped_blocks == dropped;
  }
  ASSERT_TRUE(reopened);
  ASSERT_EQ(store->stats().persisted_blocks, 0u);
  EXPECT_EQ(store->stats().nvme_repairs, 1u);
  EXPECT_EQ(store->stats().nvme_lost_blocks, 116u);  // each counted once, under this name alone
  EXPECT_EQ(store->stats().tiers[1].evicted_blocks, 0u);
  // More than once, since the writer may look before the last of them is written.
  for (uint64_t round = 0; round < 2; ++round)
    expect_last_waits_for_flush(*store, 2000 + 100 * round);
}

TEST_F(NvmeStoreTest, ACompactionOfDamagedMetadataStopsOffloadingForAMomentOnly) {
  config_.nvme.flush_interval = absl::Hours(1);
  std::unique_ptr<TieredStore> store = open();
  for (uint64_t i = 0; i < 20; ++i) ASSERT_TRUE(put(*store, make_block(i)).ok());
  ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  flip_bytes_of_small_tables(config_.nvme.path, 10, uint64_t{1} << 30);
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(put(*store, make_block(100 + i)).ok());
    store->flush(absl::Seconds(20)).IgnoreError();
  }
  ASSERT_TRUE(fails_to_write(*store));
  ASSERT_TRUE(persists_again(*store, 1000));
  // The index follows: what it says of NVMe is there after a restart.
  ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  const uint64_t persisted = store->stats().persisted_blocks;
  store = open_again(std::move(store));
  EXPECT_EQ(store->stats().recovered_blocks, persisted);
  EXPECT_EQ(store->stats().recovery_repaired, 0);
  for (const BlockListing& listing : store->list(SIZE_MAX)) {
    EXPECT_TRUE(read(*store, {listing.key, {}, 0}).ok());
  }
}

TEST_F(NvmeStoreTest, BlocksOfALostFileAreMissedWithoutAManifestToo) {
  {
    const std::unique_ptr<TieredStore> store = open();
    for (uint64_t i = 0; i < 40; ++i) {
      ASSERT_TRUE(put(*store, make_block(i)).ok());
      if (i % 10 == 9) {
        ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
      }
    }
  }
  std::filesystem::remove(data_files(config_.nvme.path).at(2));
  damage_files(config_.nvme.path, "MANIFEST");
  const std::unique_ptr<TieredStore> store = open();
  EXPECT_LT(store->stats().recovered_blocks, 40);
  EXPECT_EQ(store->stats().recovery_lost, 1);
}

TEST_F(NvmeStoreTest, ADamagedManifestAloneLosesNothing) {
  {
    const std::unique_ptr<TieredStore> store = open();
    for (uint64_t i = 0; i < 20; ++i) ASSERT_TRUE(put(*store, make_block(i)).ok());
    ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
  }
  damage_files(config_.nvme.path, "MANIFEST");
  const std::unique_ptr<TieredStore> store = open();
  EXPECT_EQ(store->stats().recovered_blocks, 20);
  EXPECT_EQ(store->stats().recovery_repaired, 1);
  EXPECT_EQ(store->stats().recovery_lost, 0);
  for (uint64_t i = 0; i < 20; ++i) expect_whole(*store, i);
}

// RocksDB then begins a new manifest before it says that the directory is corrupt.
TEST_F(NvmeStoreTest, ALostOrEmptyCurrentFileLosesNothing) {
  for (const bool empty : {false, true}) {
    {
      const std::unique_ptr<TieredStore> store = open();
      for (uint64_t i = 0; i < 20; ++i) put(*store, make_block(i)).IgnoreError();
      ASSERT_TRUE(store->flush(absl::Seconds(20)).ok());
    }
    std::filesystem::remove(config_.nvme.path + "/CURRENT");
    if (empty) std::ofstream(config_.nvme.path + "/CURRENT").close();
    const std::unique_ptr<TieredStore> store = open();
    ASSERT_NE(store, nullptr);
    EXPECT_EQ(store->stats().recovered_blocks, 20) << empty;
    EXPECT_EQ(store->stats().recovery_repaired, 1) << empty;
    EXPECT_EQ(store->stats().recovery_lost, 0) << empty;
    for (uint64_t i = 0; i < 20; ++i) expect_whole(*store, i);
  }
}

}  // namespace
}  // namespace hadal::test
