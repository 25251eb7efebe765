#include "client/llama/sequence_blob.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace hadal {
namespace {

constexpr size_t kPrefixBytes = 8;
constexpr size_t kCellBytes = 12;
constexpr uint32_t kLayersMax = 4096;
constexpr uint64_t kRowMaxBytes = 1u << 24;

// Reads integers in order; an overrun is remembered and reads as 0.
class Reader {
 public:
  explicit Reader(absl::Span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  T next() {
    T value = 0;
    if (!skip(sizeof(T))) return value;
    std::memcpy(&value, bytes_.data() + at_ - sizeof(T), sizeof(T));
    return value;
  }
  bool skip(uint64_t count) {
    if (count > bytes_.size() - at_) {
      overrun_ = true;
      at_ = bytes_.size();
      return false;
    }
    at_ += count;
    return true;
  }
  bool overrun() const { return overrun_; }
  bool at_end() const { return at_ == bytes_.size(); }

 private:
  absl::Span<const std::byte> bytes_;
  size_t at_ = 0;
  bool overrun_ = false;
};

absl::Status unlike(absl::string_view what, uint64_t found, absl::string_view expected) {
  return absl::FailedPreconditionError(
      absl::StrCat("sequence state has ", what, " ", found, ", not ", expected,
                   "; use llama-cpp-python 0.3.36 with flash "
                   "attention on and a model with a plain KV cache"));
}

class Writer {
 public:
  explicit Writer(absl::Span<std::byte> bytes) : bytes_(bytes) {}
  template <typename T>
  void next(T value) {
    std::memcpy(bytes_.data() + at_, &value, sizeof(value));
    at_ += sizeof(value);
  }
  void skip(size_t count) { at_ += count; }

