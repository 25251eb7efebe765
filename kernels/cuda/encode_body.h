#pragma once

// The kernels that encode: of TurboQuant-MSE and of raw blocks. A CTA takes runs in turn; the last
// one of a (block, side, layer group) makes its checksums, and the last of a block its header.

#include <cstddef>

#include "kernels/cuda/checksums.h"
#include "kernels/cuda/outcome.h"

namespace hadal::cuda {

struct FinishShared {
  bool is_last;
  ChecksumShared checksums;
};

// Whether this CTA is the last of `count` that come here. What the others wrote can then be read.
template <typename Executor>
HADAL_HOST_DEVICE bool arrive(Executor& executor, FinishShared& shared, uint32_t* counter,
                              uint32_t count) {
  executor.fence();
  executor.barrier();
  executor.each([&](int thread) {
    if (thread == 0) shared.is_last = executor.add(counter, 1) + 1 == count;
  });
  executor.barrier();
  executor.fence();
  return shared.is_last;
}

template <typename Executor>
HADAL_HOST_DEVICE void write_zeroes(Executor& executor, std::byte* begin, std::byte* end) {
  executor.each([&](int thread) {
    for (std::byte* at = begin + thread; at < end; at += kCtaThreads) *at = std::byte{0};
  });
}

// Header, table with the cells' checksums, and the padding after them.
template <typename Executor>
HADAL_HOST_DEVICE void write_header(Executor& executor, FinishShared& shared, const Run& run) {
  const BlockForm& form = *run.form;
  std::byte* staged = shared.checksums.header.data();
  executor.each([&](int thread) {
    if (thread == 0) {
      BlockHeader header = form.header;
      std::memcpy(header.key, run.entry->key.data(), sizeof(header.key));
      header.first_token_index = run.entry->first_token_index;
      header.flags |= run.entry->flags;
      std::memcpy(staged, &header, kHashedHeaderBytes);
    }
    for (uint32_t i = thread; i < form.cell_count; i += kCtaThreads) {
      CellEntry cell = form.cells[i];
      cell.checksum = run.launch->cell_sums[run.block * limits::kCellsMax + i];
      std::memcpy(staged + kHashedHeaderBytes + i * sizeof(cell), &cell, sizeof(cell));
    }
  });
  executor.barrier();
  const uint64_t hash = hash_header(executor, shared.checksums, form.cell_count);
  const uint32_t table_end = sizeof(BlockHeader) + form.cell_count * uint32_t{sizeof(CellEntry)};
  executor.each([&](int thread) {
    for (uint32_t i = thread; i < table_end; i += kCtaThreads) {
      const uint32_t in_hash = i - kHashedHeaderBytes;
      run.encoded[i] = i < kHashedHeaderBytes ? staged[i]
                       : in_hash < 8          ? static_cast<std::byte>(hash >> (8 * in_hash))
                                              : staged[i - sizeof(uint64_t)];
    }
  });
  write_zeroes(executor, run.encoded + table_end, run.encoded + form.cells[0].offset);
  executor.barrier();  // before another block's header is staged
}

// After a run: checksums and header where it was the last.
template <typename Executor>
HADAL_HOST_DEVICE void finish_run(Executor& executor, FinishShared& shared, const Run& run) {
  BlockProgress& progress = run.launch->progress[run.block];
  if (!arrive(executor, shared, &progress.runs[run.side][run.group], run.runs_of_group)) return;
  const BlockForm& form = *run.form;
  const GroupPlace& place = *run.place;
  for (int i = 0; i < 3; ++i) {
    write_zeroes(executor, run.encoded + place.gap_begins[i], run.encoded + place.gap_ends[i]);
  }
  executor.barrier();
  for (int plane = 0; plane < place.planes; ++plane) {
    const uint32_t index = place.cells[plane];
    const CellEntry& cell = form.cells[index];
    const uint32_t end = cell.offset + cell.bytes;
    const uint32_t next =
        index + 1 == form.cell_count ? form.total_bytes : form.cells[index + 1].offset;
    write_zeroes(executor, run.encoded + end, run.encoded + next);
    const uint64_t sum = sum_cell(executor, shared.checksums, run.encoded, cell);
    executor.each([&](int thread) {
      if (thread == 0) run.launch->cell_sums[run.block * limits::kCellsMax + index] = sum;
    });
  }
  if (arrive(executor, shared, &progress.groups, 2 * form.group_count)) {
    write_header(executor, shared, run);
  }
}

// False, and said in the block's outcome, where the run has no memory to read or write.
template <typename Executor>
HADAL_HOST_DEVICE bool has_page(Executor& executor, const Run& run) {
  if (run.values != nullptr &&
      reinterpret_cast<uintptr_t>(run.values) % value_bytes(run.launch->dtype) == 0) {
    return true;
  }
  executor.each([&](int thread) {
    if (thread == 0) executor.maximum(run.launch->outcomes + run.block, code(Outcome::bad_page));
  });
  return false;
}

HADAL_HOST_DEVICE RowFormat row_format(const Run& run) {
  return {run.launch->dtype,
          (reinterpret_cast<uintptr_t>(run.values) | run.token_stride_bytes) % sizeof(Chunk) == 0};
}

template <int kHeadDim>
struct EncodeShared {
  using Share = VectorShare<kHeadDim>;
  // Mean key, by part; rows of parts begin in banks of their own.
  alignas(16) float offsets[Share::kParts][Share::kValues + 4];
  int16_t thresholds[kCodebookMaxSize];
  std::conditional_t<Share::kCore == 1, uint32_t, CoreScratch<kHeadDim>> core;
  FinishShared finish;
};

HADAL_HOST_DEVICE bool is_finite(float x) {
  return (std::bit_cast<uint32_t>(x) & 0x7f800000u) != 0x7f800000u;
}

// Thresholds and mean key into shared memory, the mean key into the block, and exact tokens.
template <int kHeadDim, typename Executor>
HADAL_HOST_DEVICE void prepare_encode(Executor& executor, EncodeShared<kHeadDim>& shared,
                                      const Run& run) {
  const BlockForm& form = *run.form;
  const CodeTables& tables = run.launch->tables[run.place->tables];
  const uint32_t bytes = value_bytes(run.launch->dtype);
  const uint32_t exact_count = form.exact_token_count;
  executor.each([&](int thread) {
    for (int i = thread; i < 1 << tables.bits; i += kCtaThreads) {
      shared.thresholds[i] = tables.thresholds[i];
    }
    const uint32_t count = form.token_count - exact_count;
    const float scale = count == 0 ? 0.0f : 1.0f / static_cast<float>(count);
    for (int i = thread; run.place->has_offsets && i < kHeadDim; i += kCtaThreads) {
      float sum = 0;
      HADAL_UNROLL_BY(8)
      for (uint32_t token = exact_count; token < form.token_count; ++token) {
        sum +=
            load_value(run.values + token * run.token_stride_bytes + i * bytes, run.launch->dtype);
      }
      const uint16_t mean = bf16_from_bits(std::bit_cast<uint32_t>(sum * scale));
      constexpr int kValues = VectorShare<kHeadDim>::kValues;
      shared.offsets[i / kValues][i % kValues] = bf16_to_float(mean);
      store_aligned(run.encoded + run.place->offsets +
                        (uint64_t{run.runs_before} * kHeadDim + i) * sizeof(mean),
                    mean);
    }
    std::byte* exact =
        run.encoded + run.place->exact + uint64_t{run.runs_before} * exact_count * kHeadDim * bytes;
    bool finite = true;
    for (uint32_t i = thread; i < exact_count * kHeadDim; i += kCtaThreads) {
      const std::byte* at =
          run.values + i / kHeadDim * run.token_stride_bytes + i % kHeadDim * bytes;
      finite = finite && is_finite(load_value(at, run.launch->dtype));
      for (uint32_t k = 0; k < bytes; ++k) exact[i * bytes + k] = at[k];
    }
    if (!finite) executor.maximum(run.launch->outcomes + run.block, code(Outcome::non_finite));
  });
  executor.barrier();
}

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

// The cells of rotated values among those of the codebook, plane by plane.
template <int kHeadDim, typename Executor, typename T>
HADAL_HOST_DEVICE void write_planes(Executor& executor, const EncodeShared<kHeadDim>& shared,
                                    const Run& run, T& y) {
  using Share = VectorShare<kHeadDim>;
  constexpr int kValues = Share::kValues;
  const GroupPlace& group = *run.place;
  const uint32_t tokens = run.form->token_count;
  const uint64_t vectors_before = uint64_t{run.runs_before} * tokens;
  executor.each([&](int thread) {
    const ThreadPlace<kHeadDim> place(thread);
    const uint32_t token = run.first_token + place.vector;
    const bool is_exact = token < run.form->exact_token_count;
    Values<uint32_t, kValues> indices = {};
    const uint64_t at = (vectors_before + token) * (kHeadDim / 8) + place.part * (kValues / 8);
    for (int plane = 0; plane < group.planes; ++plane) {
      const uint32_t word = search_plane(y[thread], shared.thresholds + (1 << plane), indices);
      if (!place.active || token >= tokens) continue;
      store_aligned(run.encoded + group.words[plane] + at,
                    static_cast<typename Share::Word>(is_exact ? 0 : word));
    }
  });
}

// arXiv 2504.19874, algorithm 1, for as many tokens as the CTA takes side by side, from `first`.
template <int kHeadDim, typename Executor>
HADAL_HOST_DEVICE void encode_vectors(Executor& executor, EncodeShared<kHeadDim>& shared,
                                      const Run& run) {
  using Share = VectorShare<kHeadDim>;
  using Place = ThreadPlace<kHeadDim>;
  constexpr int kValues = Share::kValues;
  const uint32_t tokens = run.form->token_count;
  const GroupPlace& group = *run.place;
  const CodeTables& tables = run.launch->tables[group.tables];
  const RotationBits& rotation = run.launch->rotations[run.side];
  const RowFormat format = row_format(run);
  const uint64_t vectors_before = uint64_t{run.runs_before} * tokens;
  typename Executor::template Private<Values<float, kValues>> x;
  typename Executor::template Private<Values<uint32_t, kValues>> y;
  typename Executor::template Private<EncodeSums> sums;
  typename Executor::template Private<Lengths> lengths;
  const auto without_offset = [&](int part, const Values<float, kValues>& from) {
    Values<float, kValues> residual;
    HADAL_UNROLL
    for (int i = 0; i < kValues; ++i) residual[i] = from[i] - shared.offsets[part][i];
    return residual;
  };
  executor.each([&](int thread) {
    const Place place(thread);
    const uint32_t token =
        run.first_token + place.vector < tokens ? run.first_token + place.vector : tokens - 1;
    load_share(run.values + token * run.token_stride_bytes +
                   uint64_t(place.part * kValues) * value_bytes(format.dtype),
               format, x[thread]);
    sums[thread].own = squares_of(x[thread]);
    sums[thread].residual =
        group.has_offsets ? squares_of(without_offset(place.part, x[thread])) : sums[thread].own;
  });
  add_parts<Share::kParts>(executor, sums);
  executor.each([&](int thread) {
    lengths[thread] = {sums[thread].own.total(), sums[thread].residual.total()};
  });
  share_first<Share::kParts>(executor, lengths);
  executor.each([&](int thread) {
    const Place place(thread);
    const auto [own, residual] = lengths[thread];
    const bool is_removed = group.has_offsets && residual < own;
    if (is_removed) x[thread] = without_offset(place.part, x[thread]);
    float norm = sqrtf(is_removed ? residual : own);
    if (norm < kNormMin) norm = 0;
    const uint32_t token = run.first_token + place.vector;
    if (place.active && place.part == 0 && token < tokens) {
      uint16_t stored = bf16_from_bits(std::bit_cast<uint32_t>(norm));
      const bool is_exact = token < run.form->exact_token_count;
      if (!is_exact && (!is_finite(own) || (stored & 0x7f80u) == 0x7f80u)) {
        executor.maximum(run.launch->outcomes + run.block, code(Outcome::non_finite));
      }
      if (is_removed) stored |= kNormOffsetFlag;
      if (is_exact) stored = 0;
      store_aligned(run.encoded + group.norms + (vectors_before + token) * sizeof(stored), stored);
    }
    const float length = static_cast<float>(tables.input_scale << tables.input_shift);
    const float scale = norm > 0 ? length / norm : 0.0f;
    quantise(x[thread], scale, signs_of(rotation, place.part * kValues), y[thread]);
    butterflies<1, Share::kInner>(y[thread]);
  });
  constexpr bool kNarrow = narrow_bits_max(kHeadDim) == limits::kBitsMax;
  butterflies_across<kHeadDim, kNarrow>(executor, y);
  if constexpr (Share::kCore > 1) {
    multiply_core<kHeadDim>(executor, shared.core, rotation.core_rows, y);
  }
  if constexpr (!kNarrow) {
    executor.each([&](int thread) { drop_places(tables.input_shift, y[thread]); });
  }
  write_planes<kHeadDim>(executor, shared, run, y);
}

template <int kHeadDim, typename Executor>
HADAL_HOST_DEVICE void encode_body(Executor& executor, EncodeShared<kHeadDim>& shared,
                                   const Launch& launch) {
  const uint32_t runs = launch.run_count();
  for (uint32_t index = executor.cta(); index < runs; index += executor.cta_count()) {
    Run run = run_at(launch, index);
    if (has_page(executor, run)) {
      prepare_encode(executor, shared, run);
      for (; run.first_token < run.form->token_count;
           run.first_token += ThreadPlace<kHeadDim>::kVectors) {
        encode_vectors(executor, shared, run);
      }
    }
    finish_run(executor, shared.finish, run);
  }
}

}  // namespace hadal::cuda
