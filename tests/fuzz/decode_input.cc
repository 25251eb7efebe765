#include "tests/fuzz/decode_input.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/checksum.h"
#include "tests/kernels/kv_example.h"

namespace hadal {
namespace {

constexpr uint16_t kHeadDims[] = {16,  48,  64,  80,  96,  112, 128, 160,
                                  192, 224, 256, 320, 384, 512, 576, 1024};
constexpr const char* kCodecs[] = {"k5v4",          "k4v4",      "k1v2",       "k8v7", "k3v6",
                                   "k5v4/0-0:k8v3", "k4v4-prod", "k3v2-prodg", "qjl",  "qjlg",
                                   "polar",         "e4m3",      "e5m2",       "tqe",  "raw"};
constexpr uint32_t kTokenCounts[] = {1, 2, 4, 9, 17};  // of one batch of registers, and beyond
constexpr size_t kCodecsKept = 1500;
constexpr std::byte kUntouched{0xa5};

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "decode_fuzz: %s\n", what.c_str());
  std::abort();
}

// Takes an input apart; zeros once it is used up.
class Input {
 public:
  Input(const uint8_t* bytes, size_t size) : at_(bytes), left_(size) {}
  uint8_t byte() {
    if (left_ == 0) return 0;
    --left_;
    return *at_++;
  }
  uint32_t below(uint32_t bound) { return (byte() | uint32_t{byte()} << 8) % bound; }
  size_t left() const { return left_; }

 private:
  const uint8_t* at_;
  size_t left_;
};

KvLayout layout_of(Input& input) {
  KvLayout layout;
  layout.dtype = static_cast<DType>(input.byte() % 3);
  layout.layer_count = static_cast<uint16_t>(1 + input.byte() % 2);
  layout.kv_head_count = static_cast<uint16_t>(std::max(1, input.byte() % 6 - 2));
  layout.key_head_dim = kHeadDims[input.byte() % std::size(kHeadDims)];
  layout.value_head_dim = input.byte() % 2 == 0 ? uint16_t{64} : layout.key_head_dim;
  layout.block_tokens = kTokenCounts[std::size(kTokenCounts) - 1];
  return layout;
}

struct Codecs {
  std::unique_ptr<const Codec> reference, cpu;
};

// Making tables takes long, so the codecs of some layouts are kept. Null where they do not suit the
// layout.
const Codecs* codecs_for(const KvLayout& layout, const CodecSpec& spec) {
  static std::map<std::pair<std::string, uint64_t>, Codecs> made;
  if (made.size() > kCodecsKept) made.clear();
  Codecs& codecs = made[{spec.name(), layout.hash()}];
  if (codecs.cpu == nullptr) {
    auto cpu = Codec::create(layout, spec, CodecBackend::cpu);
    auto reference = Codec::create(layout, spec, CodecBackend::reference);
    if (cpu.ok() != reference.ok()) fail(absl::StrCat("backends disagree: ", spec.name()));
    if (!cpu.ok()) return nullptr;
    codecs = {*std::move(reference), *std::move(cpu)};
  }
  return &codecs;
}

// A sealed block whose cells are what is left of the input, again and again.
std::vector<std::byte> sealed_block(const BlockPlan& plan, Input& input) {
  std::vector<std::byte> block(plan.total_bytes());
  BlockIdentity identity;
  identity.first_token_index = input.byte() % 2 == 0 ? 0 : UINT64_MAX;
  plan.write_header(identity, 0, absl::MakeSpan(block));
  std::vector<std::byte> pattern;
  while (input.left() > 0) pattern.push_back(std::byte{input.byte()});
  if (pattern.empty()) pattern.push_back(std::byte{0});
  for (const CellEntry& cell : plan.cells()) {
    std::byte* const begin = block.data() + cell.offset;
    size_t filled = std::min<size_t>(cell.bytes, pattern.size());
    std::memcpy(begin, pattern.data(), filled);
    while (filled < cell.bytes) {  // what is there already, once more
      const size_t count = std::min(filled, cell.bytes - filled);
      std::memcpy(begin + filled, begin, count);
      filled += count;
    }
  }
  seal_block(absl::MakeSpan(block));
  return block;
}

// Changed after it was sealed: bytes, a header with a checksum that holds, or its length.
void damage(std::vector<std::byte>& block, Input& input) {
  const int kind = input.byte() % 8;
  const int changes = kind < 4 ? 1 + input.byte() % 3 : 0;
  for (int i = 0; i < changes; ++i) {
    const size_t bound = kind == 0 ? block.size() : std::min<size_t>(block.size(), 300);
    block[input.below(static_cast<uint32_t>(bound))] = std::byte{input.byte()};
  }
  if (kind == 1 || kind == 2) {  // sealed again
    BlockHeader header;
    std::memcpy(&header, block.data(), sizeof(header));
    size_t end = sizeof(header) + header.cell_count * sizeof(CellEntry);
    for (size_t i = 0; end <= block.size() && i < header.cell_count; ++i) {
      CellEntry cell;
      std::memcpy(&cell, block.data() + sizeof(header) + i * sizeof(cell), sizeof(cell));
      if (uint64_t{cell.offset} + cell.bytes > block.size()) end = SIZE_MAX;
    }
    if (end <= block.size()) seal_block(absl::MakeSpan(block));
  }
  if (kind == 4) block.resize(input.below(static_cast<uint32_t>(block.size()) + 1));
  if (kind == 5) block.resize(block.size() + input.below(200));
}

