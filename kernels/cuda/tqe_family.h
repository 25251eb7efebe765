#pragma once

// The entropy-coded trellis quantiser as a family of kernels. Slots are searched for, written and
// read by the thread of a vector's first part, with all values of it in shared memory; everything
// else is done by all threads.

#include <cstddef>

#include "kernels/cuda/decode_body.h"
#include "kernels/cuda/encode_body.h"
#include "kernels/tqe.h"

namespace hadal::cuda {

template <int kDim>
struct TqeFamily {
  static constexpr int kHeadDim = kDim;
  static constexpr int kEncodeCtas = 3, kDecodeCtas = 4;
  static constexpr int kVectors = ThreadPlace<kHeadDim>::kVectors;
  static constexpr int kSlotBytes = kHeadDim / 2;
  using Share = VectorShare<kHeadDim>;

  // By vector; rows begin in banks of their own.
  struct DecodeShared {
    int16_t values[kVectors][kHeadDim + 2];
  };
  struct EncodeShared {
    int16_t rotated[kVectors][kHeadDim + 2];
    uint8_t cosets[kVectors][kHeadDim + 4];
  };

  template <typename Executor>
  static HADAL_HOST_DEVICE void prepare_encode(Executor&, EncodeShared&, const Run&) {}
  template <typename Executor>
  static HADAL_HOST_DEVICE void prepare_decode(Executor&, DecodeShared&, const Run&) {}

  template <typename Executor>
  static HADAL_HOST_DEVICE void encode_vectors(Executor& executor,
                                               cuda::EncodeShared<TqeFamily>& shared,
                                               const Run& run) {
    EncodeVectors<kHeadDim, Executor> vectors;
    typename Executor::template Private<WordSum> magnitudes;
    measure_vectors(executor, shared.offsets, run, vectors);
    write_norms(executor, run, vectors);
    rotate_vectors<kHeadDim, false>(executor, shared.rotation, run, vectors);
    executor.warp_barrier();  // the slots of the vectors before have been written
    executor.each([&](int thread) {
      const ThreadPlace<kHeadDim> place(thread);
      magnitudes[thread].sum = 0;
      if (!place.active) return;
      int16_t* const to = &shared.family.rotated[place.vector][place.part * Share::kValues];
      HADAL_UNROLL
      for (int i = 0; i < Share::kValues; ++i) {
        const int32_t value = to[i] = static_cast<int16_t>(vectors.y[thread][i]);
        magnitudes[thread].sum += static_cast<uint32_t>(value < 0 ? -value : value);
      }
    });
    add_parts<Share::kParts>(executor, magnitudes);
    executor.warp_barrier();
    executor.each([&](int thread) {
      const TokenShare<kHeadDim> share(run, thread);
      if (!share.is_stored || share.part != 0) return;
      std::byte* const slot = run.encoded + slot_offset(run, share);
      if (share.is_exact) {
        for (int i = 0; i < kSlotBytes; ++i) slot[i] = std::byte{0};
        return;
      }
      const int vector = ThreadPlace<kHeadDim>(thread).vector;
      encode_tqe_slot({kHeadDim, shared.family.rotated[vector], shared.family.cosets[vector]},
                      magnitudes[thread].sum, slot);
    });
  }

  template <typename Executor>
  static HADAL_HOST_DEVICE void decode_vectors(Executor& executor,
                                               cuda::DecodeShared<TqeFamily>& shared,
                                               const Run& run) {
    const RotationBits& rotation = run.launch->rotations[run.side];
    DecodeVectors<kHeadDim, Executor> vectors;
    typename Executor::template Private<WordSum> squares;
    executor.warp_barrier();  // the values of the vectors before have been taken
    executor.each([&](int thread) {
      const ThreadPlace<kHeadDim> place(thread);
      if (!place.active || place.part != 0) return;
      const TokenShare<kHeadDim> share(run, thread);
      read_tqe_slot(run.encoded + slot_offset(run, share), kHeadDim,
                    shared.family.values[place.vector]);
    });
    executor.warp_barrier();
    executor.each([&](int thread) {
      const ThreadPlace<kHeadDim> place(thread);
      const int16_t* const from = &shared.family.values[place.vector][place.part * Share::kValues];
      squares[thread].sum = 0;
      HADAL_UNROLL
      for (int i = 0; i < Share::kValues; ++i) {
        const int32_t value = from[i];
        vectors.y[thread][i] = static_cast<uint32_t>(value);
        squares[thread].sum += static_cast<uint32_t>(value * value);
      }
    });
    add_parts<Share::kParts>(executor, squares);
    share_first<Share::kParts>(executor, squares);
    rotate_back<kHeadDim, true>(executor, shared.rotation, rotation, vectors.y);
    executor.each([&](int thread) {
      const TokenShare<kHeadDim> share(run, thread);
      const uint32_t stored = vectors.stored_norm[thread] = load_norm(run, share);
      const uint32_t norm = (stored & 0x7fffu) < kTqeNormMax ? stored : kTqeNormMax;
      dequantise(vectors.y[thread], matched_scale<kHeadDim>(norm, squares[thread]),
                 signs_of(rotation, share.part * Share::kValues), vectors.x[thread]);
    });
    store_vectors(executor, shared.offsets, run, vectors);
  }

 private:
  // Of the vector that a thread has a share of, from the block's first byte.
  static HADAL_HOST_DEVICE uint64_t slot_offset(const Run& run, const TokenShare<kHeadDim>& share) {
    return run.place->words[0] + share.vector * kSlotBytes;
  }
};

}  // namespace hadal::cuda
