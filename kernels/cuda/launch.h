#pragma once

// What kernels read: plain structs that the host makes (planner.h) and that lie in the workspace,
// and the numbers of a launch, which are the kernel's argument. Private to kernels/ and its tests.

#include <array>
#include <cstddef>
#include <cstdint>

#include "common/encoded_block.h"
#include "common/kv_layout.h"
#include "common/limits.h"
#include "kernels/codebook.h"
#include "kernels/host_device.h"
#include "kernels/polar.h"
#include "kernels/projection.h"

namespace hadal::cuda {

inline constexpr int kCtaThreads = 128;
inline constexpr int kCoreOrderMax = 36;

// One vector's rotation, as bits: set for -1.
struct RotationBits {
  std::array<uint32_t, limits::kHeadDimMax / 32> signs;
  std::array<uint64_t, kCoreOrderMax> core_rows;
  std::array<uint64_t, kCoreOrderMax> core_columns;
};

// What a family's integers stand for, which the host computes. Of a side with so many planes.
struct VectorScales {
  float input_length = 0;     // of a vector's integers before they are rotated
  int32_t input_shift = 0;    // places of them that are cut afterwards
  float residual_length = 0;  // of TurboQuant-prod: residual_length()
  ProductUnits units;         // of TurboQuant-prod and QJL
  PolarScale polar;           // of PolarQuant
};

// Where a (side, layer group) lies in a block, in bytes from its start.
struct GroupPlace {
  uint32_t norms, residual_norms, offsets, exact;
  std::array<uint32_t, limits::kBitsMax> words;  // by plane; of a raw block the values
  // Between the sections of plane 0, and after the scalars of the last plane: zeroes.
  std::array<uint32_t, 4> gap_begins, gap_ends;
  std::array<uint8_t, limits::kBitsMax> cells;  // in the table, by plane
  uint8_t planes;
  uint8_t tables;  // index of its VectorScales, and of its CodeTables where the family has any
  bool has_offsets;
};

// Blocks of equally many tokens, of which equally many are exact.
struct BlockForm {
  uint32_t token_count, exact_token_count;
  uint32_t cell_count, group_count;
  uint32_t total_bytes;
  std::array<uint16_t, limits::kLayerGroupsMax> group_ends;               // layers
  std::array<std::array<GroupPlace, limits::kLayerGroupsMax>, 2> groups;  // by side
  BlockHeader header;  // but for key, first token, flags of a raw block, and checksum
  BlockHeader mask;    // all ones where a reader insists on the header's bits
  std::array<CellEntry, limits::kCellsMax> cells;  // but for checksums
};

struct BlockEntry {
  std::byte* encoded;
  std::array<uint8_t, limits::kBlockKeyBytes> key;
  uint64_t first_token_index;
  uint32_t form;                       // index
  uint32_t flags;                      // BlockFlags beside the codec's
  uint32_t cells_present;              // less than the form's where planes were dropped
  std::array<uint8_t, 2> planes_left;  // by side, at most
};

struct SideStrides {
  uint64_t token_bytes = 0;
  uint64_t head_bytes = 0;
};

// Counts of what is done of a block: runs by (side, group), and groups.
struct BlockProgress {
  std::array<std::array<uint32_t, limits::kLayerGroupsMax>, 2> runs;
  uint32_t groups;
};

struct Launch {
  const RotationBits* rotations = nullptr;    // by side
  const RotationBits* projections = nullptr;  // the same, of families that project
  // In place of those where projections are Gaussian: by side, rows first.
  std::array<const int16_t*, 2> gaussians = {};
  const VectorScales* scales = nullptr;
  const CodeTables* tables = nullptr;
  const PolarTables* polar = nullptr;  // of PolarQuant
  const BlockForm* forms = nullptr;
  const BlockEntry* entries = nullptr;  // by block
  BlockProgress* progress = nullptr;    // by block; 0 at first
  uint32_t* outcomes = nullptr;         // Outcome by block; 0 at first
  uint64_t* cell_sums = nullptr;        // [block, limits::kCellsMax]: checksums
  std::byte* const* pages = nullptr;    // [block, layer, side]: first token
  std::array<SideStrides, 2> strides = {};
  std::array<uint16_t, 2> head_dims = {};
  DType dtype = DType::f16;
  uint16_t layer_count = 0;
  uint16_t head_count = 0;
  uint32_t block_count = 0;
  // What this kernel does of it: sides, and where it decodes also layers.
  uint16_t first_layer = 0, end_layer = 0;
  uint8_t first_side = 0, end_side = 2;

  HADAL_HOST_DEVICE uint32_t run_count() const {
    return block_count * (end_side - first_side) * (end_layer - first_layer) * head_count;
  }
};

// The vectors of one (block, side, layer, head).
struct Run {
  const Launch* launch;
  const BlockEntry* entry;
  const BlockForm* form;
  const GroupPlace* place;
  std::byte* encoded;  // the block's first byte
  std::byte* values;   // first token's; null or misaligned where the page is
  uint64_t token_stride_bytes;
  uint32_t block;
  int side, group;
  uint32_t runs_before;  // in its cells
  uint32_t runs_of_group;
  uint32_t first_token = 0;  // of those that the CTA works on side by side
};

// Heads that lie side by side in memory are neighbours; blocks come last, so that they end one
// after the other and their checksums are made meanwhile.
HADAL_HOST_DEVICE Run run_at(const Launch& launch, uint32_t index) {
  const uint32_t head = index % launch.head_count;
  index /= launch.head_count;
  const uint32_t layers = launch.end_layer - launch.first_layer;
  const uint32_t layer = launch.first_layer + index % layers;
  index /= layers;
  const uint32_t sides = launch.end_side - launch.first_side;
  Run run;
  run.launch = &launch;
  run.side = static_cast<int>(launch.first_side + index % sides);
  run.block = index / sides;
  run.entry = launch.entries + run.block;
  run.form = launch.forms + run.entry->form;
  run.group = 0;
  while (layer >= run.form->group_ends[run.group]) ++run.group;
  const uint32_t group_begin = run.group == 0 ? 0 : run.form->group_ends[run.group - 1];
  run.place = &run.form->groups[run.side][run.group];
  run.runs_before = (layer - group_begin) * launch.head_count + head;
  run.runs_of_group = (run.form->group_ends[run.group] - group_begin) * launch.head_count;
  run.encoded = run.entry->encoded;
  const SideStrides& strides = launch.strides[run.side];
  run.token_stride_bytes = strides.token_bytes;
  run.values = launch.pages[(uint64_t{run.block} * launch.layer_count + layer) * 2 + run.side];
  if (run.values != nullptr) run.values += head * strides.head_bytes;
  return run;
}

// Planes of a run that its block has.
HADAL_HOST_DEVICE int planes_of(const Run& run) {
  const int left = run.entry->planes_left[run.side];
  return run.place->planes < left ? run.place->planes : left;
}

}  // namespace hadal::cuda
