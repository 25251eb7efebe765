// Speed of the codec on one core: raw bytes a second of encode and decode, beside memcpy of the
// same raw bytes in the same run. Everything counts: checksums, headers, offsets, padding.

#include <hwy/aligned_allocator.h>
#include <hwy/targets.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/report.h"
#include "kernels/codec.h"
#include "kernels/rotation.h"

namespace hadal::bench {
namespace {

constexpr int kCacheMultiple = 8;    // the raw bytes are so many times the last-level cache
constexpr int kReferenceShare = 64;  // the scalar reference gets a share: it is that much slower
constexpr uint16_t kLayers = 32;
constexpr uint32_t kBlockTokens = 64;
constexpr uint32_t kVectorValues = 1024;  // heads x head_dim of a token, about
constexpr int kRounds = 5;

struct Case {
  std::string codec;
  uint16_t head_dim;
  DType dtype;
  CodecBackend backend;
  int64_t target;  // of Highway; 0 for the scalar reference
};

// Of what this core can reach: sysconf() adds up a whole socket on some machines.
uint64_t last_level_cache_bytes() {
  uint64_t bytes = 1u << 20;
  for (int index = 0; index < 8; ++index) {
    std::ifstream file(absl::StrCat("/sys/devices/system/cpu/cpu0/cache/index", index, "/size"));
    uint64_t kibibytes = 0;
    if (file >> kibibytes) bytes = std::max(bytes, kibibytes * 1024);
  }
  return bytes;
}

void stay_on_one_core() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(sched_getcpu(), &cores);
  sched_setaffinity(0, sizeof(cores), &cores);
}

// Finite values of moderate size in any 16-bit or 32-bit format; the work does not depend on them.
void fill(absl::Span<std::byte> bytes) {
  std::mt19937 random(1);
  for (size_t i = 0; i + 2 <= bytes.size(); i += 2) {
    const auto half = static_cast<uint16_t>(0x3c00u + (random() & 0x83ffu));
    std::memcpy(bytes.data() + i, &half, sizeof(half));
  }
}

template <typename Work>
double seconds(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// As engines and staging slots are: at the start of a cache line.
class Memory {
 public:
  void resize(size_t bytes) {
    memory_ = hwy::AllocateAligned<std::byte>(bytes);
    bytes_ = absl::MakeSpan(memory_.get(), bytes);
    std::fill(bytes_.begin(), bytes_.end(), std::byte{0});
  }
  std::byte* data() const { return bytes_.data(); }
  size_t size() const { return bytes_.size(); }
  absl::Span<std::byte> bytes() const { return bytes_; }

 private:
  hwy::AlignedFreeUniquePtr<std::byte[]> memory_;
  absl::Span<std::byte> bytes_;
};

// The source, a copy's or a decode's destination, and room for what is encoded.
struct Buffers {
  Memory raw, restored, encoded;
};

// The blocks of one case: each has its K and V of all layers in one run of memory.
class Blocks {
 public:
  Blocks(const Codec& codec, Buffers& buffers, size_t count)
      : codec_(codec), buffers_(buffers), count_(count) {
    const KvLayout& layout = codec.layout();
    block_bytes_ = layout.raw_bytes(kBlockTokens);
    encoded_room_ = codec.max_encoded_bytes(kBlockTokens).value();
    const size_t needed = count * encoded_room_;
    if (buffers.encoded.size() < needed) buffers.encoded.resize(needed);
  }

  void encode() {
    for (size_t i = 0; i < count_; ++i) {
      EncodeRequest request;
      request.pages = pages(buffers_.raw, i);
      request.token_count = kBlockTokens;
      encoded_bytes_ = codec_.encode(request, room(i)).value().bytes;
    }
  }
  void decode() {
    for (size_t i = 0; i < count_; ++i) {
      const absl::Status status =
          codec_.decode(room(i).first(encoded_bytes_), 0, {}, pages(buffers_.restored, i));
      if (!status.ok()) std::abort();
    }
  }
  uint64_t raw_bytes() const { return count_ * block_bytes_; }
  uint64_t encoded_bytes() const { return count_ * encoded_bytes_; }

 private:
  absl::Span<std::byte> room(size_t block) {
    return buffers_.encoded.bytes().subspan(block * encoded_room_, encoded_room_);
  }
  KvPages pages(const Memory& memory, size_t block) {
    const KvLayout& layout = codec_.layout();
    const size_t head_bytes = layout.key_head_dim * dtype_bytes(layout.dtype);
    const size_t row_bytes = layout.kv_head_count * head_bytes;
    for (int side = 0; side < 2; ++side) {
      layers_[side].clear();
      for (size_t layer = 0; layer < kLayers; ++layer) {
        layers_[side].push_back(memory.data() + block * block_bytes_ +
                                (2 * layer + side) * kBlockTokens * row_bytes);
      }
    }
    return {{layers_[0], row_bytes, head_bytes}, {layers_[1], row_bytes, head_bytes}};
  }

  const Codec& codec_;
  Buffers& buffers_;
  const size_t count_;
  uint64_t block_bytes_ = 0, encoded_room_ = 0, encoded_bytes_ = 0;
  std::vector<std::byte*> layers_[2];
};

absl::StatusOr<nlohmann::ordered_json> measure(const Case& one, Buffers& buffers) {
  KvLayout layout;
  layout.dtype = one.dtype;
  layout.layer_count = kLayers;
  layout.kv_head_count = static_cast<uint16_t>(std::max(1u, kVectorValues / one.head_dim));
  layout.key_head_dim = layout.value_head_dim = one.head_dim;
  layout.block_tokens = kBlockTokens;
  absl::StatusOr<CodecSpec> spec = parse_codec(one.codec);
  if (!spec.ok()) return spec.status();
  if (one.target != 0) {
    hwy::SetSupportedTargetsForTest(one.target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  absl::StatusOr<std::unique_ptr<const Codec>> codec = Codec::create(layout, *spec, one.backend);
  if (!codec.ok()) return codec.status();
  const size_t share = one.backend == CodecBackend::reference ? kReferenceShare : 1;
  const size_t count =
      std::max<size_t>(1, buffers.raw.size() / share / layout.raw_bytes(kBlockTokens));
  Blocks blocks(**codec, buffers, count);
  std::vector<double> copy, encode, decode;
  for (int round = 0; round <= kRounds; ++round) {  // the first warms up
    const double copied = seconds(
        [&] { std::memcpy(buffers.restored.data(), buffers.raw.data(), blocks.raw_bytes()); });
    const double encoded = seconds([&] { blocks.encode(); });
    const double decoded = seconds([&] { blocks.decode(); });
    if (round == 0) continue;
    copy.push_back(copied);
    encode.push_back(encoded);
    decode.push_back(decoded);
  }
  const auto gigabytes = static_cast<double>(blocks.raw_bytes()) / 1e9;
  return nlohmann::ordered_json{
      {"codec", one.codec},
      {"head_dim", one.head_dim},
      {"dtype", std::string(dtype_name(one.dtype))},
      {"backend", one.target == 0 ? "reference" : hwy::TargetName(one.target)},
      {"encode_GBps", gigabytes / median(encode)},
      {"decode_GBps", gigabytes / median(decode)},
      {"memcpy_GBps", gigabytes / median(copy)},
      {"encode_over_memcpy", median(copy) / median(encode)},
      {"decode_over_memcpy", median(copy) / median(decode)},
      {"raw_over_encoded",
       static_cast<double>(blocks.raw_bytes()) / static_cast<double>(blocks.encoded_bytes())},
      {"raw_bytes", blocks.raw_bytes()}};
}

std::vector<Case> all_cases() {
  const std::vector<int64_t> targets = hwy::SupportedAndGeneratedTargets();
  const int64_t best = targets.front();
  std::vector<Case> cases;
  // The figure that is asked for, on every instruction set and on the reference.
  for (const int64_t target : targets) {
    cases.push_back({"k4v4", 128, DType::bf16, CodecBackend::cpu, target});
  }
  cases.push_back({"k4v4", 128, DType::bf16, CodecBackend::reference, 0});
  for (const char* codec : {"raw", "k8v8", "k5v4", "k3v3", "k3v2", "k2v2", "k1v1", "k4v4-prod",
                            "k4v4-prodg", "qjl", "qjlg", "polar", "tqe", "e4m3", "e5m2"}) {
    cases.push_back({codec, 128, DType::bf16, CodecBackend::cpu, best});
  }
  for (const char* codec : {"k4v4-prod", "k4v4-prodg", "qjl", "qjlg", "polar", "tqe", "e4m3"}) {
    cases.push_back({codec, 128, DType::bf16, CodecBackend::reference, 0});
  }
  for (const DType dtype : {DType::f16, DType::f32}) {
    cases.push_back({"k4v4", 128, dtype, CodecBackend::cpu, best});
  }
  for (const int head_dim : kHeadDims) {
    if (head_dim == 128) continue;
    cases.push_back(
        {"k4v4", static_cast<uint16_t>(head_dim), DType::bf16, CodecBackend::cpu, best});
    cases.push_back(
        {"k4v4", static_cast<uint16_t>(head_dim), DType::bf16, CodecBackend::reference, 0});
  }
  return cases;
}

int run(int argc, char** argv) {
  Report report("bench_codec", "Speed of the codec on one core, beside memcpy of the same bytes");
  bool first = false;
  report.options().add_flag("--first", first,
                            "only k4v4, head_dim 128, bf16, on the best instruction set");
  if (const std::optional<int> code = report.parse(argc, argv)) return *code;
  stay_on_one_core();
  Buffers buffers;
  buffers.raw.resize(kCacheMultiple * last_level_cache_bytes());
  buffers.restored.resize(buffers.raw.size());
  fill(buffers.raw.bytes());
  std::vector<Case> cases = all_cases();
  if (first) cases.resize(1);
  for (const Case& one : cases) {
    absl::StatusOr<nlohmann::ordered_json> row = measure(one, buffers);
    if (!row.ok()) {
      std::fprintf(stderr, "bench_codec: %s\n", row.status().ToString().c_str());
      return 1;
    }
    report.add(*std::move(row));
  }
  return report.finish();
}

}  // namespace
}  // namespace hadal::bench

int main(int argc, char** argv) { return hadal::bench::run(argc, argv); }