 private:
  absl::Span<std::byte> bytes_;
  size_t at_ = 0;
};

// One side of one section: row sizes of every layer. Checks that all have one type.
absl::Status read_rows(Reader& reader, uint32_t row_count, int32_t& value_type,
                       std::vector<uint64_t>& row_bytes) {
  for (uint64_t& row : row_bytes) {
    const int32_t type = reader.next<int32_t>();
    row = reader.next<uint64_t>();
    if (value_type < 0) value_type = type;
    if (type != value_type) return unlike("value type", type, absl::StrCat(value_type));
    if (row == 0 || row > kRowMaxBytes) return unlike("row bytes", row, "1 to 2^24");
    reader.skip(row * row_count);
  }
  return absl::OkStatus();
}

}  // namespace

namespace {

// The cells of one cache: consecutive positions that end with the last token's. The first section's
// number says how many tokens there are.
absl::Status read_cells(Reader& reader, uint32_t& token_count, uint32_t& first_token) {
  const uint32_t streams = reader.next<uint32_t>();
  const uint32_t cells = reader.next<uint32_t>();
  if (streams != 1) return unlike("streams", streams, "1");
  if (token_count == 0) token_count = cells;
  if (cells == 0 || cells > token_count) {
    return unlike("cells", cells, absl::StrCat("1 to ", token_count, " as in its first cache"));
  }
  first_token = token_count - cells;
  for (uint32_t cell = 0; cell < cells && !reader.overrun(); ++cell) {
    const int32_t position = reader.next<int32_t>();
    const uint32_t ids = reader.next<uint32_t>();
    reader.skip(4);
    if (position != static_cast<int32_t>(first_token + cell))
      return unlike("position", position, absl::StrCat(first_token + cell));
    if (ids != 1) return unlike("sequences in a cell", ids, "1");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SequenceBlob> SequenceBlob::parse(absl::Span<const std::byte> blob) {
  SequenceBlob shape;
  Reader reader(blob);
  shape.prefix_ = reader.next<uint64_t>();
  shape.value_type_ = -1;
  while (!reader.at_end()) {
    Section section;
    absl::Status status = read_cells(reader, shape.token_count_, section.first_token);
    if (!status.ok()) return status;
    const uint32_t transposed = reader.next<uint32_t>();
    if (transposed != 0) return unlike("transposed V", transposed, "0");
    section.layer_count = reader.next<uint32_t>();
    if (section.layer_count == 0 || section.layer_count > kLayersMax) {
      return unlike("layers", section.layer_count, absl::StrCat("1 to ", kLayersMax));
    }
    section.key_row_bytes.resize(section.layer_count);
    section.value_row_bytes.resize(section.layer_count);
    const uint32_t rows = shape.token_count_ - section.first_token;
    status = read_rows(reader, rows, shape.value_type_, section.key_row_bytes);
    if (status.ok()) status = read_rows(reader, rows, shape.value_type_, section.value_row_bytes);
    if (!status.ok()) return status;
    if (reader.overrun()) return unlike("bytes", blob.size(), "as many as it announces");
    shape.sections_.push_back(std::move(section));
  }
  if (shape.sections_.empty()) return unlike("caches", 0, "at least 1");
  shape.place();
  return shape;
}

bool SequenceBlob::whole() const {
  for (const Section& section : sections_) {
    if (section.first_token != 0) return false;
  }
  return true;
}

void SequenceBlob::place() {
  layers_.clear();
  size_t at = kPrefixBytes;
  for (const Section& section : sections_) {
    const size_t rows = token_count_ - section.first_token;
    at += 8 + kCellBytes * rows + 8;
    const size_t first = layers_.size();
    for (uint64_t row : section.key_row_bytes) {
      layers_.push_back({{at + 12, row, section.first_token}, {}});
      at += 12 + row * rows;
    }
    for (uint32_t layer = 0; layer < section.layer_count; ++layer) {
      const uint64_t row = section.value_row_bytes[layer];
      layers_[first + layer].value = {at + 12, row, section.first_token};
      at += 12 + row * rows;
    }
  }
  bytes_ = at;
}

SequenceBlob SequenceBlob::with_tokens(uint32_t token_count) const {
  SequenceBlob other = *this;
  other.token_count_ = token_count;
  for (Section& section : other.sections_) section.first_token = 0;
  other.place();
  return other;
}

absl::StatusOr<std::vector<std::byte>> SequenceBlob::merge(absl::Span<const std::byte> earlier,
                                                           absl::Span<const std::byte> later) {
  absl::StatusOr<SequenceBlob> from = parse(later);
  if (!from.ok()) return from.status();
  SequenceBlob before = from->with_tokens(0);
  if (!earlier.empty()) {
    absl::StatusOr<SequenceBlob> parsed = parse(earlier);
    if (!parsed.ok()) return parsed.status();
    before = *std::move(parsed);
  }
  const SequenceBlob merged = from->with_tokens(from->token_count());
  if (!before.whole() || before.layers().size() != merged.layers().size()) {
    return absl::FailedPreconditionError("the earlier save is no whole one of the same model");
  }
  std::vector<std::byte> out(merged.bytes());
  merged.write_frame(absl::MakeSpan(out));
  for (size_t layer = 0; layer < merged.layers().size(); ++layer) {
    for (const auto side : {&BlobLayer::key, &BlobLayer::value}) {
      const BlobRows& to = merged.layers()[layer].*side;
      const BlobRows& late = from->layers()[layer].*side;
      const BlobRows& early = before.layers()[layer].*side;
      if (late.first_token > before.token_count()) {
        return unlike(
            "first token", late.first_token,
            absl::StrCat("at most the ", before.token_count(), " that were saved before"));
      }
      std::memcpy(out.data() + to.offset, earlier.data() + early.offset,
                  late.first_token * to.row_bytes);
      std::memcpy(out.data() + to.offset + late.first_token * to.row_bytes,
                  later.data() + late.offset,
                  (merged.token_count() - late.first_token) * to.row_bytes);
    }
  }
  return out;
}

void SequenceBlob::write_frame(absl::Span<std::byte> out) const {
  Writer writer(out);
  writer.next(prefix_);
  for (const Section& section : sections_) {
    writer.next(uint32_t{1});
    writer.next(token_count_);
    for (uint32_t cell = 0; cell < token_count_; ++cell) {
      writer.next(static_cast<int32_t>(cell));
      writer.next(uint32_t{1});
      writer.next(int32_t{0});
    }
    writer.next(uint32_t{0});
    writer.next(section.layer_count);
    for (const std::vector<uint64_t>* rows : {&section.key_row_bytes, &section.value_row_bytes}) {
      for (uint64_t row : *rows) {
        writer.next(value_type_);
        writer.next(row);
        writer.skip(row * token_count_);
      }
    }
  }
}

}  // namespace hadal
