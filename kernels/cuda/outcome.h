#pragma once

#include <cstdint>

namespace hadal::cuda {

// What became of one block of a batch, in the status array. Of several, the largest.
enum class Outcome : uint32_t {
  ok = 0,
  non_finite = 1,        // encode: holds NaN or infinity; nothing usable was written
  bad_page = 2,          // a page is null or not at a multiple of its value's bytes
  checksum_differs = 3,  // decode: of a cell or of the header
  is_another = 4,        // decode: not the key, layout, codec or shape that was asked for
};

constexpr uint32_t code(Outcome outcome) { return static_cast<uint32_t>(outcome); }

}  // namespace hadal::cuda
