#include "transport/message_codec.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "transport/message_header.h"

namespace hadal {
namespace {

constexpr size_t kTextMaxBytes = 1024;

class Writer {
 public:
  template <typename T>
  void integer(T value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    out_.insert(out_.end(), bytes, bytes + sizeof(value));
  }
  void key(const BlockKey& key) {
    const auto* bytes = reinterpret_cast<const std::byte*>(key.bytes.data());
    out_.insert(out_.end(), bytes, bytes + key.bytes.size());
  }
  void text(absl::string_view text) {
    text = text.substr(0, kTextMaxBytes);
    integer(static_cast<uint16_t>(text.size()));
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    out_.insert(out_.end(), bytes, bytes + text.size());
  }
  void precision(const Precision& precision) {
    integer(precision.key_planes);
    integer(precision.value_planes);
  }
  MessageBytes take() { return std::move(out_); }

 private:
  MessageBytes out_;
};

class Reader {
 public:
  explicit Reader(absl::Span<const std::byte> bytes) : bytes_(bytes) {}
  template <typename T>
  T integer() {
    T value = 0;
    if (take(sizeof(T))) std::memcpy(&value, bytes_.data() + at_ - sizeof(T), sizeof(T));
    return value;
  }
  BlockKey key() {
    BlockKey key;
    if (take(key.bytes.size())) {
      std::memcpy(key.bytes.data(), bytes_.data() + at_ - key.bytes.size(), key.bytes.size());
    }
    return key;
  }
  std::string text() {
    const size_t size = integer<uint16_t>();
    if (size > kTextMaxBytes || !take(size)) {
      failed_ = true;
      return "";
    }
    return std::string(reinterpret_cast<const char*>(bytes_.data() + at_ - size), size);
  }
  Precision precision() {
    Precision precision;
    precision.key_planes = integer<uint8_t>();
    precision.value_planes = integer<uint8_t>();
    return precision;
  }
  bool failed() const { return failed_; }
  absl::Status finish(absl::string_view what) const {
    if (!failed_ && at_ == bytes_.size()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("malformed ", what, " of ", bytes_.size(), " bytes"));
  }

 private:
  bool take(size_t count) {
    if (failed_ || count > bytes_.size() - at_) {
      failed_ = true;
      return false;
    }
    at_ += count;
    return true;
  }
  absl::Span<const std::byte> bytes_;
  size_t at_ = 0;
  bool failed_ = false;
};

// Reads `count` records with `one`, which must consume all bytes.
template <typename T, typename One>
absl::StatusOr<std::vector<T>> read_records(absl::Span<const std::byte> bytes, uint32_t count,
                                            absl::string_view what, One one) {
  if (count == 0 || count > limits::kBatchMaxKeys) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " has ", count, " keys; allowed are 1 to ", limits::kBatchMaxKeys));
  }
  Reader reader(bytes);
  std::vector<T> records;
  for (uint32_t i = 0; i < count && !reader.failed(); ++i) records.push_back(one(reader));
  absl::Status status = reader.finish(what);
  if (!status.ok()) return status;
  return records;
}

}  // namespace

absl::StatusCode wire_code(uint8_t code) {
  return code <= static_cast<uint8_t>(absl::StatusCode::kUnauthenticated)
             ? static_cast<absl::StatusCode>(code)
             : absl::StatusCode::kUnknown;
}

Priority wire_priority(uint8_t priority) {
  return priority < kPriorityCount ? static_cast<Priority>(priority) : Priority::normal;
}

MessageBytes write_hello(const Hello& hello) {
  Writer writer;
  writer.integer(hello.protocol_version);
  writer.text(hello.library);
  writer.text(hello.name);
  writer.text(hello.token);
  return writer.take();
}

absl::StatusOr<Hello> read_hello(absl::Span<const std::byte> bytes) {
  Reader reader(bytes);
  Hello hello;
  hello.protocol_version = reader.integer<uint16_t>();
  hello.library = reader.text();
  hello.name = reader.text();
  hello.token = reader.text();
  // Another version may say other things after its number.
  if (bytes.size() >= sizeof(hello.protocol_version) && hello.protocol_version != kWireVersion) {
    return hello;
  }
  absl::Status status = reader.finish("HELLO");
  if (!status.ok()) return status;
  return hello;
}

