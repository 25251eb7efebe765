#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "kernels/cuda/fp8_body.h"
#include "kernels/cuda/head_dims.h"
#include "kernels/cuda/mse_family.h"
#include "kernels/cuda/planner.h"
#include "kernels/cuda/polar_family.h"
#include "kernels/cuda/prod_family.h"
#include "kernels/cuda/raw_body.h"
#include "kernels/cuda/tqe_family.h"
#include "tests/kernels/cuda_host_executor.h"
#include "tests/kernels/kv_example.h"

namespace hadal::cuda {

// How pages lie in an engine's memory.
enum class Paging {
  split,   // [tokens, heads, d] of K and of V by itself
  packed,  // [heads, tokens, K and V]
  rows,    // one row a token: K and V of all heads, and something else
};

// Paged memory of a batch. What lies between the values is there too, to be left alone.
class PagedMemory {
 public:
  PagedMemory(const KvLayout& layout, Paging paging, uint32_t block_count) : layout_(layout) {
    const uint64_t bytes = dtype_bytes(layout.dtype), heads = layout.kv_head_count;
    const uint64_t dims[] = {layout.key_head_dim, layout.value_head_dim};
    const uint64_t both = (dims[0] + dims[1]) * bytes;
    uint64_t page_bytes = 0, side_offset = 0;
    for (int side = 0; side < 2; ++side) {
      if (paging == Paging::split) {
        strides[side] = {heads * dims[side] * bytes, dims[side] * bytes};
        page_bytes = layout.block_tokens * heads * std::max(dims[0], dims[1]) * bytes;
      } else if (paging == Paging::packed) {
        strides[side] = {both, layout.block_tokens * both};
        page_bytes = heads * layout.block_tokens * both;
        side_offset = dims[0] * bytes;
      } else {
        strides[side] = {heads * both + 3 * bytes, both};
        page_bytes = layout.block_tokens * strides[side].token_bytes;
        side_offset = dims[0] * bytes;
      }
    }
    const bool shares_pages = paging != Paging::split;
    for (uint32_t i = 0; i < block_count * layout.layer_count; ++i) {
      for (int side = 0; side < 2; ++side) {
        if (side == 0 || !shares_pages) {
          memory_.emplace_back(page_bytes + bytes);
          std::fill(memory_.back().begin(), memory_.back().end(), std::byte{0x77});
        }
        // Every second page begins within a chunk.
        pages.push_back(memory_.back().data() + memory_.size() % 2 * bytes +
                        (side == 1 ? side_offset : 0));
      }
    }
  }
  PagedMemory(const PagedMemory&) = delete;

  std::byte* value(uint32_t block, int layer, int side, uint64_t offset) {
    return pages[(block * layout_.layer_count + layer) * 2 + side] + offset;
  }
  void fill_normal(unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const uint64_t bytes = dtype_bytes(layout_.dtype);
    for (size_t page = 0; page < pages.size(); ++page) {
      const int side = page % 2;
      const int head_dim = side == 0 ? layout_.key_head_dim : layout_.value_head_dim;
      for (uint32_t token = 0; token < layout_.block_tokens; ++token) {
        for (int head = 0; head < layout_.kv_head_count; ++head) {
          std::byte* at =
              pages[page] + token * strides[side].token_bytes + head * strides[side].head_bytes;
          // Keys share an offset, and some are far from it.
          for (int i = 0; i < head_dim; ++i) {
            const float shift = side == 0 && i % 9 == 0 && token % 7 != 3 ? 3.0f : 0.0f;
            KvExample::store(at + i * bytes, normal(random) + shift, layout_.dtype);
          }
        }
      }
    }
  }
  // As the host's codec takes a block's pages.
  KvPages of_block(uint32_t block, std::vector<std::byte*> (&rows)[2]) {
    for (int side = 0; side < 2; ++side) {
      rows[side].clear();
      for (int layer = 0; layer < layout_.layer_count; ++layer) {
        rows[side].push_back(value(block, layer, side, 0));
      }
    }
    return {{rows[0], strides[0].token_bytes, strides[0].head_bytes},
            {rows[1], strides[1].token_bytes, strides[1].head_bytes}};
  }
  bool operator==(const PagedMemory& other) const { return memory_ == other.memory_; }

  std::vector<std::byte*> pages;
  std::array<SideStrides, 2> strides;

 private:
  KvLayout layout_;
  std::vector<KvExample::Bytes> memory_;
};

// A batch, with memory for what it becomes.
struct BatchExample {
  BatchExample(const Planner& planner, std::vector<Block> of, PagedMemory& memory)
      : blocks(std::move(of)),
        stride_bytes(planner.block_bytes_max() + 128),
        encoded(stride_bytes * blocks.size(), std::byte{0xcc}),
        workspace(planner.workspace_bytes(uint32_t(blocks.size()), uint32_t(blocks.size()))),
        outcomes(blocks.size(), 99) {
    use(memory);
  }
  void use(PagedMemory& memory) {
    for (size_t i = 0; i < blocks.size(); ++i) {
      blocks[i].encoded = encoded.data() + i * stride_bytes;
      blocks[i].encoded_bytes = stride_bytes;
    }
    batch.blocks = blocks;
    batch.pages = memory.pages.data();
    batch.strides = memory.strides;
    batch.outcomes = outcomes.data();
  }
  Workspace workspace_span() { return {workspace.data(), workspace.data(), workspace.size()}; }
  absl::Span<std::byte> block(size_t i) {
    return absl::MakeSpan(encoded).subspan(i * stride_bytes, stride_bytes);
  }

