#pragma once

// Checksums by warps: a leaf of a cell each, and a block's header.

#include "common/checksum.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/warp_steps.h"
#include "kernels/leaf_hash.h"

namespace hadal::cuda {

// At a multiple of 16. Of 0 bytes: none.
struct Message {
  const std::byte* at;
  uint32_t bytes;
};

HADAL_HOST_DEVICE Chunk load_chunk(const Message& message, uint32_t offset) {
  if (offset % 16 == 0) return load_aligned<Chunk>(message.at + offset);
  Chunk chunk;
  for (int i = 0; i < 4; ++i) {
    chunk.words[i] = load_bytes<uint32_t>(message.at + offset + 4 * i);
  }
  return chunk;
}

struct HashSum {
  uint64_t sum;
  HADAL_HOST_DEVICE void add(const HashSum& other) { sum += other.sum; }
};

// XXH3-64 of every warp's message, in all its lanes. `kilobytes`: how many there are in full before
// the message's last 1 to 1,024 bytes, for all warps with a message; 0 for leaves. A lane has a
// pair of accumulators, and of each KiB the chunks lane and lane + 32.
template <typename Executor, typename Messages, typename Hashes>
HADAL_HOST_DEVICE void hash_by_warps(Executor& executor, uint32_t kilobytes, Messages& messages,
                                     Hashes& hashes) {
  typename Executor::template Private<xxh3::Accumulators> totals, sums, others;
  executor.each([&](int thread) { totals[thread] = xxh3::initial(thread % xxh3::kPairs); });
  for (uint32_t kilobyte = 0; kilobyte <= kilobytes; ++kilobyte) {
    executor.each([&](int thread) {
      const Message& message = messages[thread];
      const uint32_t lane = thread % kWarpThreads, pair = lane % xxh3::kPairs;
      sums[thread] = {};
      if (message.bytes <= xxh3::kShortMax) return;
      const uint32_t before = kilobyte * xxh3::kBlockBytes;
      const bool is_last = kilobyte == kilobytes;
      // The last stripe is the last 64 bytes, which may overlap the one before.
      const uint32_t stripes = is_last ? (message.bytes - 1 - before) / xxh3::kStripeBytes : 16;
      for (uint32_t stripe = lane / xxh3::kPairs; stripe < stripes + is_last; stripe += 8) {
        const bool is_tail = stripe == stripes;
        const uint32_t begin =
            is_tail ? message.bytes - xxh3::kStripeBytes : before + stripe * xxh3::kStripeBytes;
        sums[thread].add(xxh3::accumulate(
            load_chunk(message, begin + 16 * pair),
            xxh3::pair_secret(is_tail ? xxh3::kLastStripeSecret : xxh3::stripe_secret(stripe),
                              pair)));
      }
    });
    HADAL_UNROLL
    for (int stride = xxh3::kPairs; stride < kWarpThreads; stride *= 2) {
      executor.shuffle(sums, others, [=](int lane) { return lane ^ stride; });
      executor.each([&](int thread) { sums[thread].add(others[thread]); });
    }
    executor.each([&](int thread) {
      totals[thread].add(sums[thread]);
      if (kilobyte != kilobytes) {
        totals[thread] = xxh3::scrambled(totals[thread], thread % xxh3::kPairs);
      }
    });
  }
  typename Executor::template Private<HashSum> folds, other_folds;
  executor.each([&](int thread) {
    folds[thread].sum =
        xxh3::folded(totals[thread], xxh3::pair_secret(xxh3::kMergeSecret, thread % xxh3::kPairs));
  });
  HADAL_UNROLL
  for (int stride = 1; stride < static_cast<int>(xxh3::kPairs); stride *= 2) {
    executor.shuffle(folds, other_folds, [=](int lane) { return lane ^ stride; });
    executor.each([&](int thread) { folds[thread].add(other_folds[thread]); });
  }
  executor.each([&](int thread) {
    const Message& message = messages[thread];
    if (message.bytes > xxh3::kShortMax) {
      hashes[thread] = xxh3::finished(folds[thread].sum, message.bytes);
    } else if (message.bytes != 0) {
      hashes[thread] = xxh3::short_hash(message.at, message.bytes);
    }
  });
}

struct ChecksumShared {
  std::array<uint64_t, kCtaWarps> sums;  // by warp
  uint64_t header_hash;
  // The header but for its checksum, and the table.
  alignas(
      16) std::array<std::byte, sizeof(BlockHeader) + limits::kCellsMax * sizeof(CellEntry)> header;
};
inline constexpr uint32_t kHashedHeaderBytes = sizeof(BlockHeader) - sizeof(uint64_t);

// cell_checksum() of a cell that begins at a multiple of 64.
template <typename Executor>
HADAL_HOST_DEVICE uint64_t sum_cell(Executor& executor, ChecksumShared& shared,
                                    const std::byte* block, const CellEntry& cell) {
  constexpr uint32_t kLeaf = limits::kChecksumLeafBytes;
  typename Executor::template Private<uint64_t> sums, hashes;
  typename Executor::template Private<Message> leaves;
  const uint32_t bytes = cell.bytes, id = cell.id();
  const std::byte* first = block + cell.offset;
  executor.each([&](int thread) { sums[thread] = 0; });
  const uint32_t leaf_count = (bytes + kLeaf - 1) / kLeaf;
  for (uint32_t base = 0; base < leaf_count; base += kCtaWarps) {
    executor.each([&](int thread) {
      const uint32_t leaf = base + thread / kWarpThreads;
      const uint32_t left = leaf < leaf_count ? bytes - leaf * kLeaf : 0;
      leaves[thread] = {first + uint64_t{leaf} * kLeaf, left < kLeaf ? left : kLeaf};
    });
    hash_by_warps(executor, 0, leaves, hashes);
    executor.each([&](int thread) {
      const uint32_t leaf = base + thread / kWarpThreads;
      if (leaf < leaf_count) sums[thread] += mix_leaf(hashes[thread], leaf, id);
    });
  }
  executor.barrier();  // the sums of the cell before have been read
  executor.each([&](int thread) {
    if (thread % kWarpThreads == 0) shared.sums[thread / kWarpThreads] = sums[thread];
  });
  executor.barrier();
  uint64_t total = 0;
  for (const uint64_t sum : shared.sums) total += sum;
  return total;
}

// Of what lies in shared.header, a table of so many cells included.
template <typename Executor>
HADAL_HOST_DEVICE uint64_t hash_header(Executor& executor, ChecksumShared& shared,
                                       uint32_t cell_count) {
  typename Executor::template Private<uint64_t> hashes;
  typename Executor::template Private<Message> messages;
  const uint32_t bytes = kHashedHeaderBytes + cell_count * uint32_t{sizeof(CellEntry)};
  executor.each([&](int thread) {
    messages[thread] = {shared.header.data(), thread < kWarpThreads ? bytes : 0};
  });
  hash_by_warps(executor, (bytes - 1) / xxh3::kBlockBytes, messages, hashes);
  executor.each([&](int thread) {
    if (thread == 0) shared.header_hash = hashes[thread];
  });
  executor.barrier();
  return shared.header_hash;
}

}  // namespace hadal::cuda
