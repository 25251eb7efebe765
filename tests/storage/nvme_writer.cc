// Puts blocks 0, 1, 2, ... into the store at argv[1] and prints how many are persisted, until it is
// killed: the victim of nvme_store_test.

#include <cstdio>
#include <thread>

#include "tests/storage/test_blocks.h"

int main(int argc, char** argv) {
  using namespace hadal;  // NOLINT: a program of one function
  if (argc != 2) return 2;
  test::Slab slab(64u << 20);
  const SystemClock clock;
  TieredStoreConfig config;
  config.nvme.path = argv[1];
  config.nvme.capacity_bytes = 256u << 20;
  config.nvme.memtable_bytes = 8u << 20;
  config.nvme.flush_interval = absl::Milliseconds(20);
  config.nvme.free_space_min_fraction = 0.0;
  const auto store = TieredStore::open(config, slab.span(), clock);
  if (!store.ok()) return 3;
  for (uint64_t i = 0; i < 2000; ++i) {
    if (!test::put(**store, test::make_block(i)).ok()) return 4;
    StoreStats stats = (*store)->stats();
    // Not faster than a busy disk, or blocks are dropped.
    for (int wait = 0; wait < 10000 && stats.nvme_queue_bytes > (8u << 20); ++wait) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      stats = (*store)->stats();
    }
    if (stats.nvme_dropped_blocks > 0) return 5;
    std::printf("%lu\n", static_cast<unsigned long>(stats.persisted_blocks));
    std::fflush(stdout);
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  std::this_thread::sleep_for(std::chrono::seconds(60));
  return 0;
}
