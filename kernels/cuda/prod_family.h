#pragma once

// TurboQuant-prod (arXiv 2504.19874, algorithm 2) and QJL (arXiv 2406.03482) as a family of
// kernels. QJL is TurboQuant-prod without a codebook: its residual is the vector itself.

#include <cstddef>

#include "kernels/cuda/decode_body.h"
#include "kernels/cuda/encode_body.h"
#include "kernels/cuda/mse_family.h"

namespace hadal::cuda {

struct ResidualSum {
  uint64_t sum;
  HADAL_HOST_DEVICE void add(const ResidualSum& other) { sum += other.sum; }
};

// Where the length of a residual lies in the block.
template <int kHeadDim>
HADAL_HOST_DEVICE std::byte* residual_norm_at(const Run& run, const TokenShare<kHeadDim>& share) {
  return run.encoded + run.place->residual_norms + share.vector * sizeof(uint16_t);
}

// A stored length, without its flag. Bits are compared, since NaN has to become the largest too.
HADAL_HOST_DEVICE float projected_length_of(uint32_t stored) {
  constexpr uint32_t kMax = std::bit_cast<uint32_t>(kProjectedLengthMax) >> 16;
  const uint32_t length = stored & 0x7fffu;
  return bf16_to_float(length < kMax ? length : kMax);
}

// `kGaussian`: P is a Gaussian matrix, else a second rotation. It is there to compare: a product
// takes head_dim^2 multiplications, as the definition has it.
template <int kDim, bool kGaussian>
struct ProdFamilyOf {
  static constexpr int kHeadDim = kDim;
  static constexpr int kEncodeCtas = 3, kDecodeCtas = 3;
  using Share = VectorShare<kHeadDim>;
  static constexpr int kValues = Share::kValues;
  struct EncodeShared {
    Thresholds thresholds;
    Centroids centroids;
    std::conditional_t<kGaussian, CoreScratch<kHeadDim>, uint32_t> residuals;
  };
  using DecodeShared = Centroids;

  template <typename Executor>
  static HADAL_HOST_DEVICE void prepare_encode(Executor& executor, EncodeShared& shared,
                                               const Run& run) {
    if (!has_codebook(run)) return;
    load_thresholds(executor, shared.thresholds, run);
    load_centroids(executor, shared.centroids, run, run.place->planes - 1);
  }
  template <typename Executor>
  static HADAL_HOST_DEVICE void prepare_decode(Executor& executor, DecodeShared& shared,
                                               const Run& run) {
    if (has_codebook(run)) load_centroids(executor, shared, run, codebook_planes(run));
  }

  template <typename Executor>
  static HADAL_HOST_DEVICE void encode_vectors(Executor& executor,
                                               cuda::EncodeShared<ProdFamilyOf>& shared,
                                               const Run& run) {
    EncodeVectors<kHeadDim, Executor> vectors;
    measure_vectors(executor, shared.offsets, run, vectors);
    write_norms(executor, run, vectors);
    rotate_vectors<kHeadDim, kMaybeWide>(executor, shared.rotation, run, vectors);
    if (has_codebook(run)) write_indices(executor, shared.family, run, vectors);
    if constexpr (kGaussian) {
      multiply_gaussian(executor, shared.family.residuals, run, vectors.y);
    } else {
      project(executor, shared.rotation, run, vectors.y);
    }
  }

  template <typename Executor>
  static HADAL_HOST_DEVICE void decode_vectors(Executor& executor,
                                               cuda::DecodeShared<ProdFamilyOf>& shared,
                                               const Run& run) {
    CentroidVectors<kHeadDim, Executor> vectors;
    vectors.planes = codebook_planes(run);
    if (!has_codebook(run)) {
      clear(executor, run, vectors);
    } else if (vectors.planes <= narrow_planes_max(kHeadDim)) {
      scale_centroids<true>(executor, shared, run, vectors);
    } else {
      scale_centroids<false>(executor, shared, run, vectors);
    }
    if (has_correction(run)) add_correction(executor, shared, run, vectors);
    store_vectors(executor, shared.offsets, run, vectors);
  }

 private:
  // Of the first rotation. Sums of the second one take 31 bits.
  static constexpr bool kMaybeWide = is_ever_wide(kHeadDim);

  static HADAL_HOST_DEVICE bool has_codebook(const Run& run) { return run.place->planes > 1; }
  // Whether the block still has the last plane.
  static HADAL_HOST_DEVICE bool has_correction(const Run& run) {
    return planes_of(run) == run.place->planes;
  }
  // Planes of the codebook that the block still has.
  static HADAL_HOST_DEVICE int codebook_planes(const Run& run) {
    return has_correction(run) ? run.place->planes - 1 : planes_of(run);
  }

