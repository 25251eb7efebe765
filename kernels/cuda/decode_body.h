#pragma once

// The kernels that decode. The first verifies whole blocks; the second writes what was found good,
// so that the pages of a damaged block stay as they were.

#include "kernels/cuda/checksums.h"
#include "kernels/cuda/encode_body.h"
#include "kernels/cuda/outcome.h"

namespace hadal::cuda {

// The header and table of a block: what the reader asked for, a checksum that holds, and pages.
template <typename Executor>
HADAL_HOST_DEVICE void verify_header(Executor& executor, ChecksumShared& shared,
                                     const Launch& launch, uint32_t block) {
  const BlockEntry& entry = launch.entries[block];
  const BlockForm& form = launch.forms[entry.form];
  const std::byte* encoded = launch.encoded + block * launch.encoded_stride_bytes;
  uint32_t* outcome = launch.outcomes + block;
  constexpr uint32_t kKeyBegin = offsetof(BlockHeader, key);
  executor.barrier();  // the header before has been hashed
  executor.each([&](int thread) {
    bool differs = false, has_bad_page = false;
    const auto* wanted = reinterpret_cast<const std::byte*>(&form.header);
    const auto* mask = reinterpret_cast<const std::byte*>(&form.mask);
    for (uint32_t i = thread; i < kHashedHeaderBytes; i += kCtaThreads) {
      shared.header[i] = encoded[i];
      differs |= ((encoded[i] ^ wanted[i]) & mask[i]) != std::byte{0};
      const uint32_t in_key = i - kKeyBegin;
      if (in_key < sizeof(BlockHeader::key)) {
        differs |= encoded[i] != static_cast<std::byte>(entry.key[in_key]);
      }
    }
    const auto* wanted_table = reinterpret_cast<const std::byte*>(form.cells.data());
    for (uint32_t i = thread; i < form.cell_count * sizeof(CellEntry); i += kCtaThreads) {
      const std::byte byte = encoded[sizeof(BlockHeader) + i];
      shared.header[kHashedHeaderBytes + i] = byte;
      const uint32_t in_checksum = i % sizeof(CellEntry) - offsetof(CellEntry, checksum);
      differs |= in_checksum >= sizeof(CellEntry::checksum) && byte != wanted_table[i];
    }
    std::byte* const* pages = launch.pages + uint64_t{block} * launch.layer_count * 2;
    for (int i = thread; i < launch.layer_count * 2; i += kCtaThreads) {
      const auto page = reinterpret_cast<uintptr_t>(pages[i]);
      has_bad_page |= page == 0 || page % value_bytes(launch.dtype) != 0;
    }
    if (has_bad_page) executor.maximum(outcome, code(Outcome::bad_page));
    if (differs) executor.maximum(outcome, code(Outcome::is_another));
  });
  executor.barrier();
  const uint64_t hash = hash_header(executor, shared, form.cell_count);
  const uint64_t stored = load_aligned<uint64_t>(encoded + offsetof(BlockHeader, checksum));
  if (hash == stored) return;
  executor.each([&](int thread) {
    if (thread == 0) executor.maximum(outcome, code(Outcome::checksum_differs));
  });
}

// A CTA takes one cell, or a header. Where a cell lies the plan says, never the block.
template <typename Executor>
HADAL_HOST_DEVICE void verify_body(Executor& executor, ChecksumShared& shared,
                                   const Launch& launch) {
  constexpr uint32_t kTasks = limits::kCellsMax + 1;  // of a block
  const uint32_t count = launch.block_count * kTasks;
  for (uint32_t index = executor.cta(); index < count; index += executor.cta_count()) {
    const uint32_t block = index / kTasks, task = index % kTasks;
    const BlockEntry& entry = launch.entries[block];
    if (task == 0) {
      verify_header(executor, shared, launch, block);
      continue;
    }
    const uint32_t cell_index = task - 1;
    if (cell_index >= entry.cells_present) continue;
    const CellEntry& cell = launch.forms[entry.form].cells[cell_index];
    const std::byte* encoded = launch.encoded + block * launch.encoded_stride_bytes;
    const uint64_t sum = sum_cell(executor, shared, encoded, cell);
    executor.each([&](int thread) {
      const std::byte* stored = encoded + sizeof(BlockHeader) + cell_index * sizeof(CellEntry) +
                                offsetof(CellEntry, checksum);
      if (thread == 0 && sum != load_aligned<uint64_t>(stored)) {
        executor.maximum(launch.outcomes + block, code(Outcome::checksum_differs));
      }
    });
  }
}

template <int kHeadDim>
struct DecodeShared {
  using Share = VectorShare<kHeadDim>;
  alignas(16) float offsets[Share::kParts][Share::kValues + 4];
  int16_t centroids[kCodebookMaxSize];
  std::conditional_t<Share::kCore == 1, uint32_t, CoreScratch<kHeadDim>> core;
};

// Centroids and offsets into shared memory, exact tokens into pages.
template <int kHeadDim, typename Executor>
HADAL_HOST_DEVICE void prepare_decode(Executor& executor, DecodeShared<kHeadDim>& shared,
                                      const Run& run, int planes) {
  const uint32_t bytes = value_bytes(run.launch->dtype);
  const uint32_t exact_count = run.form->exact_token_count;
  executor.barrier();  // the run before has been decoded
  executor.each([&](int thread) {
    const auto& centroids = run.launch->tables[run.place->tables].centroids[planes - 1];
    for (int i = thread; i < 1 << planes; i += kCtaThreads) shared.centroids[i] = centroids[i];
    for (int i = thread; run.place->has_offsets && i < kHeadDim; i += kCtaThreads) {
      constexpr int kValues = VectorShare<kHeadDim>::kValues;
      const std::byte* at = run.encoded + run.place->offsets +
                            (uint64_t{run.runs_before} * kHeadDim + i) * sizeof(uint16_t);
      shared.offsets[i / kValues][i % kValues] = bf16_to_float(load_aligned<uint16_t>(at));
    }
    const std::byte* exact =
        run.encoded + run.place->exact + uint64_t{run.runs_before} * exact_count * kHeadDim * bytes;
    for (uint32_t i = thread; i < exact_count * kHeadDim; i += kCtaThreads) {
      std::byte* at = run.values + i / kHeadDim * run.token_stride_bytes + i % kHeadDim * bytes;
      for (uint32_t k = 0; k < bytes; ++k) at[k] = exact[i * bytes + k];
    }
  });
  executor.barrier();
}

// The transpose of the rotation. `kNarrow`: modulo 2^16 but for stride 8, which comes last.
template <int kHeadDim, bool kNarrow, typename Executor, typename T>
HADAL_HOST_DEVICE void rotate_back(Executor& executor, DecodeShared<kHeadDim>& shared,
                                   const RotationBits& rotation, T& y) {
  using Share = VectorShare<kHeadDim>;
  if constexpr (Share::kCore > 1) {
    multiply_core<kHeadDim>(executor, shared.core, rotation.core_columns, y);
  }
  butterflies_across<kHeadDim, kNarrow>(executor, y);
  executor.each([&](int thread) {
    butterflies<1, (Share::kInner < 8 ? Share::kInner : 8)>(y[thread]);
    butterflies<16, Share::kInner>(y[thread]);
    if constexpr (kNarrow) narrow(y[thread]);
    butterflies<8, (Share::kInner < 16 ? Share::kInner : 16)>(y[thread]);
  });
}

template <int kHeadDim, bool kNarrow, typename Executor>
HADAL_HOST_DEVICE void decode_vectors(Executor& executor, DecodeShared<kHeadDim>& shared,
                                      const Run& run) {
  using Share = VectorShare<kHeadDim>;
  using Place = ThreadPlace<kHeadDim>;
  constexpr int kValues = Share::kValues;
  const uint32_t tokens = run.form->token_count;
  const GroupPlace& group = *run.place;
  const RotationBits& rotation = run.launch->rotations[run.side];
  const RowFormat format = row_format(run);
  const uint64_t vectors_before = uint64_t{run.runs_before} * tokens;
  const int planes = planes_of(run);
  typename Executor::template Private<Values<uint32_t, kValues>> y;
  typename Executor::template Private<WordSum> squares;
  executor.each([&](int thread) {
    const Place place(thread);
    const uint32_t token =
        run.first_token + place.vector < tokens ? run.first_token + place.vector : tokens - 1;
    const uint64_t at = (vectors_before + token) * (kHeadDim / 8) + place.part * (kValues / 8);
    y[thread] = {};
    for (int plane = 0; plane < planes; ++plane) {
      append_plane(load_aligned<typename Share::Word>(run.encoded + group.words[plane] + at),
                   y[thread]);
    }
    squares[thread].sum = look_up(shared.centroids, y[thread]);
  });
  add_parts<Share::kParts>(executor, squares);
  share_first<Share::kParts>(executor, squares);
  rotate_back<kHeadDim, kNarrow>(executor, shared, rotation, y);
  executor.each([&](int thread) {
    const Place place(thread);
    const uint32_t token = run.first_token + place.vector;
    if (!place.active || token >= tokens || token < run.form->exact_token_count) return;
    const uint32_t stored = load_aligned<uint16_t>(run.encoded + group.norms +
                                                   (vectors_before + token) * sizeof(uint16_t));
    // Matched norm: x' = |x| R^T z / |z|.
    const float scale = bf16_to_float(stored & 0x7fffu) /
                        sqrtf(static_cast<float>(squares[thread].sum) * float{kHeadDim});
    Values<float, kValues> x;
    dequantise(y[thread], scale, signs_of(rotation, place.part * kValues), x);
    if (group.has_offsets) {
      // Added where it is zero too, which turns -0 into 0 in every backend.
      const bool is_removed = (stored & kNormOffsetFlag) != 0;
      HADAL_UNROLL
      for (int i = 0; i < kValues; ++i) x[i] += is_removed ? shared.offsets[place.part][i] : 0.0f;
    }
    store_share(run.values + token * run.token_stride_bytes +
                    uint64_t(place.part * kValues) * value_bytes(format.dtype),
                format, x);
  });
}

template <int kHeadDim, typename Executor>
HADAL_HOST_DEVICE void decode_body(Executor& executor, DecodeShared<kHeadDim>& shared,
                                   const Launch& launch) {
  const uint32_t runs = launch.run_count();
  for (uint32_t index = executor.cta(); index < runs; index += executor.cta_count()) {
    Run run = run_at(launch, index);
    if (launch.outcomes[run.block] != code(Outcome::ok)) continue;
    const int planes = planes_of(run);
    prepare_decode(executor, shared, run, planes);
    for (; run.first_token < run.form->token_count;
         run.first_token += ThreadPlace<kHeadDim>::kVectors) {
      if (planes <= narrow_planes_max(kHeadDim)) {
        decode_vectors<kHeadDim, true>(executor, shared, run);
      } else {
        decode_vectors<kHeadDim, false>(executor, shared, run);
      }
    }
  }
}

}  // namespace hadal::cuda
