// The kernels' bodies over whole launches, on the host: bytes and values equal to Codec's.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/checksum.h"
#include "tests/kernels/backends.h"
#include "tests/kernels/cuda_batch_example.h"

namespace hadal::cuda {
namespace {

constexpr DType kDTypes[] = {DType::f16, DType::bf16, DType::f32};

TEST(LeafHash, IsXxh3OfEveryLength) {
  std::vector<std::byte> bytes(6000);
  std::mt19937 random(1);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  alignas(16) std::byte aligned[6000];
  std::copy(bytes.begin(), bytes.end(), aligned);
  HostExecutor executor(0, 1);
  HostExecutor::Private<Message> messages;
  HostExecutor::Private<uint64_t> hashes;
  for (uint32_t size = 1; size <= 6000; size += size < 1100 ? 1 : 97) {
    for (int thread = 0; thread < kCtaThreads; ++thread) {
      messages[thread] = {aligned, thread < 64 ? size : 0};
    }
    hash_by_warps(executor, size <= 1024 ? 0 : (size - 1) / 1024, messages, hashes);
    const uint64_t expected = hash64(absl::MakeConstSpan(bytes).subspan(0, size));
    ASSERT_EQ(hashes[0], expected) << size;
    ASSERT_EQ(hashes[63], expected) << size;
  }
}

TEST(VectorMath, HalvesAreThoseOfTheCompiler) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    _Float16 half;
    const auto short_bits = static_cast<uint16_t>(bits);
    std::memcpy(&half, &short_bits, sizeof(half));
    const float value = half_to_float(bits);
    if (std::isnan(static_cast<float>(half))) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      continue;
    }
    EXPECT_EQ(value, static_cast<float>(half)) << bits;
    if (std::isfinite(value)) {
      EXPECT_EQ(half_from_float(value), bits);
      // Between this and the next: ties and what lies beside them.
      for (const float by : {0.25f, 0.5f, 0.75f}) {
        const float next = half_to_float(bits + 1);
        if (!std::isfinite(next)) continue;
        const auto between = value + (next - value) * by;
        const auto rounded_half = static_cast<_Float16>(between);
        uint16_t expected;
        std::memcpy(&expected, &rounded_half, sizeof(expected));
        EXPECT_EQ(half_from_float(between), expected) << between;
      }
    }
  }
}

// Codecs that have kernels, but raw. A and B are random bits.
constexpr const char* kCodecs[] = {"kAvB",  "kAvB-prod", "kAvB-prodg", "qjl", "qjlg",
                                   "polar", "tqe",       "e4m3",       "e5m2"};

class CudaBodies : public ::testing::TestWithParam<const char*> {};

// Everything that varies, by a number.
struct Case {
  KvLayout layout;
  CodecSpec spec;
  Paging paging;
  std::vector<Block> blocks;
  uint32_t cta_count;
};

// A codec's name with random bits, which -prod has at least 2 of.
std::string with_bits(std::string name, uint32_t least, std::mt19937& random) {
  for (const char letter : {'A', 'B'}) {
    const size_t at = name.find(letter);
    if (at != std::string::npos) name.replace(at, 1, absl::StrCat(least + random() % (9 - least)));
  }
  return name;
}

Case random_case(const std::string& codec, unsigned seed, int head_dim, DType dtype) {
  std::mt19937 random(seed);
  const auto pick = [&](uint32_t low, uint32_t high) { return low + random() % (high - low + 1); };
  Case one;
  one.layout = example_layout(dtype, static_cast<uint16_t>(head_dim), 64, pick(1, 50));
  if (pick(0, 1) == 0) one.layout.value_head_dim = static_cast<uint16_t>(head_dim);
  one.layout.layer_count = static_cast<uint16_t>(pick(1, 4));
  one.layout.kv_head_count = static_cast<uint16_t>(pick(1, 3));
  one.paging = static_cast<Paging>(pick(0, 2));
  const uint32_t least = codec.find("-prod") == std::string::npos ? 1 : 2;
  std::string name = with_bits(codec, least, random);
  if (one.layout.layer_count > 2 && name != codec && pick(0, 1) == 0) {
    name += "/1-1:" + with_bits("kAvB", least, random);
  }
  one.spec = *parse_codec(name);
  if (pick(0, 3) == 0) one.spec.key_offsets = false;
  one.spec.exact_tokens = static_cast<uint16_t>(pick(0, 5));
  one.spec.rotation_seed = random();
  for (uint32_t i = 0; i < 3; ++i) {
    Block block;
    block.identity.key.bytes[0] = static_cast<uint8_t>(i + 1);
    block.identity.first_token_index = i == 0 ? 0 : i * one.layout.block_tokens;
    block.token_count = i == 2 ? pick(1, one.layout.block_tokens) : one.layout.block_tokens;
    one.blocks.push_back(block);
  }
  one.cta_count = pick(1, 9);
  return one;
}