  // All planes but the last one, and lengths of residuals; y becomes the residual.
  template <typename Executor>
  static HADAL_HOST_DEVICE void write_indices(Executor& executor, EncodeShared& shared,
                                              const Run& run,
                                              EncodeVectors<kHeadDim, Executor>& vectors) {
    const CodeTables& tables = run.launch->tables[run.place->tables];
    const float length = run.launch->scales[run.place->tables].residual_length;
    typename Executor::template Private<ResidualSum> squares;
    executor.each([&](int thread) {
      const TokenShare<kHeadDim> share(run, thread);
      auto& y = vectors.y[thread];
      auto coordinates = y;
      if constexpr (kMaybeWide) drop_places(tables.input_shift, coordinates);
      Values<uint32_t, kValues> indices = {};
      for (int plane = 0; plane < run.place->planes - 1; ++plane) {
        const int16_t* thresholds = shared.thresholds.values + (1 << plane);
        store_word(run, share, plane, search_plane(coordinates, thresholds, indices));
      }
      uint64_t sum = 0;
      HADAL_UNROLL
      for (int i = 0; i < kValues; ++i) {
        const int32_t residual =
            residual_of(tables, static_cast<int32_t>(y[i]), shared.centroids.values[indices[i]]);
        y[i] = static_cast<uint32_t>(residual);
        sum += static_cast<uint64_t>(int64_t{residual} * residual);
      }
      squares[thread].sum = sum;
    });
    add_parts<Share::kParts>(executor, squares);
    executor.each([&](int thread) {
      const TokenShare<kHeadDim> share(run, thread);
      if (!share.is_stored || share.part != 0) return;
      const float unit = vectors.measured[thread].norm / length;
      const float norm = sqrtf(static_cast<float>(squares[thread].sum)) * unit;
      const uint16_t stored = bf16_from_bits(std::bit_cast<uint32_t>(norm));
      store_aligned(residual_norm_at(run, share),
                    static_cast<uint16_t>(share.is_exact ? 0u : stored));
    });
  }

  // Signs of P e, with e in y, into the last plane.
  template <typename Executor, typename T>
  static HADAL_HOST_DEVICE void project(Executor& executor, RotationScratch<kHeadDim>& scratch,
                                        const Run& run, T& y) {
    const RotationBits& projection = run.launch->projections[run.side];
    executor.each([&](int thread) {
      const int first = ThreadPlace<kHeadDim>(thread).part * kValues;
      const uint32_t signs = signs_of(projection, first);
      HADAL_UNROLL
      for (int i = 0; i < kValues; ++i) y[thread][i] = with_sign(y[thread][i], signs, i);
    });
    rotate<kHeadDim, false>(executor, scratch, projection, y);
    executor.each([&](int thread) {
      uint32_t word = 0;
      HADAL_UNROLL
      for (int i = 0; i < kValues; ++i) word |= (~y[thread][i] >> 31) << i;
      store_word(run, TokenShare<kHeadDim>(run, thread), run.place->planes - 1, word);
    });
  }
  template <typename Executor, typename T>
  static HADAL_HOST_DEVICE void multiply_gaussian(Executor& executor,
                                                  CoreScratch<kHeadDim>& residuals, const Run& run,
                                                  T& y) {
    leave_values(executor, residuals, y);
    executor.each([&](int thread) {
      const ThreadPlace<kHeadDim> place(thread);
      const int16_t* row = run.launch->gaussians[run.side] + place.part * kValues * kHeadDim;
      uint32_t word = 0;
      HADAL_UNROLL_BY(1)
      for (int i = 0; i < kValues; ++i, row += kHeadDim) {
        int64_t sum = 0;
        HADAL_UNROLL_BY(8)
        for (int k = 0; k < kHeadDim; ++k) {
          sum += int64_t{row[k]} * static_cast<int32_t>(residuals.values[place.vector][k]);
        }
        word |= static_cast<uint32_t>(sum >= 0) << i;
      }
      store_word(run, TokenShare<kHeadDim>(run, thread), run.place->planes - 1, word);
    });
  }

  // Without a codebook.
  template <typename Executor>
  static HADAL_HOST_DEVICE void clear(Executor& executor, const Run& run,
                                      CentroidVectors<kHeadDim, Executor>& vectors) {
    executor.each([&](int thread) {
      vectors.stored_norm[thread] = load_norm(run, TokenShare<kHeadDim>(run, thread));
      HADAL_UNROLL
      for (int i = 0; i < kValues; ++i) vectors.x[thread][i] = -0.0f;  // adds nothing, not even 0
    });
  }

