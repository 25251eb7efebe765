#pragma once

// Payloads of control messages: packed little-endian records (docs/wire_protocol.md). Every reader
// checks bounds and counts, so any bytes are safe to parse.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/block_ops.h"

namespace hadal {

using MessageBytes = std::vector<std::byte>;

struct Hello {
  uint16_t protocol_version = 0;
  std::string library;  // such as "ucx 1.13.1"
  std::string name;     // of the node or client
  std::string token;    // reserved for a session token
};

MessageBytes write_hello(const Hello& hello);
// Of another protocol version only `protocol_version` is certain.
absl::StatusOr<Hello> read_hello(absl::Span<const std::byte> bytes);

MessageBytes write_keys(absl::Span<const BlockKey> keys);
absl::StatusOr<std::vector<BlockKey>> read_keys(absl::Span<const std::byte> bytes, uint32_t count);

MessageBytes write_answers(absl::Span<const KeyAnswer> answers);
absl::StatusOr<std::vector<KeyAnswer>> read_answers(absl::Span<const std::byte> bytes,
                                                    uint32_t count);

MessageBytes write_offers(absl::Span<const PutOffer> offers);
absl::StatusOr<std::vector<PutOffer>> read_offers(absl::Span<const std::byte> bytes,
                                                  uint32_t count);

// Ok: send the payload. Anything else ends the key.
MessageBytes write_statuses(absl::Span<const absl::Status> statuses);
absl::StatusOr<std::vector<absl::Status>> read_statuses(absl::Span<const std::byte> bytes,
                                                        uint32_t count);

MessageBytes write_reads(absl::Span<const ReadRequest> reads);
absl::StatusOr<std::vector<ReadRequest>> read_reads(absl::Span<const std::byte> bytes,
                                                    uint32_t count);

// A status code from the wire; codes that absl does not know become Unknown.
absl::StatusCode wire_code(uint8_t code);

// A priority from the wire; what is none becomes normal.
Priority wire_priority(uint8_t priority);

}  // namespace hadal
