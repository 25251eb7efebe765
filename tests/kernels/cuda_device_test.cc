// The kernels on a GPU: bytes and values equal to Codec's. Without a device the program ends with
// 77, which CTest shows as skipped.

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "kernels/cuda/cuda_codec.h"
#include "kernels/cuda/cuda_gpu.h"
#include "tests/kernels/cuda_batch_example.h"

namespace hadal::cuda {
namespace {

// Memory that host and device reach, so that PagedMemory's and BatchExample's bytes can go there.
class Managed {
 public:
  explicit Managed(uint64_t bytes) : bytes_(bytes) {
    EXPECT_EQ(cudaMallocManaged(&at_, bytes), cudaSuccess);
  }
  ~Managed() { cudaFree(at_); }
  Managed(const Managed&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(at_); }
  uint64_t size() const { return bytes_; }

 private:
  void* at_ = nullptr;
  uint64_t bytes_;
};

// A batch whose pages are one managed allocation: [block, layer, side, token, head, value].
struct DeviceBatch {
  DeviceBatch(const CudaCodec& codec, uint32_t block_count)
      : layout(codec.planner().layout()),
        page_bytes(uint64_t{layout.block_tokens} * layout.kv_head_count *
                   std::max(layout.key_head_dim, layout.value_head_dim) *
                   dtype_bytes(layout.dtype)),
        values(page_bytes * block_count * layout.layer_count * 2),
        table(sizeof(std::byte*) * block_count * layout.layer_count * 2),
        stride_bytes((codec.planner().block_bytes_max() + 63) / 64 * 64),
        encoded(stride_bytes * block_count),
        workspace(codec.planner().workspace_bytes(block_count, 4)),
        host_workspace(workspace.size()),
        outcomes(sizeof(uint32_t) * block_count) {
    blocks.resize(block_count);
    auto** pages = reinterpret_cast<std::byte**>(table.data());
    for (uint32_t i = 0; i < block_count * layout.layer_count * 2; ++i) {
      pages[i] = values.data() + i * page_bytes;
    }
    for (uint32_t i = 0; i < block_count; ++i) {
      blocks[i].identity.key.bytes[0] = static_cast<uint8_t>(i + 1);
      blocks[i].identity.first_token_index = i * layout.block_tokens;
      blocks[i].token_count =
          i + 1 == block_count ? layout.block_tokens / 2 + 1 : layout.block_tokens;
      blocks[i].encoded = encoded.data() + i * stride_bytes;
      blocks[i].encoded_bytes = stride_bytes;
    }
    batch.blocks = blocks;
    batch.pages = pages;
    const uint64_t value_bytes = dtype_bytes(layout.dtype);
    const uint64_t dims[] = {layout.key_head_dim, layout.value_head_dim};
    for (int side = 0; side < 2; ++side) {
      batch.strides[side] = {layout.kv_head_count * dims[side] * value_bytes,
                             dims[side] * value_bytes};
    }
    batch.outcomes = reinterpret_cast<uint32_t*>(outcomes.data());
    work.workspace = {workspace.data(), host_workspace.data(), workspace.size()};
  }
  void fill_normal() {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    const uint64_t value_bytes = dtype_bytes(layout.dtype);
    for (uint64_t i = 0; i < values.size(); i += value_bytes) {
      KvExample::store(values.data() + i, normal(random), layout.dtype);
    }
  }
  KvPages of_block(uint32_t block, std::vector<std::byte*> (&rows)[2]) const {
    for (int side = 0; side < 2; ++side) {
      rows[side].clear();
      for (int layer = 0; layer < layout.layer_count; ++layer) {
        rows[side].push_back(batch.pages[(block * layout.layer_count + layer) * 2 + side]);
      }
    }
    return {{rows[0], batch.strides[0].token_bytes, batch.strides[0].head_bytes},
            {rows[1], batch.strides[1].token_bytes, batch.strides[1].head_bytes}};
  }