  // x becomes what the codebook says. Beside a correction the norm is not matched, which would bend
  // what the correction makes straight. `kNarrow`: as rotate_back().
  template <bool kNarrow, typename Executor>
  static HADAL_HOST_DEVICE void scale_centroids(Executor& executor,
                                                cuda::DecodeShared<ProdFamilyOf>& shared,
                                                const Run& run,
                                                CentroidVectors<kHeadDim, Executor>& vectors) {
    decode_centroids<kNarrow>(executor, shared, run, vectors);
    const RotationBits& rotation = run.launch->rotations[run.side];
    const float unit = run.launch->scales[run.place->tables].units.centroids;
    executor.each([&](int thread) {
      const uint32_t stored = vectors.stored_norm[thread] =
          load_norm(run, TokenShare<kHeadDim>(run, thread));
      const float scale = has_correction(run)
                              ? projected_length_of(stored) * unit
                              : matched_scale<kHeadDim>(stored, vectors.squares[thread]);
      const int first = ThreadPlace<kHeadDim>(thread).part * kValues;
      dequantise(vectors.y[thread], scale, signs_of(rotation, first), vectors.x[thread]);
    });
  }

  // Adds what the signs say, R^T P^T t times its scale, to x.
  template <typename Executor>
  static HADAL_HOST_DEVICE void add_correction(Executor& executor,
                                               cuda::DecodeShared<ProdFamilyOf>& shared,
                                               const Run& run,
                                               CentroidVectors<kHeadDim, Executor>& vectors) {
    const RotationBits& rotation = run.launch->rotations[run.side];
    const float unit = run.launch->scales[run.place->tables].units.signs;
    auto& y = vectors.y;
    if constexpr (kGaussian) {
      add_rows(executor, run, y);
    } else {
      project_back(executor, shared.rotation, run, y);
    }
    // Of signs every sum of both rotations is below d sqrt(d), which 16 bits hold.
    rotate_back<kHeadDim, !kGaussian>(executor, shared.rotation, rotation, y);
    executor.each([&](int thread) {
      const TokenShare<kHeadDim> share(run, thread);
      const uint32_t stored = has_codebook(run)
                                  ? load_aligned<uint16_t>(residual_norm_at(run, share))
                                  : vectors.stored_norm[thread];
      const float scale = projected_length_of(stored) * unit;
      const uint32_t signs = signs_of(rotation, share.part * kValues);
      HADAL_UNROLL
      for (int i = 0; i < kValues; ++i) {
        const uint32_t sum = with_sign(y[thread][i], signs, i);
        // float_of() holds no sums of a Gaussian P, which take 31 bits.
        vectors.x[thread][i] +=
            (kGaussian ? static_cast<float>(static_cast<int32_t>(sum)) : float_of(sum)) * scale;
      }
    });
  }

  // P^T t, with t the signs in the last plane.
  template <typename Executor, typename T>
  static HADAL_HOST_DEVICE void project_back(Executor& executor, RotationScratch<kHeadDim>& scratch,
                                             const Run& run, T& y) {
    const RotationBits& projection = run.launch->projections[run.side];
    executor.each([&](int thread) {
      const TokenShare<kHeadDim> share(run, thread);
      const uint32_t word = load_word(run, share, run.place->planes - 1);
      HADAL_UNROLL
      for (int i = 0; i < kValues; ++i) y[thread][i] = with_sign(1u, ~word, i);
    });
    rotate_back<kHeadDim, true>(executor, scratch, projection, y);
    executor.each([&](int thread) {
      const int first = ThreadPlace<kHeadDim>(thread).part * kValues;
      const uint32_t signs = signs_of(projection, first);
      HADAL_UNROLL
      for (int i = 0; i < kValues; ++i) y[thread][i] = with_sign(y[thread][i], signs, i);
    });
  }
  template <typename Executor, typename T>
  static HADAL_HOST_DEVICE void add_rows(Executor& executor, const Run& run, T& y) {
    executor.each([&](int thread) {
      const TokenShare<kHeadDim> own(run, thread);
      const int16_t* row = run.launch->gaussians[run.side] + own.part * kValues;
      y[thread] = {};
      TokenShare<kHeadDim> share = own;
      HADAL_UNROLL_BY(1)
      for (share.part = 0; share.part < Share::kParts; ++share.part) {
        const uint32_t word = load_word(run, share, run.place->planes - 1);
        HADAL_UNROLL_BY(1)
        for (int i = 0; i < kValues; ++i, row += kHeadDim) {
          HADAL_UNROLL
          for (int k = 0; k < kValues; ++k) {
            y[thread][k] += with_sign(static_cast<uint32_t>(int32_t{row[k]}), ~word, i);
          }
        }
      }
    });
  }
};

template <int kDim>
using ProdFamily = ProdFamilyOf<kDim, false>;
template <int kDim>
using GaussianProdFamily = ProdFamilyOf<kDim, true>;

}  // namespace hadal::cuda
