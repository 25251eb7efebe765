#include "common/checksum.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace hadal {
namespace {

std::vector<std::byte> random_bytes(size_t count) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// The definition in words, leaf by leaf and backwards: order must not matter.
TEST(CellChecksum, IsTheSumOverLeavesInAnyOrder) {
  const std::vector<std::byte> cell = random_bytes(5 * 1024 + 17);
  uint64_t sum = 0;
  for (int leaf = 5; leaf >= 0; --leaf) {
    const size_t bytes = leaf == 5 ? 17 : 1024;
    sum += mix_leaf(hash64(absl::MakeConstSpan(cell).subspan(leaf * 1024u, bytes)), leaf, 0x10203);
  }
  EXPECT_EQ(cell_checksum(cell, 0x10203), sum);
}

TEST(CellChecksum, SeesEveryByteSwappedLeavesAndOtherCells) {
  std::vector<std::byte> cell = random_bytes(3000);
  const uint64_t good = cell_checksum(cell, 1);
  EXPECT_NE(cell_checksum(cell, 2), good);
  for (size_t i = 0; i < cell.size(); ++i) {
    cell[i] ^= std::byte{1};
    EXPECT_NE(cell_checksum(cell, 1), good) << i;
    cell[i] ^= std::byte{1};
  }
  std::swap_ranges(cell.begin(), cell.begin() + 1024, cell.begin() + 1024);
  EXPECT_NE(cell_checksum(cell, 1), good);
}

// A public format: these values hold on every machine and backend.
TEST(CellChecksum, StaysAsItWas) {
  EXPECT_EQ(mix_leaf(0x0123456789abcdefu, 3, 0x10203), 10491585444641982743u);
  const std::vector<std::byte> zeros(2048);
  EXPECT_EQ(cell_checksum(zeros, 7), 5853295046162476346u);
  EXPECT_EQ(cell_checksum({}, 7), 0u);
}

}  // namespace
}  // namespace hadal
