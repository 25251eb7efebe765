#pragma once

#include <cstddef>
#include <cstdint>

namespace hadal {

// Makes a block of what `bytes` say, whole, damaged or nonsense, and decodes it with both backends.
// Aborts where they differ, or where a refused block changed the destination; what they read and
// write out of bounds is a sanitizer's business. Deterministic.
void decode_fuzz_input(const uint8_t* bytes, size_t size);

}  // namespace hadal
