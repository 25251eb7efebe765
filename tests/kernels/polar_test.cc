#include "kernels/polar.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/rotation.h"
#include "tests/kernels/backends.h"

namespace hadal {
namespace {

// Of the angle between the lengths of two vectors of `size` normal values, up to a factor:
// r^(size - 1) of either, at one length of both.
double density(int size, double psi) { return std::pow(std::sin(psi) * std::cos(psi), size - 1); }

// Midpoint rule, which shares nothing with the codebooks' integration.
template <typename Value>
double integral(int size, double from, double to, Value value) {
  constexpr int kSteps = 20000;
  const double step = (to - from) / kSteps;
  double sum = 0;
  for (int i = 0; i < kSteps; ++i) {
    const double psi = from + (i + 0.5) * step;
    sum += value(psi) * density(size, psi);
  }
  return sum * step;
}
double one(double) { return 1; }

// Mean over the density of what each angle and its cell's centroid give.
template <typename Value>
double mean_over_cells(int level, const PolarCodebook& book, Value value) {
  const int size = 1 << (level - 1);
  double sum = 0;
  for (int i = 0; i < kPolarAngles; ++i) {
    sum += integral(size, book.edges[i], book.edges[i + 1],
                    [&](double psi) { return value(psi, book.centroids[i]); });
  }
  return sum / integral(size, 0, M_PI / 2, one);
}

double squared_error(int level, const PolarCodebook& book) {
  return mean_over_cells(
      level, book, [](double psi, double centroid) { return (psi - centroid) * (psi - centroid); });
}

TEST(PolarCodebook, FulfilsLloydsConditions) {
  for (int level = 1; level <= kPolarLevels; ++level) {
    const int size = 1 << (level - 1);
    const PolarCodebook book = polar_codebook(level);
    EXPECT_EQ(book.edges.front(), 0);
    EXPECT_NEAR(book.edges.back(), M_PI / 2, 1e-12);
    for (int i = 0; i < kPolarAngles; ++i) {
      const double a = book.edges[i], b = book.edges[i + 1];
      const double first = integral(size, a, b, [](double psi) { return psi; });
      EXPECT_NEAR(book.centroids[i], first / integral(size, a, b, one), 1e-7) << level << " " << i;
      const double before = i == 0 ? -book.centroids[0] : book.centroids[i - 1];
      EXPECT_NEAR(a, (before + book.centroids[i]) / 2, 1e-7) << level;
    }
    const double least = squared_error(level, book);
    for (int i = 1; i < kPolarAngles; ++i) {
      for (const double moved : {-0.02, 0.02}) {
        PolarCodebook other = book;
        other.edges[i] += moved;
        EXPECT_GT(squared_error(level, other), least * 1.0001);
        other = book;
        other.centroids[i] += moved;
        EXPECT_GT(squared_error(level, other), least * 1.0001);
      }
    }
  }
}

// At level 1 angles are even, so cells are; at level 2 the mean has a closed form.
TEST(PolarCodebook, HasKnownAngles) {
  for (int i = 0; i < kPolarAngles; ++i) {
    EXPECT_NEAR(polar_codebook(1).edges[i], i * M_PI / 8, 1e-10);
    EXPECT_NEAR(polar_codebook(1).centroids[i], (i + 0.5) * M_PI / 8, 1e-10);
  }
  const PolarCodebook second = polar_codebook(2);
  const double edge = second.edges[1];
  EXPECT_NEAR(second.centroids[0],
              (std::sin(2 * edge) / 2 - edge * std::cos(2 * edge)) / (1 - std::cos(2 * edge)),
              1e-9);
}

// The density that the codebooks assume is the one that normal values have.
TEST(PolarCodebook, CellsAreAsFrequentOnNormalValuesAsTheDensitySays) {
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  const auto length = [&](int size) {
    double squared = 0;
    for (int i = 0; i < size; ++i) squared += std::pow(normal(random), 2);
    return std::sqrt(squared);
  };
  constexpr int kSamples = 40000;
  for (int level = 1; level <= kPolarLevels; ++level) {
    const int size = 1 << (level - 1);
    const PolarCodebook book = polar_codebook(level);
    const double first = integral(size, 0, book.edges[1], one) / integral(size, 0, M_PI / 2, one);
    int count = 0;
    for (int i = 0; i < kSamples; ++i) {
      const double first_length = length(size);
      count += std::atan2(length(size), first_length) < book.edges[1];
    }
    EXPECT_NEAR(static_cast<double>(count) / kSamples, first, 0.01) << level;
  }
}

TEST(PolarTables, RoundTheCodebooks) {
  for (int level = 1; level <= kPolarLevels; ++level) {
    const PolarCodebook book = polar_codebook(level);
    EXPECT_NEAR(polar_tables().tangents[level], std::pow(std::tan(book.edges[1]), 2), 0x1p-17);
    for (int i = 0; i < kPolarAngles; ++i) {
      EXPECT_NEAR(polar_tables().cosines[level][i] * 0x1p-15, std::cos(book.centroids[i]), 0x1p-16);
      EXPECT_NEAR(polar_tables().cosines[level][3 - i] * 0x1p-15, std::sin(book.centroids[i]),
                  0x1p-16);
    }
  }
}

TEST(PolarWords, LieAsTheFormatSays) {
  const PolarWords runs[] = {{0x76543210u, 0xe4, 0x3f},
                             {0xfedcba98u, 0x1b, 0x01},
                             {1u, 2, 0x20},
                             {3u, 4, 0x15},
                             {5u, 6, 0x2a}};
  std::vector<std::byte> words(5 * 5 + 4, std::byte{0xff});
  write_polar_words(runs, 5, words.data());
  const uint8_t expected[] = {
      0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 1,    0, 0, 0, 3,
      0,    0,    0,    5,    0,    0,    0,    0xe4, 0x1b, 2, 4, 6,  // level 2; then 6 bits each:
      0x7f, 0x00, 0x56,                                               // 3f 01 20 15
      0x2a};
  ASSERT_EQ(words.size(), sizeof(expected));
  EXPECT_EQ(std::memcmp(words.data(), expected, sizeof(expected)), 0);
}

TEST(PolarWords, ReadBackWhatWasWritten) {
  std::mt19937 random(2);
  for (int count = 1; count <= 64; ++count) {
    std::vector<PolarWords> runs(count), read(count);
    for (PolarWords& run : runs) {
      run = {static_cast<uint32_t>(random()), static_cast<uint8_t>(random()),
             static_cast<uint8_t>(random() & 0x3fu)};
    }
    std::vector<std::byte> words(5 * count + (6 * count + 7) / 8);  // exactly: ASan looks
    write_polar_words(runs.data(), count, words.data());
    read_polar_words(words.data(), count, read.data());
    for (int i = 0; i < count; ++i) {
      EXPECT_EQ(read[i].level1, runs[i].level1);
      EXPECT_EQ(read[i].level2, runs[i].level2);
      EXPECT_EQ(read[i].level34, runs[i].level34);
    }
  }
}

// A vector and what it decodes to have the same length, and at every level the angles differ
// independently: the cosine between them is the product of the levels' mean cosines.
double theoretical_distortion() {
  double cosine = 1;
  for (int level = 1; level <= kPolarLevels; ++level) {
    cosine *= mean_over_cells(level, polar_codebook(level),
                              [](double psi, double centroid) { return std::cos(psi - centroid); });
  }
  return 2 * (1 - cosine);
}

TEST(Polar, EveryHeadDimAndDTypeHasTheTheoreticalDistortion) {
  const double expected = theoretical_distortion();
  EXPECT_NEAR(expected, 0.0321, 0.0001);
  expect_distortion("polar", expected, 0.002);
}

// At 3.9 bits a value it has the error of TurboQuant-MSE at 3.
TEST(Polar, RealKeysAndValuesStayNearTheory) {
  for (const Side side : {Side::key, Side::value}) {
    EXPECT_LT(real_distortion("polar", side), 1.05 * real_distortion("k3v3", side));
    EXPECT_GT(real_distortion("polar", side), 3 * real_distortion("k4v4", side));
  }
  EXPECT_LT(real_distortion("polar", Side::key), 0.014);
  EXPECT_LT(real_distortion("polar", Side::value), 0.030);
}

TEST(Polar, VectorsOfMoreThanItsLengthAreReported) {
  KvExample source(example_layout(DType::f32, 64, 64, 4));
  source.fill([](Side, int, int, int, int) { return 0x1.0p57f; });  // 2^60 long
  for (const CodecBackend backend : kBackends) {
    const auto codec = make_codec(source.layout, "polar", backend);
    std::vector<std::byte> out(*codec->max_encoded_bytes(4));
    EXPECT_TRUE(codec->encode(request_for(source, 64), absl::MakeSpan(out))->non_finite);
  }
}

}  // namespace
}  // namespace hadal