// The block as the host's codec encodes it.
std::vector<std::byte> expected_block(const Codec& codec, const Case& one, PagedMemory& memory,
                                      uint32_t index) {
  std::vector<std::byte*> rows[2];
  EncodeRequest request;
  request.pages = memory.of_block(index, rows);
  request.identity = one.blocks[index].identity;
  request.token_count = one.blocks[index].token_count;
  std::vector<std::byte> out(*codec.max_encoded_bytes(request.token_count));
  const auto result = codec.encode(request, absl::MakeSpan(out));
  EXPECT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->non_finite);
  out.resize(result->bytes);
  return out;
}

void expect_encode_and_decode_as_the_host(const Case& one, const std::string& name) {
  const auto planner = Planner::create(one.layout, one.spec);
  ASSERT_TRUE(planner.ok()) << planner.status();
  const auto codec = Codec::create(one.layout, one.spec);
  ASSERT_TRUE(codec.ok()) << codec.status();
  const auto count = static_cast<uint32_t>(one.blocks.size());
  PagedMemory memory(one.layout, one.paging, count);
  memory.fill_normal(count + one.cta_count);
  BatchExample example(*planner, one.blocks, memory);
  ASSERT_TRUE(encode_on_host(*planner, example, one.cta_count).ok());
  // As many planes dropped as the first block's number, and so on; what was dropped is rubbish.
  PagedMemory decoded(one.layout, one.paging, count), again(one.layout, one.paging, count);
  for (uint32_t i = 0; i < count; ++i) {
    ASSERT_EQ(example.outcomes[i], code(Outcome::ok)) << name;
    const std::vector<std::byte> expected = expected_block(**codec, one, memory, i);
    const absl::Span<std::byte> block = example.block(i);
    ASSERT_TRUE(std::equal(expected.begin(), expected.end(), block.begin())) << name << " " << i;
    for (size_t k = expected.size(); k < block.size(); ++k) {
      ASSERT_EQ(block[k], std::byte{0xcc}) << name << ": written past the block's end";
    }
    const BlockExtents extents = block_extents(*EncodedBlock::parse(expected, 0));
    const size_t dropped = one.cta_count * i % extents.prefix_bytes.size();
    example.blocks[i].dropped_planes = static_cast<int>(dropped);
    std::fill(block.begin() + extents.prefix_bytes[dropped], block.end(), std::byte{0xcc});
    std::vector<std::byte*> rows[2];
    const absl::Status status =
        (*codec)->decode(block.first(extents.prefix_bytes[dropped]), static_cast<int>(dropped),
                         one.blocks[i].identity.key, again.of_block(i, rows));
    ASSERT_TRUE(status.ok()) << status;
  }
  example.use(decoded);
  ASSERT_TRUE(decode_on_host(*planner, example, one.cta_count, 2).ok());
  for (uint32_t i = 0; i < count; ++i) EXPECT_EQ(example.outcomes[i], code(Outcome::ok)) << name;
  EXPECT_TRUE(decoded == again) << name;
}

TEST_P(CudaBodies, EncodeAndDecodeRandomBatchesAsTheHostDoes) {
  for (int head_dim : kHeadDims) {
    for (DType dtype : kDTypes) {
      for (unsigned round = 0; round < 2; ++round) {
        const unsigned seed = head_dim * 8 + static_cast<unsigned>(dtype) * 2 + round;
        const Case one = random_case(GetParam(), seed, head_dim, dtype);
        expect_encode_and_decode_as_the_host(
            one, absl::StrCat("head_dim ", head_dim, ", ", dtype_name(dtype), ", seed ", seed, ", ",
                              one.spec.name(), ", paging ", static_cast<int>(one.paging)));
      }
    }
  }
}

