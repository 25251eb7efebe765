// What libFuzzer's target checks, on inputs of no guidance: part of every test run.

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tests/fuzz/decode_input.h"

namespace hadal {
namespace {

TEST(DecodeFuzz, RandomInputs) {
  std::mt19937 random(1);
  std::vector<uint8_t> input;
  for (int round = 0; round < 3000; ++round) {
    input.resize(random() % 200);
    for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
    decode_fuzz_input(input.data(), input.size());
  }
}

}  // namespace
}  // namespace hadal
