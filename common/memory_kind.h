#pragma once

#include <cstdint>

namespace hadal {

// Whose memory an address is of.
enum class MemoryKind : uint8_t { host, cuda };

}  // namespace hadal