TEST(CudaPlainBodies, CopyRawBlocksOfAnyHeadDim) {
  for (int head_dim : {1, 72, 128}) {
    for (DType dtype : {DType::f16, DType::bf16, DType::f32, DType::f8_e4m3, DType::f8_e5m2}) {
      Case one = random_case("raw", head_dim, 64, dtype);
      one.layout.key_head_dim = one.layout.value_head_dim = static_cast<uint16_t>(head_dim);
      expect_encode_and_decode_as_the_host(one, absl::StrCat("raw ", head_dim));
    }
  }
}

TEST(CudaPlainBodies, Fp8BlocksOfEveryHeadDimAreThoseOfTheHost) {
  for (const char* codec : {"e4m3", "e5m2"}) {
    for (int head_dim = 16; head_dim <= limits::kHeadDimMax;
         head_dim += head_dim < 160 ? 16 : 144) {
      for (DType dtype : kDTypes) {
        const Case one = random_case(codec, head_dim, head_dim, dtype);
        expect_encode_and_decode_as_the_host(one, absl::StrCat(codec, " ", head_dim));
      }
    }
  }
}

// 8 layer groups, whose cells have many leaves.
TEST_P(CudaBodies, LargeBlocksHaveManyGroupsAndLeaves) {
  Case one = random_case(GetParam(), 5, 128, DType::bf16);
  one.layout.layer_count = 8;
  one.layout.kv_head_count = 4;
  one.layout.value_head_dim = 128;
  one.layout.block_tokens = 256;
  one.blocks.resize(1);
  one.blocks[0].token_count = 256;
  one.cta_count = 7;
  expect_encode_and_decode_as_the_host(one, "large");
}

TEST_P(CudaBodies, NonFiniteValuesAreSaidOfTheirBlockAlone) {
  const uint32_t bad[] = {0x7fc00000u, 0x7f800000u, 0xff800000u};
  for (int where = 0; where < 6; ++where) {
    Case one = random_case(GetParam(), where, 96, DType::f32);
    one.layout.block_tokens = one.blocks[0].token_count = one.blocks[1].token_count = 9;
    one.blocks[2].token_count = 5;
    one.spec.exact_tokens = 4;
    const auto planner = Planner::create(one.layout, one.spec);
    ASSERT_TRUE(planner.ok());
    PagedMemory memory(one.layout, one.paging, 3);
    memory.fill_normal(where);
    BatchExample example(*planner, one.blocks, memory);
    const uint32_t block = where % 2;  // in block 0 among the exact tokens
    std::memcpy(memory.value(block, 0, where / 2 % 2, memory.strides[where / 2 % 2].token_bytes),
                &bad[where % 3], 4);
    ASSERT_TRUE(encode_on_host(*planner, example, 3).ok());
    for (uint32_t i = 0; i < 3; ++i) {
      EXPECT_EQ(example.outcomes[i], code(i == block ? Outcome::non_finite : Outcome::ok));
    }
  }
}

// Of the last vector that PolarQuant keeps and the first that it refuses, each in a block of its
// own.
TEST(CudaPolarBodies, VectorsOfMoreThanItsLengthAreSaid) {
  Case one = random_case("polar", 1, 96, DType::f32);
  one.spec.exact_tokens = 0;
  const auto planner = Planner::create(one.layout, one.spec);
  ASSERT_TRUE(planner.ok());
  PagedMemory memory(one.layout, one.paging, 3);
  memory.fill_normal(1);
  BatchExample example(*planner, one.blocks, memory);
  const float kept = 0x1.fffffep59f, refused = 0x1.0p60f;  // as long as their vectors
  std::memcpy(memory.value(0, 0, 1, 0), &kept, sizeof(kept));
  std::memcpy(memory.value(1, 0, 1, 0), &refused, sizeof(refused));
  ASSERT_TRUE(encode_on_host(*planner, example, 3).ok());
  EXPECT_EQ(example.outcomes[0], code(Outcome::ok));
  EXPECT_EQ(example.outcomes[1], code(Outcome::non_finite));
  EXPECT_EQ(example.outcomes[2], code(Outcome::ok));
}