  KvLayout layout;
  uint64_t page_bytes;
  Managed values, table;
  uint64_t stride_bytes;
  Managed encoded, workspace, host_workspace, outcomes;
  std::vector<Block> blocks;
  Batch batch;
  StreamWork work;
};

void expect_as_on_the_host(const KvLayout& layout, const CodecSpec& spec, uint32_t cta_limit) {
  const auto codec = CudaCodec::create(layout, spec);
  ASSERT_TRUE(codec.ok()) << codec.status();
  const auto host_codec = Codec::create(layout, spec);
  ASSERT_TRUE(host_codec.ok()) << host_codec.status();
  DeviceBatch source(*codec, 3), decoded(*codec, 3), expected(*codec, 3);
  source.fill_normal();
  source.work.cta_limit = decoded.work.cta_limit = cta_limit;
  ASSERT_TRUE(codec->encode(source.batch, source.work).ok());
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  std::memset(decoded.values.data(), 0x77, decoded.values.size());
  std::memset(expected.values.data(), 0x77, expected.values.size());
  for (uint32_t i = 0; i < 3; ++i) {
    ASSERT_EQ(source.batch.outcomes[i], code(Outcome::ok));
    std::vector<std::byte*> rows[2];
    EncodeRequest request;
    request.pages = source.of_block(i, rows);
    request.identity = source.blocks[i].identity;
    request.token_count = source.blocks[i].token_count;
    std::vector<std::byte> out(*(*host_codec)->max_encoded_bytes(request.token_count));
    const auto result = (*host_codec)->encode(request, absl::MakeSpan(out));
    ASSERT_TRUE(result.ok());
    out.resize(result->bytes);
    ASSERT_EQ(std::memcmp(out.data(), source.encoded.data() + i * source.stride_bytes, out.size()),
              0)
        << spec.name() << " head_dim " << layout.key_head_dim << " block " << i;
    ASSERT_TRUE(
        (*host_codec)->decode(out, 0, request.identity.key, expected.of_block(i, rows)).ok());
  }
  std::memcpy(decoded.encoded.data(), source.encoded.data(), source.encoded.size());
  std::vector<LayerMark> marks(layout.layer_count);
  for (int layer = 0; layer < layout.layer_count; ++layer) {
    marks[layer].end_layer = static_cast<uint16_t>(layer + 1);
    ASSERT_EQ(cudaEventCreate(&marks[layer].event), cudaSuccess);
  }
  ASSERT_TRUE(codec->decode(decoded.batch, decoded.work, marks).ok());
  for (const LayerMark& mark : marks) {
    ASSERT_EQ(cudaEventSynchronize(mark.event), cudaSuccess);
    ASSERT_EQ(cudaEventDestroy(mark.event), cudaSuccess);
  }
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(decoded.batch.outcomes[i], code(Outcome::ok));
  EXPECT_EQ(std::memcmp(decoded.values.data(), expected.values.data(), expected.values.size()), 0)
      << spec.name() << " head_dim " << layout.key_head_dim;
}

TEST(CudaDevice, EncodesAndDecodesAsTheHostDoes) {
  for (uint16_t head_dim : kHeadDims) {
    for (DType dtype : {DType::f16, DType::bf16, DType::f32}) {
      for (const char* name : {"k5v4", "k8v6", "k1v2", "raw", "k4v3-prod", "k8v7-prod", "qjl",
                               "k4v3-prodg", "qjlg", "polar", "tqe", "e4m3", "e5m2"}) {
        KvLayout layout = example_layout(dtype, head_dim, head_dim, 40);
        if (head_dim == 192) layout.value_head_dim = 128;
        if (head_dim == 512)
          layout.value_head_dim = 64;  // MLA's latent, and what is rotated by place
        expect_as_on_the_host(layout, *parse_codec(name), head_dim % 3);
      }
    }
  }
}

TEST(CudaDevice, LargeBlocksFillTheDevice) {
  KvLayout layout = example_layout(DType::bf16, 128, 128, 256);
  layout.layer_count = 32;
  layout.kv_head_count = 8;
  expect_as_on_the_host(layout, *parse_codec("k5v4"), 0);
}

TEST(CudaDevice, DamagedBlocksAreSaidAndTheirPagesStay) {
  const auto codec = CudaCodec::create(example_layout(DType::bf16, 128, 128, 32), CodecSpec());
  ASSERT_TRUE(codec.ok());
  DeviceBatch source(*codec, 2);
  source.fill_normal();
  ASSERT_TRUE(codec->encode(source.batch, source.work).ok());
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  source.encoded.data()[source.stride_bytes + 5000] ^= std::byte{1};
  std::memset(source.values.data(), 0x77, source.values.size());
  ASSERT_TRUE(codec->decode(source.batch, source.work, {}).ok());
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(source.batch.outcomes[0], code(Outcome::ok));
  EXPECT_EQ(source.batch.outcomes[1], code(Outcome::checksum_differs));
  const uint64_t half = source.values.size() / 2;
  EXPECT_NE(source.values.data()[0], std::byte{0x77});
  for (uint64_t i = half; i < 2 * half; ++i) {
    ASSERT_EQ(source.values.data()[i], std::byte{0x77});
  }
}

// As the client uses a GPU: pages of device memory, blocks that are copied on another stream.
TEST(CudaGpu, StreamsFollowEachOther) {
  EXPECT_EQ(make_gpu({.device = 4096}).status().code(), absl::StatusCode::kNotFound);
  const auto gpu = make_gpu({});
  ASSERT_TRUE(gpu.ok()) << gpu.status();
  const KvLayout layout = example_layout(DType::bf16, 128, 128, 64);
  const auto codec = (*gpu)->make_codec(layout, CodecSpec()).value();
  DeviceBatch batch(*CudaCodec::create(layout, CodecSpec()), 3);
  batch.fill_normal();
  const auto compute = (*gpu)->make_stream().value(), copies = (*gpu)->make_stream().value();
  const uint64_t bytes = batch.encoded.size();
  const GpuMemory device = (*gpu)->allocate_device(bytes).value();
  const GpuMemory pinned = (*gpu)->allocate_pinned(bytes).value();
  const auto move_blocks = [&](std::byte* to) {
    for (size_t i = 0; i < batch.blocks.size(); ++i) {
      batch.blocks[i].encoded = to + i * batch.stride_bytes;
    }
  };
  const auto finish = [](GpuStream& stream) {
    const auto mark = stream.mark().value();
    while (!mark->reached().value()) continue;
  };
  ASSERT_TRUE(codec->encode(batch.batch, batch.work.workspace, *compute).ok());
  finish(*compute);
  const std::vector<std::byte> expected(batch.encoded.data(), batch.encoded.data() + bytes);
  move_blocks(device.get());
  ASSERT_TRUE(codec->encode(batch.batch, batch.work.workspace, *compute).ok());
  ASSERT_TRUE(copies->follow(*compute).ok());
  ASSERT_TRUE(copies->copy(pinned.get(), device.get(), bytes).ok());
  finish(*copies);
  for (size_t i = 0; i < batch.blocks.size(); ++i) {
    const uint64_t block_bytes = codec->planner().block_bytes(batch.blocks[i]).value();
    EXPECT_EQ(std::memcmp(pinned.get() + i * batch.stride_bytes,
                          expected.data() + i * batch.stride_bytes, block_bytes),
              0);
  }
  std::memset(batch.values.data(), 0x77, batch.values.size());
  move_blocks(pinned.get());
  ASSERT_TRUE(codec->decode(batch.batch, batch.work.workspace, *compute).ok());
  finish(*compute);
  const std::vector<std::byte> by_host_memory(batch.values.data(),
                                              batch.values.data() + batch.values.size());
  std::memset(batch.values.data(), 0x77, batch.values.size());
  move_blocks(device.get());
  ASSERT_TRUE(codec->decode(batch.batch, batch.work.workspace, *compute).ok());
  finish(*compute);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(batch.batch.outcomes[i], code(Outcome::ok));
  EXPECT_EQ(std::memcmp(batch.values.data(), by_host_memory.data(), by_host_memory.size()), 0);
  std::vector<std::byte> own(1 << 20);
  EXPECT_TRUE((*gpu)->pin(absl::MakeSpan(own)).ok());
  (*gpu)->unpin(absl::MakeSpan(own));
}

}  // namespace
}  // namespace hadal::cuda

int main(int argc, char** argv) {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device (%s)\n", cudaGetErrorString(error));
    return 77;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
