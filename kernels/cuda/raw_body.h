#pragma once

// Raw blocks: values copied as they are, of any head_dim.

#include "kernels/cuda/finish_body.h"

namespace hadal::cuda {

// Between pages and the block, in chunks where both ends and all strides allow it.
template <typename Executor>
HADAL_HOST_DEVICE void copy_run(Executor& executor, const Run& run, bool to_block) {
  const uint32_t bytes = dtype_bytes(run.launch->dtype);
  const uint32_t vector_bytes = run.launch->head_dims[run.side] * bytes;
  const uint32_t tokens = run.form->token_count;
  std::byte* dense =
      run.encoded + run.place->words[0] + uint64_t{run.runs_before} * tokens * vector_bytes;
  const bool in_chunks =
      (reinterpret_cast<uintptr_t>(run.values) | reinterpret_cast<uintptr_t>(dense) |
       run.token_stride_bytes | vector_bytes) %
          sizeof(Chunk) ==
      0;
  const auto copy = [&]<typename T>(T) {
    executor.each([&](int thread) {
      const uint32_t units = vector_bytes / sizeof(T);
      for (uint64_t i = thread; i < uint64_t{tokens} * units; i += kCtaThreads) {
        std::byte* strided =
            run.values + i / units * run.token_stride_bytes + i % units * sizeof(T);
        std::byte* packed = dense + i * sizeof(T);
        if (to_block) {
          store_aligned(packed, load_aligned<T>(strided));
        } else {
          store_aligned(strided, load_aligned<T>(packed));
        }
      }
    });
  };
  if (in_chunks) {
    copy(Chunk());
  } else if (bytes == 4) {
    copy(uint32_t());
  } else if (bytes == 2) {
    copy(uint16_t());
  } else {
    copy(uint8_t());
  }
}

template <typename Executor>
HADAL_HOST_DEVICE void encode_raw_body(Executor& executor, FinishShared& shared,
                                       const Launch& launch) {
  const uint32_t runs = launch.run_count();
  for (uint32_t index = executor.cta(); index < runs; index += executor.cta_count()) {
    const Run run = run_at(launch, index);
    if (has_page(executor, run)) copy_run(executor, run, true);
    finish_run(executor, shared, run);
  }
}

template <typename Executor>
HADAL_HOST_DEVICE void decode_raw_body(Executor& executor, const Launch& launch) {
  const uint32_t runs = launch.run_count();
  for (uint32_t index = executor.cta(); index < runs; index += executor.cta_count()) {
    const Run run = run_at(launch, index);
    if (launch.outcomes[run.block] == code(Outcome::ok)) copy_run(executor, run, false);
  }
}

}  // namespace hadal::cuda
