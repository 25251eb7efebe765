#include "kernels/codebook.h"

#include <gtest/gtest.h>

namespace hadal {
namespace {

TEST(Codebook, HasThePublishedDistortions) {
  const double published[] = {0.36338, 0.11748, 0.034548, 0.009501, 0.0025047, 0.000644};
  for (int bits = 1; bits <= 6; ++bits) {
    EXPECT_NEAR(codebook(bits).distortion[bits - 1], published[bits - 1],
                published[bits - 1] * 1e-3)
        << bits;
  }
  for (int bits = 7; bits <= 8; ++bits) {
    EXPECT_LT(codebook(bits).distortion[bits - 1], codebook(bits - 1).distortion[bits - 2] / 3.7);
  }
}

TEST(Codebook, TruncatesAlmostWithoutLoss) {
  EXPECT_NEAR(codebook(4).distortion[2], 0.03485, 2e-5);
  EXPECT_NEAR(codebook(4).distortion[1], 0.1203, 1e-4);
  EXPECT_NEAR(codebook(5).distortion[3], 0.00956, 1e-5);
  EXPECT_NEAR(codebook(5).distortion[2], 0.03536, 2e-5);
  EXPECT_NEAR(codebook(5).distortion[1], 0.1219, 1e-4);
}

TEST(Codebook, IsSortedAndSymmetricAtEveryPlaneCount) {
  for (int bits = 1; bits <= 8; ++bits) {
    const Codebook& book = codebook(bits);
    for (int planes = 1; planes <= bits; ++planes) {
      const auto& centroids = book.centroids[planes - 1];
      const int count = 1 << planes;
      for (int i = 0; i < count; ++i) {
        EXPECT_NEAR(centroids[i], -centroids[count - 1 - i], 1e-6);
        if (i > 0) {
          EXPECT_LT(centroids[i - 1], centroids[i]);
        }
      }
    }
    EXPECT_EQ(book.thresholds[1], 0.0f);
  }
}

}  // namespace
}  // namespace hadal
