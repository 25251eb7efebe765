#include "kernels/codebook.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <mutex>
#include <vector>

namespace hadal {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int kLloydRoundsMax = 4000;
constexpr double kLloydTolerance = 1e-10;

// Most that quantising lengthens a vector: every coordinate 1, on the edge of a 2-bit cell whose
// centroid is 1.54. A rotated sum is at most sqrt(d) |z|, so it stays below d times this.
constexpr double kLengtheningMax = 1.56;

double density(double x) {
  return std::isinf(x) ? 0 : std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI);
}

// Probability of [a, b) without cancellation in the tails.
double mass(double a, double b) {
  if (a > 0) return 0.5 * (std::erfc(a / M_SQRT2) - std::erfc(b / M_SQRT2));
  return 0.5 * (std::erfc(-b / M_SQRT2) - std::erfc(-a / M_SQRT2));
}

double cell_mean(double a, double b) { return (density(a) - density(b)) / mass(a, b); }

// Integral of (x - c)^2 over the cell.
double cell_error(double a, double b, double c) {
  const double first = density(a) - density(b);
  const double second =
      mass(a, b) + (std::isinf(a) ? 0 : a * density(a)) - (std::isinf(b) ? 0 : b * density(b));
  return second - 2 * c * first + c * c * mass(a, b);
}

// Where N(0, 3) has so much mass below.
double quantile(double below) {
  double low = -10, high = 10;  // by bisection: made once a process
  for (int step = 0; step < 60; ++step) {
    const double middle = (low + high) / 2;
    (mass(-kInfinity, middle) < below ? low : high) = middle;
  }
  return std::sqrt(3.0) * low;
}

// Edges of `count` cells that fill [begin, end]. Starts from the asymptotically optimal points
// (density to the power 1/3: a normal of variance 3) and iterates Lloyd's two conditions.
std::vector<double> lloyd_edges(double begin, double end, int count) {
  std::vector<double> edges(count + 1);
  edges.front() = begin;
  edges.back() = end;
  const double below = mass(-kInfinity, begin / std::sqrt(3.0));
  const double inside = mass(-kInfinity, end / std::sqrt(3.0)) - below;
  for (int i = 1; i < count; ++i) edges[i] = quantile(below + inside * i / count);
  for (int round = 0; round < kLloydRoundsMax; ++round) {
    double moved = 0;
    double previous = cell_mean(edges[0], edges[1]);
    for (int i = 1; i < count; ++i) {
      const double next = cell_mean(edges[i], edges[i + 1]);
      const double edge = (previous + next) / 2;
      moved = std::max(moved, std::abs(edge - edges[i]));
      edges[i] = edge;
      previous = next;
    }
    if (moved < kLloydTolerance) break;
  }
  return edges;
}

// edges[0] = -inf to edges[2^bits] = inf, exactly symmetric, as the optimum is.
std::vector<double> codebook_edges(int bits) {
  const int refined = std::min(bits, kRefinedBits);
  std::vector<double> edges = lloyd_edges(-kInfinity, kInfinity, 1 << refined);
  if (bits > refined) {
    const std::vector<double> whole = std::move(edges);
    edges = {-kInfinity};
    for (size_t i = 0; i + 1 < whole.size(); ++i) {
      const std::vector<double> parts = lloyd_edges(whole[i], whole[i + 1], 1 << (bits - refined));
      edges.insert(edges.end(), parts.begin() + 1, parts.end());
    }
  }
  const int count = 1 << bits;
  for (int i = 1; i < count; ++i) {
    if (2 * i >= count) edges[i] = 2 * i == count ? 0 : -edges[count - i];
  }
  return edges;
}

Codebook make(int bits) {
  Codebook book;
  book.bits = bits;
  const int count = 1 << bits;
  const std::vector<double> edges = codebook_edges(bits);
  for (int plane = 0; plane < bits; ++plane) {
    const int width = count >> plane;  // cells under one prefix of `plane` bits
    for (int i = 0; i < (1 << plane); ++i) {
      book.thresholds[(1 << plane) + i] = edges[i * width + width / 2];
    }
    const int half = width / 2;
    for (int i = 0; i < (2 << plane); ++i) {
      const double a = edges[i * half], b = edges[(i + 1) * half];
      const double mean = cell_mean(a, b);
      book.centroids[plane][i] = mean;
      book.distortion[plane] += cell_error(a, b, mean);
    }
    // Exactly symmetric, as the edges are.
    for (int i = 0; i < (1 << plane); ++i) {
      book.centroids[plane][i] = -book.centroids[plane][(2 << plane) - 1 - i];
    }
  }
  return book;
}

}  // namespace

const Codebook& codebook(int bits) {
  static std::array<std::once_flag, limits::kBitsMax> made;
  static std::array<Codebook, limits::kBitsMax> books;
  std::call_once(made[bits - 1], [bits] { books[bits - 1] = make(bits); });
  return books[bits - 1];
}

int encoded_deviation(int head_dim) {
  return static_cast<int>((INT16_MAX - head_dim / 2.0) / std::sqrt(head_dim));
}

void CodeTables::make_bins() {
  std::vector<int> sorted(thresholds.begin() + 1, thresholds.begin() + (1 << bits));
  std::sort(sorted.begin(), sorted.end());
  constexpr int kHalf = kBinCount / 2;
  // The outermost thresholds are within the bins that have no neighbour.
  const int outermost = std::max(sorted.back(), 1);
  bin_factor = static_cast<int16_t>(std::min((kHalf - 2) * 65536 / outermost, INT16_MAX));
  for (int bin = -kHalf; bin < kHalf; ++bin) {
    const double begin = bin == -kHalf ? INT16_MIN : std::ceil(bin * 65536.0 / bin_factor);
    const auto next = std::upper_bound(sorted.begin(), sorted.end(), begin);
    const size_t entry = bin & (kBinCount - 1);
    bin_ranks[entry] = static_cast<int16_t>(next - sorted.begin());
    const bool inside = next != sorted.end() && int64_t{*next} * bin_factor >> 16 == bin;
    bin_thresholds[entry] = static_cast<int16_t>(inside ? *next - 1 : INT16_MAX);
  }
}

CodeTables CodeTables::make(int bits, int head_dim) {
  const Codebook& book = codebook(bits);
  CodeTables tables;
  tables.bits = bits;
  tables.input_scale = encoded_deviation(head_dim);
  tables.input_shift = bits <= narrow_bits_max(head_dim) ? 0 : kWideShift;
  const int narrow_scale = static_cast<int>(INT16_MAX / (kLengtheningMax * head_dim));
  for (int i = 1; i < (1 << bits); ++i) {
    tables.thresholds[i] =
        static_cast<int16_t>(std::lround(book.thresholds[i] * tables.input_scale));
  }
  for (int planes = 1; planes <= bits; ++planes) {
    const double largest = book.centroids[planes - 1][(1 << planes) - 1];
    const int wide_scale = static_cast<int>((std::sqrt(INT32_MAX / head_dim) - 1) / largest);
    const int scale = planes <= narrow_planes_max(head_dim) ? narrow_scale : wide_scale;
    tables.centroid_scales[planes - 1] = scale;
    for (int i = 0; i < (1 << planes); ++i) {
      tables.centroids[planes - 1][i] =
          static_cast<int16_t>(std::lround(book.centroids[planes - 1][i] * scale));
    }
  }
  if (bits <= kBinBitsMax) tables.make_bins();
  return tables;
}

}  // namespace hadal
