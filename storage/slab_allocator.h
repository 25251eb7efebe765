#pragma once

// Divides a slab of known size into contiguous runs of 4 KiB granules. It hands out offsets and
// never touches the slab: its metadata lies outside.
//
// Two-level segregated fit (Masmano et al., "TLSF: a new dynamic memory allocator for real-time
// systems", ECRTS 2004): a free run lies in the list of its size class, classes split every power
// of two in 16, and a bitmap finds the next non-empty class. Neighbours coalesce at once.
//
// Threads: none of its own; the caller serialises. Cost: allocate, shrink and free are O(1);
// metadata is 12 bytes a granule, touched only where the slab was used.

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

namespace hadal {

class SlabAllocator {
 public:
  static constexpr uint64_t kGranuleBytes = 4096;

  // The tail of the slab below one granule is not used. At most 2^31 granules (8 TiB) are.
  explicit SlabAllocator(uint64_t slab_bytes);

  // Offset of a run of at least `bytes`, a multiple of the granule; empty where no run is long
  // enough. Zero bytes take one granule.
  std::optional<uint64_t> allocate(uint64_t bytes);

  // Frees the tail granules of the run at `offset` that `bytes` does not need, in place. Growing is
  // no effect. Answers the bytes freed.
  uint64_t shrink(uint64_t offset, uint64_t bytes);

  // `offset` is one that allocate returned and that was not freed since.
  void free(uint64_t offset);

  uint64_t capacity_bytes() const { return uint64_t{granule_count_} * kGranuleBytes; }
  uint64_t used_bytes() const { return uint64_t{used_granules_} * kGranuleBytes; }
  uint64_t largest_free_bytes() const;

 private:
  static constexpr int kFirstLevels = 32;
  static constexpr int kSecondLevelBits = 4;
  static constexpr int kSecondLevels = 1 << kSecondLevelBits;
  static constexpr uint32_t kNone = UINT32_MAX;

  struct SizeClass {
    int first = 0;
    int second = 0;
  };
  struct FreeArray {
    void operator()(uint32_t* array) const;
  };
  using Array = std::unique_ptr<uint32_t[], FreeArray>;

  static Array make_array(uint64_t count);
  static SizeClass class_of(uint32_t granules);
  uint32_t find_run(uint32_t granules) const;
  void insert_free(uint32_t start, uint32_t granules);
  void remove_free(uint32_t start);
  void mark(uint32_t start, uint32_t granules, bool used);
  void release(uint32_t start, uint32_t granules);

  uint32_t granule_count_ = 0;
  uint32_t used_granules_ = 0;
  // tag_[first] and tag_[last] of every run are length << 1 | used; links lie at the first granule.
  Array tag_;
  Array next_;
  Array previous_;
  uint32_t first_bitmap_ = 0;
  std::array<uint32_t, kFirstLevels> second_bitmap_ = {};
  std::array<std::array<uint32_t, kSecondLevels>, kFirstLevels> head_;
};

}  // namespace hadal
