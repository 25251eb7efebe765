#include "kernels/rotation.h"

#include <gtest/gtest.h>

namespace hadal {
namespace {

TEST(PaleyHadamard, RowsAreOrthogonal) {
  for (int head_dim : kHeadDims) {
    const Rotation rotation = *Rotation::create(head_dim, 1);
    const std::vector<int8_t>& h = rotation.core_matrix;
    const int order = rotation.core;
    EXPECT_EQ(order * rotation.inner, head_dim);
    ASSERT_EQ(h.size(), order == 1 ? 0u : static_cast<size_t>(order) * order);
    for (int i = 0; i < order && order > 1; ++i) {
      for (int j = 0; j < order; ++j) {
        int dot = 0;
        for (int k = 0; k < order; ++k) dot += h[i * order + k] * h[j * order + k];
        EXPECT_EQ(dot, i == j ? order : 0) << order;
      }
    }
  }
}

TEST(Rotation, SignsFollowTheSeedAndAreBalanced) {
  const Rotation a = *Rotation::create(256, 1);
  const Rotation b = *Rotation::create(256, 2);
  double sum = 0;
  int different = 0;
  for (int i = 0; i < 256; ++i) {
    EXPECT_EQ(a.signs[i] * a.signs[i], 1.0f);
    sum += a.signs[i];
    different += a.signs[i] != b.signs[i];
  }
  EXPECT_LT(std::abs(sum), 80);
  EXPECT_GT(different, 80);
}

TEST(Rotation, RefusesOtherHeadDims) {
  for (int head_dim : {0, 16, 32, 72, 144, 1024}) {
    EXPECT_EQ(Rotation::create(head_dim, 1).status().code(), absl::StatusCode::kInvalidArgument)
        << head_dim;
  }
}

}  // namespace
}  // namespace hadal