  std::vector<Block> blocks;
  uint64_t stride_bytes;
  KvExample::Bytes encoded, workspace;
  std::vector<uint32_t> outcomes;
  Batch batch;
};

// A kernel as a grid on the host.
using HostKernel = std::function<void(const Launch&, int head_dim, uint32_t cta_count)>;
struct HostKernels {
  HostKernel encode, decode;
};

template <template <int> typename Family>
HostKernels host_kernels_of() {
  return {[](const Launch& launch, int head_dim, uint32_t cta_count) {
            ASSERT_TRUE(with_head_dim(head_dim, [&](auto dim) {
              run_grid<EncodeShared<Family<dim>>>(cta_count, 1, [&](auto& executor, auto& shared) {
                encode_body(executor, shared, launch);
              });
            }));
          },
          [](const Launch& launch, int head_dim, uint32_t cta_count) {
            ASSERT_TRUE(with_head_dim(head_dim, [&](auto dim) {
              run_grid<DecodeShared<Family<dim>>>(cta_count, 2, [&](auto& executor, auto& shared) {
                decode_body(executor, shared, launch);
              });
            }));
          }};
}

template <CodecFamily kFamily>
HostKernels host_fp8_kernels() {
  return {[](const Launch& launch, int, uint32_t cta_count) {
            run_grid<Fp8Shared>(cta_count, 3, [&](auto& executor, auto& shared) {
              encode_fp8_body<kFamily>(executor, shared, launch);
            });
          },
          [](const Launch& launch, int, uint32_t cta_count) {
            run_grid<uint32_t>(cta_count, 4, [&](auto& executor, auto&) {
              decode_fp8_body<kFamily>(executor, launch);
            });
          }};
}

inline HostKernels host_raw_kernels() {
  return {[](const Launch& launch, int, uint32_t cta_count) {
            run_grid<FinishShared>(cta_count, 5, [&](auto& executor, auto& shared) {
              encode_raw_body(executor, shared, launch);
            });
          },
          [](const Launch& launch, int, uint32_t cta_count) {
            run_grid<uint32_t>(cta_count, 6,
                               [&](auto& executor, auto&) { decode_raw_body(executor, launch); });
          }};
}

inline HostKernels host_kernels(const CodecSpec& spec) {
  switch (spec.family) {
    case CodecFamily::raw:
      return host_raw_kernels();
    case CodecFamily::turboquant_mse:
      return host_kernels_of<MseFamily>();
    case CodecFamily::turboquant_prod:
    case CodecFamily::qjl:
      return spec.gaussian_projection ? host_kernels_of<GaussianProdFamily>()
                                      : host_kernels_of<ProdFamily>();
    case CodecFamily::fp8_e4m3:
      return host_fp8_kernels<CodecFamily::fp8_e4m3>();
    case CodecFamily::fp8_e5m2:
      return host_fp8_kernels<CodecFamily::fp8_e5m2>();
    case CodecFamily::polar:
      return host_kernels_of<PolarFamily>();
    case CodecFamily::tqe:
      return host_kernels_of<TqeFamily>();
    default:
      ADD_FAILURE() << spec.name() << " has no kernels";
      return {};
  }
}

// What CudaCodec does on a stream, here by HostExecutor over `cta_count` CTAs a kernel.
inline void run_encode_on_host(const Planner& planner, const PlannedWork& work,
                               uint32_t cta_count) {
  for (const SideRange& range : planner.side_ranges()) {
    Launch launch = work.launch;
    launch.first_side = range.first;
    launch.end_side = range.end;
    host_kernels(planner.spec()).encode(launch, range.head_dim, cta_count);
  }
}

// `layers`: so many a launch.
inline void run_decode_on_host(const Planner& planner, const PlannedWork& work, uint32_t cta_count,
                               int layers) {
  Launch launch = work.launch;
  run_grid<ChecksumShared>(
      cta_count, 7, [&](auto& executor, auto& shared) { verify_body(executor, shared, launch); });
  for (int layer = 0; layer < launch.layer_count; layer += layers) {
    launch.first_layer = static_cast<uint16_t>(layer);
    launch.end_layer = static_cast<uint16_t>(std::min<int>(layer + layers, launch.layer_count));
    for (const SideRange& range : planner.side_ranges()) {
      launch.first_side = range.first;
      launch.end_side = range.end;
      host_kernels(planner.spec()).decode(launch, range.head_dim, cta_count);
    }
  }
}

inline absl::Status encode_on_host(const Planner& planner, BatchExample& example,
                                   uint32_t cta_count) {
  absl::StatusOr<PlannedWork> work = planner.plan(example.batch, example.workspace_span());
  if (!work.ok()) return work.status();
  run_encode_on_host(planner, *work, cta_count);
  std::copy_n(work->launch.outcomes, example.blocks.size(), example.outcomes.begin());
  return absl::OkStatus();
}

inline absl::Status decode_on_host(const Planner& planner, BatchExample& example,
                                   uint32_t cta_count, int layers) {
  absl::StatusOr<PlannedWork> work = planner.plan(example.batch, example.workspace_span());
  if (!work.ok()) return work.status();
  run_decode_on_host(planner, *work, cta_count, layers);
  std::copy_n(work->launch.outcomes, example.blocks.size(), example.outcomes.begin());
  return absl::OkStatus();
}

}  // namespace hadal::cuda
