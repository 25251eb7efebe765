#pragma once

// FP8 blocks, of any head_dim that is a multiple of 16: a thread has 16 neighbouring values.

#include "kernels/cuda/encode_body.h"
#include "kernels/fp8.h"

namespace hadal::cuda {

struct Fp8Shared {
  uint32_t largest[kCtaThreads];  // magnitudes, as bits of f32, by vector
  FinishShared finish;
};

// What a thread works on: 16 values of one token.
struct Fp8Share {
  static constexpr int kValues = sizeof(Chunk);  // whose codes are one store
  uint32_t vectors;                              // that a CTA takes side by side
  uint32_t in_cta, part, token;
  bool active;

  HADAL_HOST_DEVICE Fp8Share(const Run& run, int thread) {
    const uint32_t parts = run.launch->head_dims[run.side] / kValues;
    vectors = kCtaThreads / parts;
    in_cta = thread / parts;
    part = thread % parts;
    token = run.first_token + in_cta;
    active = in_cta < vectors && token < run.form->token_count;
  }
  HADAL_HOST_DEVICE std::byte* values(const Run& run) const {
    return run.values + token * run.token_stride_bytes +
           uint64_t{part * kValues} * dtype_bytes(run.launch->dtype);
  }
  HADAL_HOST_DEVICE std::byte* codes(const Run& run) const {
    return run.encoded + run.place->words[0] + vector(run) * run.launch->head_dims[run.side] +
           part * kValues;
  }
  HADAL_HOST_DEVICE std::byte* scale(const Run& run) const {
    return run.encoded + run.place->norms + vector(run) * sizeof(uint16_t);
  }

 private:
  HADAL_HOST_DEVICE uint64_t vector(const Run& run) const {
    return uint64_t{run.runs_before} * run.form->token_count + token;
  }
};

template <CodecFamily kFamily, typename Executor>
HADAL_HOST_DEVICE void encode_fp8_vectors(Executor& executor, Fp8Shared& shared, const Run& run) {
  constexpr Fp8Format kFormat = fp8_format(kFamily);
  constexpr int kValues = Fp8Share::kValues;
  const RowFormat format = row_format(run);
  typename Executor::template Private<Values<float, kValues>> x;
  executor.each([&](int thread) { shared.largest[thread] = 0; });
  executor.barrier();
  executor.each([&](int thread) {
    const Fp8Share share(run, thread);
    if (!share.active) return;
    load_share(share.values(run), format, x[thread]);
    uint32_t largest = 0;
    HADAL_UNROLL
    for (int i = 0; i < kValues; ++i) {
      const uint32_t magnitude = std::bit_cast<uint32_t>(x[thread][i]) & 0x7fffffffu;
      if (largest < magnitude) largest = magnitude;
    }
    executor.maximum(&shared.largest[share.in_cta], largest);
  });
  executor.barrier();
  executor.each([&](int thread) {
    const Fp8Share share(run, thread);
    if (!share.active) return;
    const uint32_t largest = shared.largest[share.in_cta];
    const bool is_exact = share.token < run.form->exact_token_count;
    if (share.part == 0 && largest >= fp8_refused_bits(format.dtype)) say_non_finite(executor, run);
    const auto stored =
        static_cast<uint16_t>(is_exact ? 0 : fp8_scale(kFormat, std::bit_cast<float>(largest)));
    if (share.part == 0) store_aligned(share.scale(run), stored);
    const float scale = bf16_to_float(stored);
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    Chunk codes = {};
    HADAL_UNROLL
    for (int i = 0; i < kValues; ++i) {
      const uint32_t code = is_exact ? 0 : fp8_code(kFormat, x[thread][i] * inverse);
      codes.words[i / 4] |= (code & 0xffu) << (i % 4 * 8);
    }
    store_aligned(share.codes(run), codes);
  });
  executor.barrier();
}

template <CodecFamily kFamily, typename Executor>
HADAL_HOST_DEVICE void encode_fp8_body(Executor& executor, Fp8Shared& shared,
                                       const Launch& launch) {
  const uint32_t runs = launch.run_count();
  for (uint32_t index = executor.cta(); index < runs; index += executor.cta_count()) {
    Run run = run_at(launch, index);
    if (has_page(executor, run)) {
      write_exact_tokens(executor, run, [](float) { return true; });
      while (run.first_token < run.form->token_count) {
        encode_fp8_vectors<kFamily>(executor, shared, run);
        run.first_token += Fp8Share(run, 0).vectors;
      }
    }
    finish_run(executor, shared.finish, run);
  }
}

template <CodecFamily kFamily, typename Executor>
HADAL_HOST_DEVICE void decode_fp8_body(Executor& executor, const Launch& launch) {
  constexpr Fp8Format kFormat = fp8_format(kFamily);
  constexpr int kValues = Fp8Share::kValues;
  const uint32_t runs = launch.run_count();
  for (uint32_t index = executor.cta(); index < runs; index += executor.cta_count()) {
    Run run = run_at(launch, index);
    if (launch.outcomes[run.block] != code(Outcome::ok)) continue;
    read_exact_tokens(executor, run);
    const RowFormat format = row_format(run);
    for (; run.first_token < run.form->token_count; run.first_token += Fp8Share(run, 0).vectors) {
      executor.each([&](int thread) {
        const Fp8Share share(run, thread);
        if (!share.active || share.token < run.form->exact_token_count) return;
        const float scale = fp8_read_scale(kFormat, load_aligned<uint16_t>(share.scale(run)));
        const Chunk codes = load_aligned<Chunk>(share.codes(run));
        Values<float, kValues> x;
        HADAL_UNROLL
        for (int i = 0; i < kValues; ++i) {
          x[i] = fp8_value(kFormat, codes.words[i / 4] >> (i % 4 * 8) & 0xffu) * scale;
        }
        store_share(share.values(run), format, x);
      });
    }
  }
}

}  // namespace hadal::cuda
