#pragma once

// The kernels that decode. The first verifies whole blocks; the second writes what was found good,
// so that the pages of a damaged block stay as they were. Of families: encode_body.h.

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
  const std::byte* encoded = entry.encoded;
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
      has_bad_page |= page == 0 || page % dtype_bytes(launch.dtype) != 0;
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
    const std::byte* encoded = entry.encoded;
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

template <typename Family>
struct DecodeShared {
  OffsetRows<Family::kHeadDim> offsets;
  RotationScratch<Family::kHeadDim> rotation;
  typename Family::DecodeShared family;
};

// Offsets into shared memory, exact tokens into pages, and what the family needs.
template <typename Family, typename Executor>
HADAL_HOST_DEVICE void prepare_decode(Executor& executor, DecodeShared<Family>& shared,
                                      const Run& run) {
  constexpr int kHeadDim = Family::kHeadDim;
  executor.barrier();  // the run before has been decoded
  executor.each([&](int thread) {
    for (int i = thread; run.place->has_offsets && i < kHeadDim; i += kCtaThreads) {
      const std::byte* at = run.encoded + run.place->offsets +
                            (uint64_t{run.runs_before} * kHeadDim + i) * sizeof(uint16_t);
      shared.offsets[i] = bf16_to_float(load_aligned<uint16_t>(at));
    }
  });
  read_exact_tokens(executor, run);
  Family::prepare_decode(executor, shared.family, run);
  executor.barrier();
}

// What threads have of the vectors that they decode.
template <int kHeadDim, typename Executor>
struct DecodeVectors {
  static constexpr int kValues = VectorShare<kHeadDim>::kValues;
  typename Executor::template Private<Values<uint32_t, kValues>> y;
  typename Executor::template Private<Values<float, kValues>> x;
  typename Executor::template Private<uint32_t> stored_norm;  // the first scalar, with its flag
};

// A stored norm, without its flag.
HADAL_HOST_DEVICE float length_of(uint32_t stored) { return bf16_to_float(stored & 0x7fffu); }

// The first scalar, with its flag.
template <int kHeadDim>
HADAL_HOST_DEVICE uint32_t load_norm(const Run& run, const TokenShare<kHeadDim>& share) {
  return load_aligned<uint16_t>(run.encoded + run.place->norms + share.vector * sizeof(uint16_t));
}

// Matched norm: x' = |x| R^T z / |z|.
template <int kHeadDim>
HADAL_HOST_DEVICE float matched_scale(uint32_t stored_norm, const WordSum& squares) {
  return length_of(stored_norm) / sqrtf(static_cast<float>(squares.sum) * float{kHeadDim});
}

// Adds the mean key where the stored norm says that it was removed, and stores vectors.
template <int kHeadDim, typename Executor>
HADAL_HOST_DEVICE void store_vectors(Executor& executor, const OffsetRows<kHeadDim>& offsets,
                                     const Run& run, DecodeVectors<kHeadDim, Executor>& vectors) {
  const RowFormat format = row_format(run);
  executor.each([&](int thread) {
    const TokenShare<kHeadDim> share(run, thread);
    if (!share.is_stored || share.is_exact) return;
    auto& x = vectors.x[thread];
    if (run.place->has_offsets) {
      // Added where it is zero too, which turns -0 into 0 in every backend.
      const bool is_removed = (vectors.stored_norm[thread] & kNormOffsetFlag) != 0;
      HADAL_UNROLL
      for (int i = 0; i < VectorShare<kHeadDim>::kValues; ++i) {
        x[i] += is_removed ? offsets.rows[share.part][i] : 0.0f;
      }
    }
    store_share(run.values + share.value_offset(run), format, x);
  });
}

template <typename Family, typename Executor>
HADAL_HOST_DEVICE void decode_body(Executor& executor, DecodeShared<Family>& shared,
                                   const Launch& launch) {
  const uint32_t runs = launch.run_count();
  for (uint32_t index = executor.cta(); index < runs; index += executor.cta_count()) {
    Run run = run_at(launch, index);
    if (launch.outcomes[run.block] != code(Outcome::ok)) continue;
    prepare_decode(executor, shared, run);
    for (; run.first_token < run.form->token_count;
         run.first_token += ThreadPlace<Family::kHeadDim>::kVectors) {
      Family::decode_vectors(executor, shared, run);
    }
  }
}

}  // namespace hadal::cuda
