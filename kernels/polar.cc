#include "kernels/polar.h"

#include <cmath>
#include <cstring>

namespace hadal {
namespace {

constexpr int kSimpsonSteps = 512;
constexpr int kLloydRoundsMax = 1000;
constexpr double kLloydTolerance = 1e-13;

// Integral of psi^power times the density, up to a factor, by Simpson's rule.
double moment(int level, int power, double from, double to) {
  const int exponent = (1 << (level - 1)) - 1;
  const auto value = [&](double psi) {
    return std::pow(psi, power) * std::pow(std::sin(2 * psi), exponent);
  };
  const double step = (to - from) / kSimpsonSteps;
  double sum = value(from) + value(to);
  for (int i = 1; i < kSimpsonSteps; ++i) sum += (i % 2 == 1 ? 4 : 2) * value(from + i * step);
  return sum * step / 3;
}

double cell_mean(int level, double from, double to) {
  return moment(level, 1, from, to) / moment(level, 0, from, to);
}

}  // namespace

PolarCodebook polar_codebook(int level) {
  constexpr double kRight = M_PI / 2;
  PolarCodebook book;
  double edge = kRight / kPolarAngles;
  double first = 0, second = 0;
  for (int round = 0; round < kLloydRoundsMax; ++round) {
    first = cell_mean(level, 0, edge);
    second = cell_mean(level, edge, kRight / 2);
    const double moved = std::abs((first + second) / 2 - edge);
    edge = (first + second) / 2;
    if (moved < kLloydTolerance) break;
  }
  book.edges = {0, edge, kRight / 2, kRight - edge, kRight};
  book.centroids = {first, second, kRight - second, kRight - first};
  return book;
}

const PolarTables& polar_tables() {
  static const PolarTables kTables = [] {
    PolarTables tables;
    for (int level = 1; level <= kPolarLevels; ++level) {
      const PolarCodebook book = polar_codebook(level);
      const double tangent = std::tan(book.edges[1]);
      tables.tangents[level] = static_cast<float>(std::round(tangent * tangent * 0x1p16) * 0x1p-16);
      for (int i = 0; i < kPolarAngles; ++i) {
        tables.cosines[level][i] =
            static_cast<int16_t>(std::lround(std::cos(book.centroids[i]) * 0x1p15));
      }
    }
    return tables;
  }();
  return kTables;
}

// Rounding lengthens a vector by half a unit a value at most before the rotation. Before it is
// rotated back it is rounded as radii and at every level, of which each has twice as many values as
// the one before: 1.41 units in all, and what is left of 1.5 the cosines' own rounding needs.
PolarScale::PolarScale(int head_dim) {
  const double root = std::sqrt(head_dim);
  const double encoded = std::floor((INT16_MAX - 0.5 * head_dim) / root);
  const double decoded = std::floor((INT16_MAX - 1.5 * head_dim) / root);
  encoded_length = static_cast<float>(encoded);
  rotated_length = static_cast<float>(encoded * root);
  decoded_length = static_cast<float>(decoded);
  restored_length = static_cast<float>(decoded * root);
}

// Levels 3 and 4 are what polar_packed_byte() says of every byte, in a third less time.
void write_polar_words(const PolarWords* runs, int run_count, std::byte* words) {
  std::byte* packed = words + 5 * run_count;
  uint32_t pending = 0;
  int pending_bits = 0;
  for (int i = 0; i < run_count; ++i) {
    std::memcpy(words + 4 * i, &runs[i].level1, 4);
    words[4 * run_count + i] = static_cast<std::byte>(runs[i].level2);
    pending |= uint32_t{runs[i].level34} << pending_bits;
    pending_bits += 6;
    if (pending_bits >= 8) {
      *packed++ = static_cast<std::byte>(pending);
      pending >>= 8;
      pending_bits -= 8;
    }
  }
  if (pending_bits > 0) *packed = static_cast<std::byte>(pending);
}

void read_polar_words(const std::byte* words, int run_count, PolarWords* runs) {
  for (int i = 0; i < run_count; ++i) {
    std::memcpy(&runs[i].level1, words + 4 * i, 4);
    runs[i].level2 = static_cast<uint8_t>(words[4 * run_count + i]);
    runs[i].level34 = polar_unpacked(words + 5 * run_count, i);
  }
}

}  // namespace hadal
