// Speed of the codec on a GPU: bytes touched a second (raw and encoded) of encode and decode,
// beside a copy of as many bytes on the same device; and how much a bf16 GEMM slows down while
// blocks are encoded at a given rate. Made for a machine with a GPU: without one it says so and
// ends with 77.

#include <cuda_runtime_api.h>
#if defined(HADAL_HAVE_CUBLAS)
#include <cublas_v2.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/report.h"
#include "kernels/cuda/cuda_codec.h"

namespace hadal::bench {
namespace {

constexpr uint16_t kLayers = 32, kHeads = 8;
constexpr uint32_t kBlockTokens = 64, kBlocks = 64;
constexpr int kRounds = 9;
constexpr double kRawRate = 50e9;  // bytes a second of raw KV that are encoded beside the GEMM
constexpr int kGemmOrder = 8192;

// Nothing of a benchmark can go on after an error of CUDA.
void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "bench_gpu: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}
void check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "bench_gpu: %s\n", status.ToString().c_str());
  std::exit(1);
}

// Lasts as long as the program.
std::byte* device_memory(uint64_t bytes) {
  void* at = nullptr;
  check(cudaMalloc(&at, bytes), "cudaMalloc");
  return static_cast<std::byte*>(at);
}
std::byte* pinned_memory(uint64_t bytes) {
  void* at = nullptr;
  check(cudaMallocHost(&at, bytes), "cudaMallocHost");
  return static_cast<std::byte*>(at);
}

