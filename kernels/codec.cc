#include "kernels/codec.h"

#include <hwy/cache_control.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "kernels/vector_codec.h"

namespace hadal {
namespace {

const KvSidePages& side_pages(const KvPages& pages, Side side) {
  return side == Side::key ? pages.key : pages.value;
}

// One (layer, head) of a side.
struct RunIndex {
  int layer, head, group;
};

// And where its parts lie in the block.
struct RunPlace {
  std::byte* values;      // first token's
  size_t vectors_before;  // in its cell, of runs before it
  size_t run_in_group;
};

RunPlace place_of(const BlockPlan& plan, const KvSidePages& pages, const RunIndex& index) {
  const size_t run =
      size_t(index.layer - plan.group_begin(index.group)) * plan.layout().kv_head_count +
      index.head;
  return {pages.layers[index.layer] + size_t(index.head) * pages.head_stride_bytes,
          run * plan.shape().token_count, run};
}

absl::Status check_pages(const KvLayout& layout, const KvPages& pages) {
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
  }
  return absl::OkStatus();
}

// Calls `work` for every run of a side.
template <typename Work>
void for_each_run(const BlockPlan& plan, Work work) {
  for (int group = 0; group < plan.layer_group_count(); ++group) {
    for (int layer = plan.group_begin(group); layer < plan.group_end(group); ++layer) {
      for (int head = 0; head < plan.layout().kv_head_count; ++head)
        work(RunIndex{layer, head, group});
    }
  }
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

class PlanCodec final : public Codec {
 public:
  PlanCodec(const KvLayout& layout, const CodecSpec& spec, VectorCodec vectors)
      : Codec(layout, spec), vectors_(vectors) {}

  absl::Status prepare() {
    for (Side side : {Side::key, Side::value}) {
      absl::StatusOr<Rotation> rotation =
          Rotation::create(side_head_dim(layout(), side), spec().rotation_seed);
      if (!rotation.ok()) return rotation.status();
      rotations_[static_cast<int>(side)] = *std::move(rotation);
      // Made now, not in a request.
      for (int layer = 0; layer < layout().layer_count; ++layer) {
        const LayerBits bits = spec().bits_of_layer(layer);
        tables(side, side == Side::key ? bits.key_bits : bits.value_bits);
      }
    }
    return absl::OkStatus();
  }
  const Rotation& rotation(Side side) const { return rotations_[static_cast<int>(side)]; }
  // A block that another client stored may have other bits than this codec's.
  const CodeTables& tables(Side side, int bits) const {
    Tables& tables = tables_[static_cast<int>(side)];
    std::call_once(tables.made[bits - 1], [&] {
      tables.of_bits[bits - 1] = CodeTables::make(bits, side_head_dim(layout(), side));
    });
    return tables.of_bits[bits - 1];
  }
  const VectorCodec& vectors() const { return vectors_; }

 private:
  struct Tables {
    std::array<std::once_flag, limits::kBitsMax> made;
    std::array<CodeTables, limits::kBitsMax> of_bits;
  };

  VectorCodec vectors_;
  Rotation rotations_[2];
  mutable Tables tables_[2];
};

// Every codec is a PlanCodec; create is the only way to make one.
const PlanCodec& implementation(const Codec& codec) { return static_cast<const PlanCodec&>(codec); }

// Names a run's share of the next layer. Where heads lie side by side in a token's row, going row
// by row suits the memory better than going to what the next head needs.
template <typename Run>
void look_ahead(const BlockPlan& plan, const KvSidePages& pages, const RunIndex& index, Run& run) {
  if (index.layer + 1 == plan.layout().layer_count) return;
  const size_t bytes =
      size_t{run.token_count} * run.rotation->head_dim * dtype_bytes(plan.layout().dtype);
  run.ahead = pages.layers[index.layer + 1] + size_t(index.head) * bytes;
}

bool encode_side(const PlanCodec& codec, const BlockPlan& plan, const KvSidePages& pages,
                 std::pair<Side, std::byte*> out) {
  const auto [side, block] = out;
  const uint32_t head_dim = side_head_dim(plan.layout(), side);
  const size_t value_bytes = dtype_bytes(plan.layout().dtype);
  bool finite = true;
  for_each_run(plan, [&, side = side, block = block](const RunIndex& index) {
    const RunPlace place = place_of(plan, pages, index);
    const CellSections sections = plan.sections(side, 0, index.group);
    std::byte* zero = block + plan.cell(side, 0, index.group).offset;
    EncodeRun run;
    run.values = place.values;
    run.token_count = plan.shape().token_count;
    run.token_stride_bytes = pages.token_stride_bytes;
    run.dtype = plan.layout().dtype;
    run.exact_token_count = plan.shape().exact_token_count;
    run.rotation = &codec.rotation(side);
    run.tables = &codec.tables(side, plan.plane_count(side, index.group));
    look_ahead(plan, pages, index, run);
    run.norms = reinterpret_cast<uint16_t*>(zero + sections.scalars) + place.vectors_before;
    if (side == Side::key && plan.codec().key_offsets) {
      run.offsets =
          reinterpret_cast<uint16_t*>(zero + sections.offsets) + place.run_in_group * head_dim;
    }
    const size_t words = place.vectors_before * plan.plane_vector(side, 0, index.group).word_bytes;
    for (int plane = 0; plane < run.tables->bits; ++plane) {
      run.planes[plane] = plane == 0 ? zero + sections.words + words
                                     : block + plan.cell(side, plane, index.group).offset + words;
    }
    finite = codec.vectors().encode(run) && finite;
    const size_t vector_bytes = head_dim * value_bytes;
    std::byte* exact =
        zero + sections.exact + place.run_in_group * run.exact_token_count * vector_bytes;
    DenseCopy{exact, place.values, pages.token_stride_bytes, vector_bytes, run.exact_token_count}
        .to_dense();
  });
  return finite;
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

void decode_side(const PlanCodec& codec, const BlockPlan& plan, const EncodedBlock& block,
                 std::pair<Side, const KvSidePages*> out) {
  const auto [side, pages] = out;
  const uint32_t head_dim = side_head_dim(plan.layout(), side);
  const auto cell = [&block, &plan, side = side](int plane, int group) {
    return const_cast<std::byte*>(block.cell_bytes(plan.cell(side, plane, group)).data());
  };
  const Precision precision = block.precision();
  for_each_run(plan, [&, side = side, pages = pages](const RunIndex& index) {
    const RunPlace place = place_of(plan, *pages, index);
    const CellSections sections = plan.sections(side, 0, index.group);
    std::byte* zero = cell(0, index.group);
    DecodeRun run;
    run.values = place.values;
    run.token_stride_bytes = pages->token_stride_bytes;
    run.dtype = plan.layout().dtype;
    run.token_count = plan.shape().token_count;
    run.exact_token_count = plan.shape().exact_token_count;
    run.rotation = &codec.rotation(side);
    const int bits = plan.plane_count(side, index.group);
    run.tables = &codec.tables(side, bits);
    look_ahead(plan, *pages, index, run);
    run.plane_count =
        std::min<int>(bits, side == Side::key ? precision.key_planes : precision.value_planes);
    run.norms = reinterpret_cast<const uint16_t*>(zero + sections.scalars) + place.vectors_before;
    if (side == Side::key && plan.codec().key_offsets) {
      run.offsets = reinterpret_cast<const uint16_t*>(zero + sections.offsets) +
                    place.run_in_group * head_dim;
    }
    const size_t words = place.vectors_before * plan.plane_vector(side, 0, index.group).word_bytes;
    for (int plane = 0; plane < run.plane_count; ++plane) {
      run.planes[plane] = (plane == 0 ? zero + sections.words : cell(plane, index.group)) + words;
    }
    codec.vectors().decode(run);
    const size_t vector_bytes = head_dim * dtype_bytes(run.dtype);
    std::byte* exact =
        zero + sections.exact + place.run_in_group * run.exact_token_count * vector_bytes;
    DenseCopy{exact, place.values, pages->token_stride_bytes, vector_bytes, run.exact_token_count}
        .to_strided();
  });
}

// Raw blocks: the same walk, values copied as they are.
template <typename Copy>
void walk_raw(const BlockPlan& plan, const KvPages& pages, std::byte* block, Copy copy) {
  for (Side side : {Side::key, Side::value}) {
    const KvSidePages& half = side_pages(pages, side);
    const size_t vector_bytes =
        side_head_dim(plan.layout(), side) * dtype_bytes(plan.layout().dtype);
    for_each_run(plan, [&](const RunIndex& index) {
      const RunPlace place = place_of(plan, half, index);
      std::byte* dense =
          block + plan.cell(side, 0, index.group).offset + place.vectors_before * vector_bytes;
      copy(DenseCopy{dense, place.values, half.token_stride_bytes, vector_bytes,
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
  const VectorCodec vectors =
      backend == CodecBackend::reference ? reference_vector_codec() : simd_vector_codec();
  auto codec = std::make_unique<PlanCodec>(layout, spec, vectors);
  if (spec.family != CodecFamily::raw) {
    if (spec.family != CodecFamily::turboquant_mse) {
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
  absl::Status status = check_pages(layout_, request.pages);
  if (status.ok()) status = check_output(*plan, out);
  if (!status.ok()) return status;
  out = out.subspan(0, plan->total_bytes());
  plan->write_header(request.identity, 0, out);
  const PlanCodec& codec = implementation(*this);
  const bool finite = encode_side(codec, *plan, request.pages.key, {Side::key, out.data()}) &&
                      encode_side(codec, *plan, request.pages.value, {Side::value, out.data()});
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
  absl::Status status = check_pages(layout_, request.pages);
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
  if (status.ok()) status = check_pages(layout_, pages);
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
  if (spec_.family != codec.family || codec.rotation_seed != spec_.rotation_seed) {
    return absl::FailedPreconditionError(
        absl::StrCat("block has codec ", codec.name(), " and rotation seed ", codec.rotation_seed,
                     "; this codec is ", spec_.name(), " with seed ", spec_.rotation_seed));
  }
  const PlanCodec& self = implementation(*this);
  decode_side(self, *plan, *block, {Side::key, &pages.key});
  decode_side(self, *plan, *block, {Side::value, &pages.value});
  hwy::FlushStream();  // values may have been written past the caches: in order before "done"
  return absl::OkStatus();
}

}  // namespace hadal
