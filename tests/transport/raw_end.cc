#include "tests/transport/raw_end.h"

#include <gtest/gtest.h>

#include "tests/transport/block_fixture.h"

namespace hadal {

uint16_t RawEnd::listen() {
  uint16_t port = 0;
  transport_->messages().run(
      [&] { port = transport_->messages().listen("127.0.0.1:0", *this).value(); });
  return port;
}

void RawEnd::connect(uint16_t port, const MessageHeader& header, MessageBytes payload) {
  transport_->messages().run([&] {
    connection_ = transport_->messages().connect("127.0.0.1", port, *this).value();
    say(header, std::move(payload));
  });
}

void RawEnd::connect(uint16_t port) {
  MessageHeader header;
  header.type = MessageType::hello;
  connect(port, header, write_hello({kWireVersion, "test", "", ""}));
  EXPECT_EQ(wait_for(MessageType::hello_reply).header.status, 0);
}

void RawEnd::say(const MessageHeader& header, MessageBytes payload) {
  transport_->messages().run([&] {
    transport_->messages().send(connection_, control_message(header, std::move(payload)));
  });
}

void RawEnd::say_bytes(const MessageHeader& header, absl::Span<const std::byte> payload) {
  transport_->messages().run([&] {
    OutgoingMessage message;
    message.header = header;
    message.payload = payload;
    transport_->messages().send(connection_, std::move(message));
  });
}

bool RawEnd::closed() const {
  absl::MutexLock lock(&mutex_);
  return closed_;
}

std::vector<RawEnd::Received> RawEnd::received() const {
  absl::MutexLock lock(&mutex_);
  return received_;
}

size_t RawEnd::count() const {
  absl::MutexLock lock(&mutex_);
  return received_.size();
}

RawEnd::Received RawEnd::wait_for(MessageType type) const {
  Received found;
  const bool came = eventually([&] {
    for (const Received& message : received()) {
      if (message.header.type != type) continue;
      found = message;
      return true;
    }
    return false;
  });
  EXPECT_TRUE(came) << "no message of type " << static_cast<int>(type);
  return found;
}

PayloadPlace RawEnd::on_message(ConnectionId connection, const MessageHeader& header) {
  connection_ = connection;
  if (header.payload_bytes == 0) {
    take({header, {}});
    return {};
  }
  return control_place(header.payload_bytes, [this, header](absl::Span<const std::byte> payload) {
    if (payload.size() > 65536) payload = {};
    take({header, {payload.begin(), payload.end()}});
  });
}

void RawEnd::take(Received message) {
  {
    absl::MutexLock lock(&mutex_);
    received_.push_back(message);
  }
  if (answer_) answer_(*this, message);
}

void RawEnd::on_closed(ConnectionId, const absl::Status&) {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
}

}  // namespace hadal
