#pragma once

// One end of a connection that says whatever a test wants it to, in messages of the real transport.

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "transport/control_payload.h"
#include "transport/transport.h"

namespace hadal {

class RawEnd final : public ConnectionEvents {
 public:
  struct Received {
    MessageHeader header;
    MessageBytes payload;
  };
  // Answers for a node under test; runs on the I/O thread.
  using Answer = std::function<void(RawEnd&, const Received&)>;

  explicit RawEnd(std::shared_ptr<Transport> transport, Answer answer = nullptr)
      : transport_(std::move(transport)), answer_(std::move(answer)) {}
  ~RawEnd() override {
    transport_->messages().run([this] { transport_->messages().forget(*this); });
  }

  uint16_t listen();
  // Connects and says the first message in one task, as BlockPeer does.
  void connect(uint16_t port, const MessageHeader& header, MessageBytes payload = {});
  void connect(uint16_t port);  // with a right HELLO, and waits for the answer
  void say(const MessageHeader& header, MessageBytes payload = {});
  // The bytes stay the caller's; nothing keeps them.
  void say_bytes(const MessageHeader& header, absl::Span<const std::byte> payload);

  bool closed() const;
  std::vector<Received> received() const;  // of payloads beyond 64 KiB only the header
  size_t count() const;
  // Waits for a message of a type; a default one where it never came.
  Received wait_for(MessageType type) const;

  void on_accepted(ConnectionId connection) override { connection_ = connection; }
  PayloadPlace on_message(ConnectionId connection, const MessageHeader& header) override;
  void on_closed(ConnectionId connection, const absl::Status& why) override;

 private:
  void take(Received message);

  const std::shared_ptr<Transport> transport_;
  const Answer answer_;
  ConnectionId connection_ = 0;  // I/O thread
  mutable absl::Mutex mutex_;
  std::vector<Received> received_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace hadal