// Values of every kind that arithmetic can trip over, from the host's tests.
TEST_P(CudaBodies, ExtremeValuesEncodeAndDecodeAsOnTheHost) {
  for (DType dtype : kDTypes) {
    for (int kind = 0; kind < 6; ++kind) {
      Case one = random_case(GetParam(), kind, kind % 2 == 0 ? 128 : 80, dtype);
      const auto planner = Planner::create(one.layout, one.spec);
      ASSERT_TRUE(planner.ok());
      PagedMemory memory(one.layout, Paging::split, 3);
      const float huge = dtype == DType::f16 ? 4000.0f : 1e15f;
      std::mt19937 random(kind);
      std::normal_distribution<float> normal;
      const uint64_t bytes = dtype_bytes(dtype);
      for (size_t page = 0; page < memory.pages.size(); ++page) {
        const uint64_t values = one.layout.block_tokens * memory.strides[page % 2].token_bytes;
        for (uint64_t i = 0; i < values / bytes; ++i) {
          const float kinds[] = {0.0f,
                                 i % 2 == 0 ? -0.0f : 0.0f,
                                 i % 64 == 3 ? huge : 0.0f,
                                 1e-7f * normal(random),
                                 normal(random) * huge / 8,
                                 1e-38f};
          KvExample::store(memory.pages[page] + i * bytes, kinds[kind], dtype);
        }
      }
      BatchExample example(*planner, one.blocks, memory);
      ASSERT_TRUE(encode_on_host(*planner, example, 2).ok());
      PagedMemory decoded(one.layout, Paging::split, 3), again(one.layout, Paging::split, 3);
      const auto codec = Codec::create(one.layout, one.spec);
      ASSERT_TRUE(codec.ok());
      for (uint32_t i = 0; i < 3; ++i) {
        const auto expected = expected_block(**codec, one, memory, i);
        ASSERT_TRUE(std::equal(expected.begin(), expected.end(), example.block(i).begin()))
            << kind << " " << dtype_name(dtype);
        std::vector<std::byte*> rows[2];
        ASSERT_TRUE((*codec)
                        ->decode(expected, 0, one.blocks[i].identity.key, again.of_block(i, rows))
                        .ok());
      }
      example.use(decoded);
      ASSERT_TRUE(decode_on_host(*planner, example, 2, 1).ok());
      EXPECT_TRUE(decoded == again) << kind << " " << dtype_name(dtype);
    }
  }
}

// Whatever the bytes are: scalars and words are random, checksums fit.
TEST_P(CudaBodies, BlocksThatNoEncoderMakesDecodeAsOnTheHost) {
  unsigned seed = 0;
  for (int head_dim : kHeadDims) {
    Case one = random_case(GetParam(), seed, head_dim, kDTypes[seed % 3]);
    ++seed;
    const std::string name = absl::StrCat(one.spec.name(), " head_dim ", head_dim);
    const auto planner = Planner::create(one.layout, one.spec);
    ASSERT_TRUE(planner.ok()) << planner.status();
    PagedMemory memory(one.layout, one.paging, 3), again(one.layout, one.paging, 3);
    memory.fill_normal(seed);
    BatchExample example(*planner, one.blocks, memory);
    const auto codec = Codec::create(one.layout, one.spec);
    ASSERT_TRUE(codec.ok()) << codec.status();
    for (uint32_t i = 0; i < 3; ++i) {
      const std::vector<std::byte> block =
          with_random_vectors(expected_block(**codec, one, memory, i), one.layout);
      std::copy(block.begin(), block.end(), example.block(i).begin());
      std::vector<std::byte*> rows[2];
      const absl::Status status =
          (*codec)->decode(block, 0, one.blocks[i].identity.key, again.of_block(i, rows));
      ASSERT_TRUE(status.ok()) << status;
    }
    PagedMemory decoded(one.layout, one.paging, 3);
    example.use(decoded);
    ASSERT_TRUE(decode_on_host(*planner, example, one.cta_count, 2).ok());
    for (const uint32_t outcome : example.outcomes) EXPECT_EQ(outcome, code(Outcome::ok)) << name;
    EXPECT_TRUE(decoded == again) << name;
  }
}

