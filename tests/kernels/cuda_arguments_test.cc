// What CudaCodec answers before anything reaches a stream: runs with and without a GPU.

#include <gtest/gtest.h>

#include "kernels/cuda/cuda_codec.h"
#include "tests/kernels/cuda_batch_example.h"

namespace hadal::cuda {
namespace {

TEST(CudaCodec, RefusesBadArgumentsBeforeItStarts) {
  const KvLayout layout = example_layout(DType::bf16, 128, 128, 16);
  EXPECT_EQ(CudaCodec::create(example_layout(DType::f16, 72, 64, 8), CodecSpec()).status().code(),
            absl::StatusCode::kInvalidArgument);
  const auto codec = CudaCodec::create(layout, CodecSpec());
  ASSERT_TRUE(codec.ok()) << codec.status();
  PagedMemory memory(layout, Paging::split, 1);
  Block block;
  block.token_count = 16;
  BatchExample example(codec->planner(), {block}, memory);
  StreamWork work;
  work.workspace = example.workspace_span();
  work.workspace.bytes = 64;
  const auto expect_refused = [](const absl::Status& status, absl::string_view named) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_NE(status.message().find(named), absl::string_view::npos) << status;
  };
  expect_refused(codec->encode(example.batch, work), "the workspace has 64 bytes");
  expect_refused(codec->decode(example.batch, work, {}), "the workspace has 64 bytes");
  work.workspace = example.workspace_span();
  const LayerMark mark = {1, nullptr};
  expect_refused(codec->decode(example.batch, work, absl::MakeConstSpan(&mark, 1)), "null event");
  example.batch.pages = nullptr;
  expect_refused(codec->encode(example.batch, work), "pages is null");
}

}  // namespace
}  // namespace hadal::cuda