// Pages for what the two backends decode, of every layout that came by: they are large.
struct Destinations {
  explicit Destinations(const KvLayout& layout) : by_cpu(layout), by_reference(layout) {}
  KvExample by_cpu, by_reference;
};
Destinations& destinations_for(const KvLayout& layout) {
  static std::map<uint64_t, std::unique_ptr<Destinations>> made;
  std::unique_ptr<Destinations>& destinations = made[layout.hash()];
  if (destinations == nullptr) destinations = std::make_unique<Destinations>(layout);
  return *destinations;
}

void paint(KvExample& example) {
  for (auto* side : {&example.keys, &example.values}) {
    for (auto& layer : *side) std::fill(layer.begin(), layer.end(), kUntouched);
  }
}

void expect_untouched(const KvExample& example) {
  for (const auto* side : {&example.keys, &example.values}) {
    for (const auto& layer : *side) {
      if (layer[0] != kUntouched ||
          std::memcmp(layer.data(), layer.data() + 1, layer.size() - 1) != 0) {
        fail("a refused block changed the destination");
      }
    }
  }
}

uint32_t bits_of(const std::byte* at, DType dtype) {
  uint32_t bits = 0;
  std::memcpy(&bits, at, dtype_bytes(dtype));
  return bits;
}

bool is_nan(uint32_t bits, DType dtype) {
  const uint32_t infinity = dtype == DType::f32    ? 0x7f800000u
                            : dtype == DType::bf16 ? 0x7f80u
                                                   : 0x7c00u;
  const uint32_t magnitude = bits & (dtype == DType::f32 ? 0x7fffffffu : 0x7fffu);
  return magnitude > infinity;
}

// But for the bits of NaN.
void expect_same(KvExample& a, KvExample& b, const CodecSpec& spec) {
  const DType dtype = a.layout.dtype;
  std::vector<uint32_t> of_a;
  a.for_each([&](Side, std::byte* at, int, int, int, int) { of_a.push_back(bits_of(at, dtype)); });
  size_t next = 0;
  b.for_each([&](Side, std::byte* at, int layer, int token, int head, int i) {
    const uint32_t other = bits_of(at, dtype), mine = of_a[next++];
    if (other == mine || (is_nan(other, dtype) && is_nan(mine, dtype))) return;
    fail(absl::StrCat("backends differ with ", spec.name(), ", layer ", layer, " token ", token,
                      " head ", head, " value ", i, ": bits ", absl::Hex(mine), " and ",
                      absl::Hex(other)));
  });
}

}  // namespace

void decode_fuzz_input(const uint8_t* bytes, size_t size) {
  Input input(bytes, size);
  const KvLayout layout = layout_of(input);
  const CodecSpec spec = *parse_codec(kCodecs[input.byte() % std::size(kCodecs)]);
  // A matrix of that size takes longer than hundreds of other inputs.
  if (spec.gaussian_projection && layout.key_head_dim > 80) return;
  const Codecs* codecs = codecs_for(layout, spec);
  if (codecs == nullptr) return;
  const uint32_t tokens = kTokenCounts[input.byte() % std::size(kTokenCounts)];
  const auto exact = static_cast<uint16_t>(std::min<uint32_t>(input.byte() % 6, tokens));
  const auto plan = BlockPlan::make(layout, spec, {tokens, exact, 0});
  if (!plan.ok()) fail(absl::StrCat("a codec's own shape is refused: ", plan.status().ToString()));
  int dropped = input.byte() % 4 == 0 ? input.byte() % 16 : 0;
  const bool damaged = input.byte() % 2 == 0;
  // The reference takes most of the time. By a hash, since a fuzzer that could choose would compare
  // nearly all: whatever it sees the reference do is new to it.
  const bool compared =
      hash64(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes), size)) % 16 == 0;
  Input for_damage(bytes, size);
  std::vector<std::byte> block = sealed_block(*plan, input);
  if (dropped > 0) {  // cut where a store would cut
    const BlockExtents extents = block_extents(*EncodedBlock::parse(block, 0));
    dropped = std::min<int>(dropped, static_cast<int>(extents.prefix_bytes.size()) - 1);
    block.resize(extents.prefix_bytes[dropped]);
  }
  if (damaged) damage(block, for_damage);
  auto& [by_cpu, by_reference] = destinations_for(layout);
  paint(by_cpu);
  const absl::Status status = codecs->cpu->decode(block, dropped, {}, by_cpu.pages());
  if (!damaged && !status.ok()) fail(absl::StrCat("a whole block is refused: ", status.ToString()));
  if (!status.ok()) return expect_untouched(by_cpu);
  if (!compared) return;
  paint(by_reference);
  if (!codecs->reference->decode(block, dropped, {}, by_reference.pages()).ok()) {
    fail("the reference refuses what the other backend takes");
  }
  expect_same(by_cpu, by_reference, spec);
}

}  // namespace hadal