TEST(CudaVerify, DamagedBlocksAreSaidAndTheirPagesStay) {
  Case one = random_case("k3v2", 3, 64, DType::f16);
  one.layout.kv_head_count = 1;
  const auto planner = Planner::create(one.layout, one.spec);
  ASSERT_TRUE(planner.ok());
  PagedMemory memory(one.layout, Paging::split, 3);
  memory.fill_normal(1);
  BatchExample example(*planner, one.blocks, memory);
  ASSERT_TRUE(encode_on_host(*planner, example, 2).ok());
  const auto codec = Codec::create(one.layout, one.spec);
  ASSERT_TRUE(codec.ok());
  const std::vector<std::byte> whole = expected_block(**codec, one, memory, 1);
  const EncodedBlock parsed = *EncodedBlock::parse(whole, 0);
  std::vector<size_t> places;
  const size_t table_end = 256 + parsed.cells().size() * sizeof(CellEntry);
  for (size_t i = 0; i < table_end; i += 3) places.push_back(i);
  for (const CellEntry& cell : parsed.cells()) {
    for (size_t i = 0; i < cell.bytes; i += 211) places.push_back(cell.offset + i);
    places.push_back(cell.offset + cell.bytes - 1);
  }
  const PagedMemory untouched(one.layout, Paging::split, 3);
  for (const size_t place : places) {
    example.block(1)[place] ^= std::byte{4};
    PagedMemory decoded(one.layout, Paging::split, 3);
    example.use(decoded);
    ASSERT_TRUE(decode_on_host(*planner, example, 2, 8).ok());
    example.block(1)[place] ^= std::byte{4};
    ASSERT_EQ(example.outcomes[0], code(Outcome::ok));
    ASSERT_TRUE(example.outcomes[1] == code(Outcome::checksum_differs) ||
                example.outcomes[1] == code(Outcome::is_another))
        << place;
    for (int layer = 0; layer < one.layout.layer_count; ++layer) {
      for (int side = 0; side < 2; ++side) {
        const size_t page = (one.layout.layer_count + layer) * 2 + side;
        ASSERT_EQ(std::memcmp(decoded.pages[page], untouched.pages[page],
                              one.layout.block_tokens * decoded.strides[side].token_bytes),
                  0)
            << place;
      }
    }
  }
}

TEST(CudaVerify, BlocksOfOthersAndBadPagesAreSaid) {
  Case one = random_case("k4v3", 4, 128, DType::bf16);
  one.layout.block_tokens = one.blocks[0].token_count = one.blocks[1].token_count = 12;
  one.blocks[2].token_count = 7;
  const auto planner = Planner::create(one.layout, one.spec);
  ASSERT_TRUE(planner.ok());
  PagedMemory memory(one.layout, one.paging, 3);
  memory.fill_normal(1);
  BatchExample example(*planner, one.blocks, memory);
  ASSERT_TRUE(encode_on_host(*planner, example, 2).ok());
  example.blocks[0].identity.key.bytes[31] = 1;  // another key
  example.blocks[2].token_count = 8;             // another shape
  memory.pages[one.layout.layer_count * 2 + 1] = nullptr;
  ASSERT_TRUE(decode_on_host(*planner, example, 2, 1).ok());
  EXPECT_EQ(example.outcomes[0], code(Outcome::is_another));
  EXPECT_EQ(example.outcomes[1], code(Outcome::bad_page));
  EXPECT_EQ(example.outcomes[2], code(Outcome::is_another));
  example.blocks = one.blocks;
  memory.pages[2 * one.layout.layer_count * 2] += 1;
  example.use(memory);
  ASSERT_TRUE(encode_on_host(*planner, example, 2).ok());
  EXPECT_EQ(example.outcomes[0], code(Outcome::ok));
  EXPECT_EQ(example.outcomes[1], code(Outcome::bad_page));
  EXPECT_EQ(example.outcomes[2], code(Outcome::bad_page));
}

INSTANTIATE_TEST_SUITE_P(Codecs, CudaBodies, testing::ValuesIn(kCodecs),
                         [](const auto& info) { return test_name(info.param); });

