#pragma once

// The fixed part of every message of the block protocol (docs/wire_protocol.md). Little endian.

#include <cstddef>
#include <cstdint>

namespace hadal {

inline constexpr uint32_t kWireMagic = 0x314C4448;  // "HDL1"
inline constexpr uint16_t kWireVersion = 1;

enum class MessageType : uint8_t {
  hello = 1,
  hello_reply = 2,
  ping = 3,
  pong = 4,
  lookup = 5,
  lookup_reply = 6,
  release = 7,
  put_offer = 8,
  put_verdict = 9,
  put_block = 10,
  put_result = 11,
  get = 12,
  get_block = 13,
  report_bad = 14,
  report_reply = 15,
};

struct MessageHeader {
  uint32_t magic = kWireMagic;
  uint16_t version = kWireVersion;
  MessageType type = MessageType::ping;
  uint8_t status = 0;      // an absl::StatusCode; where not 0 the payload is its message
  uint64_t operation = 0;  // of the side that asked
  uint32_t index = 0;      // of the key in its batch; lease_ms of a lookup
  uint32_t payload_bytes = 0;
  uint64_t generation = 0;  // get_block
  uint8_t dropped_planes = 0;
  uint8_t key_planes = 0;  // of get_block, and of the put that a lookup is for
  uint8_t value_planes = 0;
  uint8_t tier = 0;
  uint32_t count = 0;  // records in the payload; answer of a report
  uint64_t lease = 0;
  uint8_t priority = 0;  // a Priority: lookup, put_offer, get
  uint8_t for_put = 0;   // lookup: 1 where a put asks
  uint8_t reserved[14] = {};
};
static_assert(sizeof(MessageHeader) == 64);

}  // namespace hadal
