#pragma once

// What ends every kernel that encodes: the last CTA of a (block, side, layer group) makes its
// checksums, and the last of a block its header.

#include <cstddef>

#include "kernels/cuda/checksums.h"
#include "kernels/cuda/outcome.h"
#include "kernels/vector_math.h"

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
  for (size_t i = 0; i < place.gap_begins.size(); ++i) {
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
      reinterpret_cast<uintptr_t>(run.values) % dtype_bytes(run.launch->dtype) == 0) {
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

}  // namespace hadal::cuda
