#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

#include "transport/message_codec.h"
#include "transport/message_transport.h"

namespace hadal {

// Largest payload of a control message: a full batch of the widest records and texts.
inline constexpr size_t kControlMaxBytes = 8u << 20;

// Somewhere for a control payload to land, and what to do with it then. Without room it is refused.
inline PayloadPlace control_place(size_t bytes,
                                  std::function<void(absl::Span<const std::byte>)> then) {
  if (bytes > kControlMaxBytes) return {};
  auto buffer = std::make_shared<MessageBytes>(bytes);
  PayloadPlace place;
  place.bytes = absl::MakeSpan(*buffer);
  place.hold = buffer;
  place.done = [buffer, then = std::move(then)](const absl::Status& status) {
    if (status.ok()) then(*buffer);
  };
  return place;
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
