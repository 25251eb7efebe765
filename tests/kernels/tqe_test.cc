#include "kernels/tqe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>

#include "kernels/rotation.h"
#include "tests/kernels/backends.h"

namespace hadal {
namespace {

int32_t magnitudes_of(const std::vector<int32_t>& values) {
  return std::accumulate(values.begin(), values.end(), 0,
                         [](int32_t sum, int32_t value) { return sum + std::abs(value); });
}

// What the definition allows with these inputs and signs: a magnitude is 8 q + 4 l + 2 s + 1.
std::vector<int32_t> random_path(int head_dim, std::mt19937& random) {
  std::vector<int32_t> values(head_dim);
  std::vector<uint32_t> input(head_dim + 3);  // three zeros first
  int left = head_dim;
  for (int i = 0; i < head_dim; ++i) {
    const uint32_t sign = random() % 2;
    input[i + 3] = random() % 2;
    const uint32_t s = input[i + 1] ^ sign;
    const uint32_t l = input[i + 3] ^ input[i + 2] ^ input[i + 1] ^ input[i] ^ sign;
    const int quotient = std::min(left, random() % 16 == 0 ? 40 : static_cast<int>(random() % 3));
    left -= quotient;
    const auto magnitude = static_cast<int32_t>(8 * quotient + 4 * l + 2 * s + 1);
    values[i] = sign != 0 ? -magnitude : magnitude;
  }
  return values;
}

TEST(TqeSlot, LiesAsTheFormatSays) {
  // Signs 0 1 0 1 0 0 1 0, inputs 1 0 1 1 0 0 1 0 and quotients 0 1 0 2 0 0 1 3.
  const std::vector<int32_t> values = {5, -11, 3, -19, 3, 3, -15, 29};
  const uint8_t expected[] = {0x4a, 0x4d, 0x32, 0xba};  // the last bit is behind the quotients
  std::byte slot[4];
  write_tqe_slot(values.data(), 8, slot);
  EXPECT_EQ(std::memcmp(slot, expected, sizeof(expected)), 0);
  std::vector<int32_t> read(8);
  read_tqe_slot(slot, 8, read.data());
  EXPECT_EQ(read, values);
}

TEST(TqeSlot, ReadsBackWhatWasWritten) {
  std::mt19937 random(1);
  for (const int head_dim : kHeadDims) {
    for (int round = 0; round < 50; ++round) {
      const std::vector<int32_t> values = random_path(head_dim, random);
      std::vector<std::byte> slot(head_dim / 2);  // exactly: ASan looks
      write_tqe_slot(values.data(), head_dim, slot.data());
      std::vector<int32_t> read(head_dim);
      read_tqe_slot(slot.data(), head_dim, read.data());
      EXPECT_EQ(read, values);
    }
  }
}

TEST(TqeSlot, HasAsManyZerosAsValuesInTheQuotientsWhateverTheyAre) {
  std::mt19937 random(2);
  for (const int head_dim : kHeadDims) {
    const std::vector<int32_t> values = random_path(head_dim, random);
    std::vector<std::byte> slot(head_dim / 2);
    write_tqe_slot(values.data(), head_dim, slot.data());
    int zeros = 0;
    for (int i = head_dim / 4; i < head_dim / 2; ++i) {
      zeros += 8 - std::popcount(static_cast<uint8_t>(slot[i]));
    }
    EXPECT_EQ(zeros, head_dim);
  }
}

// 16 bits hold their sums in any order.
TEST(TqeSlot, AnyBytesMakeOddValuesWithABoundedSum) {
  std::mt19937 random(3);
  for (const int head_dim : kHeadDims) {
    int32_t largest_sum = 0;
    const std::function<std::byte()> fills[] = {
        [] { return std::byte{0}; }, [] { return std::byte{0xff}; },
        [&] { return static_cast<std::byte>(random()); },
        [&] { return static_cast<std::byte>(random() | random() | random()); }};
    for (const auto& fill : fills) {
      std::vector<std::byte> slot(head_dim / 2);
      std::generate(slot.begin(), slot.end(), fill);
      std::vector<int32_t> values(head_dim);
      read_tqe_slot(slot.data(), head_dim, values.data());
      for (const int32_t value : values) EXPECT_EQ(value & 1, 1);
      largest_sum = std::max(largest_sum, magnitudes_of(values));
    }
    EXPECT_LE(largest_sum, 23 * head_dim);
    EXPECT_GE(largest_sum, 16 * head_dim);  // all ones: one quotient has them all
    EXPECT_LE(largest_sum, INT16_MAX);
  }
}

int64_t cost_of(const std::vector<int32_t>& targets, const std::vector<int32_t>& values) {
  int64_t cost = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t error = targets[i] - kTqeUnit * values[i];
    cost += error * error + kTqeQuotientCost * (std::abs(values[i]) / 8);
  }
  return cost;
}

// Against all inputs, each value the nearest of its coset.
TEST(TqeQuantiser, FindsTheBestOfAllPaths) {
  constexpr int kCount = 10;
  std::mt19937 random(4);
  std::normal_distribution<double> normal;
  for (int round = 0; round < 40; ++round) {
    std::vector<int32_t> targets(kCount), values(kCount);
    const double deviation = round % 4 == 3 ? 3000 : 240;
    for (int32_t& target : targets) target = static_cast<int32_t>(deviation * normal(random));
    int64_t least = INT64_MAX;
    for (uint32_t inputs = 0; inputs < 1u << kCount; ++inputs) {
      const uint32_t with_start = inputs << 3;
      const auto input = [&](int i) { return with_start >> (i + 3) & 1u; };
      for (int i = 0; i < kCount; ++i) {
        const uint32_t l = input(i) ^ input(i - 1) ^ input(i - 2) ^ input(i - 3);
        const auto coset = static_cast<int32_t>(4 * l + 2 * input(i - 2) + 1);
        const double multiple = (targets[i] / double{kTqeUnit} - coset) / 8;
        values[i] = coset + 8 * static_cast<int32_t>(std::floor(multiple + 0.5));
      }
      least = std::min(least, cost_of(targets, values));
    }
    uint8_t cosets[kCount];
    const int32_t quotients = find_tqe_path(targets, kCount, cosets);
    int32_t found = 0;
    for (int i = 0; i < kCount; ++i) {
      values[i] = nearest_tqe_value(targets[i], cosets[i]).value;
      found += std::abs(values[i]) / 8;
    }
    EXPECT_EQ(quotients, found);
    EXPECT_EQ(cost_of(targets, values), least);
  }
}

// How often a search asks that knows the quotients of a multiplier to be `quotients`.
template <typename Quotients>
int passes(int head_dim, uint32_t magnitudes, Quotients quotients) {
  TqeSearch search(head_dim, magnitudes);
  int count = 0;
  bool fits = false;
  int32_t largest = -1;
  while (!search.done()) {
    const int32_t multiplier = search.multiplier();
    EXPECT_TRUE(multiplier >= 0 && multiplier <= kTqeMultiplierMax);
    const int32_t made = multiplier == 0 ? 0 : quotients(multiplier);
    if (search.fits(made)) {
      EXPECT_GE(multiplier, largest);
      largest = multiplier;
      fits = true;
    }
    search.advance(made);
    if (++count > 100) break;
  }
  EXPECT_TRUE(fits);
  return count;
}

TEST(TqeSearch, EndsWithWhatFits) {
  std::mt19937 random(5);
  for (const int head_dim : kHeadDims) {
    for (const uint32_t magnitudes : {0u, 1u, 4091u, 32767u, 576u * 1300u, 64u * 4091u}) {
      EXPECT_LE(passes(head_dim, magnitudes, [](int32_t) { return 576 * 256; }), 4);
      EXPECT_LE(passes(head_dim, magnitudes, [&](int32_t) { return head_dim + 1; }), 14);
      EXPECT_LE(passes(head_dim, magnitudes, [](int32_t) { return 0; }), kTqePasses);
      EXPECT_EQ(passes(head_dim, magnitudes, [&](int32_t) { return head_dim; }), 1);
      EXPECT_LE(passes(head_dim, magnitudes,
                       [&](int32_t) { return static_cast<int32_t>(random() % (3 * head_dim)); }),
                14);
    }
  }
}

// Where Lloyd-Max has 0.0095 at as many bits.
TEST(Tqe, EveryHeadDimAndDTypeHasHalfTheDistortionOfLloydMax) {
  expect_distortion("tqe", 0.0049, 0.0003);
}

TEST(Tqe, RealKeysAndValuesHaveTwoThirdsOfTheErrorOfFourBits) {
  for (const Side side : {Side::key, Side::value}) {
    EXPECT_LT(real_distortion("tqe", side), 0.66 * real_distortion("k4v4", side));
  }
}

// Row `row` of the rotation: what becomes a single spike.
std::vector<float> row_of(const Rotation& rotation, int row) {
  std::vector<float> values(rotation.head_dim);
  for (int i = 0; i < rotation.head_dim; ++i) {
    const uint32_t common = static_cast<uint32_t>(i & row & (rotation.inner - 1));
    int sign = std::popcount(common) % 2 == 0 ? 1 : -1;
    if (rotation.core > 1) {
      sign *= rotation.core_matrix[row / rotation.inner * rotation.core + i / rotation.inner];
    }
    values[i] = static_cast<float>(sign * rotation.signs[i]);
  }
  return values;
}

// Whatever a vector is, its quotients fit, and no kind is much worse than normal values. One-hot
// vectors are the worst: all rotated values have one magnitude, which is as far from the codes as
// chance wills.
TEST(Tqe, VectorsWithFewOrEqualOrExtremeValuesFit) {
  for (const uint16_t head_dim : kHeadDims) {
    const auto rotation = *Rotation::create(head_dim, parse_codec("tqe")->rotation_seed);
    const std::vector<float> first = row_of(rotation, 0), other = row_of(rotation, head_dim / 3),
                             last = row_of(rotation, head_dim - 1);
    std::mt19937 random(6);
    std::exponential_distribution<float> exponential;
    const std::function<float(int, int)> kinds[] = {
        [&](int, int i) { return first[i]; },
        [&](int token, int i) { return other[i] * (token % 2 == 0 ? 1e-15f : -1e15f); },
        [&](int, int i) { return first[i] + other[i]; },
        [&](int token, int i) { return first[i] + last[i] / static_cast<float>(3 + token); },
        [&](int token, int i) { return i == token ? 7.0f : 0.0f; },
        [&](int token, int i) { return i < 2 + token ? -1.0f : 0.0f; },
        [&](int, int) { return 2.5f; },
        [&](int, int) { return std::exp2(std::min(4 * exponential(random), 40.0f)); },
        [&](int token, int i) { return first[i] + (i == token ? 3.0f : 0.0f); },
    };
    for (size_t kind = 0; kind < std::size(kinds); ++kind) {
      SCOPED_TRACE(absl::StrCat(head_dim, " ", kind));
      KvExample source(example_layout(DType::f32, 64, head_dim, 20));
      source.fill([&](Side side, int, int token, int, int i) {
        return side == Side::key ? 0 : kinds[kind](token, i);
      });
      for (const CodecBackend backend : kBackends) {
        const auto codec = make_codec(source.layout, "tqe", backend);
        const auto decoded = decode_whole(*codec, encode_whole(*codec, request_for(source, 64)));
        EXPECT_LT(source.distortion(Side::value, *decoded), 0.0075);
      }
    }
  }
}

// Rotated, they are rubbish of any size, which the search for a scale must survive.
TEST(Tqe, VectorsWithoutAnyFiniteLengthAreReported) {
  for (const float value : {std::nanf(""), -INFINITY, 3e38f}) {
    for (int kind = 0; kind < 3; ++kind) {
      KvExample source(example_layout(DType::f32, 64, 576, 40));
      source.fill([&](Side, int, int, int, int i) {
        return kind == 0 || i % (2 * kind) != 0 ? value : static_cast<float>(i) - 20.0f;
      });
      for (const CodecBackend backend : kBackends) {
        const auto codec = make_codec(source.layout, "tqe", backend);
        std::vector<std::byte> out(*codec->max_encoded_bytes(40));
        const auto result = codec->encode(request_for(source, 64), absl::MakeSpan(out));
        ASSERT_TRUE(result.ok()) << result.status();
        EXPECT_TRUE(result->non_finite);
      }
    }
  }
}

// Words of a vector, given its place among those of its layer and head.
std::byte* slot_of(std::vector<std::byte>& block, const KvLayout& layout, Side side, int vector) {
  const BlockPlan plan =
      BlockPlan::make(layout, *parse_codec("tqe"), {layout.block_tokens, 0, 0}).value();
  return block.data() + plan.cell(side, 0, 0).offset + plan.sections(side, 0, 0).words +
         vector * (side_head_dim(layout, side) / 2);
}

TEST(Tqe, EveryVectorHasASlotOfItsOwn) {
  constexpr int kSlot = 128 / 2;
  KvExample source(example_layout(DType::f32, 64, 128, 24));
  source.fill_normal(9);
  for (const CodecBackend backend : kBackends) {
    const auto codec = make_codec(source.layout, "tqe", backend);
    std::vector<std::byte> block = encode_whole(*codec, request_for(source, 64));
    const auto before = decode_whole(*codec, block);
    std::byte* fifth = slot_of(block, source.layout, Side::value, 5);
    std::memset(fifth, 0xff, kSlot);
    std::memset(fifth + 2 * kSlot, 0, kSlot);
    seal_block(absl::MakeSpan(block));
    const auto after = decode_whole(*codec, block);
    EXPECT_TRUE(before->keys == after->keys);
    EXPECT_TRUE(before->values[1] == after->values[1]);
    for (int token = 0; token < 24; ++token) {
      for (int head = 0; head < 2; ++head) {
        const size_t at = (token * 2 + head) * 128 * sizeof(float);
        const bool same = std::memcmp(before->value_rows[0] + at, after->value_rows[0] + at,
                                      128 * sizeof(float)) == 0;
        EXPECT_EQ(same, head == 1 || (token != 5 && token != 7)) << token << " " << head;
      }
    }
  }
}

}  // namespace
}  // namespace hadal
