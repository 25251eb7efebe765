#pragma once

// The kernels that encode, and what families of vectors share there: exact tokens, mean keys, norms
// and rotations. A CTA takes runs in turn.
//
// A family is a class template over head_dim (mse_family.h), with
//   kEncodeCtas, kDecodeCtas         of which a multiprocessor should hold so many
//   EncodeShared, DecodeShared       shared memory of its own
//   prepare_encode, prepare_decode   fill that before a run; the caller has a barrier after them
//   encode_vectors, decode_vectors   as many tokens as the CTA takes side by side

#include <cstddef>

#include "kernels/cuda/finish_body.h"
#include "kernels/cuda/warp_steps.h"

namespace hadal::cuda {

// The mean key, by part; rows of parts begin in banks of their own.
template <int kHeadDim>
struct OffsetRows {
  static constexpr int kValues = VectorShare<kHeadDim>::kValues;
  alignas(16) float rows[VectorShare<kHeadDim>::kParts][kValues + 4];

  HADAL_HOST_DEVICE float& operator[](int i) { return rows[i / kValues][i % kValues]; }
};

template <typename Family>
struct EncodeShared {
  OffsetRows<Family::kHeadDim> offsets;
  RotationScratch<Family::kHeadDim> rotation;
  typename Family::EncodeShared family;
  FinishShared finish;
};

HADAL_HOST_DEVICE bool is_finite(float x) {
  return (std::bit_cast<uint32_t>(x) & 0x7f800000u) != 0x7f800000u;
}

template <typename Executor>
HADAL_HOST_DEVICE void say_non_finite(Executor& executor, const Run& run) {
  executor.maximum(run.launch->outcomes + run.block, code(Outcome::non_finite));
}

// Into the block as they are. `fits` takes a value and says whether it may be in a block.
template <typename Executor, typename Fits>
HADAL_HOST_DEVICE void write_exact_tokens(Executor& executor, const Run& run, Fits fits) {
  const DType dtype = run.launch->dtype;
  const uint32_t bytes = dtype_bytes(dtype), head_dim = run.launch->head_dims[run.side];
  const uint32_t exact_count = run.form->exact_token_count;
  std::byte* exact =
      run.encoded + run.place->exact + uint64_t{run.runs_before} * exact_count * head_dim * bytes;
  executor.each([&](int thread) {
    bool all_fit = true;
    for (uint32_t i = thread; i < exact_count * head_dim; i += kCtaThreads) {
      const std::byte* at =
          run.values + i / head_dim * run.token_stride_bytes + i % head_dim * bytes;
      all_fit = all_fit && fits(load_value(at, dtype));
      for (uint32_t k = 0; k < bytes; ++k) exact[i * bytes + k] = at[k];
    }
    if (!all_fit) say_non_finite(executor, run);
  });
}
template <typename Executor>
HADAL_HOST_DEVICE void read_exact_tokens(Executor& executor, const Run& run) {
  const uint32_t bytes = dtype_bytes(run.launch->dtype);
  const uint32_t head_dim = run.launch->head_dims[run.side];
  const uint32_t exact_count = run.form->exact_token_count;
  const std::byte* exact =
      run.encoded + run.place->exact + uint64_t{run.runs_before} * exact_count * head_dim * bytes;
  executor.each([&](int thread) {
    for (uint32_t i = thread; i < exact_count * head_dim; i += kCtaThreads) {
      std::byte* at = run.values + i / head_dim * run.token_stride_bytes + i % head_dim * bytes;
      for (uint32_t k = 0; k < bytes; ++k) at[k] = exact[i * bytes + k];
    }
  });
}

// Mean key into shared memory and into the block, exact tokens, and what the family needs.
template <typename Family, typename Executor>
HADAL_HOST_DEVICE void prepare_encode(Executor& executor, EncodeShared<Family>& shared,
                                      const Run& run) {
  constexpr int kHeadDim = Family::kHeadDim;
  const BlockForm& form = *run.form;
  const DType dtype = run.launch->dtype;
  const uint32_t exact_count = form.exact_token_count;
  executor.each([&](int thread) {
    const uint32_t count = form.token_count - exact_count;
    const float scale = count == 0 ? 0.0f : 1.0f / static_cast<float>(count);
    for (int i = thread; run.place->has_offsets && i < kHeadDim; i += kCtaThreads) {
      float sum = 0;
      HADAL_UNROLL_BY(8)
      for (uint32_t token = exact_count; token < form.token_count; ++token) {
        sum +=
            load_value(run.values + token * run.token_stride_bytes + i * dtype_bytes(dtype), dtype);
      }
      const uint16_t mean = bf16_from_bits(std::bit_cast<uint32_t>(sum * scale));
      shared.offsets[i] = bf16_to_float(mean);
      store_aligned(run.encoded + run.place->offsets +
                        (uint64_t{run.runs_before} * kHeadDim + i) * sizeof(mean),
                    mean);
    }
  });
  write_exact_tokens(executor, run, [](float value) { return is_finite(value); });
  Family::prepare_encode(executor, shared.family, run);
  executor.barrier();
}

// Tokens that a CTA takes side by side, of which every thread has its share. Threads past the last
// token repeat that one and store nothing.
template <int kHeadDim>
struct TokenShare {
  using Place = ThreadPlace<kHeadDim>;
  int part;
  uint32_t token;
  bool is_stored, is_exact;
  uint64_t vector;  // among those of the cell

