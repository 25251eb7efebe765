#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "transport/message_codec.h"
#include "transport/message_transport.h"

namespace hadal {

// Largest payload of a control message: a full batch of the widest records and texts.
inline constexpr size_t kControlMaxBytes = 8u << 20;

// Somewhere for a control payload to land, and what to do with it then.
inline PayloadPlace control_place(size_t bytes,
                                  std::function<void(absl::Span<const std::byte>)> then) {
  auto buffer = std::make_shared<MessageBytes>(bytes);
  PayloadPlace place;
  place.bytes = absl::MakeSpan(*buffer);
  place.hold = buffer;
  place.done = [buffer, then = std::move(then)](const absl::Status& status) {
    if (status.ok()) then(*buffer);
  };
  return place;
}

// Where blocks land that nobody waits for any more. They are taken, not refused, because a refused
// rendezvous leaks in UCX before 1.14. All share one memory, since nothing reads it: what peers
// send unasked costs the largest such block once. I/O thread only.
class DiscardedPayloads {
 public:
  // Without bytes where the memory cannot be had.
  PayloadPlace place(size_t bytes, std::function<void(absl::Status)> done = nullptr) {
    std::shared_ptr<std::byte[]> memory = memory_.lock();
    if (!memory || bytes_ < bytes) {
      memory.reset(new (std::nothrow) std::byte[bytes]);
      if (!memory) return {};
      memory_ = memory;
      bytes_ = bytes;
    }
    return {absl::MakeSpan(memory.get(), bytes), memory, std::move(done)};
  }

 private:
  std::weak_ptr<std::byte[]> memory_;
  size_t bytes_ = 0;
};

// Why a message is not one of this protocol, whatever its type; the other side is closed then.
inline absl::Status check_message(const MessageHeader& header, bool is_block) {
  if (header.magic != kWireMagic) {
    return absl::InvalidArgumentError(absl::StrCat("message with magic ", absl::Hex(header.magic),
                                                   ", expected ", absl::Hex(kWireMagic),
                                                   "; does another program connect?"));
  }
  const size_t at_most = is_block ? limits::kBlockMaxBytes : kControlMaxBytes;
  if (header.payload_bytes <= at_most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("message of type ", static_cast<int>(header.type),
                                                 " with ", header.payload_bytes,
                                                 " payload bytes; allowed are ", at_most));
}

// What both sides say of two versions.
inline absl::Status version_mismatch(absl::string_view node, absl::string_view client) {
  return absl::FailedPreconditionError(absl::StrCat("the node speaks protocol version ", node,
                                                    ", the client ", client,
                                                    "; use builds of one version"));
}

inline OutgoingMessage control_message(const MessageHeader& header, MessageBytes payload) {
  auto hold = std::make_shared<MessageBytes>(std::move(payload));
  OutgoingMessage message;
  message.header = header;
  message.payload = *hold;
  message.hold = hold;
  return message;
}

// A message whose payload is the text of a status.
inline OutgoingMessage status_message(MessageHeader header, const absl::Status& status) {
  header.status = static_cast<uint8_t>(status.code());
  const absl::string_view text = status.message().substr(0, 1024);
  MessageBytes bytes(text.size());
  std::transform(text.begin(), text.end(), bytes.begin(), [](char c) { return std::byte(c); });
  return control_message(header, std::move(bytes));
}

inline absl::Status message_status(const MessageHeader& header,
                                   absl::Span<const std::byte> payload) {
  return absl::Status(
      wire_code(header.status),
      absl::string_view(reinterpret_cast<const char*>(payload.data()), payload.size()));
}

}  // namespace hadal
