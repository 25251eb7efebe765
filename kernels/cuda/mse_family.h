#pragma once

// TurboQuant-MSE (arXiv 2504.19874, algorithm 1) as a family of kernels.

#include <cstddef>

#include "kernels/cuda/decode_body.h"
#include "kernels/cuda/encode_body.h"

namespace hadal::cuda {

struct Thresholds {
  int16_t values[kCodebookMaxSize];
};
struct Centroids {
  int16_t values[kCodebookMaxSize];
};

template <typename Executor>
HADAL_HOST_DEVICE void load_thresholds(Executor& executor, Thresholds& shared, const Run& run) {
  const CodeTables& tables = run.launch->tables[run.place->tables];
  executor.each([&](int thread) {
    for (int i = thread; i < 1 << tables.bits; i += kCtaThreads) {
      shared.values[i] = tables.thresholds[i];
    }
  });
}

// Of so many planes.
template <typename Executor>
HADAL_HOST_DEVICE void load_centroids(Executor& executor, Centroids& shared, const Run& run,
                                      int planes) {
  const auto& centroids = run.launch->tables[run.place->tables].centroids[planes - 1];
  executor.each([&](int thread) {
    for (int i = thread; i < 1 << planes; i += kCtaThreads) shared.values[i] = centroids[i];
  });
}

// A plane's words of vectors, one of every thread; of exact tokens they are 0.
template <int kHeadDim>
HADAL_HOST_DEVICE void store_word(const Run& run, const TokenShare<kHeadDim>& share, int plane,
                                  uint32_t word) {
  if (!share.is_stored) return;
  store_aligned(run.encoded + run.place->words[plane] + share.word_offset(),
                static_cast<typename VectorShare<kHeadDim>::Word>(share.is_exact ? 0u : word));
}
template <int kHeadDim>
HADAL_HOST_DEVICE uint32_t load_word(const Run& run, const TokenShare<kHeadDim>& share, int plane) {
  return load_aligned<typename VectorShare<kHeadDim>::Word>(run.encoded + run.place->words[plane] +
                                                            share.word_offset());
}

// What threads have of vectors that are decoded from centroids.
template <int kHeadDim, typename Executor>
struct CentroidVectors : DecodeVectors<kHeadDim, Executor> {
  int planes;                                            // that indices are read from
  typename Executor::template Private<WordSum> squares;  // of a vector's centroids
};

// Reads centroids; y becomes R^T z but for the diagonal. `kNarrow`: as rotate_back().
template <bool kNarrow, typename Executor, typename Shared, int kHeadDim>
HADAL_HOST_DEVICE void decode_centroids(Executor& executor, Shared& shared, const Run& run,
                                        CentroidVectors<kHeadDim, Executor>& vectors) {
  constexpr int kParts = VectorShare<kHeadDim>::kParts;
  const int planes = vectors.planes;
  executor.each([&](int thread) {
    const TokenShare<kHeadDim> share(run, thread);
    auto& y = vectors.y[thread];
    y = {};
    for (int plane = 0; plane < planes; ++plane) append_plane(load_word(run, share, plane), y);
    vectors.squares[thread].sum = look_up(shared.family.values, y);
  });
  add_parts<kParts>(executor, vectors.squares);
  share_first<kParts>(executor, vectors.squares);
  rotate_back<kHeadDim, kNarrow>(executor, shared.rotation, run.launch->rotations[run.side],
                                 vectors.y);
}

template <int kDim>
struct MseFamily {
  static constexpr int kHeadDim = kDim;
  static constexpr int kEncodeCtas = 3, kDecodeCtas = 5;
  using Share = VectorShare<kHeadDim>;
  using EncodeShared = Thresholds;
  using DecodeShared = Centroids;

  template <typename Executor>
  static HADAL_HOST_DEVICE void prepare_encode(Executor& executor, EncodeShared& shared,
                                               const Run& run) {
    load_thresholds(executor, shared, run);
  }
  template <typename Executor>
  static HADAL_HOST_DEVICE void prepare_decode(Executor& executor, DecodeShared& shared,
                                               const Run& run) {
    load_centroids(executor, shared, run, planes_of(run));
  }

  template <typename Executor>
  static HADAL_HOST_DEVICE void encode_vectors(Executor& executor,
                                               cuda::EncodeShared<MseFamily>& shared,
                                               const Run& run) {
    EncodeVectors<kHeadDim, Executor> vectors;
    measure_vectors(executor, shared.offsets, run, vectors);
    write_norms(executor, run, vectors);
    constexpr bool kMaybeWide = is_ever_wide(kHeadDim);
    rotate_vectors<kHeadDim, kMaybeWide>(executor, shared.rotation, run, vectors);
    executor.each([&](int thread) {
      const TokenShare<kHeadDim> share(run, thread);
      auto& y = vectors.y[thread];
      if constexpr (kMaybeWide) drop_places(run.launch->scales[run.place->tables].input_shift, y);
      Values<uint32_t, Share::kValues> indices = {};
      for (int plane = 0; plane < run.place->planes; ++plane) {
        store_word(run, share, plane,
                   search_plane(y, shared.family.values + (1 << plane), indices));
      }
    });
  }

  template <typename Executor>
  static HADAL_HOST_DEVICE void decode_vectors(Executor& executor,
                                               cuda::DecodeShared<MseFamily>& shared,
                                               const Run& run) {
    if (planes_of(run) <= narrow_planes_max(kHeadDim)) {
      decode_matched<true>(executor, shared, run);
    } else {
      decode_matched<false>(executor, shared, run);
    }
  }

 private:
  template <bool kNarrow, typename Executor>
  static HADAL_HOST_DEVICE void decode_matched(Executor& executor,
                                               cuda::DecodeShared<MseFamily>& shared,
                                               const Run& run) {
    const RotationBits& rotation = run.launch->rotations[run.side];
    CentroidVectors<kHeadDim, Executor> vectors;
    vectors.planes = planes_of(run);
    decode_centroids<kNarrow>(executor, shared, run, vectors);
    executor.each([&](int thread) {
      const TokenShare<kHeadDim> share(run, thread);
      const uint32_t stored = vectors.stored_norm[thread] = load_norm(run, share);
      dequantise(vectors.y[thread], matched_scale<kHeadDim>(stored, vectors.squares[thread]),
                 signs_of(rotation, share.part * Share::kValues), vectors.x[thread]);
    });
    store_vectors(executor, shared.offsets, run, vectors);
  }
};

}  // namespace hadal::cuda
