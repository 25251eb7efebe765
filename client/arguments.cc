#include "client/arguments.h"

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/limits.h"

namespace hadal {
namespace {

absl::Status refuse(size_t index, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("block ", index, ": ", what));
}

absl::Status check_stride(absl::string_view name, size_t stride_bytes, size_t vector_bytes,
                          size_t value_bytes) {
  if (stride_bytes % value_bytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, " is ", stride_bytes, "; allowed are multiples of ", value_bytes, ", the dtype"));
  }
  if (stride_bytes < vector_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is ", stride_bytes, "; a vector has ",
                                                   vector_bytes, " bytes, so it is at least that"));
  }
  return absl::OkStatus();
}

absl::Status check_side(absl::string_view side, const KvLayout& layout, const KvSidePages& pages) {
  if (pages.layers.size() != layout.layer_count) {
    return absl::InvalidArgumentError(
        absl::StrCat("pages.", side, ".layers has ", pages.layers.size(),
                     " pointers; the layout has ", layout.layer_count, " layers"));
  }
  for (size_t i = 0; i < pages.layers.size(); ++i) {
    if (pages.layers[i] == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("pages.", side, ".layers[", i, "] is null"));
    }
  }
  const size_t value_bytes = dtype_bytes(layout.dtype);
  const size_t head_dim = side == "key" ? layout.key_head_dim : layout.value_head_dim;
  absl::Status status;
  if (layout.block_tokens > 1) {
    status = check_stride(absl::StrCat("pages.", side, ".token_stride_bytes"),
                          pages.token_stride_bytes, head_dim * value_bytes, value_bytes);
  }
  if (status.ok() && layout.kv_head_count > 1) {
    status = check_stride(absl::StrCat("pages.", side, ".head_stride_bytes"),
                          pages.head_stride_bytes, head_dim * value_bytes, value_bytes);
  }
  return status;
}

absl::Status check_pages(const KvLayout& layout, const KvPages& pages) {
  absl::Status status = check_side("key", layout, pages.key);
  if (status.ok()) status = check_side("value", layout, pages.value);
  return status;
}

absl::Status check_opaque(absl::Span<const std::byte> payload) {
  if (payload.empty() || payload.data() == nullptr) {
    return absl::InvalidArgumentError("opaque payload is empty; at least 1 byte is stored");
  }
  return opaque_block_bytes(payload.size()).status();
}

// Values and opaque bytes are told apart by the layout, never by which field is filled.
absl::Status check_content(const RegisteredLayout& layout, const KvPages& pages,
                           absl::Span<const std::byte> opaque) {
  const bool has_pages = !pages.key.layers.empty() || !pages.value.layers.empty();
  if (layout.opaque()) {
    if (has_pages) return absl::InvalidArgumentError("pages given for a layout of opaque bytes");
    return check_opaque(opaque);
  }
  if (!opaque.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("opaque bytes given for a layout of ",
                                                   dtype_name(layout.config.layout.dtype)));
  }
  return check_pages(layout.config.layout, pages);
}

absl::Status check_token_count(const KvLayout& layout, uint32_t token_count) {
  if (token_count == 0) {
    return absl::InvalidArgumentError("token_count is 0; a block has at least 1 token");
  }
  if (token_count > layout.block_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("token_count is ", token_count,
                                                   "; the layout allows ", layout.block_tokens,
                                                   " tokens a block"));
  }
  return absl::OkStatus();
}

absl::Status check_hash(const EngineHash& hash) {
  if (!hash.bytes().empty()) return absl::OkStatus();
  return absl::InvalidArgumentError("engine hash has 0 bytes; allowed are 1 to 64");
}

absl::Status check_route(const std::optional<EngineHash>& route) {
  if (!route.has_value() || !route->bytes().empty()) return absl::OkStatus();
  return absl::InvalidArgumentError("route has 0 bytes; allowed are 1 to 64, or no route");
}

absl::Status check_fits(uint64_t needed_bytes, uint64_t staging_bytes) {
  if (needed_bytes <= staging_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("needs ", needed_bytes,
                                                   " bytes of staging memory, there are ",
                                                   staging_bytes, "; raise staging_bytes"));
}

absl::Status in_block(size_t index, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat("block ", index, ": ", status.message()));
}

absl::Status check_group(const GroupLookup& group) {
  if (group.hashes.empty()) {
    return absl::InvalidArgumentError("it has 0 hashes; name at least 1, or leave it out");
  }
  if (!group.routes.empty() && group.routes.size() != group.hashes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("it has ", group.routes.size(), " routes for ", group.hashes.size(),
                     " hashes; give one a hash (its own hash where it has no other), or none"));
  }
  for (size_t i = 0; i < group.hashes.size(); ++i) {
    absl::Status status = check_hash(group.hashes[i]);
    if (status.ok() && !group.routes.empty()) status = check_route(group.routes[i]);
    if (!status.ok()) return in_block(i, status);
  }
  return absl::OkStatus();
}

