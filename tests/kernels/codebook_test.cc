#include "kernels/codebook.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/rotation.h"

namespace hadal {
namespace {

// Of Lloyd-Max quantisers; those of 1 to 6 bits are published.
constexpr double kOptimum[] = {0.36338,   0.11748,  0.034548,  0.009501,
                               0.0025047, 0.000644, 1.6348e-4, 4.1187e-5};

TEST(Codebook, HasThePublishedDistortions) {
  for (int bits = 1; bits <= kRefinedBits; ++bits) {
    const double published = kOptimum[bits - 1];
    EXPECT_NEAR(codebook(bits).distortion[bits - 1], published, published * 1e-3) << bits;
  }
}

TEST(Codebook, AnyPrecisionIsWithinFourPercentOfTheOptimum) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (int planes = 1; planes <= bits; ++planes) {
      const double found = codebook(bits).distortion[planes - 1];
      EXPECT_LT(found, 1.04 * kOptimum[planes - 1]) << planes << " of " << bits;
      EXPECT_GT(found, 0.999 * kOptimum[planes - 1]) << planes << " of " << bits;
    }
  }
  EXPECT_NEAR(codebook(4).distortion[2], 0.03485, 2e-5);
  EXPECT_NEAR(codebook(4).distortion[1], 0.1203, 1e-4);
  EXPECT_NEAR(codebook(5).distortion[3], 0.00956, 1e-5);
  EXPECT_NEAR(codebook(5).distortion[2], 0.03536, 2e-5);
  EXPECT_NEAR(codebook(5).distortion[1], 0.1219, 1e-4);
  EXPECT_NEAR(codebook(8).distortion[7], 1.0206 * kOptimum[7], 1e-3 * kOptimum[7]);
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
    EXPECT_EQ(book.thresholds[1], 0.0);
  }
}

double density(double x) { return std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI); }
double below(double x) { return 0.5 * std::erfc(-x / M_SQRT2); }

// Mean squared error on N(0, 1) of the integers, at the scale of centroids that suits them best.
double distortion_of_tables(const CodeTables& tables, int planes) {
  double power = 0, along = 0;
  const int cells = 1 << planes;
  const int width = 1 << (tables.bits - planes);
  std::vector<double> edges(cells + 1, -INFINITY);
  edges.back() = INFINITY;
  for (int i = 1; i < cells; ++i) {
    // The edge between cells i - 1 and i is a threshold of the plane that i's last set bit is in.
    const int index = i * width;
    const int plane = tables.bits - 1 - __builtin_ctz(index);
    const int entry = (1 << plane) + (index >> (tables.bits - plane));
    edges[i] = tables.thresholds[entry] / double(tables.input_scale);
  }
  for (int i = 0; i < cells; ++i) {
    const double centroid = tables.centroids[planes - 1][i];
    power += centroid * centroid * (below(edges[i + 1]) - below(edges[i]));
    along += centroid * (density(edges[i]) - density(edges[i + 1]));
  }
  return 1 - along * along / power;
}

// What the rounding before the rotation adds: 1/12 for each of the values that a coordinate sums.
double distortion_of_rounding(const CodeTables& tables, int head_dim) {
  return head_dim / 12.0 / std::pow(std::ldexp(tables.input_scale, tables.input_shift), 2);
}

TEST(CodeTables, IntegersCostNextToNothing) {
  for (int head_dim : kHeadDims) {
    for (int bits = 1; bits <= 8; ++bits) {
      const CodeTables tables = CodeTables::make(bits, head_dim);
      for (int planes = 1; planes <= bits; ++planes) {
        const double ideal = codebook(bits).distortion[planes - 1];
        const double made =
            distortion_of_tables(tables, planes) + distortion_of_rounding(tables, head_dim);
        // 8 planes: the squares of their centroids must fit in 31 bits, or they are encoded in 16.
        const double of_eight = head_dim > 256 ? 0.013 : 0.015;
        const double tolerance = planes == 8 ? of_eight : 0.01;
        EXPECT_NEAR(made, ideal, tolerance * ideal) << head_dim << " " << bits << " " << planes;
        EXPECT_LT(made, 1.04 * kOptimum[planes - 1]) << head_dim << " " << bits << " " << planes;
      }
    }
  }
}

TEST(CodeTables, BinsFindTheIndexThatPlanesFind) {
  for (int head_dim : kHeadDims) {
    for (int bits = 1; bits <= kBinBitsMax; ++bits) {
      const CodeTables tables = CodeTables::make(bits, head_dim);
      int differences = 0;
      for (int y = INT16_MIN; y <= INT16_MAX; ++y) {
        int by_planes = 0;
        for (int plane = 0; plane < bits; ++plane) {
          by_planes = 2 * by_planes + (y >= tables.thresholds[(1 << plane) + by_planes]);
        }
        const int bin = std::clamp(y * tables.bin_factor >> 16, -kBinCount / 2, kBinCount / 2 - 1);
        const int entry = bin & (kBinCount - 1);
        differences += by_planes != tables.bin_ranks[entry] + (y > tables.bin_thresholds[entry]);
      }
      EXPECT_EQ(differences, 0) << head_dim << " " << bits;
    }
  }
}

// What the 16-bit kernels rely on.
TEST(CodeTables, SumsFitIn16Bits) {
  for (int head_dim : kHeadDims) {
    for (int bits = 1; bits <= 8; ++bits) {
      const CodeTables tables = CodeTables::make(bits, head_dim);
      EXPECT_LE(tables.input_scale * std::sqrt(head_dim) + head_dim / 2.0, INT16_MAX);
      // The encoder's rounding of floats is exact below that.
      EXPECT_LT(std::ldexp(tables.input_scale, tables.input_shift), 1 << 22);
      EXPECT_EQ(tables.thresholds[1], 0);
      for (int planes = 1; planes <= std::min(bits, narrow_planes_max(head_dim)); ++planes) {
        // The longest z of any input: all coordinates on the lower edge of a cell, with mean
        // square 1; a mixture of two cells at most (a linear programme with two constraints).
        std::vector<std::pair<double, double>> cells;  // squared edge, squared centroid
        for (int i = 0; i < (1 << planes); ++i) {
          if (tables.centroids[planes - 1][i] <= 0) continue;
          const double centroid = tables.centroids[planes - 1][i];
          const int index = i << (bits - planes);
          const int plane = bits - 1 - __builtin_ctz(index);
          const double edge = tables.thresholds[(1 << plane) + (index >> (bits - plane))] /
                              double(tables.input_scale);
          cells.emplace_back(edge * edge, centroid * centroid);
        }
        double longest = 0;
        for (const auto& [edge_a, a] : cells) {
          if (edge_a > 1) continue;
          longest = std::max(longest, a);  // the rest of the mean square lies inside cells
          for (const auto& [edge_b, b] : cells) {
            if (edge_b <= 1) continue;
            const double share = (1 - edge_a) / (edge_b - edge_a);
            longest = std::max(longest, (1 - share) * a + share * b);
          }
        }
        EXPECT_LE(head_dim * std::sqrt(longest), INT16_MAX)
            << head_dim << " " << bits << " " << planes;
      }
    }
  }
}

}  // namespace
}  // namespace hadal