TEST(CudaPlanner, RefusesEveryBadArgument) {
  const KvLayout layout = example_layout(DType::bf16, 128, 64, 16);
  const auto planner = Planner::create(layout, CodecSpec());
  ASSERT_TRUE(planner.ok());
  PagedMemory memory(layout, Paging::split, 2);
  std::vector<Block> blocks(2);
  for (Block& block : blocks) block.token_count = 16;
  BatchExample example(*planner, blocks, memory);
  const auto refused = [&](const std::string& named, auto change) {
    BatchExample changed(*planner, blocks, memory);
    Workspace workspace = changed.workspace_span();
    change(changed, workspace);
    changed.batch.blocks = changed.blocks;
    const auto work = planner->plan(changed.batch, workspace);
    EXPECT_EQ(work.status().code(), absl::StatusCode::kInvalidArgument) << named;
    EXPECT_NE(work.status().message().find(named), std::string::npos) << work.status();
  };
  using E = BatchExample;
  using W = Workspace;
  EXPECT_TRUE(planner->plan(example.batch, example.workspace_span()).ok());
  refused("no blocks", [](E& e, W&) { e.blocks.clear(); });
  refused("blocks; at most", [](E& e, W&) { e.blocks.resize(1u << 24, e.blocks[0]); });
  refused("block 1 of the batch: encoded is null", [](E& e, W&) { e.blocks[1].encoded = nullptr; });
  refused("encoded is at", [](E& e, W&) { e.blocks[0].encoded += 16; });
  refused("encoded_bytes is 1024", [](E& e, W&) { e.blocks[1].encoded_bytes = 1024; });
  refused("pages is null", [](E& e, W&) { e.batch.pages = nullptr; });
  refused("outcomes is null", [](E& e, W&) { e.batch.outcomes = nullptr; });
  refused("workspace.device is null", [](E&, W& w) { w.device = nullptr; });
  refused("workspace.host is at", [](E&, W& w) { w.host += 4; });
  refused("the workspace has", [](E&, W& w) { w.bytes = 4096; });
  refused("K strides", [](E& e, W&) { e.batch.strides[0].head_bytes -= 2; });
  refused("K strides", [](E& e, W&) { e.batch.strides[0].token_bytes += 1; });
  refused("V strides", [](E& e, W&) { e.batch.strides[1].token_bytes = 0; });
  refused("V strides", [](E& e, W&) { e.batch.strides[1].token_bytes = uint64_t{1} << 62; });
  refused("block 1 of the batch: block has 0 tokens",
          [](E& e, W&) { e.blocks[1].token_count = 0; });
  refused("block has 17 tokens", [](E& e, W&) { e.blocks[0].token_count = 17; });
  refused("lack -1 planes", [](E& e, W&) { e.blocks[0].dropped_planes = -1; });
  refused("lack 8 planes", [](E& e, W&) { e.blocks[0].dropped_planes = 8; });
  refused("flags are 1", [](E& e, W&) { e.blocks[0].flags = kBlockEncrypted; });
}

TEST(CudaPlanner, RefusesMarksThatDoNotAscendToTheLastLayer) {
  const auto planner = Planner::create(example_layout(DType::f16, 64, 64, 8), CodecSpec());
  ASSERT_TRUE(planner.ok());
  int place = 0;
  const auto event = reinterpret_cast<cudaEvent_t>(&place);  // never looked into
  using Marks = std::vector<LayerMark>;
  for (const Marks& good : {Marks{}, Marks{{2, event}}, Marks{{1, event}, {2, event}}}) {
    EXPECT_TRUE(planner->check_marks(good).ok());
  }
  for (const Marks& bad :
       {Marks{{0, event}}, Marks{{1, event}}, Marks{{3, event}}, Marks{{1, event}, {1, event}},
        Marks{{2, event}, {1, event}}, Marks{{1, event}, {2, nullptr}}}) {
    EXPECT_EQ(planner->check_marks(bad).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(CudaPlanner, RefusesLayoutsWithoutKernels) {
  EXPECT_EQ(Planner::create(example_layout(DType::f16, 72, 64, 8), CodecSpec()).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      Planner::create(example_layout(DType::f16, 72, 64, 8), *parse_codec("e4m3")).status().code(),
      absl::StatusCode::kInvalidArgument);
  KvLayout opaque;
  opaque.dtype = DType::opaque;
  EXPECT_EQ(Planner::create(opaque, *parse_codec("raw")).status().code(),
            absl::StatusCode::kInvalidArgument);
  KvLayout wrong = example_layout(DType::f16, 64, 64, 8);
  wrong.dtype = static_cast<DType>(9);
  EXPECT_EQ(Planner::create(wrong, CodecSpec()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace hadal::cuda