// The kernels of a batch take one pair of strides a side.
absl::Status check_same_strides(const RegisteredLayout& layout, const KvPages& pages,
                                const KvPages& first) {
  if (layout.gpu == nullptr) return absl::OkStatus();
  const auto differ = [](const KvSidePages& a, const KvSidePages& b) {
    return a.token_stride_bytes != b.token_stride_bytes ||
           a.head_stride_bytes != b.head_stride_bytes;
  };
  if (!differ(pages.key, first.key) && !differ(pages.value, first.value)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "its strides are not those of block 0; pages on a GPU have the same in all of a batch");
}

}  // namespace

absl::Status check_options(const RequestOptions& options) {
  if (options.timeout <= absl::ZeroDuration() || options.timeout == absl::InfiniteDuration()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "timeout is ", absl::FormatDuration(options.timeout), "; it is above 0 and finite"));
  }
  if (options.timeout > absl::Hours(24)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "timeout is ", absl::FormatDuration(options.timeout), "; allowed are at most 24h"));
  }
  if (static_cast<uint8_t>(options.priority) >= kPriorityCount) {
    return absl::InvalidArgumentError(
        absl::StrCat("priority is ", static_cast<int>(options.priority),
                     "; allowed are 0 (normal), 1 (high) and 2 (low)"));
  }
  return absl::OkStatus();
}

absl::Status check_batch(size_t key_count) {
  if (key_count == 0) return absl::InvalidArgumentError("batch is empty; name at least 1 key");
  if (key_count > limits::kBatchMaxKeys) {
    return absl::InvalidArgumentError(absl::StrCat("batch has ", key_count, " keys; at most ",
                                                   limits::kBatchMaxKeys, " are allowed"));
  }
  return absl::OkStatus();
}

absl::Status check_groups(absl::Span<const GroupLookup> groups) {
  size_t key_count = 0;
  for (size_t i = 0; i < groups.size(); ++i) {
    if (absl::Status status = check_group(groups[i]); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat("group ", i, ": ", status.message()));
    }
    key_count += groups[i].hashes.size();
  }
  return check_batch(key_count);
}

absl::Status check_puts(const RegisteredLayout& layout, absl::Span<const BlockPut> blocks,
                        uint64_t staging_bytes) {
  absl::flat_hash_set<absl::string_view> seen;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const BlockPut& block = blocks[i];
    absl::Status status = check_hash(block.hash);
    if (status.ok()) status = check_content(layout, block.pages, block.opaque);
    if (status.ok()) status = check_same_strides(layout, block.pages, blocks[0].pages);
    if (status.ok() && !layout.opaque()) {
      status = check_token_count(layout.config.layout, block.token_count);
    }
    if (status.ok()) status = check_fits(put_staging_bytes(layout, block), staging_bytes);
    if (status.ok() && block.parent.has_value() && block.parent->bytes().empty()) {
      status = absl::InvalidArgumentError("parent has 0 bytes; allowed are 1 to 64, or no parent");
    }
    if (status.ok()) status = check_route(block.route);
    if (!status.ok()) return in_block(i, status);
    const absl::Span<const std::byte> hash = block.hash.bytes();
    if (!seen.emplace(reinterpret_cast<const char*>(hash.data()), hash.size()).second) {
      return refuse(i, "its hash stands in the batch twice; put each block once");
    }
  }
  return absl::OkStatus();
}

absl::Status check_gets(const RegisteredLayout& layout, absl::Span<const BlockGet> blocks,
                        uint64_t staging_bytes) {
  for (size_t i = 0; i < blocks.size(); ++i) {
    const BlockGet& block = blocks[i];
    absl::Status status = check_hash(block.hash);
    if (status.ok()) status = check_content(layout, block.pages, block.opaque);
    if (status.ok()) status = check_same_strides(layout, block.pages, blocks[0].pages);
    if (status.ok() && !layout.opaque() && block.token_capacity != 0) {
      status = check_token_count(layout.config.layout, block.token_capacity);
    }
    if (status.ok()) status = check_fits(get_staging_bytes(layout, block), staging_bytes);
    if (status.ok()) status = check_route(block.route);
    if (!status.ok()) return in_block(i, status);
  }
  return absl::OkStatus();
}

uint64_t put_staging_bytes(const RegisteredLayout& layout, const BlockPut& block) {
  const absl::StatusOr<uint64_t> bytes = layout.opaque()
                                             ? opaque_block_bytes(block.opaque.size())
                                             : layout.codec->max_encoded_bytes(block.token_count);
  return bytes.value_or(UINT64_MAX);  // checked arguments have a size
}

uint64_t get_staging_bytes(const RegisteredLayout& layout, const BlockGet& block) {
  if (!layout.opaque()) return layout.max_block_bytes;
  return opaque_block_bytes(block.opaque.size()).value_or(UINT64_MAX);
}

}  // namespace hadal
