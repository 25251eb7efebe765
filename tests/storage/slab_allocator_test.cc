// Random operations on the slab allocator against a model that knows every granule.

#include "storage/slab_allocator.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

namespace hadal {
namespace {

constexpr uint64_t kGranule = SlabAllocator::kGranuleBytes;

uint64_t granules(uint64_t bytes) {
  return std::max<uint64_t>(1, (bytes + kGranule - 1) / kGranule);
}

// Which granules are taken, by the obvious means.
class Model {
 public:
  explicit Model(uint64_t count) : taken_(count, false) {}

  void take(uint64_t offset, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) {
      ASSERT_LT(offset / kGranule + i, taken_.size());
      ASSERT_FALSE(taken_[offset / kGranule + i]) << "overlap at " << offset;
      taken_[offset / kGranule + i] = true;
    }
    used_ += count;
  }
  void give(uint64_t first, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) taken_[first + i] = false;
    used_ -= count;
  }
  uint64_t used() const { return used_; }
  uint64_t largest_free() const {
    uint64_t largest = 0;
    uint64_t run = 0;
    for (const bool taken : taken_) {
      run = taken ? 0 : run + 1;
      largest = std::max(largest, run);
    }
    return largest;
  }

 private:
  std::vector<bool> taken_;
  uint64_t used_ = 0;
};

TEST(SlabAllocator, AgreesWithAModel) {
  for (const uint64_t seed : {1, 2, 3}) {
    const uint64_t count = 2000 + 37 * seed;
    SlabAllocator allocator(count * kGranule + 123);
    Model model(count);
    std::map<uint64_t, uint64_t> live;  // offset -> granules
    std::mt19937_64 random(seed);
    for (int step = 0; step < 20000; ++step) {
      const uint64_t choice = random() % 10;
      if (choice < 5) {
        const uint64_t bytes = 1 + random() % (kGranule << (random() % 8));
        const auto offset = allocator.allocate(bytes);
        if (offset.has_value()) {
          model.take(*offset, granules(bytes));
          live[*offset] = granules(bytes);
        } else {
          // It may miss a run of its own class, never one of twice the size.
          ASSERT_LT(model.largest_free(), 2 * granules(bytes));
        }
      } else if (!live.empty()) {
        auto at = live.lower_bound(random() % (count * kGranule));
        if (at == live.end()) at = live.begin();
        const uint64_t first = at->first / kGranule;
        if (choice < 7) {
          const uint64_t keep = 1 + random() % at->second;
          EXPECT_EQ(allocator.shrink(at->first, keep * kGranule), (at->second - keep) * kGranule);
          model.give(first + keep, at->second - keep);
          at->second = keep;
        } else {
          allocator.free(at->first);
          model.give(first, at->second);
          live.erase(at);
        }
      }
      ASSERT_EQ(allocator.used_bytes(), model.used() * kGranule);
      if (step % 100 == 0) {
        ASSERT_EQ(allocator.largest_free_bytes(), model.largest_free() * kGranule);
      }
    }
    for (const auto& [offset, unused] : live) allocator.free(offset);
    EXPECT_EQ(allocator.used_bytes(), 0);
    EXPECT_EQ(allocator.largest_free_bytes(), allocator.capacity_bytes());
  }
}

TEST(SlabAllocator, HandsOutTheWholeSlab) {
  SlabAllocator allocator(100 * kGranule);
  const auto whole = allocator.allocate(100 * kGranule);
  ASSERT_TRUE(whole.has_value());
  EXPECT_FALSE(allocator.allocate(1).has_value());
  allocator.free(*whole);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(allocator.allocate(kGranule).has_value());
  EXPECT_FALSE(allocator.allocate(1).has_value());
}

TEST(SlabAllocator, RefusesMoreThanTheSlab) {
  SlabAllocator allocator(10 * kGranule);
  EXPECT_FALSE(allocator.allocate(10 * kGranule + 1).has_value());
  EXPECT_FALSE(allocator.allocate(UINT64_MAX - kGranule).has_value());
  SlabAllocator none(0);
  EXPECT_FALSE(none.allocate(1).has_value());
}

TEST(SlabAllocator, DroppedTailIsUsable) {
  SlabAllocator allocator(10 * kGranule);
  const auto block = allocator.allocate(10 * kGranule);
  ASSERT_TRUE(block.has_value());
  EXPECT_EQ(allocator.shrink(*block, 4 * kGranule + 1), 5 * kGranule);
  EXPECT_TRUE(allocator.allocate(5 * kGranule).has_value());
  EXPECT_FALSE(allocator.allocate(1).has_value());
}

}  // namespace
}  // namespace hadal
