#include "kernels/codec.h"

#include <hwy/cache_control.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/page_strides.h"
#include "kernels/plan_codec.h"

namespace hadal {
namespace {

const KvSidePages& side_pages(const KvPages& pages, Side side) {
  return side == Side::key ? pages.key : pages.value;
}

// One side of a block, and of the caller's memory.
struct BlockSide {
  EncodedSide encoded;
  const KvSidePages& pages;

  std::byte* first_value(const RunIndex& index) const {
    return pages.layers[index.layer] + size_t(index.head) * pages.head_stride_bytes;
  }
};

absl::Status check_pages(const KvLayout& layout, const KvPages& pages, uint32_t token_count) {
  for (Side side : {Side::key, Side::value}) {
    const KvSidePages& half = side_pages(pages, side);
    if (half.layers.size() != layout.layer_count) {
      return absl::InvalidArgumentError(absl::StrCat(side == Side::key ? "K" : "V", " pages have ",
                                                     half.layers.size(), " layers; the layout has ",
                                                     layout.layer_count));
    }
    if (std::find(half.layers.begin(), half.layers.end(), nullptr) != half.layers.end()) {
      return absl::InvalidArgumentError(
          "pages hold a null pointer; give every layer's first token");
    }
    const PageStrides strides = {half.token_stride_bytes, half.head_stride_bytes, token_count,
                                 layout.kv_head_count,
                                 side_head_dim(layout, side) * dtype_bytes(layout.dtype)};
    if (strides.span_bytes() == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(side == Side::key ? "K" : "V", " strides are ", strides.token_stride_bytes,
                       " bytes a token and ", strides.head_stride_bytes, " a head; ", token_count,
                       " tokens and ", strides.head_count, " heads of ", strides.vector_bytes,
                       " bytes overlap or pass 2^47 bytes"));
    }
  }
  return absl::OkStatus();
}

// Calls `work` for the first run of every layer of a side.
template <typename Work>
void for_each_layer(const BlockPlan& plan, Work work) {
  for (int group = 0; group < plan.layer_group_count(); ++group) {
    for (int layer = plan.group_begin(group); layer < plan.group_end(group); ++layer) {
      work(RunIndex{layer, 0, group});
    }
  }
}

// And for those of the other heads.
template <typename Work>
void for_each_run(const BlockPlan& plan, Work work) {
  for_each_layer(plan, [&](RunIndex index) {
    for (; index.head < plan.layout().kv_head_count; ++index.head) work(index);
  });
}

// Copies `count` tokens of a run between pages (strided) and a cell (dense).
struct DenseCopy {
  std::byte* dense;
  std::byte* strided;
  size_t stride_bytes;
  size_t vector_bytes;
  uint32_t count;
  void to_dense() const {
    for (uint32_t i = 0; i < count; ++i)
      std::memcpy(dense + i * vector_bytes, strided + i * stride_bytes, vector_bytes);
  }
  void to_strided() const {
    for (uint32_t i = 0; i < count; ++i)
      std::memcpy(strided + i * stride_bytes, dense + i * vector_bytes, vector_bytes);
  }
};

// An EncodeRun or a DecodeRun of `planes` planes, of a layer's first head.
template <typename Run>
Run make_run(const PlanCodec& codec, const BlockSide& of, const RunIndex& index, int planes) {
  Run run = encoded_run<Run>(codec, of.encoded, index, planes);
  run.values = of.first_value(index);
  run.token_stride_bytes = of.pages.token_stride_bytes;
  run.head_stride_bytes = of.pages.head_stride_bytes;
  const int next = index.layer + 1;
  if (next < of.encoded.plan.layout().layer_count) run.ahead = of.pages.layers[next];
  return run;
}

// Calls copy(DenseCopy) for the exact tokens of every head of a layer.
template <typename Copy>
void copy_exact_tokens(const BlockSide& of, RunIndex index, Copy copy) {
  const BlockPlan& plan = of.encoded.plan;
  const uint32_t count = plan.shape().exact_token_count;
  for (; count != 0 && index.head < plan.layout().kv_head_count; ++index.head) {
    copy(DenseCopy{of.encoded.exact_values(index), of.first_value(index),
                   of.pages.token_stride_bytes, of.encoded.vector_bytes(), count});
  }
}

bool encode_side(const PlanCodec& codec, const BlockSide& of) {
  bool finite = true;
  for_each_layer(of.encoded.plan, [&](const RunIndex& index) {
    const int planes = of.encoded.plan.plane_count(of.encoded.side, index.group);
    EncodeRun run = make_run<EncodeRun>(codec, of, index, planes);
    for (int head = 0; head < of.encoded.plan.layout().kv_head_count; ++head) {
      if (head != 0) to_next_head(run);
      finite = codec.vectors().encode(run) && finite;
    }
    copy_exact_tokens(of, index, [](const DenseCopy& copy) { copy.to_dense(); });
  });
  return finite;
}

void decode_side(const PlanCodec& codec, const BlockSide& of, int planes_left) {
  for_each_layer(of.encoded.plan, [&](const RunIndex& index) {
    const int planes =
        std::min(of.encoded.plan.plane_count(of.encoded.side, index.group), planes_left);
    DecodeRun run = make_run<DecodeRun>(codec, of, index, planes);
    run.head_count = of.encoded.plan.layout().kv_head_count;
    codec.vectors().decode(run);
    copy_exact_tokens(of, index, [](const DenseCopy& copy) { copy.to_strided(); });
  });
}

// Scalars, offsets and exact values end at multiples of 16; what lies between is zero in the
// format.
void zero_padding(const BlockPlan& plan, std::byte* block) {
  for (const CellEntry& cell : plan.cells()) {
    const Side side = static_cast<Side>(cell.side);
    const int group = cell.layer_group;
    const CellSections sections = plan.sections(side, cell.plane, group);
    const size_t runs =
        size_t(plan.group_end(group) - plan.group_begin(group)) * plan.layout().kv_head_count;
    const size_t vectors = runs * plan.shape().token_count;
    const size_t head_dim = side_head_dim(plan.layout(), side);
    const bool has_offsets = sections.offsets != sections.exact;
    const bool has_exact = sections.exact != sections.words;
    const size_t ends[] = {
        sections.scalars + vectors * plan.plane_vector(side, cell.plane, group).scalar_count * 2,
        sections.offsets + (has_offsets ? runs * head_dim * 2 : 0),
        sections.exact + (has_exact ? runs * plan.shape().exact_token_count * head_dim *
                                          dtype_bytes(plan.layout().dtype)
                                    : 0)};
    const size_t next[] = {sections.offsets, sections.exact, sections.words};
    std::byte* start = block + cell.offset;
    for (int i = 0; i < 3; ++i) std::memset(start + ends[i], 0, next[i] - ends[i]);
  }
}

// Raw blocks: the same walk, values copied as they are.
template <typename Copy>
void walk_raw(const BlockPlan& plan, const KvPages& pages, std::byte* block, Copy copy) {
  for (Side side : {Side::key, Side::value}) {
    const BlockSide of = {{plan, side, block}, side_pages(pages, side)};
    for_each_run(plan, [&](const RunIndex& index) {
      copy(DenseCopy{of.encoded.raw_values(index), of.first_value(index),
                     of.pages.token_stride_bytes, of.encoded.vector_bytes(),
                     plan.shape().token_count});
    });
  }
}

absl::StatusOr<BlockPlan> plan_for(const Codec& codec, const EncodeRequest& request,
                                   const CodecSpec& spec) {
  const bool starts = request.identity.first_token_index == 0;
  const uint32_t exact = starts ? std::min<uint32_t>(spec.exact_tokens, request.token_count) : 0;
  return BlockPlan::make(codec.layout(), spec,
                         {request.token_count, static_cast<uint16_t>(exact), 0});
}

absl::Status check_output(const BlockPlan& plan, absl::Span<std::byte> out) {
  if (out.size() >= plan.total_bytes()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("output has ", out.size(),
                                                 " bytes; the block needs ", plan.total_bytes(),
                                                 " (max_encoded_bytes)"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Codec>> Codec::create(const KvLayout& layout,
                                                           const CodecSpec& spec,
                                                           CodecBackend backend) {
  absl::Status status = layout.validate();
  if (status.ok()) status = spec.validate();
  if (!status.ok()) return status;
  auto codec = std::make_unique<PlanCodec>(layout, spec, vector_codec(spec.family, backend));
  if (spec.family != CodecFamily::raw) {
    if (codec->vectors().encode == nullptr) {
      return absl::UnimplementedError(
          absl::StrCat("codec ", spec.name(), " has no kernels in this build; use kAvB or raw"));
    }
    // Whether the layout can be encoded so, whatever the tokens.
    if (const absl::StatusOr<BlockPlan> plan = BlockPlan::make(layout, spec, {1, 0, 0});
        !plan.ok()) {
      return plan.status();
    }
    status = codec->prepare();
    if (!status.ok()) return status;
  }
  return std::unique_ptr<const Codec>(std::move(codec));
}

absl::StatusOr<uint64_t> Codec::max_encoded_bytes(uint32_t token_count) const {
  absl::StatusOr<CodecSpec> raw = parse_codec("raw");
  if (!raw.ok()) return raw.status();
  absl::StatusOr<BlockPlan> raw_plan = BlockPlan::make(layout_, *raw, {token_count, 0, 0});
  if (!raw_plan.ok()) return raw_plan.status();
  const auto exact = static_cast<uint16_t>(std::min<uint32_t>(spec_.exact_tokens, token_count));
  absl::StatusOr<BlockPlan> plan = BlockPlan::make(layout_, spec_, {token_count, exact, 0});
  if (!plan.ok()) return plan.status();
  return std::max(plan->total_bytes(), raw_plan->total_bytes());
}

absl::StatusOr<EncodeResult> Codec::encode(const EncodeRequest& request,
                                           absl::Span<std::byte> out) const {
  if (spec_.family == CodecFamily::raw) return encode_raw(request, 0, out);
  absl::StatusOr<BlockPlan> plan = plan_for(*this, request, spec_);
  if (!plan.ok()) return plan.status();
  absl::Status status = check_pages(layout_, request.pages, request.token_count);
  if (status.ok()) status = check_output(*plan, out);
  if (!status.ok()) return status;
  out = out.subspan(0, plan->total_bytes());
  plan->write_header(request.identity, 0, out);
  const PlanCodec& codec = implementation(*this);
  const bool finite = encode_side(codec, {{*plan, Side::key, out.data()}, request.pages.key}) &&
                      encode_side(codec, {{*plan, Side::value, out.data()}, request.pages.value});
  EncodeResult result;
  result.non_finite = !finite;
  if (!finite) return result;
  zero_padding(*plan, out.data());
  seal_block(out);
  result.bytes = out.size();
  return result;
}

absl::StatusOr<EncodeResult> Codec::encode_raw(const EncodeRequest& request, uint32_t flags,
                                               absl::Span<std::byte> out) const {
  absl::StatusOr<CodecSpec> raw = parse_codec("raw");
  if (!raw.ok()) return raw.status();
  absl::StatusOr<BlockPlan> plan = plan_for(*this, request, *raw);
  if (!plan.ok()) return plan.status();
  absl::Status status = check_pages(layout_, request.pages, request.token_count);
  if (status.ok()) status = check_output(*plan, out);
  if (!status.ok()) return status;
  out = out.subspan(0, plan->total_bytes());
  plan->write_header(request.identity, flags, out);
  walk_raw(*plan, request.pages, out.data(), [](const DenseCopy& copy) { copy.to_dense(); });
  seal_block(out);
  return EncodeResult{out.size(), false};
}

absl::Status Codec::decode(absl::Span<const std::byte> encoded, int dropped_planes,
                           const BlockKey& key, const KvPages& pages) const {
  absl::StatusOr<EncodedBlock> block = EncodedBlock::parse(encoded, dropped_planes);
  if (!block.ok()) return block.status();
  absl::Status status = block->expect(key, layout_.hash());
  if (status.ok()) status = block->verify_cells();
  if (status.ok()) status = check_pages(layout_, pages, block->header().token_count);
  if (!status.ok()) return status;
  const CodecSpec codec = block->codec();
  const BlockShape shape = {block->header().token_count, block->header().exact_token_count, 0};
  absl::StatusOr<BlockPlan> plan = BlockPlan::make(layout_, codec, shape);
  if (!plan.ok()) return plan.status();
  if (codec.family == CodecFamily::raw) {
    walk_raw(*plan, pages, const_cast<std::byte*>(encoded.data()),
             [](const DenseCopy& copy) { copy.to_strided(); });
    return absl::OkStatus();
  }
  const PlanCodec& self = implementation(*this);
  status = self.expect(codec);
  if (!status.ok()) return status;
  auto* bytes = const_cast<std::byte*>(encoded.data());  // only read
  const Precision planes = block->precision();
  decode_side(self, {{*plan, Side::key, bytes}, pages.key}, planes.key_planes);
  decode_side(self, {{*plan, Side::value, bytes}, pages.value}, planes.value_planes);
  hwy::FlushStream();  // values may have been written past the caches: in order before "done"
  return absl::OkStatus();
}

}  // namespace hadal
