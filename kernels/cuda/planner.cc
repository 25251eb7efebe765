#include "kernels/cuda/planner.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "kernels/page_strides.h"
#include "kernels/vector_codec.h"

namespace hadal::cuda {
namespace {

constexpr uint64_t kAlignBytes = 64;
constexpr uint32_t kTasksMax = uint32_t{1} << 31;
constexpr absl::string_view kSideNames[] = {"K", "V"};

// Parts of the workspace, in bytes from its start.
struct Parts {
  uint64_t rotations, projections;
  std::array<uint64_t, 2> gaussians;
  uint64_t scales, codes, polar, forms, entries, progress, outcomes, copied_end, cell_sums, end;
};

Parts parts_of(uint64_t block_count, uint64_t form_count, const FamilyTables& tables) {
  uint64_t at = 0;
  const auto part = [&](uint64_t bytes) {
    const uint64_t begin = at;
    at += (bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes;
    return begin;
  };
  Parts parts = {};
  parts.rotations = part(sizeof(tables.rotations));
  parts.projections = part(sizeof(tables.projections));
  for (int side = 0; side < 2; ++side) {
    parts.gaussians[side] = part(tables.gaussians[side].size() * sizeof(int16_t));
  }
  parts.scales = part(tables.scales.size() * sizeof(VectorScales));
  parts.codes = part(tables.codes.size() * sizeof(CodeTables));
  parts.polar = part(tables.polar.size() * sizeof(PolarTables));
  parts.forms = part(form_count * sizeof(BlockForm));
  parts.entries = part(block_count * sizeof(BlockEntry));
  parts.progress = part(block_count * sizeof(BlockProgress));
  parts.outcomes = part(block_count * sizeof(uint32_t));
  parts.copied_end = at;
  parts.cell_sums = part(block_count * limits::kCellsMax * sizeof(uint64_t));
  parts.end = at;
  return parts;
}

BlockHeader full_mask() {
  BlockHeader mask;
  std::memset(static_cast<void*>(&mask), 0xff, sizeof(mask));
  // Readers take what the writer chose here. The key is compared by itself.
  mask.floor_key_planes = mask.floor_value_planes = 0;
  mask.flags = ~uint32_t{kBlockNonFinite};
  std::memset(mask.key, 0, sizeof(mask.key));
  mask.first_token_index = 0;
  mask.checksum = 0;
  return mask;
}

absl::Status check_aligned(absl::string_view name, const void* at, uint64_t bytes) {
  if (at == nullptr) return absl::InvalidArgumentError(absl::StrCat(name, " is null"));
  if (reinterpret_cast<uintptr_t>(at) % bytes == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is at ", absl::Hex(at), "; it must be at a multiple of ", bytes));
}

}  // namespace

uint64_t Planner::workspace_bytes(uint32_t block_count, uint32_t shape_count) const {
  return parts_of(block_count, shape_count, tables_).end;
}

absl::StatusOr<Planner> Planner::create(const KvLayout& layout, const CodecSpec& spec) {
  absl::Status status = layout.validate();
  if (status.ok()) status = spec.validate();
  if (!status.ok()) return status;
  if (layout.dtype == DType::opaque) {
    return absl::InvalidArgumentError("opaque bytes have no pages; encode them on the host");
  }
  // As Codec: a raw block is made of its layout alone.
  Planner planner(layout, spec.family == CodecFamily::raw ? *parse_codec("raw") : spec);
  status = planner.prepare();
  if (!status.ok()) return status;
  return planner;
}

absl::Status Planner::prepare() {
  // Short blocks may have fewer layer groups, but less of everything else.
  const auto exact = std::min<uint32_t>(spec_.exact_tokens, layout_.block_tokens);
  absl::StatusOr<BlockPlan> plan =
      BlockPlan::make(layout_, spec_, {layout_.block_tokens, static_cast<uint16_t>(exact), 0});
  if (!plan.ok()) return plan.status();
  block_bytes_max_ = plan->total_bytes();
  absl::StatusOr<FamilyTables> tables = FamilyTables::make(layout_, spec_);
  if (!tables.ok()) return tables.status();
  tables_ = *std::move(tables);
  if (!is_rotated(spec_.family)) {
    side_ranges_ = {SideRange()};
    return absl::OkStatus();
  }
  const int key_dim = layout_.key_head_dim, value_dim = layout_.value_head_dim;
  if (key_dim == value_dim) {
    side_ranges_ = {{0, 2, key_dim}};
  } else {
    side_ranges_ = {{0, 1, key_dim}, {1, 2, value_dim}};
  }
  return absl::OkStatus();
}

BlockShape Planner::shape_of(const Block& block) const {
  const bool starts = block.identity.first_token_index == 0;
  const uint32_t exact = starts ? std::min<uint32_t>(spec_.exact_tokens, block.token_count) : 0;
  return {block.token_count, static_cast<uint16_t>(exact), 0};
}

absl::StatusOr<uint64_t> Planner::block_bytes(const Block& block) const {
  const absl::StatusOr<BlockPlan> plan = BlockPlan::make(layout_, spec_, shape_of(block));
  if (!plan.ok()) return plan.status();
  return plan->total_bytes();
}

BlockForm Planner::form_of(const BlockPlan& plan) const {
  BlockForm form = {};
  form.token_count = plan.shape().token_count;
  form.exact_token_count = plan.shape().exact_token_count;
  form.cell_count = static_cast<uint32_t>(plan.cells().size());
  form.group_count = static_cast<uint32_t>(plan.layer_group_count());
  form.total_bytes = static_cast<uint32_t>(plan.total_bytes());
  std::copy(plan.cells().begin(), plan.cells().end(), form.cells.begin());
  // Untouched memory costs nothing, and the header touches little.
  const auto bytes = std::make_unique_for_overwrite<std::byte[]>(plan.total_bytes());
  plan.write_header(BlockIdentity(), 0, absl::MakeSpan(bytes.get(), plan.total_bytes()));
  std::memcpy(&form.header, bytes.get(), sizeof(form.header));
  form.mask = full_mask();
  for (int group = 0; group < plan.layer_group_count(); ++group) {
    form.group_ends[group] = static_cast<uint16_t>(plan.group_end(group));
    const uint64_t runs =
        uint64_t(plan.group_end(group) - plan.group_begin(group)) * layout_.kv_head_count;
    for (Side side : {Side::key, Side::value}) {
      GroupPlace& place = form.groups[static_cast<int>(side)][group];
      const CellSections first = plan.sections(side, 0, group);
      const uint32_t begin = plan.cell(side, 0, group).offset;
      const uint64_t head_dim = side_head_dim(layout_, side);
      place.norms = begin + static_cast<uint32_t>(first.scalars);
      place.offsets = begin + static_cast<uint32_t>(first.offsets);
      place.exact = begin + static_cast<uint32_t>(first.exact);
      place.has_offsets = first.offsets != first.exact;
      const auto scalar_bytes = [&](int plane) {
        return runs * form.token_count * plan.plane_vector(side, plane, group).scalar_count * 2;
      };
      const uint64_t exact_bytes =
          runs * form.exact_token_count * head_dim * dtype_bytes(layout_.dtype);
      const auto gap = [&](int number, uint64_t from, uint64_t to) {
        place.gap_begins[number] = static_cast<uint32_t>(from);
        place.gap_ends[number] = static_cast<uint32_t>(to);
      };
      gap(0, begin + scalar_bytes(0), place.offsets);
      gap(1, place.offsets + (place.has_offsets ? runs * head_dim * 2 : 0), place.exact);
      gap(2, place.exact + (first.exact != first.words ? exact_bytes : 0), begin + first.words);
      place.planes = static_cast<uint8_t>(plan.plane_count(side, group));
      place.tables = tables_.index[static_cast<int>(side)][place.planes];
      if (const int last = place.planes - 1; last > 0) {
        const CellSections sections = plan.sections(side, last, group);
        place.residual_norms =
            plan.cell(side, last, group).offset + static_cast<uint32_t>(sections.scalars);
        gap(3, place.residual_norms + scalar_bytes(last),
            plan.cell(side, last, group).offset + sections.words);
      }
      for (int plane = 0; plane < place.planes; ++plane) {
        const CellEntry& cell = plan.cell(side, plane, group);
        place.cells[plane] = static_cast<uint8_t>(&cell - plan.cells().data());
        place.words[plane] =
            cell.offset + static_cast<uint32_t>(plan.sections(side, plane, group).words);
      }
    }
  }
  return form;
}

absl::Status Planner::check(const Batch& batch) const {
  if (batch.blocks.empty()) return absl::InvalidArgumentError("the batch has no blocks");
  const uint64_t runs = uint64_t{batch.blocks.size()} * 2 * layout_.layer_count *
                        std::max<uint64_t>(layout_.kv_head_count, limits::kCellsMax);
  if (runs >= kTasksMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the batch has ", batch.blocks.size(), " blocks; at most ",
        (kTasksMax - 1) / (runs / batch.blocks.size()), " of this layout are allowed"));
  }
  absl::Status status = check_aligned("pages", batch.pages, alignof(std::byte*));
  if (status.ok()) status = check_aligned("outcomes", batch.outcomes, alignof(uint32_t));
  if (!status.ok()) return status;
  uint32_t tokens = 1;
  for (const Block& block : batch.blocks) tokens = std::max(tokens, block.token_count);
  for (Side side : {Side::key, Side::value}) {
    const SideStrides& strides = batch.strides[static_cast<int>(side)];
    const uint64_t value_bytes = dtype_bytes(layout_.dtype);
    const uint64_t vector_bytes = side_head_dim(layout_, side) * value_bytes;
    if (strides.token_bytes % value_bytes != 0 || strides.head_bytes % value_bytes != 0 ||
        PageStrides{strides.token_bytes, strides.head_bytes, tokens, layout_.kv_head_count,
                    vector_bytes}
                .span_bytes() == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(kSideNames[static_cast<int>(side)], " strides are ", strides.token_bytes,
                       " bytes a token and ", strides.head_bytes, " a head; ", tokens,
                       " tokens and ", layout_.kv_head_count, " heads of ", vector_bytes,
                       " bytes overlap, lie apart by no whole values, or pass 2^47 bytes"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<BlockForm>> Planner::place_blocks(const Batch& batch,
                                                             absl::Span<BlockEntry> entries) const {
  std::vector<BlockForm> forms;
  for (size_t i = 0; i < batch.blocks.size(); ++i) {
    const Block& block = batch.blocks[i];
    const auto refuse = [i](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat("block ", i, " of the batch: ", what));
    };
    const BlockShape shape = shape_of(block);
    auto form = std::find_if(forms.begin(), forms.end(), [&](const BlockForm& other) {
      return other.token_count == shape.token_count &&
             other.exact_token_count == shape.exact_token_count;
    });
    if (form == forms.end()) {
      absl::StatusOr<BlockPlan> plan = BlockPlan::make(layout_, spec_, shape);
      if (!plan.ok()) return refuse(plan.status().message());
      forms.push_back(form_of(*plan));
      form = forms.end() - 1;
    }
    if ((block.flags & ~uint32_t{kBlockNonFinite}) != 0) {
      return refuse(absl::StrCat("flags are ", block.flags, "; allowed are 0 and ",
                                 uint32_t{kBlockNonFinite}));
    }
    if (block.dropped_planes < 0 || block.dropped_planes > form->header.drop_count) {
      return refuse(absl::StrCat("it is said to lack ", block.dropped_planes,
                                 " planes; it can lack ", form->header.drop_count));
    }
    BlockEntry& entry = entries[i];
    entry = {};
    entry.encoded = block.encoded;
    entry.key = block.identity.key.bytes;
    entry.first_token_index = block.identity.first_token_index;
    entry.form = static_cast<uint32_t>(form - forms.begin());
    entry.flags = block.flags;
    entry.planes_left = {limits::kBitsMax, limits::kBitsMax};
    for (int step = 0; step < block.dropped_planes; ++step) {
      const uint8_t plane = form->header.drop_order[step];
      entry.planes_left[plane & kDropValueSide ? 1 : 0] = plane & ~kDropValueSide;
    }
    const auto is_gone = [&](const CellEntry& cell) {
      return cell.plane >= entry.planes_left[cell.side];
    };
    const auto cells_end = form->cells.begin() + form->cell_count;
    entry.cells_present = static_cast<uint32_t>(
        std::find_if(form->cells.begin(), cells_end, is_gone) - form->cells.begin());
    const CellEntry& last = form->cells[entry.cells_present - 1];
    if (last.offset + last.bytes > block.encoded_bytes) {
      return refuse(absl::StrCat("it has ", last.offset + last.bytes, " bytes; encoded_bytes is ",
                                 block.encoded_bytes));
    }
    const absl::Status aligned = check_aligned("encoded", block.encoded, kAlignBytes);
    if (!aligned.ok()) return refuse(aligned.message());
  }
  return forms;
}

absl::Status Planner::check_marks(absl::Span<const LayerMark> marks) const {
  int before = 0;
  for (const LayerMark& mark : marks) {
    if (mark.end_layer <= before || mark.end_layer > layout_.layer_count) {
      return absl::InvalidArgumentError(
          absl::StrCat("a mark ends at layer ", mark.end_layer, " after one at ", before,
                       "; they must ascend to ", layout_.layer_count));
    }
    if (mark.event == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("the mark at layer ", mark.end_layer, " has a null event"));
    }
    before = mark.end_layer;
  }
  if (marks.empty() || before == layout_.layer_count) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the last mark ends at layer ", before, " of ",
                                                 layout_.layer_count, "; mark the last one too"));
}

absl::StatusOr<PlannedWork> Planner::plan(const Batch& batch, const Workspace& workspace) const {
  absl::Status status = check(batch);
  if (status.ok()) status = check_aligned("workspace.device", workspace.device, kAlignBytes);
  if (status.ok()) status = check_aligned("workspace.host", workspace.host, kAlignBytes);
  if (!status.ok()) return status;
  std::vector<BlockEntry> entries(batch.blocks.size());
  absl::StatusOr<std::vector<BlockForm>> forms = place_blocks(batch, absl::MakeSpan(entries));
  if (!forms.ok()) return forms.status();
  const Parts parts = parts_of(entries.size(), forms->size(), tables_);
  if (workspace.bytes < parts.end) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the workspace has ", workspace.bytes, " bytes; ", entries.size(), " blocks of ",
        forms->size(), " shapes need ", parts.end, " (workspace_bytes)"));
  }
  std::byte* host = workspace.host;
  const auto copy = [host](uint64_t part, const auto& from) {
    std::copy_n(reinterpret_cast<const std::byte*>(from.data()), from.size() * sizeof(from[0]),
                host + part);
  };
  copy(parts.rotations, tables_.rotations);
  copy(parts.projections, tables_.projections);
  for (int side = 0; side < 2; ++side) copy(parts.gaussians[side], tables_.gaussians[side]);
  copy(parts.scales, tables_.scales);
  copy(parts.codes, tables_.codes);
  copy(parts.polar, tables_.polar);
  copy(parts.forms, *forms);
  copy(parts.entries, entries);
  std::memset(host + parts.progress, 0, parts.copied_end - parts.progress);
  std::byte* device = workspace.device;
  PlannedWork work;
  work.copy_bytes = parts.copied_end;
  Launch& launch = work.launch;
  launch.rotations = reinterpret_cast<const RotationBits*>(device + parts.rotations);
  launch.projections = reinterpret_cast<const RotationBits*>(device + parts.projections);
  for (int side = 0; side < 2; ++side) {
    launch.gaussians[side] = reinterpret_cast<const int16_t*>(device + parts.gaussians[side]);
  }
  launch.scales = reinterpret_cast<const VectorScales*>(device + parts.scales);
  launch.tables = reinterpret_cast<const CodeTables*>(device + parts.codes);
  launch.polar = reinterpret_cast<const PolarTables*>(device + parts.polar);
  launch.forms = reinterpret_cast<const BlockForm*>(device + parts.forms);
  launch.entries = reinterpret_cast<const BlockEntry*>(device + parts.entries);
  launch.progress = reinterpret_cast<BlockProgress*>(device + parts.progress);
  launch.outcomes = reinterpret_cast<uint32_t*>(device + parts.outcomes);
  launch.cell_sums = reinterpret_cast<uint64_t*>(device + parts.cell_sums);
  launch.pages = batch.pages;
  launch.strides = batch.strides;
  launch.head_dims = {layout_.key_head_dim, layout_.value_head_dim};
  launch.dtype = layout_.dtype;
  launch.layer_count = launch.end_layer = layout_.layer_count;
  launch.head_count = layout_.kv_head_count;
  launch.block_count = static_cast<uint32_t>(entries.size());
  return work;
}

}  // namespace hadal::cuda