class Timer {
 public:
  explicit Timer(cudaStream_t stream) : stream_(stream) {
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  // Median, after one round to warm up.
  double seconds(const std::function<void()>& work) {
    std::vector<float> milliseconds;
    for (int round = 0; round <= kRounds; ++round) {
      check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
      work();
      check(cudaEventRecord(end_, stream_), "cudaEventRecord");
      check(cudaEventSynchronize(end_), "waiting for the device");
      float elapsed = 0;
      check(cudaEventElapsedTime(&elapsed, begin_, end_), "cudaEventElapsedTime");
      if (round > 0) milliseconds.push_back(elapsed);
    }
    std::nth_element(milliseconds.begin(), milliseconds.begin() + kRounds / 2, milliseconds.end());
    return milliseconds[kRounds / 2] / 1e3;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_, end_;
};

// Blocks of one codec in pages of [token, head, value].
class Blocks {
 public:
  Blocks(const cuda::CudaCodec& codec, cudaStream_t stream) : codec_(codec), blocks_(kBlocks) {
    const KvLayout& layout = codec.planner().layout();
    const uint64_t row = uint64_t{kHeads} * layout.key_head_dim * dtype_bytes(layout.dtype);
    const uint64_t page = row * kBlockTokens, pages = uint64_t{kBlocks} * kLayers * 2;
    raw_bytes = page * pages;
    values = device_memory(raw_bytes);
    // Moderate finite values in any 16-bit format; the work does not depend on them.
    std::vector<uint16_t> halves(raw_bytes / 2);
    uint32_t random = 1;
    for (uint16_t& half : halves) {
      random = random * 1664525u + 1013904223u;
      half = static_cast<uint16_t>(0x3c00u + (random >> 16 & 0x83ffu));
    }
    check(cudaMemcpy(values, halves.data(), raw_bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
    std::vector<std::byte*> table(pages);
    for (uint64_t i = 0; i < pages; ++i) table[i] = values + i * page;
    std::byte* on_device = device_memory(pages * sizeof(std::byte*));
    check(cudaMemcpy(on_device, table.data(), pages * sizeof(std::byte*), cudaMemcpyHostToDevice),
          "cudaMemcpy");
    const uint64_t block_bytes = codec.planner().block_bytes_max();
    encoded_bytes = block_bytes * kBlocks;  // exact tokens aside
    std::byte* encoded = device_memory(encoded_bytes);
    for (cuda::Block& block : blocks_) {
      block.token_count = kBlockTokens;
      block.identity.first_token_index = kBlockTokens;
      block.encoded = encoded;
      block.encoded_bytes = block_bytes;
      encoded += block_bytes;
    }
    batch_.blocks = blocks_;
    batch_.pages = reinterpret_cast<std::byte* const*>(on_device);
    batch_.strides[0] = batch_.strides[1] = {row, row / kHeads};
    outcomes_ = reinterpret_cast<uint32_t*>(pinned_memory(kBlocks * sizeof(uint32_t)));
    batch_.outcomes = outcomes_;
    work_.stream = stream;
    work_.workspace.bytes = codec.planner().workspace_bytes(kBlocks, 1);
    work_.workspace.device = device_memory(work_.workspace.bytes);
    work_.workspace.host = pinned_memory(work_.workspace.bytes);
  }
  void limit_ctas(uint32_t limit) { work_.cta_limit = limit; }
  void encode() { check(codec_.encode(batch_, work_)); }
  void decode() { check(codec_.decode(batch_, work_, {})); }
  void expect_good() const {
    for (uint32_t i = 0; i < kBlocks; ++i) {
      if (outcomes_[i] == 0) continue;
      std::fprintf(stderr, "bench_gpu: block %u has outcome %u\n", i, outcomes_[i]);
      std::exit(1);
    }
  }

  uint64_t raw_bytes = 0, encoded_bytes = 0;
  std::byte* values = nullptr;

 private:
  const cuda::CudaCodec& codec_;
  std::vector<cuda::Block> blocks_;
  cuda::Batch batch_;
  cuda::StreamWork work_;
  uint32_t* outcomes_ = nullptr;
};

cuda::CudaCodec make_codec(const std::string& name) {
  KvLayout layout;
  layout.dtype = DType::bf16;
  layout.layer_count = kLayers;
  layout.kv_head_count = kHeads;
  layout.key_head_dim = layout.value_head_dim = 128;
  layout.block_tokens = kBlockTokens;
  absl::StatusOr<CodecSpec> spec = parse_codec(name);
  check(spec.status());
  spec->exact_tokens = 0;
  absl::StatusOr<cuda::CudaCodec> codec = cuda::CudaCodec::create(layout, *spec);
  check(codec.status());
  return *std::move(codec);
}

void measure(const std::string& name, cudaStream_t stream, Report& report) {
  const cuda::CudaCodec codec = make_codec(name);
  Blocks blocks(codec, stream);
  Timer timer(stream);
  // A copy reads and writes every byte: half of what encode or decode touches is copied.
  const uint64_t touched = blocks.raw_bytes + blocks.encoded_bytes;
  std::byte* other = device_memory(touched / 2);
  const double copy = timer.seconds([&] {
    check(cudaMemcpyAsync(other, blocks.values, touched / 2, cudaMemcpyDeviceToDevice, stream),
          "cudaMemcpyAsync");
  });
  const double encode = timer.seconds([&] { blocks.encode(); });
  blocks.expect_good();
  const double decode = timer.seconds([&] { blocks.decode(); });
  blocks.expect_good();
  const auto raw = static_cast<double>(blocks.raw_bytes), all = static_cast<double>(touched);
  report.add({{"codec", name},
              {"encode_raw_GBps", raw / encode / 1e9},
              {"decode_raw_GBps", raw / decode / 1e9},
              {"copy_touched_GBps", all / copy / 1e9},
              {"encode_over_copy", copy / encode},
              {"decode_over_copy", copy / decode},
              {"raw_bytes", blocks.raw_bytes},
              {"encoded_bytes", blocks.encoded_bytes}});
}

#if defined(HADAL_HAVE_CUBLAS)
// GEMMs on one stream, alone and beside batches on another at kRawRate.
void measure_gemm(cudaStream_t stream, Report& report) {
  const cuda::CudaCodec codec = make_codec("k4v4");
  cudaStream_t beside = nullptr;
  check(cudaStreamCreateWithFlags(&beside, cudaStreamNonBlocking), "cudaStreamCreate");
  Blocks blocks(codec, beside);
  blocks.limit_ctas(32);
  cublasHandle_t handle = nullptr;
  if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS ||
      cublasSetStream(handle, stream) != CUBLAS_STATUS_SUCCESS) {
    check(absl::InternalError("cublasCreate failed"));
  }
  constexpr uint64_t kBytes = uint64_t{kGemmOrder} * kGemmOrder * 2;
  std::byte* matrices[] = {device_memory(kBytes), device_memory(kBytes), device_memory(kBytes)};
  for (std::byte* matrix : matrices) check(cudaMemset(matrix, 0x3c, kBytes), "cudaMemset");
  const float one = 1, zero = 0;
  const auto gemm = [&] {
    const cublasStatus_t status = cublasGemmEx(
        handle, CUBLAS_OP_N, CUBLAS_OP_N, kGemmOrder, kGemmOrder, kGemmOrder, &one, matrices[0],
        CUDA_R_16BF, kGemmOrder, matrices[1], CUDA_R_16BF, kGemmOrder, &zero, matrices[2],
        CUDA_R_16BF, kGemmOrder, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (status != CUBLAS_STATUS_SUCCESS) check(absl::InternalError("cublasGemmEx failed"));
  };
  Timer timer(stream);
  const double single = timer.seconds(gemm);
  // So many GEMMs a batch that the batch is encoded at kRawRate while they run.
  const double batch_seconds = static_cast<double>(blocks.raw_bytes) / kRawRate;
  const int gemms = std::max(1, static_cast<int>(batch_seconds / single + 0.5));
  const auto many = [&] {
    for (int i = 0; i < gemms; ++i) gemm();
  };
  const double alone = timer.seconds(many);
  const double together = timer.seconds([&] {
    blocks.encode();
    many();
  });
  check(cudaStreamSynchronize(beside), "waiting for the device");
  blocks.expect_good();
  report.set("gemm_beside_raw_GBps", static_cast<double>(blocks.raw_bytes) / together / 1e9);
  report.set("gemm_slowdown_percent", 100 * (together / alone - 1));
}
#endif

int run(int argc, char** argv) {
  Report report("bench_gpu", "Speed of the codec on a GPU, beside a copy of the same bytes");
  if (const std::optional<int> code = report.parse(argc, argv)) return *code;
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    report.say("bench_gpu: skipped, there is no CUDA device");
    return 77;
  }
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  report.set("device", std::string(properties.name));
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  for (const char* name : {"k4v4", "k5v4", "k8v8", "k3v2", "e4m3", "k4v4-prod", "k4v4-prodg", "qjl",
                           "polar", "tqe", "raw"})
    measure(name, stream, report);
#if defined(HADAL_HAVE_CUBLAS)
  measure_gemm(stream, report);
#else
  report.say("bench_gpu: built without cuBLAS: the slowdown of a GEMM is not measured");
#endif
  return report.finish();
}

}  // namespace
}  // namespace hadal::bench

int main(int argc, char** argv) { return hadal::bench::run(argc, argv); }
