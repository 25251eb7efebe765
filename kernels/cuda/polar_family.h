#pragma once

// PolarQuant (arXiv 2502.02617) as a family of kernels. A thread has whole runs: their angles never
// leave its registers.

#include <cstddef>

#include "kernels/cuda/decode_body.h"
#include "kernels/cuda/encode_body.h"
#include "kernels/polar.h"

namespace hadal::cuda {

template <int kDim>
struct PolarFamily {
  static constexpr int kHeadDim = kDim;
  static constexpr int kEncodeCtas = 3, kDecodeCtas = 5;
  static constexpr int kRuns = kHeadDim / kPolarRun;
  static constexpr int kPackedBytes = polar_packed_bytes(kRuns);
  static constexpr int kWordBytes = 5 * kRuns + kPackedBytes;
  using Share = VectorShare<kHeadDim>;
  static constexpr int kOwnRuns = Share::kValues / kPolarRun;

  struct EncodeShared {
    uint8_t level34[ThreadPlace<kHeadDim>::kVectors][kRuns];
  };
  using DecodeShared = PolarTables;

  template <typename Executor>
  static HADAL_HOST_DEVICE void prepare_encode(Executor&, EncodeShared&, const Run&) {}
  template <typename Executor>
  static HADAL_HOST_DEVICE void prepare_decode(Executor& executor, DecodeShared& shared,
                                               const Run& run) {
    executor.each([&](int thread) {
      if (thread == 0) shared = *run.launch->polar;
    });
  }

  template <typename Executor>
  static HADAL_HOST_DEVICE void encode_vectors(Executor& executor,
                                               cuda::EncodeShared<PolarFamily>& shared,
                                               const Run& run) {
    EncodeVectors<kHeadDim, Executor> vectors;
    measure_vectors(executor, shared.offsets, run, vectors);
    rotate_vectors<kHeadDim, false>(executor, shared.rotation, run, vectors);
    executor.warp_barrier();  // the codes of the vectors before have been packed
    executor.each([&](int thread) {
      const TokenShare<kHeadDim> share(run, thread);
      const Measured& measured = vectors.measured[thread];
      if (!share.is_stored) return;
      if (share.part == 0 && !share.is_exact &&
          (!measured.is_finite || !(measured.norm < kPolarLengthMax))) {
        say_non_finite(executor, run);
      }
      const float unit = measured.norm / scale_of(run).rotated_length;
      HADAL_UNROLL
      for (int i = 0; i < kOwnRuns; ++i) {
        const int index = share.part * kOwnRuns + i;
        PolarWords words;
        const uint32_t squared =
            encode_polar_run(*run.launch->polar, &vectors.y[thread][i * kPolarRun], words);
        const float length = sqrtf(static_cast<float>(squared)) * unit;
        uint32_t radius = bf16_from_bits(std::bit_cast<uint32_t>(length));
        if (index == 0) radius |= measured.flag();
        if (share.is_exact) {
          words = {};
          radius = 0;
        }
        store_aligned(run.encoded + radius_offset(run, share, index),
                      static_cast<uint16_t>(radius));
        std::byte* const to = run.encoded + words_offset(run, share);
        store_bytes(to + 4 * index, words.level1);
        to[4 * kRuns + index] = static_cast<std::byte>(words.level2);
        shared.family.level34[ThreadPlace<kHeadDim>(thread).vector][index] = words.level34;
      }
    });
    executor.warp_barrier();
    executor.each([&](int thread) {
      const TokenShare<kHeadDim> share(run, thread);
      if (!share.is_stored) return;
      const uint8_t* const codes = shared.family.level34[ThreadPlace<kHeadDim>(thread).vector];
      std::byte* const packed = run.encoded + words_offset(run, share) + 5 * kRuns;
      for (int i = share.part; i < kPackedBytes; i += Share::kParts) {
        const int first = polar_packed_run(i), next = first + 1;
        packed[i] = polar_packed_byte(i, codes[first], next < kRuns ? codes[next] : 0u);
      }
    });
  }

  template <typename Executor>
  static HADAL_HOST_DEVICE void decode_vectors(Executor& executor,
                                               cuda::DecodeShared<PolarFamily>& shared,
                                               const Run& run) {
    const RotationBits& rotation = run.launch->rotations[run.side];
    DecodeVectors<kHeadDim, Executor> vectors;
    typename Executor::template Private<float> lengths;
    executor.each([&](int thread) {
      const TokenShare<kHeadDim> share(run, thread);
      const auto radius = [&](int i) {
        return load_aligned<uint16_t>(run.encoded + radius_offset(run, share, i));
      };
      // In the order of the host.
      float squared = 0;
      for (int i = 0; i < kRuns; ++i) {
        squared += read_polar_radius(radius(i)) * read_polar_radius(radius(i));
      }
      const float length = sqrtf(squared);
      // Shorter ones, which no encoder writes, have lost the bits of their squares.
      const float scale = length < kNormMin / 2 ? 0.0f : scale_of(run).decoded_length / length;
      const std::byte* const from = run.encoded + words_offset(run, share);
      HADAL_UNROLL
      for (int i = 0; i < kOwnRuns; ++i) {
        const int index = share.part * kOwnRuns + i;
        const PolarWords words = {load_bytes<uint32_t>(from + 4 * index),
                                  static_cast<uint8_t>(from[4 * kRuns + index]),
                                  polar_unpacked(from + 5 * kRuns, index)};
        decode_polar_run(shared.family, rounded(read_polar_radius(radius(index)) * scale), words,
                         &vectors.y[thread][i * kPolarRun]);
      }
      lengths[thread] = length;
      vectors.stored_norm[thread] = radius(0);
    });
    // Whatever the bytes are, no sum takes more than 16 bits (PolarScale).
    rotate_back<kHeadDim, true>(executor, shared.rotation, rotation, vectors.y);
    executor.each([&](int thread) {
      const int first = ThreadPlace<kHeadDim>(thread).part * Share::kValues;
      dequantise(vectors.y[thread], lengths[thread] / scale_of(run).restored_length,
                 signs_of(rotation, first), vectors.x[thread]);
    });
    store_vectors(executor, shared.offsets, run, vectors);
  }

 private:
  static HADAL_HOST_DEVICE const PolarScale& scale_of(const Run& run) {
    return run.launch->scales[run.place->tables].polar;
  }
  // Of the vector that a thread has a share of, from the block's first byte.
  static HADAL_HOST_DEVICE uint64_t radius_offset(const Run& run, const TokenShare<kHeadDim>& share,
                                                  int index) {
    return run.place->norms + (share.vector * kRuns + index) * sizeof(uint16_t);
  }
  static HADAL_HOST_DEVICE uint64_t words_offset(const Run& run,
                                                 const TokenShare<kHeadDim>& share) {
    return run.place->words[0] + share.vector * kWordBytes;
  }
};

}  // namespace hadal::cuda