MessageBytes write_keys(absl::Span<const BlockKey> keys) {
  Writer writer;
  for (const BlockKey& key : keys) writer.key(key);
  return writer.take();
}

absl::StatusOr<std::vector<BlockKey>> read_keys(absl::Span<const std::byte> bytes, uint32_t count) {
  return read_records<BlockKey>(bytes, count, "list of keys",
                                [](Reader& reader) { return reader.key(); });
}

MessageBytes write_answers(absl::Span<const KeyAnswer> answers) {
  Writer writer;
  for (const KeyAnswer& answer : answers) {
    writer.integer(static_cast<uint8_t>(answer.state));
    writer.integer(static_cast<uint8_t>(answer.tier));
    writer.integer(answer.bytes);
    writer.integer(answer.dropped_planes);
    writer.precision(answer.precision);
    writer.integer(answer.generation);
    writer.integer(answer.token_digest);
  }
  return writer.take();
}

absl::StatusOr<std::vector<KeyAnswer>> read_answers(absl::Span<const std::byte> bytes,
                                                    uint32_t count) {
  return read_records<KeyAnswer>(bytes, count, "LOOKUP answer", [](Reader& reader) {
    KeyAnswer answer;
    answer.state = static_cast<BlockState>(std::min<uint8_t>(reader.integer<uint8_t>(), 2));
    answer.tier = static_cast<Tier>(std::min<uint8_t>(reader.integer<uint8_t>(), 3));
    answer.bytes = reader.integer<uint32_t>();
    answer.dropped_planes = reader.integer<uint8_t>();
    answer.precision = reader.precision();
    answer.generation = reader.integer<uint64_t>();
    answer.token_digest = reader.integer<uint64_t>();
    return answer;
  });
}

MessageBytes write_offers(absl::Span<const PutOffer> offers) {
  Writer writer;
  for (const PutOffer& offer : offers) {
    writer.key(offer.key);
    writer.integer(offer.bytes);
    writer.integer(offer.dropped_planes);
    writer.precision(offer.precision);
    writer.integer(offer.layout_hash);
    writer.integer(offer.first_token_index);
    writer.integer(offer.token_digest);
    writer.key(offer.parent);
    writer.key(offer.route);
  }
  return writer.take();
}

absl::StatusOr<std::vector<PutOffer>> read_offers(absl::Span<const std::byte> bytes,
                                                  uint32_t count) {
  return read_records<PutOffer>(bytes, count, "PUT offer", [](Reader& reader) {
    PutOffer offer;
    offer.key = reader.key();
    offer.bytes = reader.integer<uint32_t>();
    offer.dropped_planes = reader.integer<uint8_t>();
    offer.precision = reader.precision();
    offer.layout_hash = reader.integer<uint64_t>();
    offer.first_token_index = reader.integer<uint64_t>();
    offer.token_digest = reader.integer<uint64_t>();
    offer.parent = reader.key();
    offer.route = reader.key();
    return offer;
  });
}

MessageBytes write_statuses(absl::Span<const absl::Status> statuses) {
  Writer writer;
  for (const absl::Status& status : statuses) {
    writer.integer(static_cast<uint8_t>(status.code()));
    writer.text(status.message());
  }
  return writer.take();
}

absl::StatusOr<std::vector<absl::Status>> read_statuses(absl::Span<const std::byte> bytes,
                                                        uint32_t count) {
  return read_records<absl::Status>(bytes, count, "PUT verdict", [](Reader& reader) {
    const absl::StatusCode code = wire_code(reader.integer<uint8_t>());
    return absl::Status(code, reader.text());
  });
}

MessageBytes write_reads(absl::Span<const ReadRequest> reads) {
  Writer writer;
  for (const ReadRequest& read : reads) {
    writer.key(read.key);
    writer.precision(read.least);
    writer.integer(read.max_bytes);
    writer.integer(read.token_digest);
  }
  return writer.take();
}

absl::StatusOr<std::vector<ReadRequest>> read_reads(absl::Span<const std::byte> bytes,
                                                    uint32_t count) {
  return read_records<ReadRequest>(bytes, count, "GET request", [](Reader& reader) {
    ReadRequest read;
    read.key = reader.key();
    read.least = reader.precision();
    read.max_bytes = reader.integer<uint32_t>();
    read.token_digest = reader.integer<uint64_t>();
    return read;
  });
}

}  // namespace hadal