  HADAL_HOST_DEVICE TokenShare(const Run& run, int thread) {
    const Place place(thread);
    const uint32_t tokens = run.form->token_count, own = run.first_token + place.vector;
    part = place.part;
    token = own < tokens ? own : tokens - 1;
    is_stored = place.active && own < tokens;
    is_exact = token < run.form->exact_token_count;
    vector = uint64_t{run.runs_before} * tokens + token;
  }
  HADAL_HOST_DEVICE uint64_t value_offset(const Run& run) const {
    return token * run.token_stride_bytes +
           uint64_t(part * VectorShare<kHeadDim>::kValues) * dtype_bytes(run.launch->dtype);
  }
  // Where the word of this share lies in a plane.
  HADAL_HOST_DEVICE uint64_t word_offset() const {
    return vector * (kHeadDim / 8) + part * (VectorShare<kHeadDim>::kValues / 8);
  }
};

struct EncodeSums {
  Squares own, residual;
  HADAL_HOST_DEVICE void add(const EncodeSums& other) {
    own.add(other.own);
    residual.add(other.residual);
  }
};
struct Lengths {
  float own, residual;  // squared
};

// How long a vector is without the mean key, if that is removed.
struct Measured {
  float norm;
  bool is_removed, is_finite;

  // As blocks have it; the sign bit says that the mean key was removed.
  HADAL_HOST_DEVICE uint32_t flag() const { return is_removed ? kNormOffsetFlag : 0; }
};

// What threads have of the vectors that they encode.
template <int kHeadDim, typename Executor>
struct EncodeVectors {
  static constexpr int kValues = VectorShare<kHeadDim>::kValues;
  typename Executor::template Private<Values<float, kValues>> x;
  typename Executor::template Private<Values<uint32_t, kValues>> y;
  typename Executor::template Private<Measured> measured;
};

// Loads vectors, removes the mean key where that shortens them, and measures them.
template <int kHeadDim, typename Executor>
HADAL_HOST_DEVICE void measure_vectors(Executor& executor, OffsetRows<kHeadDim>& offsets,
                                       const Run& run, EncodeVectors<kHeadDim, Executor>& vectors) {
  using Share = VectorShare<kHeadDim>;
  constexpr int kValues = Share::kValues;
  const RowFormat format = row_format(run);
  const bool has_offsets = run.place->has_offsets;
  typename Executor::template Private<EncodeSums> sums;
  typename Executor::template Private<Lengths> lengths;
  auto& x = vectors.x;
  const auto without_offset = [&](int part, const Values<float, kValues>& from) {
    Values<float, kValues> residual;
    HADAL_UNROLL
    for (int i = 0; i < kValues; ++i) residual[i] = from[i] - offsets.rows[part][i];
    return residual;
  };
  executor.each([&](int thread) {
    const TokenShare<kHeadDim> share(run, thread);
    load_share(run.values + share.value_offset(run), format, x[thread]);
    sums[thread].own = squares_of(x[thread]);
    sums[thread].residual =
        has_offsets ? squares_of(without_offset(share.part, x[thread])) : sums[thread].own;
  });
  add_parts<Share::kParts>(executor, sums);
  executor.each([&](int thread) {
    lengths[thread] = {sums[thread].own.total(), sums[thread].residual.total()};
  });
  share_first<Share::kParts>(executor, lengths);
  executor.each([&](int thread) {
    const auto [own, residual] = lengths[thread];
    const bool is_removed = has_offsets && residual < own;
    if (is_removed) {
      x[thread] = without_offset(TokenShare<kHeadDim>(run, thread).part, x[thread]);
    }
    float norm = sqrtf(is_removed ? residual : own);
    if (norm < kNormMin) norm = 0;
    vectors.measured[thread] = {norm, is_removed, is_finite(own)};
  });
}

// Norms into the block, of families that store them.
template <int kHeadDim, typename Executor>
HADAL_HOST_DEVICE void write_norms(Executor& executor, const Run& run,
                                   EncodeVectors<kHeadDim, Executor>& vectors) {
  executor.each([&](int thread) {
    const TokenShare<kHeadDim> share(run, thread);
    if (!share.is_stored || share.part != 0) return;
    const Measured& measured = vectors.measured[thread];
    uint16_t stored = bf16_from_bits(std::bit_cast<uint32_t>(measured.norm));
    if (!share.is_exact && (!measured.is_finite || (stored & 0x7f80u) == 0x7f80u)) {
      say_non_finite(executor, run);
    }
    stored = static_cast<uint16_t>(share.is_exact ? 0u : stored | measured.flag());
    store_aligned(run.encoded + run.place->norms + share.vector * sizeof(stored), stored);
  });
}

// Vectors become integers, of the length that the family's tables say, and are rotated. Where they
// are `kMaybeWide`, and have places that are cut later, sums take more than 16 bits.
template <int kHeadDim, bool kMaybeWide, typename Executor>
HADAL_HOST_DEVICE void rotate_vectors(Executor& executor, RotationScratch<kHeadDim>& scratch,
                                      const Run& run, EncodeVectors<kHeadDim, Executor>& vectors) {
  const RotationBits& rotation = run.launch->rotations[run.side];
  const VectorScales& scales = run.launch->scales[run.place->tables];
  const float length = scales.input_length;
  executor.each([&](int thread) {
    const float norm = vectors.measured[thread].norm;
    const float scale = norm > 0 ? length / norm : 0.0f;
    const int first = ThreadPlace<kHeadDim>(thread).part * VectorShare<kHeadDim>::kValues;
    quantise(vectors.x[thread], scale, signs_of(rotation, first), vectors.y[thread]);
  });
  if constexpr (kMaybeWide) {
    if (scales.input_shift != 0) {
      return rotate<kHeadDim, false>(executor, scratch, rotation, vectors.y);
    }
  }
  rotate<kHeadDim, true>(executor, scratch, rotation, vectors.y);
}

template <typename Family, typename Executor>
HADAL_HOST_DEVICE void encode_body(Executor& executor, EncodeShared<Family>& shared,
                                   const Launch& launch) {
  const uint32_t runs = launch.run_count();
  for (uint32_t index = executor.cta(); index < runs; index += executor.cta_count()) {
    Run run = run_at(launch, index);
    if (has_page(executor, run)) {
      prepare_encode(executor, shared, run);
      for (; run.first_token < run.form->token_count;
           run.first_token += ThreadPlace<Family::kHeadDim>::kVectors) {
        Family::encode_vectors(executor, shared, run);
      }
    }
    finish_run(executor, shared.finish, run);
  }
}

}  // namespace hadal::cuda
