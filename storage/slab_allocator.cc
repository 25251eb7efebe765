#include "storage/slab_allocator.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <new>

namespace hadal {
namespace {

constexpr uint32_t kGranulesMax = (uint32_t{1} << 31) - 1;
constexpr int kSameClassTries = 8;

uint64_t granules_for(uint64_t bytes) {
  return std::max<uint64_t>(
      1, (bytes + SlabAllocator::kGranuleBytes - 1) / SlabAllocator::kGranuleBytes);
}

}  // namespace

void SlabAllocator::FreeArray::operator()(uint32_t* array) const { std::free(array); }

// calloc, so that pages of a large slab's metadata are mapped only when they are used.
SlabAllocator::Array SlabAllocator::make_array(uint64_t count) {
  auto* array = static_cast<uint32_t*>(std::calloc(std::max<uint64_t>(count, 1), sizeof(uint32_t)));
  if (array == nullptr) throw std::bad_alloc();
  return Array(array);
}

SlabAllocator::SlabAllocator(uint64_t slab_bytes)
    : granule_count_(
          static_cast<uint32_t>(std::min<uint64_t>(slab_bytes / kGranuleBytes, kGranulesMax))),
      tag_(make_array(granule_count_)),
      next_(make_array(granule_count_)),
      previous_(make_array(granule_count_)) {
  for (auto& heads : head_) heads.fill(kNone);
  if (granule_count_ > 0) insert_free(0, granule_count_);
}

// Sizes below 16 granules have a class each; above, a class spans 1/16 of a power of two.
SlabAllocator::SizeClass SlabAllocator::class_of(uint32_t granules) {
  if (granules < kSecondLevels) return {0, static_cast<int>(granules)};
  const int log = std::bit_width(granules) - 1;
  const int second = static_cast<int>(granules >> (log - kSecondLevelBits)) - kSecondLevels;
  return {log - kSecondLevelBits + 1, second};
}

uint32_t SlabAllocator::find_run(uint32_t granules) const {
  // Any run of the next class up is long enough; runs of the own class may be.
  SizeClass at = class_of(granules);
  uint32_t run = head_[at.first][at.second];
  for (int i = 0; i < kSameClassTries && run != kNone; ++i, run = next_[run]) {
    if (tag_[run] >> 1 >= granules) return run;
  }
  const uint32_t wider = second_bitmap_[at.first] & ~((uint32_t{2} << at.second) - 1);
  if (wider != 0) return head_[at.first][std::countr_zero(wider)];
  const uint32_t larger =
      at.first + 1 >= kFirstLevels ? 0 : first_bitmap_ & ~((uint32_t{2} << at.first) - 1);
  if (larger == 0) return kNone;
  const int first = std::countr_zero(larger);
  return head_[first][std::countr_zero(second_bitmap_[first])];
}

void SlabAllocator::mark(uint32_t start, uint32_t granules, bool used) {
  tag_[start] = granules << 1 | uint32_t{used};
  tag_[start + granules - 1] = tag_[start];
}

void SlabAllocator::insert_free(uint32_t start, uint32_t granules) {
  mark(start, granules, false);
  const SizeClass at = class_of(granules);
  uint32_t& head = head_[at.first][at.second];
  next_[start] = head;
  previous_[start] = kNone;
  if (head != kNone) previous_[head] = start;
  head = start;
  first_bitmap_ |= uint32_t{1} << at.first;
  second_bitmap_[at.first] |= uint32_t{1} << at.second;
}

void SlabAllocator::remove_free(uint32_t start) {
  const SizeClass at = class_of(tag_[start] >> 1);
  const uint32_t next = next_[start];
  const uint32_t previous = previous_[start];
  if (next != kNone) previous_[next] = previous;
  if (previous != kNone) {
    next_[previous] = next;
    return;
  }
  head_[at.first][at.second] = next;
  if (next != kNone) return;
  second_bitmap_[at.first] &= ~(uint32_t{1} << at.second);
  if (second_bitmap_[at.first] == 0) first_bitmap_ &= ~(uint32_t{1} << at.first);
}

std::optional<uint64_t> SlabAllocator::allocate(uint64_t bytes) {
  const uint64_t wanted = granules_for(bytes);
  if (wanted > granule_count_) return std::nullopt;
  const auto granules = static_cast<uint32_t>(wanted);
  const uint32_t start = find_run(granules);
  if (start == kNone) return std::nullopt;
  const uint32_t length = tag_[start] >> 1;
  remove_free(start);
  mark(start, granules, true);
  if (length > granules) insert_free(start + granules, length - granules);
  used_granules_ += granules;
  return uint64_t{start} * kGranuleBytes;
}

void SlabAllocator::release(uint32_t start, uint32_t granules) {
  used_granules_ -= granules;
  const uint32_t after = start + granules;
  if (after < granule_count_ && (tag_[after] & 1) == 0) {
    const uint32_t length = tag_[after] >> 1;
    remove_free(after);
    granules += length;
  }
  if (start > 0 && (tag_[start - 1] & 1) == 0) {
    const uint32_t length = tag_[start - 1] >> 1;
    start -= length;
    granules += length;
    remove_free(start);
  }
  insert_free(start, granules);
}

uint64_t SlabAllocator::shrink(uint64_t offset, uint64_t bytes) {
  const auto start = static_cast<uint32_t>(offset / kGranuleBytes);
  const uint32_t length = tag_[start] >> 1;
  const uint64_t keep = granules_for(bytes);
  if (keep >= length) return 0;
  const auto kept = static_cast<uint32_t>(keep);
  mark(start, kept, true);
  release(start + kept, length - kept);
  return uint64_t{length - kept} * kGranuleBytes;
}

void SlabAllocator::free(uint64_t offset) {
  const auto start = static_cast<uint32_t>(offset / kGranuleBytes);
  release(start, tag_[start] >> 1);
}

uint64_t SlabAllocator::largest_free_bytes() const {
  if (first_bitmap_ == 0) return 0;
  const int first = std::bit_width(first_bitmap_) - 1;
  const int second = std::bit_width(second_bitmap_[first]) - 1;
  uint32_t largest = 0;
  for (uint32_t run = head_[first][second]; run != kNone; run = next_[run]) {
    largest = std::max(largest, tag_[run] >> 1);
  }
  return uint64_t{largest} * kGranuleBytes;
}

}  // namespace hadal
